"""Cluster: the same jobs by Ray Data, a pool of actors on one machine or on a cluster, one replica of the model each.

    ray.data.from_items(jobs) -> map_batches(actor, one job at a time) -> outcomes as they end -> parts by the driver

Inside of every actor a process does the work (`engine.local`), so that a row which kills its worker is told from a
machine that is lost: of the first the actor says so and the row is found by halving, of the second Ray starts the actor
again elsewhere. Results come back to the driver, which alone needs the folder.
"""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from iterref.engine.jobs import Batch, Job, Outcome, Work
from iterref.engine.local import Local

FIRST = 4  # jobs a worker in the first round, after which a run of failures is noticed


class Cluster:
    """An engine of `workers` actors with `gpus` and `cpus` each (parts of a GPU are allowed), on a cluster's `address`
    or on one that is started within this process; a context manager.

    Raises `ValueError` where Ray is not installed, and `RuntimeError` where there is no cluster at the address.
    """

    def __init__(
        self,
        work: Work,
        workers: int = 1,
        *,
        address: str | None = None,
        gpus: float = 0.0,
        cpus: float = 1.0,
        timeout: float | None = None,
    ) -> None:
        if find_spec("ray") is None:
            raise ValueError("the engine ray needs Ray: pip install 'iterref[ray]', or take --engine local")
        if workers < 1:
            raise ValueError(f"{workers} workers make nothing: give at least 1")
        self.work, self.workers, self.timeout = work, workers, timeout
        self.address, self.gpus, self.cpus = address, gpus, cpus
        self._ours = False

    def __enter__(self) -> Cluster:
        import ray

        if not ray.is_initialized():
            try:
                ray.init(address=self.address, include_dashboard=None if self.address else False,
                         log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
            except (ConnectionError, ValueError) as error:
                raise RuntimeError(f"there is no Ray cluster at {self.address}: {error}") from error
            self._ours = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            import ray

            ray.shutdown()

    def run(self, queue: deque[Job], batch: Callable[[Job], Batch]) -> Iterator[Outcome]:
        """Makes the jobs of a queue, in rounds: what is added while a round runs is made in the next.

        Raises `ValueError` where the work refuses to be opened.
        """
        from ray import data

        context = data.DataContext.get_current()
        context.enable_progress_bars = False  # the driver has its own
        most = FIRST * self.workers
        while queue:
            jobs = [queue.popleft() for _ in range(min(most, len(queue)))]
            most = max(most, len(queue) + len(jobs))
            tasks = [{"task": pickle.dumps((job, batch(job)))} for job in jobs]
            asked = data.from_items(tasks, override_num_blocks=len(tasks))
            made = asked.map_batches(
                Actor,
                fn_constructor_args=(self.work, self.timeout),
                batch_size=1,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=min(self.workers, len(jobs))),
                num_gpus=self.gpus,
                num_cpus=self.cpus,
            )
            for row in made.iter_rows():
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, str):
                    raise ValueError(outcome)
                yield outcome


class Actor:
    """One worker of the pool: a table with a `task` -> a table with its `outcome`, or with a sentence where the work
    refuses to be opened."""

    def __init__(self, work: Work, timeout: float | None) -> None:
        self.local = Local(work, timeout=timeout)

    def __call__(self, table: Any) -> dict[str, list[bytes]]:
        import pyarrow as pa

        outcomes: list[bytes] = []
        for task in table["task"].to_pylist():
            job, batch = pickle.loads(task)
            try:
                outcomes += map(pickle.dumps, self.local.run(deque([job]), {job: batch}.__getitem__))
            except (ValueError, RuntimeError) as error:
                outcomes.append(pickle.dumps(str(error)))
        return pa.table({"outcome": pa.array(outcomes, pa.binary())})

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of the interpreter
            self.local.__exit__(None, None, None)
