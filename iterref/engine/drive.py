"""Drive: jobs to an engine, parts to the disk; rows that are given up are set aside, and a hopeless run is stopped.

Of processes that a launcher such as torchrun started, job j belongs to rank j mod WORLD_SIZE.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from iterref.engine.jobs import Batch, Job, Made, Outcome, Tries
from iterref.engine.results import Results
from iterref.progress import Bar

FEW = 16  # rows that may all fail without a word about the run


class Engine(Protocol):
    """Whatever makes jobs: `local.Local`, `cluster.Cluster`."""

    workers: int

    def make(self, jobs: Iterable[Job], batch: Callable[[Job], Batch], tries: Tries) -> Iterator[Outcome]:
        """Every row of the jobs once, in any order: in a job that was made, or alone in one that failed for good."""


@dataclass
class Tally:
    """What one call of `drive` did: rows made, rows set aside, seconds, and rows that all shares finished in them."""

    made: int = 0
    aside: int = 0
    seconds: float = 0.0
    rows: int = 0

    def told(self, workers: int) -> str:
        crew = "1 worker" if workers == 1 else f"{workers} workers"
        rate = f"{self.rows / max(self.seconds, 1e-9):.3g} rows/s by {crew}"
        return rate + (f", {self.aside} set aside" if self.aside else "")


def drive(results: Results, table: Batch, engine: Engine, *, retries: int = 2, shown: bool = False) -> Tally:
    """Makes every missing row of this driver's share; then, where no share lacks any, the views in row order. `shown`
    draws a bar of all shares' rows. Raises `RuntimeError` where as many rows as a job has were set aside before a
    single one was made: no row is the cause of that. What is finished stays in the folder however this ends."""
    done, shares = results.done(), results.share[1]
    before = sum(map(len, done))
    tally, begun, crew = Tally(), monotonic(), engine.workers * shares
    hopeful = any(len(job) > 1 for job in done)  # only rows that were made stand together

    def counted() -> Tally:
        own = tally.made + tally.aside
        tally.seconds, tally.rows = monotonic() - begun, own if shares == 1 else sum(map(len, results.done())) - before
        return tally

    with Bar((), "rows", lambda: counted().told(crew), total=len(table), initial=before, shown=shown) as bar:
        for outcome in engine.make(results.missing(), table.of, Tries(results.size, retries)):
            job = outcome.job
            if isinstance(outcome, Made):
                results.write(job, outcome.records)
                tally.made += len(job)
            else:
                results.set_aside(job, table.of(job), outcome.error)
                tally.aside += len(job)
                if not hopeful and not tally.made and tally.aside >= max(results.size, FEW):
                    told = f"{tally.aside} rows failed and none was made, the last one by: {outcome.error}"
                    raise RuntimeError(f"{told}; fix that, and give the same command with --retry-failed")
            if shown:
                bar.update(before + counted().rows - bar.n)
    counted()
    results.merge()
    return tally


def share_of(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, number of ranks). Raises `ValueError` where no launcher has set them."""
    rank, world = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
    if rank is None or world is None or not rank < world:
        how = "start it by a launcher, as in torchrun --nproc-per-node 4 --no-python iterref generate ..."
        raise ValueError(f"--engine rank needs RANK below WORLD_SIZE in the environment: {how}")
    return rank, world


def first_slot(workers: int, environment: Mapping[str, str] = os.environ) -> int:
    """The number of this rank's first worker among all workers of its machine."""
    return (_number(environment, "LOCAL_RANK") or 0) * workers


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
