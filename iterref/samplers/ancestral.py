"""Ancestral sampling: the model alone, no reward. One NFE a grid step.

    x_1 ~ pi;   for t > u on the grid:  x_0 ~ p(. | x_t),  x_u ~ q(x_u | x_t, x_0)

The unmasking order is an option (`iterref.decoding`). Austin et al. (2021), arXiv:2107.03006.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iterref.budget import Cost
from iterref.decoding import grid
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Decoded, Info, State


@dataclass(frozen=True)
class Ancestral(Decoded):
    """Plain sampling in `steps` grid steps."""

    name: ClassVar[str] = "ancestral"
    knob: ClassVar[str] = "steps"  # a finer grid: unguided sampling has no other use for NFE

    steps: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1)

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step; the finished text's reward is asked for once, to report it."""
        t, u = grid(self.steps)[state.step : state.step + 2]
        return State(state.step + 1, u, self.decoder.step(run, state.x_t, t, u, rng)), Info()

    def cost(self) -> Cost:
        """`steps` NFE, and one reward call to report."""
        return Cost(self.steps, 1, self.steps)
