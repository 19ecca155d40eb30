"""Ranks: the share of the jobs that a process has which a launcher such as torchrun started.

    job j belongs to rank j mod WORLD_SIZE;      RANK, WORLD_SIZE and LOCAL_RANK are read from the environment
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def share(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, number of ranks). Raises `ValueError` where no launcher has set them."""
    rank, world = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
    if rank is None or world is None or not rank < world:
        raise ValueError(
            "--engine rank needs RANK below WORLD_SIZE in the environment: start it by a launcher, as in torchrun "
            "--nproc-per-node 4 --no-python iterref generate ..."
        )
    return rank, world


def first_slot(workers: int, environment: Mapping[str, str] = os.environ) -> int:
    """The number of this rank's first worker among all workers of its machine."""
    return (_number(environment, "LOCAL_RANK") or 0) * workers


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
