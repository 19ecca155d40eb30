"""Ledger: the runs of a benchmark, each made once; a CSV file remembers what has been done.

    cells = methods x budgets x seeds x ...;      to do = cells - { cells of the file };      one line a finished run

A line is appended when its run ends, so a benchmark that broke off goes on where it stood.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from math import isfinite
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.frame import names
from iterref.progress import Bar

Value = str | int | float | None
Row = dict[str, Value]


def number(row: Row, name: str) -> float | None:
    """A figure of a run, None where it has none."""
    value = row.get(name)
    return None if value is None else float(value)


def cross(**axes: Iterable[Value]) -> list[Row]:
    """One cell for every combination of the axes' values, the last axis running fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


@dataclass(frozen=True)
class Ledger:
    """A CSV file of finished runs: the columns `key` name a run, the columns `measured` are what it gave.

    Numbers keep six digits; what is None or not finite is left empty. A file may lack measured columns, those of before
    a measure came: they are read as empty, and written with the next run.
    """

    path: Path
    key: tuple[str, ...]
    measured: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in order."""
        return self.key + self.measured

    def identity(self, row: Row) -> tuple[str, ...]:
        """What makes a run that run."""
        return tuple(_written(row[name]) for name in self.key)

    def rows(self) -> list[Row]:
        """All finished runs in order, under the names of today, the newest where one was made twice.

        Raises `ValueError` for a file with other columns. A last line that was cut off is cut away.
        """
        if not self.path.exists():
            return []
        text = self.path.read_bytes()
        if not text.endswith(b"\n"):
            text = text[: text.rfind(b"\n") + 1]
            self.path.write_bytes(text)
        lines = list(csv.reader(io.StringIO(text.decode("utf-8"), newline="")))
        head = [names.column(name) for name in lines[0]] if lines else list(self.columns)
        if head != [name for name in self.columns if name in head or name in self.key]:
            raise ValueError(f"{self.path} has other columns than this benchmark writes: give another folder")
        broken = next((number for number, line in enumerate(lines, 1) if len(line) != len(head)), None)
        if broken is not None:
            raise ValueError(f"line {broken} of {self.path} is damaged: take it out, and its run is made again")
        empty: Row = dict.fromkeys(self.columns)
        found = [empty | dict(zip(head, map(_read, line), strict=True)) for line in lines[1:]]
        for row in found:
            row |= {name: names.method(str(row[name])) for name in ("method", "fitted") if row.get(name) is not None}
            if "account" in row:
                row["account"] = names.ACCOUNTS.get(str(row["account"]), row["account"])
        return list({self.identity(row): row for row in found}.values())

    def add(self, row: Row) -> None:
        """Appends one run; a column that it lacks stays empty."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._head() != self.columns:
            head: Row = {name: name for name in self.columns}
            whole = self.path.with_suffix(".new")
            whole.write_text(self._lines(head, *self.rows()), "utf-8", newline="")
            whole.replace(self.path)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(self._lines(row))

    def _head(self) -> tuple[str, ...]:
        """The columns of the file under the names of today, none where there is no file."""
        if not self.path.exists():
            return ()
        with open(self.path, newline="", encoding="utf-8") as file:
            return tuple(map(names.column, next(csv.reader(file), ())))

    def _lines(self, *rows: Row) -> str:
        told = io.StringIO(newline="")
        writer = csv.writer(told, lineterminator="\n")
        writer.writerows([_written(row.get(name)) for name in self.columns] for row in rows)
        return told.getvalue()


def run(
    cells: Sequence[Row], work: Callable[[Row], Row], ledger: Ledger, progress: bool = False, jobs: int = 1
) -> list[Row]:
    """The finished runs of `cells`, in their order: read where the ledger has them, else made by `work` and added.

    `work` takes a cell and returns what it measured; with several `jobs`, in as many processes, to which it must be
    known by name.
    """
    done = {ledger.identity(row): row for row in ledger.rows()}
    missing = {ledger.identity(cell): cell for cell in cells if ledger.identity(cell) not in done}
    made = _made(list(missing.values()), work, min(jobs, len(missing)))
    with Bar(made, ledger.path.stem, total=len(missing), shown=progress) as bar:
        for row in bar:
            ledger.add(row)
    if missing:
        done = {ledger.identity(row): row for row in ledger.rows()}
    return [done[ledger.identity(cell)] for cell in cells]


def _made(cells: Sequence[Row], work: Callable[[Row], Row], jobs: int) -> Iterator[Row]:
    """The runs as they finish. Runs are small, and threads inside of them would only wait for each other."""
    if jobs < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from (cell | work(cell) for cell in cells)
        finally:
            torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        waiting = {pool.submit(work, cell): cell for cell in cells}
        try:
            yield from (waiting[one] | one.result() for one in as_completed(waiting))
        finally:
            pool.shutdown(cancel_futures=True)


def _written(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if isfinite(value) else ""
    return "" if value is None else str(value)


def _read(text: str) -> Value:
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
