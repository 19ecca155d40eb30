"""Runs: the texts of all lines of a command, in parts, so that one that broke off goes on.

    part      up to `PART` rows in one run of the library; its lines are finished together
    rerun     finished lines stay; every other row is made again from its own seed: the file is the undisturbed run's

In a file of --json, which is written after every part, the lines that are not finished have a mark `unfinished` that
says of which command they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click

from iterref import __version__
from iterref.cli.options import constraint_of, place_of
from iterref.cli.reading import Input, read_budget, read_reward
from iterref.cli.writing import deliver, expect_outputs, output_line, printing_to_stderr, save_page, saved, watched

PART = 64  # rows; those of one part are in one batch of the network
PACE = ("max_rows", "device", "device_map", "max_memory")  # set the pace alone, and may differ


class Run:
    """The run of a `command` on an input, with all that its `options` say. `model` is loaded, `options` are left as the
    library takes them: budget, reward, bar and watched rows are read. `whole` makes it one part, as a page does. Raises
    `ValueError` for an output that cannot be written, or that holds the unfinished texts of another run."""

    def __init__(self, command: str, given: Input, options: dict[str, Any], *, whole: bool = False) -> None:
        self.out, self.html, self.as_json = map(options.pop, ("out", "html", "as_json"))
        expect_outputs(self.out, self.html, source=given.source)
        self.given, self.options, self.identity = given, options, ""
        if (constraint := constraint_of(options)) is not None:
            options["constraint"] = constraint
        self.size = len(given) if whole or self.html else min(PART, options["max_rows"] or PART)
        self.lines: list[dict[str, Any] | None] = [None] * len(given)
        self.reached = dict[int, dict[str, Any]]()  # lines that are not finished
        # a pipe or a device takes every line once
        self.stays = self.out != "-" and (Path(self.out).is_file() or not Path(self.out).exists())
        if self.stays:
            self.identity = _identity(command, given, options) if self.as_json else ""
            self.lines = _left_by(self.identity, self.out, given)
        if any(self.lines):
            click.echo(f"going on with the texts in {self.out}", err=True)
        place, budget = place_of(options), options.pop("budget")
        options["budget"] = None if budget is None else read_budget(budget)
        self.reward = options["reward"]  # as it was written, for a page
        with printing_to_stderr():
            options["reward"] = read_reward(self.reward, given.columns)
        options |= {"watch": watched(self.html, given.fields), "progress": sys.stderr.isatty()}
        from iterref.loading import load

        self.model: Any = load(options.pop("model"), **place)

    def refuse(self, texts: Sequence[str] | None = None) -> None:
        """Refuses prompts, and `texts`, of later parts before the first one; those of that are refused by itself."""
        if len(self.given) > self.size:
            self.model.prepare(self.given.prompts or [""])
            if texts is not None:
                self.model.encode(texts)

    @property
    def parts(self) -> Iterator[list[int]]:
        """The rows to make, part by part."""
        for first in range(0, len(self.lines), self.size):
            rows = range(first, min(first + self.size, len(self.lines)))
            if left := [row for row in rows if self.lines[row] is None]:
                yield left

    def make(self, work: Callable[[list[int]], Any]) -> None:
        """Has every part made by `work`, from its rows to a result, and writes all texts in order. What was reached is
        written when the reward fails, and on Ctrl-C, which is told how to go on."""
        parts = list(self.parts)
        for number, rows in enumerate(parts, 1):
            try:
                with printing_to_stderr():
                    result = work(rows)
            except (RuntimeError, KeyboardInterrupt) as error:
                if (partial := getattr(error, "partial", None)) is not None:
                    self._take(rows, partial)
                known = (*filter(None, self.lines), *self.reached.values())
                written = any(line[self.given.text] is not None for line in known)
                if written:
                    self._write()
                if not isinstance(error, KeyboardInterrupt):
                    raise
                told = self._goes_on() if written else "no text was finished and none is written: start again"
                raise click.ClickException(f"interrupted; {told}") from error
            self._take(rows, result)
            if number == len(parts) or self.identity:
                self._write()
            if self.html is not None:
                save_page(replace(result, about=replace(result.about, reward=self.reward)), self.html)
            for line in result.warnings(rows):
                click.echo(line, err=True)
        if not parts:
            self._write()

    def _take(self, rows: Sequence[int], result: Any) -> None:
        """Keeps the lines of a result, or of what one that broke off had reached."""
        for place, row in enumerate(rows):
            line = output_line(self.given, row, result, place)
            if result.finished:
                self.lines[row] = line
            else:
                self.reached[row] = line

    def _write(self) -> None:
        """Writes what there is of all lines."""
        mark = {"unfinished": self.identity} if self.identity else {}
        lines = [
            line or {**(self.reached.get(row) or output_line(self.given, row)), **mark}
            for row, line in enumerate(self.lines)
        ]
        if self.as_json:
            written = [json.dumps(line, ensure_ascii=False) for line in lines]
        else:
            parts = [(line[self.given.text] or "").splitlines() for line in lines]
            written = list(map(" ".join, parts))
            if max(map(len, parts)) > 1:
                click.echo("texts of several lines are written on one line each: --json keeps their lines", err=True)
        text = "".join(f"{line}\n" for line in written)
        try:
            if self.stays:
                _left_by(self.identity, self.out, self.given)
        except ValueError:
            told = f"{self.out} has the unfinished texts of another command by now"
            raise click.ClickException(f"{told}, and these go elsewhere: {saved(text)}") from None
        deliver(self.out, text)

    def _goes_on(self) -> str:
        """How to go on after Ctrl-C."""
        if not self.as_json:
            return "the texts so far are written: with --json --out FILE a rerun of the command would resume"
        if not self.identity:
            return "the texts so far are written: go on from these lines with `iterref refine`"
        return f"the texts so far are written to {self.out}: rerun the command to resume"


def _identity(command: str, given: Input, options: dict[str, Any]) -> str:
    """What a run is: a hash of the command, its input, its options, and the files of the model and the reward."""
    from iterref.engine.manifest import model_told, reward_told

    told = {name: value for name, value in options.items() if name not in PACE}
    files = [model_told(options["model"]), reward_told(options["reward"])]
    whole = [__version__, command, given.prompts, given.texts, given.fields, told, files]
    return blake2b(json.dumps(whole, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _left_by(run: str, out: str, given: Input) -> list[dict[str, Any] | None]:
    """The finished lines that a run which broke off left in its output, None for the others; none where the output is
    something else. Raises `ValueError` for those of another run, which would be lost, and for lines that no longer
    stand where the run wrote them."""
    nothing: list[dict[str, Any] | None] = [None] * len(given)
    try:
        lines = [json.loads(line) for line in Path(out).read_bytes().splitlines()]
    except (FileNotFoundError, ValueError, RecursionError):
        return nothing
    marks = [line.get("unfinished") if isinstance(line, dict) else None for line in lines]
    if not any(marks):
        return nothing
    if {*marks} - {None} != {run} or len(lines) != len(given):
        told = f"{out} holds the unfinished texts of another command"
        raise ValueError(f"{told}: give the options, input and files that it was begun with, or another --out")
    for row, line in enumerate(lines):
        own = {name: value for name, value in output_line(given, row).items() if value is not None}
        if not isinstance(line, dict) or any(line.get(name) != value for name, value in own.items()):
            told = f"line {row + 1} of {out} is not that of row {row} of the input, where the run wrote it"
            raise ValueError(f"{told}: put its lines back in order, or name another --out")
    return [line if mark is None else None for line, mark in zip(lines, marks, strict=True)]
