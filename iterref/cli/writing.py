"""Writing: texts, tables and JSON on standard output or in files, and what is told on standard error."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import UnsupportedOperation
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click

from iterref.cli.reading import Input, left_in
from iterref.files import expect_room, expect_writable, whole
from iterref.lines import as_json, finite

WATCHED = 8  # texts whose steps a page shows
STDOUT = "standard output"
OF_ENGINES = ("best", "asked", "error")  # what an engine says of a row beside text, tokens and reward

# `expect_outputs` checks them, in one sentence for all; "-" is standard output, and tables go to standard error then
class Output(click.Path):
    """A file to write, as it is named where the command begins: a reward may go to another folder."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """The path from the root, but for "-"."""
        found = str(super().convert(value, parameter, context))
        return found if found in ("", "-") else os.path.join(os.getcwd(), found)


FILE = Output(readable=False)
JSON_FILE = Output(readable=False, allow_dash=True)
PAGE = click.option("--html", type=FILE, help=f"A page of the run, too, with steps of the first {WATCHED} texts.")
OUT = click.option("--out", type=JSON_FILE, default="-", help="The file to write.  [default: standard output]")


def expect_outputs(*paths: str | None, source: str = "") -> None:
    """Raises `ValueError` for an output that cannot be written, that is named twice, or that is the input, a file
    called `source`; "-" is standard output."""
    given = [path for path in paths if path is not None]
    for path in given:
        if given.count(path) > 1:
            raise ValueError(f"{STDOUT if path == '-' else path} is to be written twice: name two files")
        if source and os.path.exists(path) and os.path.samefile(source, path):
            raise ValueError(f"{path} is the input, which would be lost: name another file to write")
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


def save_page(result: Any, path: str) -> None:
    """Writes a run's page, and says so on standard error. Raises `ClickException` where it cannot be written."""
    try:
        result.save_html(path)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"written: {path}", err=True)


def output_line(given: Input, row: int, result: Any = None, place: int = 0) -> dict[str, Any]:
    """A line of JSON: all fields of the input's row, the text, its tokens, the reward and the cost, which stand at a
    `place` of a result; null without one. A row without a finished text has null for it, a text that no reward has
    judged null for that."""
    fields = own_fields(given.fields[row])
    found: dict[str, Any] = {given.text: None, "reward": None, "cost": None, "tokens": None}
    if result is not None:
        text, reward, tokens = result.texts[place], float(result.rewards[place]), result.tokens[place].tolist()
        judged = reward > float("-inf")
        seen = result.finished or judged or bool(text.strip()) and result.mask not in tokens
        found |= {"reward": reward if judged else None, "cost": vars(result.cost)}
        found |= {given.text: text, "tokens": tokens} if seen else {}
        found |= {} if result.slots is None else {"slots": finite(result.slots[place])}
    prompt = {} if given.prompts is None else {given.prompt: fields.get(given.prompt, given.prompts[row])}
    return {**fields, **prompt, **found}


def own_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a line of the input has itself, as JSON knows it, without what a run before left in it."""
    engines = OF_ENGINES if {*OF_ENGINES} <= fields.keys() else ()
    return {name: as_json(value) for name, value in fields.items() if name not in (*left_in(fields), *engines)}


def deliver(path: str, text: str) -> None:
    """Writes a text in UTF-8 to a file, whole or not at all, or to standard output for "-". Where that fails, as on a
    disk that has become full, the text is saved elsewhere. Raises `ClickException` then, saying where."""
    try:
        if path == "-":
            click.echo(text.encode(), nl=False)  # as files are and as input is read, whatever the locale
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
        raise click.ClickException(f"{name} cannot be written ({told}): {saved(text)}") from error


def saved(text: str) -> str:
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
