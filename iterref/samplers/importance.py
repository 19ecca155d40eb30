"""Importance sampling: N plain samples a row, one of them drawn by its weight.

    x^n ~ p,  w_n = exp(r(x^n) / alpha),  n = 1 .. N;   return x^n with probability w_n / sum w

Best of N with the choice that aims at the tilted distribution: exact as N grows, for the distribution of the decoder
that is really run, whatever that is; for finite N its distribution lies between that and the tilted one. The mean
weight estimates E_p[exp(r / alpha)] without bias (`Result.particles.log_constant`), and the effective number of samples
says how far to trust both. """

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from iterref import mtm
from iterref.particles import pick
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Aimed, Info, ScoredCloud, State
from iterref.samplers.best_of_n import BestOfN


@dataclass(frozen=True)
class Importance(Aimed, BestOfN):
    """`n` plain samples of `steps` grid steps each, by a base decoder, and one of them by weight (`sample`) or the
    best of them (`maximise`). All are kept, with their weights, in `Result.particles`."""

    name: ClassVar[str] = "importance"

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all samples; the last one weighs them and shows the chosen one."""
        state, info = super().step(run, state, rng)
        if not isinstance(state, ScoredCloud):
            return state, info
        particles = state.particles.weighed(state.particles.rewards / run.alpha)
        info = replace(info, ess=particles.ess())
        if not self.maximises:
            choice = mtm.select(particles.by_row, rng.fork("choose")).choice
            x_0 = pick(particles.x_t, choice)
            state = replace(state, x_t=x_0, x_0=x_0, reward=pick(particles.rewards, choice))
        return replace(state, particles=particles), info
