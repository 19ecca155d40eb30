"""Cluster: the same jobs by Ray Data, a pool of actors on one machine or on a cluster, one replica of the model each.

    ray.data.from_items(jobs) -> map_batches(actor, one job at a time) -> outcomes as they end -> parts by the driver

Inside of every actor a process does the work (`engine.local`), so that the actor tries and halves its own job where a
row kills it; after a machine is lost Ray starts the actor again elsewhere. The driver alone needs the folder.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from iterref.engine.jobs import Batch, Job, Outcome, Tries, Work, said
from iterref.engine.local import Local
from iterref.optional import require

REACHED = 10.0  # seconds to connect to a cluster
AHEAD = 2  # jobs that an actor holds: one to make, one that is there when it is made


class Cluster:
    """An engine of `workers` actors with `gpus` and `cpus` each (parts of a GPU are allowed), on a cluster's `address`
    (or RAY_ADDRESS in the environment), or on one that is started within this process; a context manager. Raises
    `ValueError` where Ray is not installed, and `RuntimeError` where there is no cluster at the address."""

    def __init__(
        self, work: Work, workers: int = 1, *,
        address: str | None = None, gpus: float = 0.0, cpus: float = 1.0, timeout: float | None = None,
    ) -> None:  # fmt: skip
        require("ray", "ray", "the engine ray", ", or take --engine local")
        if workers < 1:
            raise ValueError(f"{workers} workers make nothing: give at least 1")
        self.work, self.workers, self.timeout = work, workers, timeout
        self.address, self.gpus, self.cpus = address or os.environ.get("RAY_ADDRESS"), gpus, cpus
        self._ours = False

    def __enter__(self) -> Cluster:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it reports at length what `make` says in a sentence
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a run goes to others unless they ask for it
        import ray

        if not ray.is_initialized():
            if self.address is not None:
                reach(self.address)
            try:
                ray.init(address=self.address, include_dashboard=None if self.address else False,
                         log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
            except (ConnectionError, ValueError) as error:
                raise RuntimeError(f"there is no Ray cluster at {self.address}: {said(error)}") from error
            self._ours = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._ours:
            import ray

            ray.shutdown()

    def make(self, jobs: Iterable[Job], batch: Callable[[Job], Batch], tries: Tries) -> Iterator[Outcome]:
        """Every row of the jobs once, made or given up alone. Raises `ValueError` where the work refuses to be opened
        or no machine has room for a worker, and `RuntimeError` where workers die again and again before they are ready.
        """
        from ray import data

        tasks = [{"task": pickle.dumps((job, batch(job)))} for job in jobs]
        if not tasks:
            return
        self._expect_room()
        context = data.DataContext.get_current()
        context.enable_progress_bars = False  # the driver has its own
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        asked = data.from_items(tasks, override_num_blocks=len(tasks))
        pool = data.ActorPoolStrategy(size=min(self.workers, len(tasks)), max_tasks_in_flight_per_actor=AHEAD)
        made = asked.map_batches(
            Actor, fn_constructor_args=(self.work, self.timeout, tries), batch_size=1, batch_format="pyarrow",
            compute=pool, num_gpus=self.gpus, num_cpus=self.cpus,
        )  # fmt: skip
        for row in made.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome

    def _expect_room(self) -> None:
        """Ray waits without a word for a machine that may come: says so, or refuses where none can. Raises `ValueError`
        on a cluster of this machine alone."""
        import ray

        asked = {"CPU": self.cpus, "GPU": self.gpus}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(machine.get(name, 0.0) >= number for name, number in asked.items()) for machine in machines):
            return
        told = " and ".join(f"{name} {number:g}" for name, number in asked.items() if number)
        if self.address is None:
            raise ValueError(f"this machine has no room for a worker of {told}: ask for less")
        warnings.warn(f"no machine of the cluster has {told} for a worker: waiting for one that has", stacklevel=2)


def reach(address: str) -> None:
    """Raises `RuntimeError` where nothing listens at HOST:PORT or ray://HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        return  # "auto", which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()
    except (OSError, OverflowError) as error:
        told = f"there is no Ray cluster at {address} ({said(error)}): give HOST:PORT of its head"
        raise RuntimeError(told) from None


class Actor:
    """One worker of the pool: a table with a `task` -> a table with its outcomes, or with what ends the run."""

    def __init__(self, work: Work, timeout: float | None, tries: Tries) -> None:
        self.local, self.tries = Local(work, timeout=timeout), tries

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        outcomes: list[bytes] = []
        for task in table["task"].to_pylist():
            job, batch = pickle.loads(task)
            try:
                outcomes += map(pickle.dumps, self.local.make([job], batch.of, self.tries))
            except (ValueError, RuntimeError) as error:  # these end the run
                kind = ValueError if isinstance(error, ValueError) else RuntimeError
                outcomes.append(pickle.dumps(kind(str(error))))
        return pa.table({"outcome": pa.array(outcomes, pa.binary())})

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of the interpreter
            self.local.__exit__()
