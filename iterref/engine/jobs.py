"""Jobs: the rows of a run in micro-batches, each made whole or not at all, and halved where it cannot be made.

    job = rows first .. last - 1;      grid: multiples of the job size;      below it a binary tree of halves

A row's identity is its place in the input. Its random numbers follow from that alone, so a job gives the same texts
wherever and whenever it is made.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from traceback import format_exception_only
from typing import Any, Protocol

from iterref.columns import read_column, read_columns

Record = dict[str, Any]
COLUMNS = ("row", "document", "text", "reward", "best", "asked", "tokens", "error")  # of a record
NAME = re.compile(r"(\d{10})-(\d{10})", re.ASCII)


@dataclass(frozen=True, order=True)
class Job:
    """The rows from `first` to below `last`."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __str__(self) -> str:
        return f"{self.first:010d}-{self.last:010d}"

    @classmethod
    def named(cls, text: str) -> Job | None:
        """The job that a part is called after, None for another name."""
        found = NAME.fullmatch(text)
        return None if found is None else cls(*map(int, found.groups()))

    def holds(self, other: Job) -> bool:
        return self.first <= other.first and other.last <= self.last

    def halves(self) -> tuple[Job, Job]:
        """Two jobs of half the rows each, the first of them the smaller where the number is odd."""
        middle = (self.first + self.last) // 2
        return Job(self.first, middle), Job(middle, self.last)


def grid(rows: int, size: int) -> list[Job]:
    """The jobs of so many rows. Raises `ValueError` for a size below 1."""
    if size < 1:
        raise ValueError(f"a job of {size} rows cannot be made: give it at least 1")
    return [Job(first, min(first + size, rows)) for first in range(0, rows, size)]


def missing(rows: int, size: int, done: Iterable[Job]) -> list[Job]:
    """The largest jobs of the tree that hold every row which no finished job holds, in order. Raises `ValueError` for a
    finished job that is none of the tree."""
    jobs = grid(rows, size)
    below: dict[int, set[Job]] = {}
    for job in done:
        place = job.first // size
        if place >= len(jobs) or not jobs[place].holds(job) or not len(job):
            raise ValueError(f"there is a part for the rows {job}, which no job of {size} of {rows} rows has")
        below.setdefault(place, set()).add(job)
    return [left for place, job in enumerate(jobs) for left in _left(job, below.get(place, frozenset()))]


def _left(job: Job, done: AbstractSet[Job]) -> list[Job]:
    """What a job still needs, given finished jobs that it holds."""
    if not done or job in done:
        return [] if done else [job]
    found: list[Job] = []
    for half in job.halves():
        inside = {one for one in done if half.holds(one)}
        done, found = done - inside, found + _left(half, inside)
    if done:
        raise ValueError(f"there is a part for the rows {min(done)}, which no halving of the jobs gives")
    return found


@dataclass(frozen=True)
class Batch:
    """What a worker gets of a job: row identities, one after another, prompts, and the reward's columns, by row."""

    rows: Sequence[int]
    prompts: Sequence[str]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.prompts)

    def of(self, job: Job) -> Batch:
        rows = slice(job.first - self.rows[0], job.last - self.rows[0])
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Batch(self.rows[rows], self.prompts[rows], columns)

    def hashes(self, fields: Sequence[Mapping[str, Any]] = ()) -> list[str]:
        """A hash of every row: its prompt, its columns, and the fields that its line has besides."""
        names = sorted(self.columns)
        rows = zip(self.prompts, fields or [{}] * len(self), *(self.columns[name] for name in names), strict=True)
        lines = (json.dumps([names, *row], default=str, sort_keys=True).encode() for row in rows)
        return [blake2b(line, digest_size=8).hexdigest() for line in lines]


def read_table(prompts: Any, columns: Any) -> Batch:
    """All rows of a run: prompts, and columns of further fields. Raises `ValueError` for no rows, a column of another
    length, and for a prompt that no file can hold."""
    found = read_column(prompts, "prompts=")
    if not found:
        raise ValueError("there are no prompts: pass at least one")
    for row, prompt in enumerate(found):
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise ValueError(f"prompt {row} has half of a surrogate pair, which is no text: fix it") from None
    return Batch(range(len(found)), found, read_columns(columns, len(found)))


@dataclass(frozen=True)
class Made:
    """A finished job: one record a row, in the order of the rows."""

    job: Job
    records: list[Record]


@dataclass(frozen=True)
class Failed:
    """A job that was not made, and why; `again` says whether another try may help."""

    job: Job
    error: str
    again: bool = True


Outcome = Made | Failed


def record(row: int, document: str, **found: Any) -> Record:
    """A row as it is written: every column, None where nothing was `found`."""
    return {**dict.fromkeys(COLUMNS), "row": row, "document": document, **found}


def said(error: BaseException) -> str:
    """What an error is, in a line."""
    return format_exception_only(error)[-1].strip().partition("\n")[0]


class Poison(Exception):
    """A job cannot be made because of one of its rows, while the worker is well; `again` as for `Failed`."""

    def __init__(self, told: str, again: bool = True) -> None:
        super().__init__(told)
        self.again = again


class Work(Protocol):
    """What workers do. It is sent to them, so it has to be picklable."""

    def open(self, slot: int) -> Callable[[Batch], list[Record]]:
        """Loads what a worker needs, once; `slot` counts the workers of a machine. A `ValueError`, `TypeError` or
        `FileNotFoundError` refuses the whole run; of the function that it returns, `Poison` refuses a job."""
        ...


# Makes the jobs of a queue, to which more may be added between outcomes, and yields each as it ends.
Run = Callable[[deque[Job], Callable[[Job], Batch]], Iterator[Outcome]]


@dataclass(frozen=True)
class Tries:
    """What fails is tried again, halved, and at last given up row by row. A job of the `size` of the grid, or of one
    row, is tried `retries` times again; a half once. A row that is refused (a prompt too long) is not tried again. With
    n rows in a job, a poison row is found in about 2 log2 n further jobs."""

    size: int
    retries: int = 2

    def settle(self, run: Run, jobs: Iterable[Job], batch: Callable[[Job], Batch]) -> Iterator[Outcome]:
        """Every row of the jobs once: in a job that was made, or alone in one that failed for good."""
        queue, tried = deque(jobs), Counter[Job]()
        for outcome in run(queue, batch):
            job = outcome.job
            if isinstance(outcome, Made):
                yield outcome
                continue
            tried[job] += 1
            most = self.retries if outcome.again and len(job) in (1, self.size) else 0
            if tried[job] <= most:
                queue.appendleft(job)
            elif len(job) > 1:
                queue.extendleft(reversed(job.halves()))
            else:
                yield outcome
