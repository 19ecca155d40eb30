"""Tries: what fails is tried again, halved, and at last given up row by row.

    a job of the grid, or of one row    retries + 1 tries        a half    one try, then its own halves
    a row that fails alone              given up                 a row that is refused (a prompt too long)    no retries

With n rows in a job, a poison row is found in about 2 log2 n further jobs, and all other rows are made.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from iterref.engine.jobs import Batch, Job, Made, Outcome

# Makes the jobs of a queue, to which more may be added between outcomes, and yields each as it ends.
Run = Callable[[deque[Job], Callable[[Job], Batch]], Iterator[Outcome]]


@dataclass(frozen=True)
class Tries:
    """How often a job is tried: `retries` times again, if it has the `size` of the grid's jobs or a single row."""

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
