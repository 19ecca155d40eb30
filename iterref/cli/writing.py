"""Writing: texts, tables and JSON on standard output or in files, and what is told on standard error."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import UnsupportedOperation
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click

from iterref.cli.reading import CARRIED, Input
from iterref.files import expect_room, expect_writable, reason, whole

WATCHED = 8  # texts whose steps a page shows
STDOUT = "standard output"

# `expect_outputs` checks them, in one sentence for all; "-" is standard output, and tables go to standard error then
FILE = click.Path(readable=False)
JSON_FILE = click.Path(readable=False, allow_dash=True)
PAGE = click.option("--html", type=FILE, help=f"A page of the run, too, with steps of the first {WATCHED} texts.")
OUT = click.option("--out", type=JSON_FILE, default="-", help="The file to write.  [default: standard output]")


def expect_outputs(*paths: str | None) -> None:
    """Raises `ValueError` for an output that cannot be written, or that is named twice; "-" is standard output."""
    given = [path for path in paths if path is not None]
    for path in given:
        if given.count(path) > 1:
            raise ValueError(f"{STDOUT if path == '-' else path} is to be written twice: name two files")
        if path != "-":
            expect_writable(path)
            continue
        try:
            with suppress(UnsupportedOperation):
                expect_room(sys.stdout.fileno())
        except OSError as error:
            raise ValueError(f"{STDOUT} cannot be written ({error.strerror}): write to a file by --out") from None


def watched(html: str | None, texts: Sequence[Any]) -> range:
    """The rows whose steps a page needs."""
    return range(0 if html is None else min(WATCHED, len(texts)))


def write_result(
    given: Input, result: Any, as_json: bool, out: str, html: str | None, more: Sequence[dict[str, Any]] = ()
) -> bool:
    """Writes the texts, the page where one was asked for, and on standard error the rows that found nothing allowed.

    A line of JSON has all fields of the input, the text, its tokens, the reward and the cost, and what `more` says of
    the row. Of a run that broke off without any text nothing is written, which is what the answer says.
    """
    lines = [_line(given, result, row) | (more[row] if more else {}) for row in range(len(given))]
    if not any(line[given.text] is not None for line in lines):
        return False
    if as_json:
        written = [json.dumps(line, ensure_ascii=False, default=str) for line in lines]
    else:
        written = [" ".join((line[given.text] or "").splitlines()) for line in lines]
    deliver(out, "".join(f"{line}\n" for line in written))
    if html is not None:
        try:
            result.save_html(html)
        except OSError as error:
            raise click.ClickException(f"{html} cannot be written ({reason(error, Path(html))}") from error
        click.echo(f"written: {html}", err=True)
    for line in result.warnings():
        click.echo(line, err=True)
    return True


def _line(given: Input, result: Any, row: int) -> dict[str, Any]:
    """A line: a row without a finished text has null for it, a text that no reward has judged null for that."""
    text, reward, tokens = result.texts[row], float(result.rewards[row]), result.tokens[row].tolist()
    judged = reward > float("-inf")
    seen = result.finished or judged or bool(text.strip()) and result.mask not in tokens
    fields = {name: None if value != value else value for name, value in given.fields[row].items()}  # NaN is no JSON
    return {
        **{name: value for name, value in fields.items() if name not in CARRIED},
        **({} if given.prompts is None else {given.prompt: fields.get(given.prompt, given.prompts[row])}),
        given.text: text if seen else None,
        "reward": reward if judged else None,
        "cost": vars(result.cost),
        "tokens": tokens if seen else None,
    }


def deliver(path: str, text: str) -> None:
    """Writes a text to a file, whole or not at all, or to standard output for "-".

    Where that fails, as on a disk that has become full, the text is saved elsewhere. Raises `ClickException` then,
    saying where.
    """
    try:
        if path == "-":
            click.echo(text, nl=False)
        else:
            with whole(path) as file:
                file.write(text.encode())
    except BrokenPipeError:
        raise  # whoever read it wants no more of it
    except OSError as error:
        if path == "-":  # let go of what it still holds, of which the end of the interpreter would complain again
            with suppress(OSError, UnsupportedOperation):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        told = error.strerror if error.errno != errno.ENOSPC else "the disk is full"
        name = STDOUT if path == "-" else path
        raise click.ClickException(f"{name} cannot be written ({told}): {_saved(text)}") from error


def _saved(text: str) -> str:
    """Where a text is that could not be written where it should be."""
    for folder in (None, Path.cwd(), Path.home()):
        with suppress(OSError):
            with NamedTemporaryFile("w", encoding="utf-8", prefix="iterref-", dir=folder, delete=False) as file:
                file.write(text)
            return f"the texts are in {file.name}"
    return "nor could any other file, and the texts are lost"


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


def write_json(path: str | None, found: Any) -> None:
    """What was found as indented JSON in a file, or on standard output for "-"; nothing for None."""
    if path is not None:
        deliver(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
