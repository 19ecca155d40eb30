"""Select and refine: the best of a few drafts, re-noised a little and denoised again as long as that helps.

    x^n ~ decoder, n = 1 .. N;   keep the K of highest reward
    loop:  x_s^k ~ q(x_s | x^k),  y^k back from s in h denoising steps;   keep the best K of x^1 .. x^K, y^1 .. y^K

What practitioners of image models do by hand: pick a draft, vary it, pick again. A new text takes the place of an old
one only if it has a higher reward, so the reward never falls. It maximises, and is no sample of the tilted law: an
elitist (K + K) evolution strategy with the diffusion model for its mutation. SDEdit's corrupt-and-denoise (Meng et al.
2021, arXiv:2108.01073) inside a selection by reward (Rechenberg 1973).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.decode import advance, grid
from iterref.kernels import Info, State
from iterref.particles import Particles, pick
from iterref.problem import Problem
from iterref.random import Rng
from iterref.samplers.base import Decoded, Sampler


@dataclass(frozen=True)
class SelectRefine(Decoded):
    """Quality-controlled iterative refinement.

    n: drafts of `steps` grid steps each. keep: how many texts a row go on. loops: how often they are refined.
    denoise_steps: denoising steps h from the noisier level back to a finished text. span: how far a loop re-noises, a
    share of the free positions in (0, 1] or a whole number of grid steps; several of them take turns.
    """

    name: ClassVar[str] = "select_refine"
    # What a user wants of more rows is a longer search from the best text so far; further drafts forget it. It is also
    # the one thing left to buy where texts are given.
    knob: ClassVar[str] = "loops"
    least: ClassVar[int] = 0

    n: int = 4
    keep: int = 1
    loops: int = 3
    denoise_steps: int = 5
    span: float | int | tuple[float | int, ...] = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, keep=1, loops=0, denoise_steps=1)
        if self.n < self.keep and self.steps:
            raise ValueError(f"select_refine: n must be at least keep, got {self.n} drafts to keep {self.keep} of")
        if not self.spans or any(not self._is_span(span) for span in self.spans):
            raise ValueError(
                f"select_refine: span is a share in (0, 1] or a number of grid steps in 1..{self.steps}, "
                f"got {self.span}"
            )

    @property
    def spans(self) -> tuple[float | int, ...]:
        """The spans that take turns."""
        return self.span if isinstance(self.span, tuple) else (self.span,)

    @property
    def iterations(self) -> int:
        """One step a grid step of all drafts, one a loop."""
        return self.steps + self.loops

    @property
    def maximises(self) -> bool:
        """Selection returns the best text seen, by definition."""
        return True

    def init(self, problem: Problem, rng: Rng) -> State:
        """Noise for N drafts of every row."""
        if not self.steps:
            raise ValueError("select_refine: steps=0 drafts nothing: give texts to start from, or steps of at least 1")
        return self._beside(problem, self.n, rng)

    def refining(self) -> Sampler:
        """No drafts: the loops alone, from the given texts."""
        return replace(self, steps=0)

    def resume(self, problem: Problem, tokens: Tensor) -> State:
        """Every kept text begins as the given one, whose reward is asked for once."""
        return State(0, 0.0, tokens, tokens, particles=Particles.equal(tokens.expand(self.keep, *tokens.shape)))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """A grid step of the drafts, the last with a first selection; or a loop."""
        return self._draft(problem, state, rng) if state.step < self.steps else self._loop(problem, state, rng)

    def cost(self) -> Cost:
        """The drafts and their rewards (or the given text's), and `keep` rows a denoising step of every loop."""
        draft = Cost(self.n * self.steps, self.n, self.steps) if self.steps else Cost(0, 1)
        return draft + Cost(self.keep * self.denoise_steps, self.keep, self.denoise_steps) * self.loops

    def _draft(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all drafts; after the last one the best are kept."""
        state, reward = self._advanced(problem, state, rng)
        if reward is None:
            return state, Info()
        assert state.particles is not None
        x = state.particles.x_t
        kept = self._best(reward)
        info = Info(None, torch.isneginf(reward).all(0), None, x, reward)
        return _shown(state.step, pick(x, kept), reward.gather(0, kept)), info

    def _loop(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """Re-noises the kept texts, denoises them, and keeps the best of old and new: the old where they tie, and the
        same text twice only where nothing else is left."""
        state = state.scored(problem)
        assert state.particles is not None and state.reward is not None
        old, old_reward = state.particles.x_t, state.particles.reward
        if old_reward is None:  # given texts
            old_reward = state.reward.expand(self.keep, -1)
        new = self._varied(problem, old, self.spans[(state.step - self.steps) % len(self.spans)], rng)
        reward = problem.widened(self.keep).score(new.flatten(0, 1), problem.rows.repeat(self.keep), final=True)
        reward = reward.view(self.keep, -1)
        x, scores = torch.cat([old, new]), torch.cat([old_reward, reward])
        kept = self._best(torch.where(_repeated(x), -torch.inf, scores))
        state = _shown(state.step + 1, pick(x, kept), scores.gather(0, kept))
        assert state.x_0 is not None
        taken = (kept >= self.keep).double().mean(0)
        return state, Info(taken, torch.isneginf(reward).all(0), (state.x_0 != old[0]).sum(1), new, reward)

    def _varied(self, problem: Problem, x: Tensor, span: float | int, rng: Rng) -> Tensor:
        """Kept texts (K, B, L), re-noised and brought back by the base decoder -> (K, B, L)."""
        wide, streams = problem.widened(self.keep), rng.repeat(self.keep)
        s = self._time(problem, span)
        a_0, a_s = float(problem.noise.a(0.0)), float(problem.noise.a(s))
        x = wide.back(x.flatten(0, 1), a_0, a_s, wide.rows, streams.fork("back"))
        times = [s * now for now in grid(self.denoise_steps)]
        for k in range(self.denoise_steps):
            x = advance(wide, x, times[k], times[k + 1], self.decoder, wide.rows, streams.fork("forth", k))
        return x.unflatten(0, (self.keep, -1))

    def _time(self, problem: Problem, span: float | int) -> float:
        """The time that a span of finished text goes back to."""
        if isinstance(span, int):
            return grid(self.steps)[self.steps - span]
        return float(problem.noise.schedule.time(torch.tensor(1 - span, dtype=torch.float64)))

    def _best(self, reward: Tensor) -> Tensor:
        """Which of (N, B) rewards are kept, the highest first, (K, B) long; ties by place."""
        return reward.argsort(dim=0, descending=True, stable=True)[: self.keep]

    def _is_span(self, span: float | int) -> bool:
        return 1 <= span <= self.steps if isinstance(span, int) else 0 < span <= 1


def _repeated(x: Tensor) -> Tensor:
    """Which of the texts (N, B, L) have been listed before, (N, B) bool: those would fill two places with one text."""
    earlier = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).tril(-1)
    return ((x[:, None] == x).all(3) & earlier[..., None]).any(1)


def _shown(step: int, x: Tensor, reward: Tensor) -> State:
    """The state of kept finished texts (K, B, L), the best first, which it shows."""
    particles = replace(Particles.equal(x), x_0=x, reward=reward)
    return State(step, 0.0, x[0], x[0], reward[0], particles=particles)


SAMPLER = SelectRefine
