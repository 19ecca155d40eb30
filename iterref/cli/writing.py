"""Writing: texts, tables and JSON on standard output or in files, and what is told on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import IO, Any

import click

WATCHED = 8  # texts whose steps a page shows

JSON_FILE = click.Path(dir_okay=False, allow_dash=True)  # "-" is standard output, and tables go to standard error then
PAGE = click.option(
    "--html",
    type=click.Path(dir_okay=False),
    help=f"Write the run as a page, too, with the steps of the first {WATCHED} texts.",
)
OUT = click.option(
    "--out",
    type=click.File("w", encoding="utf-8", lazy=True),  # opened by the first text, so that a refusal leaves it alone
    default="-",
    help="The file to write.  [default: standard output]",
)


def watched(html: str | None, texts: list[str]) -> range:
    """The rows whose steps a page needs."""
    return range(0 if html is None else min(WATCHED, len(texts)))


def write_result(prompts: list[str] | None, result: Any, as_json: bool, out: IO[str], html: str | None) -> None:
    """The texts, the page where one was asked for, and on standard error the rows that found nothing allowed."""
    write_texts(prompts, result, as_json, out)
    if html is not None:
        result.save_html(html)
        click.echo(f"written: {html}", err=True)
    for line in result.warnings():
        click.echo(line, err=True)


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Sends what a reward prints, also from subprocesses, to standard error, so that output holds results alone."""
    saved = None
    try:
        with suppress(OSError, ValueError):  # without such descriptors there is nothing to keep clean
            sys.stdout.flush()
            saved = os.dup(1)
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def write_texts(prompts: list[str] | None, result: Any, as_json: bool, out: IO[str]) -> None:
    """One text a line, or one JSON object a line; a row without any finished text is empty, or null."""
    cost = {"denoiser": result.cost.nfe, "reward": result.cost.reward_calls, "depth": result.cost.depth}
    for row, (text, reward) in enumerate(zip(result.texts, result.rewards.tolist(), strict=True)):
        seen = result.finished or reward > float("-inf")
        if as_json:
            number = reward if reward > float("-inf") else None
            of_prompt = {} if prompts is None else {"document": prompts[row]}
            entry = {**of_prompt, "text": text if seen else None, "reward": number, "cost": cost}
            line = json.dumps(entry, ensure_ascii=False)
        else:
            line = " ".join(text.splitlines()) if seen else ""
        click.echo(line, file=out)


def write_json(path: str | None, found: Any) -> None:
    """What was found as indented JSON in a file, or on standard output for "-"; nothing for None."""
    if path is not None:
        with click.open_file(path, "w", encoding="utf-8") as file:
            click.echo(json.dumps(found, indent=1, ensure_ascii=False), file=file)
