"""Group: all ranks of a launcher as one worker, which compute every job together (`device_map="tensor_parallel"`).

    the first rank     has the folder and the queue, tells the others each job, and keeps what comes of it
    every other rank   makes the same job at the same time, and lets go of it

Rewards are asked by the first rank (`rewards.rank_zero`), so that a row which they refuse is set aside by all alike.
Anything else that goes wrong on one rank ends them all, as launchers see to; the same command resumes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from iterref.engine.jobs import Batch, Failed, Job, Made, Outcome, Poison, Record, Tries, Work


class Group:
    """An engine of one worker that the ranks are together: the first makes jobs, the others `follow`."""

    workers = 1

    def __init__(self, work: Work) -> None:
        self.work = work
        self._step: Callable[[Batch], list[Record]] | None = None

    def __enter__(self) -> Group:
        """Raises as the work does where it does not open, on all ranks alike."""
        self._step = self.work.open(0)
        return self

    def __exit__(self, *error: object) -> None:
        from torch import distributed

        if error[0] is None and distributed.get_rank() == 0:
            self._told(None)  # the end
        with suppress(Exception):
            distributed.destroy_process_group()

    def make(self, jobs: Iterable[Job], batch: Callable[[Job], Batch], tries: Tries) -> Iterator[Outcome]:
        return tries.settle(self.run, jobs, batch)

    def run(self, queue: deque[Job], batch: Callable[[Job], Batch]) -> Iterator[Outcome]:
        while queue:
            job = queue.popleft()
            yield self._made(job, self._told(batch(job)))

    def follow(self) -> None:
        """Makes what the first rank tells until it tells the end."""
        while (batch := self._told(None)) is not None:
            self._made(Job(batch.rows[0], batch.rows[0] + len(batch.rows)), batch)

    def _told(self, batch: Batch | None) -> Any:
        from torch import distributed

        said = [batch]
        distributed.broadcast_object_list(said)
        return said[0]

    def _made(self, job: Job, batch: Batch) -> Outcome:
        assert self._step is not None
        try:
            return Made(job, self._step(batch))
        except Poison as error:
            return Failed(job, str(error), error.again)
