"""Ancestral sampling: the model alone, no reward. One denoiser row a grid step.

    x_1 ~ pi;   for t > u on the grid:  x_0 ~ p(. | x_t),  x_u ~ q(x_u | x_t, x_0)

The unmasking order is an option (`iterref.decode`). Austin et al. (2021), arXiv:2107.03006.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iterref.budget import Cost
from iterref.decode import advance, grid
from iterref.kernels import Info, State
from iterref.problem import Problem
from iterref.random import Rng
from iterref.samplers.base import Decoded


@dataclass(frozen=True)
class Ancestral(Decoded):
    """Plain sampling in `steps` grid steps by a base decoder."""

    name: ClassVar[str] = "ancestral"
    knob: ClassVar[str] = "steps"  # a finer grid: unguided sampling has no other use for rows

    steps: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1)

    @property
    def iterations(self) -> int:
        """One step a grid step."""
        return self.steps

    def init(self, problem: Problem, rng: Rng) -> State:
        """Pure noise at the free positions."""
        return State(0, 1.0, problem.prior(rng))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step; the finished text's reward is asked for once, to report it."""
        times = grid(self.steps)
        t, u = times[state.step], times[state.step + 1]
        x_u = advance(problem, state.x_t, t, u, self.decoder, problem.rows, rng)
        return State(state.step + 1, u, x_u, x_u if u == 0 else None), Info()

    def cost(self) -> Cost:
        """`steps` denoiser rows, and one reward row to report."""
        return Cost(self.steps, 1, self.steps)


SAMPLER = Ancestral
