"""Best of N: N plain samples a row, and the one of highest reward.

    x^n ~ p,  n = 1 .. N;   return x^argmax r(x^n)

The baseline that needs no theory. It maximises: its distribution is p, tilted by rank. NFE: N times a plain run's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from iterref.budget import Cost
from iterref.decision import Decision
from iterref.particles import pick
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Cloud, Decoded, Info, ScoredCloud, State, noise


@dataclass(frozen=True)
class BestOfN(Decoded):
    """`n` plain samples of `steps` grid steps each, side by side."""

    name: ClassVar[str] = "best_of_n"
    knob: ClassVar[str] = "n"
    maximises = True

    n: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(n=1, steps=1)

    def init(self, run: Run, rng: Rng) -> State:
        return noise(run, self.n, rng)

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all; the last one scores them and shows each row's best."""
        assert isinstance(state, Cloud)
        state, reward = self._decode(run, state, rng)
        if reward is None:
            return state, Info()
        x, choice = state.particles.x_t, reward.argmax(0)
        best, particles = pick(x, choice), replace(state.particles, x_0=x, reward=reward)
        info = Info(stuck=torch.isneginf(reward).all(0), decisions=(Decision(x, reward),))
        return ScoredCloud(state.step, 0.0, best, best, pick(reward, choice), particles), info

    def cost(self) -> Cost:
        return Cost(self.n * self.steps, self.n, self.steps)
