"""Sequential Monte Carlo: N plain samples side by side, resampled on the way down by their intermediate reward.

    x_0^nj ~ p(. | x_t^n),  v^nj = r(x_0^nj) / alpha,  j = 1 .. G      at the scored grid times
    w^n <- w^n G_k^n  (`iterref.potentials`);   where the effective number falls below a threshold: parents by weight
    x_u^n ~ the base decoder's step from the parent, by the clean sample that weighed it (or, `fresh`, by a new one)
    at t = 0   w^n <- w^n exp(r(x_0^n) / alpha) / prod_k G_k^n

The product of the potentials along a path is exp(r(x_0) / alpha), whatever they are and wherever resampling happened.
So for the distribution P of the decoder that is really run (any order, correlated tokens, few steps), for every scheme,
threshold and N:  E[Z^] = E_P[exp(r / alpha)]  and  E[Z^ sum_n W_n f(x^n)] = E_P[f exp(r / alpha)],  exactly. A single
draw by weight has the tilted distribution as N grows; `particle_gibbs` makes it exact for finite N.

Guesses and steps come from one evaluation a particle (`iterref.moves.lookahead`): N NFE a grid step. `fresh` is FK
steering as published; what it resamples by is then a clean sample that is thrown away, which says little of the text
that the particle goes on to, so following the clean sample is the default. Singhal et al. (2025), arXiv:2501.06848; Del
Moral, Doucet, Jasra (2012) on thresholds; Naesseth, Lindsten, Schoen (2015), arXiv:1502.02536, on choosing within a
particle. """

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iterref import mtm
from iterref.budget import Cost
from iterref.decision import Decision
from iterref.decoding import grid
from iterref.moves import lookahead
from iterref.moves.lookahead import Ahead
from iterref.particles import Particles, pick
from iterref.potentials import due, times_due, value_of
from iterref.random import Rng
from iterref.resample import SCHEMES
from iterref.run import Run
from iterref.samplers.base import Aimed, Cloud, Decoded, Info, ScoredCloud, State, noise


@dataclass(frozen=True)
class SMC(Aimed, Decoded):
    """Feynman-Kac steering of `particles` samples of `steps` grid steps each, by a base decoder.

    potential: `difference`, `max` or `sum`, how intermediate rewards are spent. x0_samples: clean samples of a particle
    at each scored time, a reward call each. every: every `every`-th grid time is scored, pure noise left out. fresh:
    whether a particle is weighed by the mean of its samples and goes on from new ones, or follows one of them, chosen
    by reward. threshold: resample a row where its effective number of particles is below this share of them; 0 never
    does. resampling: `systematic`, `stratified`, `residual` or `multinomial`. value: what a particle is worth, the
    reward of its clean samples, with `mode` that of the likeliest tokens, or with `partial` what the reward says of the
    unfinished state; with either of these it goes on from new samples.
    objective: `sample` draws one particle by weight, `maximise` returns the best text seen. All are kept, with their
    weights, in `Result.particles`."""

    name: ClassVar[str] = "smc"
    knob: ClassVar[str] = "particles"

    particles: int = 8
    potential: Literal["difference", "max", "sum"] = "difference"
    x0_samples: int = 1
    every: int = 1
    fresh: bool = False
    threshold: float = 0.5
    resampling: Literal["systematic", "stratified", "residual", "multinomial"] = "systematic"
    value: Literal["sample", "mode", "partial"] = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, particles=1, x0_samples=1, every=1)
        if self.value != "sample" and (self.fresh or self.x0_samples > 1):
            raise ValueError(f"smc: value={self.value} weighs by no clean samples, so leave out x0_samples and fresh")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"smc: threshold is a share of the particles in [0, 1], got {self.threshold}")
        if not self.threshold and self.resampling != "systematic":
            raise ValueError(f"smc: threshold=0 never resamples, so leave out resampling={self.resampling}")

    @property
    def renews(self) -> bool:
        """Whether particles go on from other samples than those that weighed them."""
        return self.fresh or self.value != "sample"

    def init(self, run: Run, rng: Rng) -> State:
        cloud = noise(run, self.particles, rng)
        return replace(cloud, particles=lookahead.unpaid(cloud.particles.x_t))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step: look ahead, weigh and resample where it is due, step on; the last one weighs and draws."""
        assert isinstance(state, Cloud)
        t, u = grid(self.steps)[state.step : state.step + 2]
        if u == 0 and not self.renews:
            ended_ones = lookahead.ended(run, state.particles, t, self.x0_samples, self.decoder, self.potential, rng)
            return self._drawn(ended_ones, rng.fork("choose"))
        particles, parents, ahead, info = self._looked(run, state, t, rng)
        x = lookahead.onward(run, ahead, parents, t, u, self.decoder, rng.fork("onward"))
        if u > 0:
            return Cloud(state.step + 1, u, x[0], replace(particles, x_t=x)), info
        reward = lookahead.scored(run, x[None], final=True)[0]
        particles = lookahead.finished(particles, x, reward, reward / run.alpha, self.potential)
        return self._drawn(particles, rng.fork("choose"))

    def cost(self) -> Cost:
        """An NFE a particle and grid step, a reward call a clean sample; the last samples are the finished texts."""
        if self.renews:
            rewards = self.x0_samples * times_due(self.steps, self.every) + 1
        else:
            rewards = self.x0_samples * (times_due(self.steps - 1, self.every) + 1)
        return Cost(self.particles * self.steps, self.particles * rewards, self.steps)

    def _looked(self, run: Run, state: Cloud, t: float, rng: Rng) -> tuple[Particles, Tensor, Ahead, Info]:
        """Where that is due, the particles weighted by their intermediate reward, and resampled if the weights ask for
        it; with their parents (N, B) and what these go on from."""
        particles = state.particles
        parents, n, streams = lookahead.own(particles), self.particles, rng.fork("look")
        if not due(state.step, self.every):
            return particles, parents, lookahead.look(run, particles.x_t, t, 1, self.decoder, streams), Info()
        draws, later = self.x0_samples if self.value == "sample" else 0, n if self.renews else 0
        ahead = lookahead.look(run, particles.x_t, t, draws, self.decoder, streams, later, self.value == "mode")
        if self.value == "partial":
            samples, reward = particles.x_t[None], lookahead.valued(run, particles.x_t, t)[None]
        else:
            samples = ahead.draws if ahead.modes is None else ahead.modes[None]
            reward = lookahead.scored(run, samples, final=False)
        log_v = reward / run.alpha
        if self.renews:
            particles = lookahead.weighed(particles, value_of(log_v), self.potential)
        else:
            choice = lookahead.follow(ahead, lookahead.settled(particles, log_v), rng.fork("follow"))
            particles = lookahead.weighed(particles, choice.value, self.potential).weighed(choice.gain)
            ahead = choice.ahead
        ess = particles.ess()
        rows = ess < self.threshold * n
        chosen = SCHEMES[self.resampling](particles.by_row, rng.fork("resample")).T
        info = Info(ess=ess, decisions=(Decision(samples.flatten(0, 1), reward.flatten(0, 1)),))
        return particles.take(chosen, rows), torch.where(rows, chosen, parents), ahead, info

    def _drawn(self, particles: Particles, rng: Rng) -> tuple[State, Info]:
        """The finished particles, and one of them: by weight, or the best."""
        verdict = mtm.select(particles.by_row, rng)
        choice = particles.rewards.argmax(0) if self.maximises else verdict.choice
        x_0 = pick(particles.x_t, choice)
        decided = (Decision(particles.x_t, particles.rewards),)
        info = Info(stuck=verdict.stuck, ess=particles.ess(), decisions=decided)
        return ScoredCloud(self.steps, 0.0, x_0, x_0, pick(particles.rewards, choice), particles), info
