"""Metropolis: one try a move, the standard that every multiple-try kernel must beat at equal rows.

    x_s ~ q(x_s | x_t);  x_0 ~ p(. | x_s);  accept with min(1, exp((r(x_0) - r(current)) / alpha))

An unguided draft, then a chain on the finished text. Exact under the same conditions as the shared kernel with N = 1,
which it is. Metropolis et al. (1953); Hastings (1970).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iterref.kernels import KERNELS, Entry, Move
from iterref.noise import Schedule
from iterref.samplers.base import Chain
from iterref.samplers.iterref import IterRef


@dataclass(frozen=True)
class Metropolis(Chain):
    """A plain draft by the base decoder, then `moves` single-try moves; `span` and `spacing` as in `iterref`."""

    name: ClassVar[str] = "metropolis"
    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0

    moves: int = 24
    span: float | int | tuple[float | int, ...] = 0.25
    spacing: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, moves=0, spacing=0)
        self._chain()

    @property
    def entry(self) -> Entry:
        """One try of the shared kernel is Metropolis' rule."""
        return KERNELS["shared"]

    def plan(self, schedule: Schedule, alpha: float) -> tuple[Move, ...]:
        """The draft without reward, the moves with one candidate each."""
        return self._chain().plan(schedule, alpha)

    def _chain(self) -> IterRef:
        return IterRef(
            self.steps, self.order, self.block, self.bound, moves=self.moves, tries=1, blocks=1, span=self.span,
            spacing=self.spacing, early=0.0, guided=False,
        )  # fmt: skip


SAMPLER = Metropolis
