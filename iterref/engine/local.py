"""Local: K processes of this machine, each with a replica of the model; one that dies is replaced.

    driver -> worker   a batch of rows           worker -> driver   ready, refused, made, poison, broken

A worker has one job at a time, so its death costs that job and no other. One whose step raised anything but `Poison` is
replaced, too: a GPU may be in no state to go on. Workers end with their driver, even where that is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from multiprocessing import connection, current_process, get_context, parent_process
from multiprocessing.connection import Connection
from time import monotonic

from iterref.engine.jobs import Batch, Failed, Job, Made, Outcome, Poison, Tries, Work, said

SPAWN = get_context("spawn")  # a fork would share the driver's threads and its CUDA context
STILLBORN = 8  # workers in a row that may die before they are ready
PATIENCE = 5.0  # seconds until a worker that has fallen silent is taken for dead


class Local:
    """An engine of `workers` processes; a context manager, leaving which ends them. `timeout` is the most seconds that
    a job may take; the worker is killed then. `first` is the number of the first worker's slot on this machine."""

    def __init__(self, work: Work, workers: int = 1, *, timeout: float | None = None, first: int = 0) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers make nothing: give at least 1")
        self.work, self.workers, self.timeout, self.first = work, workers, timeout, first
        self._at: dict[int, _Worker] = {}  # by slot
        self._stillborn = 0

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._at.values():  # all of them before any is waited for
            if worker.ready and worker.job is None:
                worker.connection.close()  # it ends by itself, and gives back what it holds
            else:
                worker.process.kill()
        for worker in self._at.values():
            worker.process.join(PATIENCE)
            worker.end()
        self._at.clear()

    @property
    def ready(self) -> list[int]:
        """The process ids of the workers that have loaded their model and are alive."""
        return [worker.process.pid or 0 for worker in self._at.values() if worker.ready]

    def make(self, jobs: Iterable[Job], batch: Callable[[Job], Batch], tries: Tries) -> Iterator[Outcome]:
        return tries.settle(self.run, jobs, batch)

    def run(self, queue: deque[Job], batch: Callable[[Job], Batch]) -> Iterator[Outcome]:
        """Makes the jobs of a queue, to which more may be added, and yields them as they end. Raises `ValueError` where
        the work refuses to be opened, and `RuntimeError` where workers die again and again before they are ready."""
        while queue or self._busy():
            self._start(len(queue))
            self._hand_out(queue, batch)
            outcomes = [outcome for worker in self._heard() if (outcome := self._answer(worker)) is not None]
            self._hand_out(queue, batch)  # before the driver sees to what came
            yield from outcomes

    def _busy(self) -> int:
        return sum(worker.job is not None for worker in self._at.values())

    def _start(self, waiting: int) -> None:
        lacking = waiting - (len(self._at) - self._busy())
        empty = [slot for slot in range(self.workers) if slot not in self._at]
        for slot in empty[: max(0, lacking)]:
            self._at[slot] = _Worker(self.work, self.first + slot)

    def _hand_out(self, queue: deque[Job], batch: Callable[[Job], Batch]) -> None:
        for worker in self._at.values():
            if queue and worker.ready and worker.job is None:
                worker.job, worker.since = queue.popleft(), monotonic()
                with suppress(OSError):  # it has died, which its silence will tell
                    worker.connection.send(batch(worker.job))

    def _heard(self) -> list[_Worker]:
        """Workers that have said something, or died; those that take too long are killed."""
        busy, most = [one for one in self._at.values() if one.job is not None], self.timeout or inf
        wait = min((one.since for one in busy), default=inf) + most - monotonic()
        spoken = connection.wait([one.connection for one in self._at.values()], None if wait == inf else max(0.0, wait))
        for worker in busy:
            if monotonic() - worker.since > most and worker.connection not in spoken:
                worker.late = True
                worker.process.kill()
        return [worker for worker in self._at.values() if worker.connection in spoken]

    def _answer(self, worker: _Worker) -> Outcome | None:
        job = worker.job
        try:
            kind, told = worker.connection.recv()
        except (EOFError, OSError):
            kind, told = "dead", None
        if kind == "ready":
            worker.ready, self._stillborn = True, 0
            return None
        worker.job = None
        if job is not None and kind == "made":
            return Made(job, told)
        if job is not None and kind == "poison":
            return Failed(job, *told)
        del self._at[next(slot for slot, one in self._at.items() if one is worker)]
        told = told or worker.obituary(self.timeout)
        worker.end()
        if kind == "refused":
            raise ValueError(told)
        if job is not None:
            return Failed(job, told)
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                raise RuntimeError(f"{STILLBORN} workers in a row died before they were ready, the last one: {told}")
        return None


class _Worker:
    """A process as its driver sees it."""

    def __init__(self, work: Work, slot: int) -> None:
        self.connection, there = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve, args=(there, work, slot), daemon=True, name=f"iterref worker {slot}")
        with _deaf():
            self.process.start()
        there.close()  # so that the worker's death ends the connection
        self.job: Job | None = None
        self.since = 0.0
        self.ready = self.late = False

    def end(self) -> None:
        """Ends the process, whatever it does: all that it had to say has been heard."""
        self.connection.close()
        self.process.kill()
        self.process.join()

    def obituary(self, timeout: float | None) -> str:
        self.process.join(PATIENCE)
        if self.late:
            return f"the worker was killed after the {timeout:g} s that a job may take"
        code = self.process.exitcode or 0
        return f"the worker died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started within never hear Ctrl-C, which is their driver's to answer, not even while they import."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(driver: Connection, work: Work, slot: int) -> None:
    """The life of a worker: opens the work, then makes batch after batch until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where starting it could not see to that
    threading.Thread(target=_end_with_driver, daemon=True).start()
    current_process().daemon = False  # so that a reward may have processes of its own
    answer: tuple[str, object] = ("ready", None)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver is gone
        try:
            step = work.open(slot)
        except (ValueError, TypeError, FileNotFoundError) as error:
            answer = ("refused", str(error))
        except Exception as error:
            answer = ("broken", said(error))
        driver.send(answer)
        while answer[0] not in ("refused", "broken"):
            batch = driver.recv()
            try:
                answer = ("made", step(batch))
            except Poison as error:
                answer = ("poison", (str(error), error.again))
            except Exception as error:
                answer = ("broken", said(error))
            driver.send(answer)


def _end_with_driver() -> None:
    """Ends this process as soon as the one that started it is gone, in the middle of a job too."""
    driver = parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os._exit(1)
