"""Refinement kernels: one move of a chain, each with the law that it leaves invariant and what it costs.

state (x_t, x_0, r)  ->  state      target  Pi_t(x_t, x_0)  proportional to  p(x_0) q(x_t | x_0) exp(r(x_0) / alpha)
"""

from collections.abc import Callable
from typing import NamedTuple

from iterref.budget import Cost
from iterref.kernels import independent, published, shared, trajectory
from iterref.kernels.base import Info, Kernel, Move, State


class Entry(NamedTuple):
    """A kernel: `move` the chain on by one `Move`, at a `cost` that depends on nothing else."""

    move: Kernel
    cost: Callable[[Move], Cost]


KERNELS: dict[str, Entry] = {
    "shared": Entry(shared.shared, shared.cost),
    "independent": Entry(independent.independent, independent.cost),
    "trajectory": Entry(trajectory.trajectory, trajectory.cost),
    "published": Entry(published.published, published.cost),
}

__all__ = ["KERNELS", "Entry", "Info", "Kernel", "Move", "State"]
