"""Best of N: N plain samples a row, and the one of highest reward.

    x^n ~ p,  n = 1 .. N;   return x^argmax r(x^n)

The baseline that needs no theory. It maximises: its law is p's, tilted by rank. Rows: N times a plain run's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from iterref.budget import Cost
from iterref.decode import ORDERS, advance, grid
from iterref.kernels import Info, State
from iterref.kernels.base import pick
from iterref.problem import Problem
from iterref.random import Rng
from iterref.samplers.base import Sampler


@dataclass(frozen=True)
class BestOfN(Sampler):
    """`n` plain samples of `steps` grid steps each, unmasked in `order`; all are kept side by side in the state."""

    name: ClassVar[str] = "best_of_n"

    n: int = 8
    steps: int = 8
    order: Literal["random", "confidence"] = "random"

    def __post_init__(self) -> None:
        self._require(n=1, steps=1)
        if self.order not in ORDERS:
            raise ValueError(f"best_of_n: order must be one of {', '.join(ORDERS)}, got {self.order!r}")

    @property
    def iterations(self) -> int:
        """One step a grid step, of all samples at once."""
        return self.steps

    @property
    def maximises(self) -> bool:
        """Best of N returns the best text seen, by definition."""
        return True

    def init(self, problem: Problem, rng: Rng) -> State:
        """Noise for N x B sequences, copy-major."""
        canvas = replace(problem, canvas=problem.canvas.repeat(self.n, 1), free=problem.opened.repeat(self.n, 1))
        return State(0, 1.0, canvas.prior(rng.repeat(self.n)))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all; the last one scores them and keeps each row's best."""
        times = grid(self.steps)
        t, u = times[state.step], times[state.step + 1]
        rows, batch = problem.rows.repeat(self.n), len(problem.canvas)
        x_u = advance(problem, state.x_t, t, u, self.order, rows, rng.repeat(self.n))
        if u > 0:
            return State(state.step + 1, u, x_u), Info()
        reward = problem.score(x_u, rows, final=True).view(self.n, batch)
        x_0 = x_u.view(self.n, batch, -1)
        choice = reward.argmax(0)
        best = pick(x_0, choice)
        info = Info(None, torch.isneginf(reward).all(0), None, x_0, reward)
        return State(state.step + 1, 0.0, best, best, pick(reward, choice)), info

    def cost(self) -> Cost:
        """N runs, N rewards."""
        return Cost(self.n * self.steps, self.n, self.steps)

    def spend(self, budget: Cost) -> Sampler:
        """As many samples as fit."""
        return replace(self, n=max(1, int(min(budget.denoiser / self.steps, budget.reward))))


SAMPLER = BestOfN
