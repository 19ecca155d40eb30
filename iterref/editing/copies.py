"""Copies: several independent chains of one method from the same text, side by side.

    x^1, ..., x^n  ~  K^moves(x, .)        n alternatives of every row, from n streams of its own

Copy i of a row is the same for every n above i, and copy 0 is what the method alone would do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.particles import Particles
from iterref.problem import Problem
from iterref.random import Rng
from iterref.samplers.base import Info, Sampler, State


@dataclass(frozen=True)
class Copies(Sampler):
    """`n` chains of `method` a row; the state shows the first, `particles` holds the last states of all, or the best
    finished ones where the method maximises."""

    name: ClassVar[str] = "copies"
    knob: ClassVar[str] = "n"

    method: Sampler
    n: int

    def __post_init__(self) -> None:
        self._require(n=1)

    @property
    def iterations(self) -> int:
        """As many as the method's."""
        return self.method.iterations

    def init(self, problem: Problem, rng: Rng) -> State:
        """The method's own beginning, n times."""
        return self._shown(self.method.init(problem.widened(self.n), rng.repeat(self.n)), None)

    def refining(self) -> Sampler:
        """Copies of the method without its draft."""
        return replace(self, method=self.method.refining())

    def resume(self, problem: Problem, tokens: Tensor) -> State:
        """Every chain begins at the given text."""
        return self._shown(self.method.resume(problem.widened(self.n), tokens.repeat(self.n, 1)), None)

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One step of every chain."""
        assert state.wide is not None
        wide_problem = problem.widened(self.n)
        wide, info = self.method.step(wide_problem, state.wide, rng.repeat(self.n))
        if wide.step == self.iterations:
            wide = wide.scored(wide_problem)
        return self._shown(wide, state.particles), self._told(info)

    def cost(self) -> Cost:
        """The rows of all chains, at the depth of one."""
        one = self.method.cost()
        return Cost(one.nfe * self.n, one.reward * self.n, one.depth)

    def _shown(self, wide: State, best: Particles | None) -> State:
        """The state of all chains, showing the first of every row."""

        def parts(x: Tensor) -> Tensor:
            return x.unflatten(0, (self.n, -1))

        particles = best
        if wide.t == 0 and wide.x_0 is not None and wide.reward is not None:
            x, reward = parts(wide.x_0), parts(wide.reward)
            if self.method.maximises and best is not None and best.x_0 is not None and best.reward is not None:
                x = torch.where((reward > best.reward)[..., None], x, best.x_0)
                reward = torch.maximum(reward, best.reward)
            particles = replace(Particles.equal(x), x_0=x, reward=reward)
        x_0 = None if wide.x_0 is None else parts(wide.x_0)[0]
        reward_0 = None if wide.reward is None else parts(wide.reward)[0]
        return State(wide.step, wide.t, parts(wide.x_t)[0], x_0, reward_0, particles=particles, wide=wide)

    def _told(self, info: Info) -> Info:
        """What all chains of a row did: shares and changes in the mean, stuck where all of them were."""

        def mean(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.double().view(self.n, -1).T.contiguous().mean(1)

        stuck = None if info.stuck is None else info.stuck.view(self.n, -1).all(0)
        return Info(mean(info.accepted), stuck, mean(info.changed))
