"""A worker's reward may start processes of its own, as those do that compile or run what a model wrote."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from iterref.engine.local import SPAWN, serve


class Pooling:
    """Work whose every step asks a process of its own."""

    def open(self, slot: int) -> Callable[[Any], Any]:
        return self.step

    def step(self, batch: list[str]) -> list[int]:
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            return list(pool.map(len, batch))


def test_a_process_pool_runs_inside_a_worker() -> None:
    here, there = SPAWN.Pipe()
    worker = SPAWN.Process(target=serve, args=(there, Pooling(), 0), daemon=True)  # as the engine starts it
    worker.start()
    there.close()
    try:
        assert here.poll(60) and here.recv() == ("ready", None)
        here.send(["a", "bcd"])
        assert here.poll(60) and here.recv() == ("made", [1, 3])
    finally:
        here.close()
        worker.join(20)
        worker.kill()
