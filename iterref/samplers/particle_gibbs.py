"""Particle Gibbs: a chain on whole trajectories, moved by sequential Monte Carlo around the one it holds.

    state      a path x_1, ..., x_0 of the base decoder, with the samples that it was weighed by
    one sweep  SMC with N particles, number 0 of which is the held path: it is kept wherever particles are resampled,
               the others choose their parents among all, by multinomial choice; at the end one path by its weight

Leaves P(path) prod_k P(sample_k | x_k) exp(r(x_0) / alpha) invariant, so its end has the tilted distribution, for the
distribution P of the decoder that is really run (any order, correlated tokens, few steps), any N >= 2 and any of the
potentials: no reversibility of the model and no large N are asked for (Andrieu, Doucet, Holenstein 2010, section 4.5).
The first sweep is plain SMC. The end is chosen by the metropolised rule of `iterref.mtm`, which leaves the held path
more often than a plain draw by weight (Liu 1996). Where a particle follows one of several samples, the held path's own
clean sample stands among them too (conditional importance resampling: Andrieu, Lee, Vihola 2018, arXiv:1312.6432).

`ancestors` draws the held path's own parent anew at every resampling, with probability proportional to

    w^n p(x_u' | x_t^n) / prod_k G_k^n,     x_u' the held path's next state

in closed form for the reverse process (Lindsten, Jordan, Schoen 2014, arXiv:1401.0604): sweeps then renew early times
too. Under absorbing noise only a particle whose tokens all lie on the held path has a chance, which few have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
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
from iterref.potentials import POTENTIALS, due, spent, times_due, value_of
from iterref.random import Rng
from iterref.resample import multinomial
from iterref.run import Run
from iterref.samplers.base import Aimed, Decoded, Info, ScoredCloud, State


@dataclass(frozen=True)
class Held:
    """What a chain keeps between sweeps: `path` (K + 1, B, L), noise first; the `samples` (B, L) that it followed and
    how sure these were, by their steps; the `values` (S, B) that it was weighed by; the `reward` (B,) of its end."""

    path: Tensor
    samples: dict[int, tuple[Tensor, Tensor]]
    values: Tensor
    reward: Tensor


@dataclass(frozen=True)
class Holding(ScoredCloud):
    """A state with the path that the next sweep is made around."""

    held: Held


@dataclass
class Sweep:
    """A sweep under way: its `particles`, the `states` (N, B, L) of all times so far, the `parents` (N, B) between
    them, and what was `followed` at the scored steps."""

    particles: Particles
    states: list[Tensor]
    parents: list[Tensor] = field(default_factory=list)
    followed: dict[int, Ahead] = field(default_factory=dict)

    def traced(self, index: Tensor) -> Held:
        """Particle `index` (B,) of every row, traced back to the noise."""
        path, samples, of = [pick(self.states[-1], index)], {}, index
        for k in reversed(range(len(self.parents))):
            of = pick(self.parents[k], of)
            path.append(pick(self.states[k], of))
            if k in self.followed:
                samples[k] = pick(self.followed[k].draws[0], of), pick(self.followed[k].sure[0], of)
        values = self.particles.path_values[:, index, torch.arange(len(index), device=index.device)]
        return Held(torch.stack(path[::-1]), samples, values, pick(self.particles.rewards, index))


@dataclass(frozen=True)
class ParticleGibbs(Aimed, Decoded):
    """Iterated conditional SMC over trajectories of `steps` grid steps of a base decoder.

    sweeps: how often the path is moved. particles: paths side by side in a sweep, the held one among them. potential,
    x0_samples, every, fresh: as in `smc`. ancestors: whether the held path's parents are drawn anew (with fresh=true
    and order=random). objective: `sample` returns the last path's end, `maximise` the best finished text seen.
    `Result.particles` are those of the last sweep, the chosen one first. """

    name: ClassVar[str] = "particle_gibbs"
    knob: ClassVar[str] = "sweeps"

    sweeps: int = 4
    particles: int = 8
    potential: Literal["difference", "max", "sum"] = "difference"
    x0_samples: int = 1
    every: int = 1
    fresh: bool = False
    ancestors: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, sweeps=1, particles=2, x0_samples=1, every=1)
        if self.ancestors and not (self.fresh and self.order == "random" and not self.block_length):
            told = "particle_gibbs: ancestors=true needs fresh=true, order=random and block_length=0"
            raise ValueError(f"{told}: steps of closed form")

    @property
    def iterations(self) -> int:
        return self.sweeps

    def init(self, run: Run, rng: Rng) -> State:
        """Pure noise: the first sweep makes the first path. Raises `ValueError` for ancestors under a constraint."""
        if self.ancestors and run.problem.constraint is not None:
            told = "particle_gibbs: ancestors=true needs steps of closed form, and a constraint leaves none"
            raise ValueError(f"{told}: leave it out, or take trajectory")
        return super().init(run, rng)

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One sweep: particles around the held path, and one of their paths."""
        held = state.held if isinstance(state, Holding) else None
        sweep = self._swept(run, held, rng.fork("sweep"))
        particles = sweep.particles
        log_w = particles.by_row
        if held is None:
            verdict = mtm.select(log_w, rng.fork("choose"))
            index = verdict.choice
        else:
            verdict = mtm.metropolised(log_w[:, 0].contiguous(), log_w[:, 1:], rng.fork("choose"))
            index = torch.where(verdict.accepted, verdict.choice + 1, 0)
        new = sweep.traced(index)
        x_0 = new.path[-1]
        changed = None if held is None else (x_0 != held.path[-1]).sum(1)  # a first path changes nothing
        ess = particles.ess()
        decided = (Decision(particles.x_t, particles.rewards),)
        info = Info(verdict.accepted.double(), verdict.stuck, changed, ess, decisions=decided)
        swap = lookahead.own(particles).clone().scatter_(0, index[None], 0)
        swap[0] = index
        particles = particles.order(swap)
        if held is not None:  # a path that is kept whatever its weight makes the mean weight too large
            particles = particles.without_constant()
        return Holding(state.step + 1, 0.0, x_0, x_0, new.reward, particles, new), info

    def cost(self) -> Cost:
        """An NFE a particle and grid step of a sweep; a reward call a clean sample, but none for what is held."""
        n, sweeps = self.particles, self.sweeps
        if self.fresh:
            rewards = (self.x0_samples * times_due(self.steps, self.every) + 1) * (n + (sweeps - 1) * (n - 1))
        else:
            times = times_due(self.steps - 1, self.every) + 1
            rewards = times * (self.x0_samples * n * sweeps - (sweeps - 1))
        return Cost(sweeps * n * self.steps, rewards, sweeps * self.steps)

    def _swept(self, run: Run, held: Held | None, rng: Rng) -> Sweep:
        """A whole sweep. Slots from `first` on are free; the held path has slot 0, if there is one."""
        first = 0 if held is None else 1
        free = self.particles - first
        x = run.repeat(free).prior(rng.fork("noise").repeat(free)).unflatten(0, (free, -1))
        x = x if held is None else torch.cat([held.path[:1], x])
        sweep = Sweep(lookahead.unpaid(x), [x])
        for k, (t, u) in enumerate(pairwise(grid(self.steps))):
            streams = rng.fork(k)
            if u == 0 and not self.fresh:
                kept = None if held is None else (held.path[-1], held.reward)
                done = lookahead.ended(
                    run, sweep.particles, t, self.x0_samples, self.decoder, self.potential, streams, kept
                )
                return Sweep(done, [*sweep.states, done.x_t], [*sweep.parents, lookahead.own(done)], sweep.followed)
            parents, ahead = self._looked(run, sweep, held, k, t, u, streams)
            x = lookahead.onward(run, ahead, parents[first:], t, u, self.decoder, streams.fork("onward"))
            x = x if held is None else torch.cat([held.path[k + 1 : k + 2], x])
            sweep.particles = replace(sweep.particles, x_t=x)
            sweep.states.append(x)
            sweep.parents.append(parents)
        reward = lookahead.scored(run, x[first:][None], final=True)[0]
        reward = reward if held is None else torch.cat([held.reward[None], reward])
        sweep.particles = lookahead.finished(sweep.particles, x, reward, reward / run.alpha, self.potential)
        return sweep

    def _looked(
        self, run: Run, sweep: Sweep, held: Held | None, k: int, t: float, u: float, rng: Rng
    ) -> tuple[Tensor, Ahead]:
        """Where due, weighs and resamples around the held path; the parents (N, B) and what they go on from."""
        particles, streams = sweep.particles, rng.fork("look")
        if not due(k, self.every):
            return lookahead.own(particles), lookahead.look(run, particles.x_t, t, 1, self.decoder, streams)
        log_f = None
        free = self.particles - (held is not None)
        draws = self.x0_samples + (free if self.fresh else 0)
        if self.ancestors and held is not None:
            ahead, log_f = lookahead.look_towards(run, particles.x_t, t, draws, held.path[k + 1], u, streams)
        else:
            ahead = lookahead.look(run, particles.x_t, t, draws, self.decoder, streams)
        if self.fresh:
            values = None if held is None else held.values[self._scored(k)]
            ahead, particles = _averaged(run, ahead, particles, values, self.x0_samples, self.potential)
        else:
            ahead, particles = self._chosen(run, ahead, particles, held, k, rng.fork("follow"))
            sweep.followed[k] = ahead
        parents = multinomial(particles.by_row, rng.fork("resample"), free).T
        if held is not None:
            parents = torch.cat([_parent(particles, log_f, self.potential, rng.fork("ancestor")), parents])
        sweep.particles = particles.take(parents)
        return parents, ahead

    def _chosen(
        self, run: Run, ahead: Ahead, particles: Particles, held: Held | None, k: int, rng: Rng
    ) -> tuple[Ahead, Particles]:
        """Weighed by one clean sample, which is chosen by reward, and as it was for the held path."""
        if held is not None:
            ahead.draws[0, 0], ahead.sure[0, 0] = held.samples[k]
        known = None if held is None else held.reward
        log_v = lookahead.scored(run, ahead.draws, final=False, known=known) / run.alpha
        if held is not None:
            log_v[0, 0] = held.values[self._scored(k)]  # a clean sample on the way, so not the reward of the end
        choice = lookahead.follow(ahead, lookahead.settled(particles, log_v), rng, held is not None)
        return choice.ahead, lookahead.weighed(particles, choice.value, self.potential).weighed(choice.gain)

    def _scored(self, k: int) -> int:
        """The place of grid step k among the scored ones."""
        return k // self.every - 1


def _parent(particles: Particles, log_f: Tensor | None, potential: str, rng: Rng) -> Tensor:
    """The parent (1, B) of the held path: its own, or drawn by how likely each is to step to it, `log_f` (N, B)."""
    if log_f is None:
        return torch.zeros_like(particles.log_w[:1], dtype=torch.long)
    log_a = particles.log_w + log_f - spent(POTENTIALS[potential](particles.path_values))
    return rng.choose(log_a.T.contiguous())[None]


def _averaged(
    run: Run, ahead: Ahead, particles: Particles, held: Tensor | None, samples: int, potential: str
) -> tuple[Ahead, Particles]:
    """Weighed by the mean of their clean samples, which is as it was, (B,), for a held path; what comes after these."""
    first = 0 if held is None else 1
    value = value_of(lookahead.scored(run, ahead.draws[:samples, first:], final=False) / run.alpha)
    value = value if held is None else torch.cat([held[None], value])
    return ahead.after(samples), lookahead.weighed(particles, value, potential)
