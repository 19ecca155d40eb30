"""Self-rewarding SMC: particles weighted by the model's own confidence, and no reward at all.

    w^n <- w^n p(x_u^n | x_t^n)^(a - 1)       the likelihood of the tokens that a step settles, after every step
    resample a row where its effective number of particles falls below a threshold;   return one by weight

So for the distribution P of the decoder that is really run and p(path) the likelihood of what its steps settle,
E[Z^] = E_P[p(path)^(a - 1)] and E[Z^ sum_n W_n f(x^n)] = E_P[f p(path)^(a - 1)], exactly, for every N and threshold:
where one token is settled at a time, in an order that does not look at the tokens, what it aims at is p(x_0)^a, as
`power` does. a = 2 are the weights as published. The reward is asked for the returned text alone, to report it.

Luo et al. (2026), arXiv:2602.01849.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from iterref import mtm
from iterref.budget import Cost
from iterref.decoding import grid
from iterref.moves.likely import expect_likely, likely_step
from iterref.particles import pick
from iterref.random import Rng
from iterref.resample import SCHEMES
from iterref.run import Run
from iterref.samplers.base import Cloud, Decoded, Info, State, noise


@dataclass(frozen=True)
class SelfRewarding(Decoded):
    """`particles` samples of `steps` grid steps each, weighted by their own likelihood to the power `exponent` - 1.

    threshold: resample a row where its effective number of particles is below this share of them. resampling:
    `systematic`, `stratified`, `residual` or `multinomial`."""

    name: ClassVar[str] = "self_rewarding"
    knob: ClassVar[str] = "particles"

    particles: int = 8
    exponent: float = 2.0
    threshold: float = 0.5
    resampling: Literal["systematic", "stratified", "residual", "multinomial"] = "systematic"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, particles=1, exponent=0)
        self._require_share("threshold")
        expect_likely(self.name, self.order)

    def init(self, run: Run, rng: Rng) -> State:
        return noise(run, self.particles, rng)

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all particles: weigh them by what it settled and resample; the last one draws."""
        assert isinstance(state, Cloud)
        n, (t, u) = self.particles, grid(self.steps)[state.step : state.step + 2]
        x, log_p = likely_step(
            run.repeat(n), self.decoder, state.particles.x_t.flatten(0, 1), t, u, rng.repeat(n).fork("step")
        )
        particles = replace(state.particles, x_t=x.unflatten(0, (n, -1)))
        particles = particles.weighed((self.exponent - 1) * log_p.view(n, -1))
        ess = particles.ess()
        if u > 0:
            chosen = SCHEMES[self.resampling](particles.by_row, rng.fork("resample")).T
            particles = particles.take(chosen, ess < self.threshold * n)
            return Cloud(state.step + 1, u, particles.x_t[0], particles), Info(ess=ess)
        verdict = mtm.select(particles.by_row, rng.fork("choose"))
        return Cloud(self.steps, 0.0, pick(particles.x_t, verdict.choice), particles), Info(ess=ess)

    def cost(self) -> Cost:
        """An NFE a particle and grid step; the reward of the returned text is reported."""
        return Cost(self.particles * self.steps, 1, self.steps)
