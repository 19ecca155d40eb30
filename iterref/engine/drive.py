"""Drive: jobs to an engine, parts to the disk; what fails is tried again, halved, and at last set aside.

    a job of the grid, or of one row    retries + 1 tries        a half    one try, then its own halves
    a row that fails alone              a part with its error    a row that is refused (a prompt too long)    no retries

With n rows in a job, a poison row is found in about 2 log2 n further jobs, and all other rows are made.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from iterref.engine.jobs import Batch, Job, Made, Outcome, Table
from iterref.engine.results import Results

FEW = 16  # rows that may all fail without a word about the run


class Engine(Protocol):
    """Whatever makes jobs: `local.Local`, `cluster.Cluster`."""

    workers: int

    def run(self, queue: deque[Job], batch: Callable[[Job], Batch]) -> Iterator[Outcome]:
        """Makes the jobs of a queue, to which more may be added between outcomes, and yields them as they end."""
        ...


@dataclass
class Tally:
    """What one call of `drive` did: rows made, rows set aside, seconds, and how many failures were tried again."""

    made: int = 0
    aside: int = 0
    seconds: float = 0.0
    failures: int = 0

    def told(self, workers: int) -> str:
        """The throughput of all workers, and what failed."""
        crew = "1 worker" if workers == 1 else f"{workers} workers"
        rate = f"{self.made / max(self.seconds, 1e-9):.3g} rows/s by {crew}"
        return rate + (f", {self.aside} set aside" if self.aside else "")


def drive(results: Results, table: Table, engine: Engine, *, retries: int = 2, shown: bool = False) -> Tally:
    """Makes every missing row of this driver's share; then, where no share lacks any, the views in row order.

    Raises `RuntimeError` where as many rows as a job has were set aside before a single one was made: no row is the
    cause of that. What is finished stays in the folder however this ends.
    """
    left = results.missing()
    queue, rows = deque(left), sum(map(len, left))
    tries: Counter[Job] = Counter()
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
        for outcome in engine.run(queue, table.batch):
            job = outcome.job
            if isinstance(outcome, Made):
                results.write(job, outcome.records)
                tally.made += len(job)
                advance(len(job))
                continue
            tally.failures += 1
            tries[job] += 1
            full = len(job) == 1 or len(job) == results.size
            if outcome.again and tries[job] <= retries * full:
                queue.appendleft(job)
            elif len(job) > 1:
                queue.extendleft(reversed(job.halves()))
            else:
                results.set_aside(job, table.batch(job), outcome.error)
                tally.aside += 1
                advance(1)
                if not hopeful and not tally.made and tally.aside >= max(results.size, FEW):
                    raise RuntimeError(
                        f"{tally.aside} rows failed and none was made, the last one by: {outcome.error}; mend that, "
                        "and give the same command with --retry-failed"
                    )
    tally.seconds = monotonic() - begun
    results.merge()
    return tally
