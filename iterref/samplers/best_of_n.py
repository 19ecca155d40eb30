"""Best of N: N plain samples a row, and the one of highest reward.

    x^n ~ p,  n = 1 .. N;   return x^argmax r(x^n)

The baseline that needs no theory. It maximises: its law is p's, tilted by rank. Rows: N times a plain run's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from iterref.budget import Cost
from iterref.decode import advance, grid
from iterref.kernels import Info, State
from iterref.particles import Particles, pick
from iterref.problem import Problem
from iterref.random import Rng
from iterref.samplers.base import Decoded


@dataclass(frozen=True)
class BestOfN(Decoded):
    """`n` plain samples of `steps` grid steps each, by a base decoder, side by side."""

    name: ClassVar[str] = "best_of_n"
    knob: ClassVar[str] = "n"

    n: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(n=1, steps=1)

    @property
    def iterations(self) -> int:
        """One step a grid step, of all samples at once."""
        return self.steps

    @property
    def maximises(self) -> bool:
        """Best of N returns the best text seen, by definition."""
        return True

    def init(self, problem: Problem, rng: Rng) -> State:
        """Noise for N copies of every row."""
        x = problem.widened(self.n).prior(rng.repeat(self.n)).unflatten(0, (self.n, -1))
        return State(0, 1.0, x[0], particles=Particles.equal(x))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all; the last one scores them and shows each row's best."""
        assert state.particles is not None
        times, wide = grid(self.steps), problem.widened(self.n)
        t, u = times[state.step], times[state.step + 1]
        x_u = advance(wide, state.particles.x_t.flatten(0, 1), t, u, self.decoder, wide.rows, rng.repeat(self.n))
        x = x_u.unflatten(0, (self.n, -1))
        if u > 0:
            return State(state.step + 1, u, x[0], particles=replace(state.particles, x_t=x)), Info()
        reward = wide.score(x_u, wide.rows, final=True).view(self.n, -1)
        choice = reward.argmax(0)
        best, particles = pick(x, choice), replace(state.particles, x_t=x, x_0=x, reward=reward)
        info = Info(None, torch.isneginf(reward).all(0), None, x, reward)
        return State(state.step + 1, 0.0, best, best, pick(reward, choice), particles=particles), info

    def cost(self) -> Cost:
        """N runs, N rewards."""
        return Cost(self.n * self.steps, self.n, self.steps)


SAMPLER = BestOfN
