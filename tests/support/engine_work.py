"""Works without a model for the engines' tests, an engine within this process, and a driver that tests may kill.

python -m tests.support.engine_work FOLDER ROWS SIZE WORKERS SECONDS [ray, or the address of a cluster]
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from iterref.engine.cluster import Cluster
from iterref.engine.drive import Tally, drive
from iterref.engine.jobs import Batch, Failed, Job, Made, Outcome, Poison, Record, Tries, Work, read_table, record, said
from iterref.engine.local import Local
from iterref.engine.manifest import Manifest
from iterref.engine.results import Results


@dataclass(frozen=True)
class Words:
    """A text of every row that follows from the row and its prompt alone, and faults by row."""

    seconds: float = 0.0  # a row
    fails: frozenset[int] = frozenset()  # the reward fails
    refuses: frozenset[int] = frozenset()  # the prompt is refused
    kills: frozenset[int] = frozenset()  # the worker is killed
    breaks: frozenset[int] = frozenset()  # any other error
    hangs: frozenset[int] = frozenset()
    once: str = ""  # a folder: faults happen the first time only
    diary: str = ""  # a folder, in which every worker leaves its number
    broken: str = ""  # the work does not open: "refused", "broken" or "dead"

    def open(self, slot: int) -> Callable[[Batch], list[Record]]:
        if self.diary:
            (Path(self.diary) / str(os.getpid())).touch()
        if self.broken == "refused":
            raise ValueError("there is no such model: name another")
        if self.broken == "broken":
            raise OSError("the disk is gone")
        if self.broken == "dead":
            os._exit(3)
        return self.step

    def step(self, batch: Batch) -> list[Record]:
        for row in batch.rows:
            if self.once and self.faulty(row):
                mark = Path(self.once) / str(row)
                if mark.exists():
                    continue
                mark.touch()
            self.fault(row)
        time.sleep(self.seconds * len(batch.rows))
        return [made(row, prompt) for row, prompt in zip(batch.rows, batch.prompts, strict=True)]

    def faulty(self, row: int) -> bool:
        return row in self.fails | self.refuses | self.kills | self.breaks | self.hangs

    def fault(self, row: int) -> None:
        if row in self.fails:
            raise Poison(f"the reward fails on row {row}")
        if row in self.refuses:
            raise Poison(f"prompt {row} is too long", again=False)
        if row in self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if row in self.breaks:
            raise RuntimeError(f"out of memory by row {row}")
        if row in self.hangs:
            time.sleep(600)


def made(row: int, prompt: str) -> Record:
    text = blake2b(f"{row} {prompt}".encode(), digest_size=6).hexdigest()
    asked = {"nfe": 4.0, "reward_calls": 2.0, "depth": 3.0}
    return record(row, prompt, text=text, reward=row / 7, best=None, asked=asked)


class Stop(Exception):
    """A run that breaks off."""


class Here:
    """An engine within this process, which may break off after so many outcomes, and takes jobs from either end."""

    workers = 1

    def __init__(self, work: Work, stop: int | None = None, last_first: bool = False) -> None:
        self.step, self.stop, self.last_first = work.open(0), stop, last_first

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def make(self, jobs: Iterable[Job], batch: Callable[[Job], Batch], tries: Tries) -> Iterator[Outcome]:
        return tries.settle(self.run, jobs, batch)

    def run(self, queue: deque[Job], batch: Callable[[Job], Batch]) -> Iterator[Outcome]:
        count = 0
        while queue:
            if count == self.stop:
                raise Stop
            count += 1
            job = queue.pop() if self.last_first else queue.popleft()
            try:
                yield Made(job, self.step(batch(job)))
            except Poison as error:
                yield Failed(job, str(error), error.again)
            except RuntimeError as error:
                yield Failed(job, said(error))


def table(rows: int) -> Batch:
    return read_table([f"prompt {row}: a \u2028 line" for row in range(rows)], {"place": list(range(rows))})


def manifest(rows: int, size: int, **options: object) -> Manifest:
    return Manifest(options, {"name": "words"}, {"name": "none", "code": None}, table(rows).hashes(), size)


def go(folder: Path, rows: int, size: int, engine: Any, *, retry: bool = False, **options: int) -> Tally:
    """One call of a driver with a `drive.Engine`."""
    with Results(folder, manifest(rows, size), retry=retry) as results, engine:
        return drive(results, table(rows), engine, **options)


def main() -> None:
    folder, rows, size, workers, seconds, *ray = sys.argv[1:]
    diary = Path(folder).with_name("diary")
    diary.mkdir(exist_ok=True)
    work = Words(seconds=float(seconds), diary=str(diary))
    where = None if ray == ["ray"] else "".join(ray)
    engine = Cluster(work, int(workers), address=where) if ray else Local(work, int(workers))
    go(Path(folder), int(rows), int(size), engine)


if __name__ == "__main__":
    from tests.support import engine_work  # by the name that workers of workers find it under

    engine_work.main()
