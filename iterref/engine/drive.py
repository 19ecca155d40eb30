"""Drive: jobs to an engine, parts to the disk; rows that are given up are set aside, and a hopeless run is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from iterref.engine.jobs import Batch, Failed, Job, Made, Outcome, Table
from iterref.engine.results import Results
from iterref.engine.tries import Tries

FEW = 16  # rows that may all fail without a word about the run


class Engine(Protocol):
    """Whatever makes jobs: `local.Local`, `cluster.Cluster`."""

    workers: int

    def make(self, jobs: Iterable[Job], batch: Callable[[Job], Batch], tries: Tries) -> Iterator[Outcome]:
        """Every row of the jobs once, in any order: in a job that was made, or alone in one that failed for good."""
        ...


@dataclass
class Tally:
    """What one call of `drive` did: rows made, rows set aside, seconds."""

    made: int = 0
    aside: int = 0
    seconds: float = 0.0

    def told(self, workers: int) -> str:
        """The throughput of all workers, and what was set aside."""
        crew = "1 worker" if workers == 1 else f"{workers} workers"
        rate = f"{self.made / max(self.seconds, 1e-9):.3g} rows/s by {crew}"
        return rate + (f", {self.aside} set aside" if self.aside else "")


def drive(results: Results, table: Table, engine: Engine, *, retries: int = 2, shown: bool = False) -> Tally:
    """Makes every missing row of this driver's share; then, where no share lacks any, the views in row order.

    Raises `RuntimeError` where as many rows as a job has were set aside before a single one was made: no row is the
    cause of that. What is finished stays in the folder however this ends.
    """
    left = results.missing()
    rows = sum(map(len, left))
    done = sum(len(job) for job in results.done() if results.mine(job))
    tally, begun = Tally(), monotonic()
    hopeful = any(len(job) > 1 for job in results.done())  # only rows that were made stand together

    def told() -> str:
        tally.seconds = monotonic() - begun
        return tally.told(engine.workers)

    with ExitStack() as stack:
        advance: Callable[[int], object] = int
        if shown:
            from iterref.progress import Bar  # which brings torch along, of which a driver has no other need

            advance = stack.enter_context(Bar((), "rows", told, total=done + rows, initial=done, shown=True)).update
        for outcome in engine.make(left, table.batch, Tries(results.size, retries)):
            job = outcome.job
            if isinstance(outcome, Made):
                results.write(job, outcome.records)
                tally.made += len(job)
            else:
                results.set_aside(job, table.batch(job), outcome.error)
                tally.aside += len(job)
            advance(len(job))
            if isinstance(outcome, Failed) and not hopeful and not tally.made and tally.aside >= max(results.size, FEW):
                raise RuntimeError(
                    f"{tally.aside} rows failed and none was made, the last one by: {outcome.error}; mend that, "
                    "and give the same command with --retry-failed"
                )
    tally.seconds = monotonic() - begun
    results.merge()
    return tally
