"""Select and refine: the best of a few drafts, renoised a little and denoised again as long as that helps.

    x^n ~ decoder, n = 1 .. N;   keep the K of highest reward
    loop:  x_s^k ~ q(x_s | x^k),  y^k back from s in h denoising steps;   keep the best K of x^1 .. x^K, y^1 .. y^K

What practitioners of image models do by hand: pick a draft, vary it, pick again. A new text takes the place of an old
one only if it has a higher reward, so the reward never falls. It maximises, and is no sample of the tilted
distribution: an elitist (K + K) evolution strategy with the diffusion model for its mutation. SDEdit's
corrupt-and-denoise (Meng et al. 2021, arXiv:2108.01073) inside a selection by reward (Rechenberg 1973). """

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.decision import Decision
from iterref.decoding import grid
from iterref.particles import Particles, pick
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Cloud, Decoded, Drafting, Info, ScoredCloud, State, noise, time_of
from iterref.samplers.spans import GridSpans, Spans, check_spans, clean_share, turns


@dataclass(frozen=True)
class SelectRefine(Drafting, Decoded):
    """Quality-controlled iterative refinement.

    n: drafts of `steps` grid steps each. keep: how many texts a row go on. loops: how often they are refined.
    denoise_steps: denoising steps h from the noisier level back to a finished text. span: how far a loop renoises, a
    share of the free positions in (0, 1]; span_steps: how far in grid steps, in place of a share; several of either
    take turns."""

    name: ClassVar[str] = "select_refine"
    # What a user wants of more rows is a longer search from the best text so far; further drafts forget it. It is also
    # the one thing left to buy where texts are given.
    knob: ClassVar[str] = "loops"
    least: ClassVar[int] = 0
    maximises = True

    n: int = 4
    keep: int = 1
    loops: int = 3
    denoise_steps: int = 5
    span: Spans = 0.25
    span_steps: GridSpans = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, keep=1, loops=0, denoise_steps=1)
        if self.n < self.keep and self.steps:
            raise ValueError(f"select_refine: n must be at least keep, got {self.n} drafts to keep {self.keep} of")
        check_spans(self, self.span, self.span_steps, self.steps)

    @property
    def iterations(self) -> int:
        return self.steps + self.loops

    def init(self, run: Run, rng: Rng) -> State:
        self._expect_draft()
        return noise(run, self.n, rng)

    def resume(self, run: Run, tokens: Tensor) -> State:
        """Every kept text begins as the given one, whose reward is asked for once."""
        reward = run.reward_of(tokens, final=True)
        return _kept(0, tokens.expand(self.keep, *tokens.shape), reward.expand(self.keep, *reward.shape))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """A grid step of the drafts, the last with a first selection; or a loop."""
        if isinstance(state, Cloud):
            return self._draft(run, state, rng)
        assert isinstance(state, ScoredCloud)
        return self._loop(run, state, rng)

    def cost(self) -> Cost:
        """The drafts and their rewards (or the given text's), and `keep` rows a denoising step of every loop."""
        draft = Cost(self.n * self.steps, self.n, self.steps) if self.steps else Cost(0, 1)
        return draft + Cost(self.keep * self.denoise_steps, self.keep, self.denoise_steps) * self.loops

    def _draft(self, run: Run, state: Cloud, rng: Rng) -> tuple[State, Info]:
        """One grid step of all drafts; after the last one the best are kept."""
        state, reward = self._decode(run, state, rng)
        if reward is None:
            return state, Info()
        x, kept = state.particles.x_t, self._best(reward)
        info = Info(stuck=torch.isneginf(reward).all(0), decisions=(Decision(x, reward),))
        return _kept(state.step, pick(x, kept), reward.gather(0, kept)), info

    def _loop(self, run: Run, state: ScoredCloud, rng: Rng) -> tuple[State, Info]:
        """Renoises the kept texts, denoises them, and keeps the best of old and new: the old where they tie, and the
        same text twice only where nothing else is left."""
        old, wide = state.particles, run.repeat(self.keep)
        new = self._varied(wide, old.x_t, state.step - self.steps, rng.repeat(self.keep))
        reward = wide.reward_of(new.flatten(0, 1), final=True).view(self.keep, -1)
        x, rewards = torch.cat([old.x_t, new]), torch.cat([old.rewards, reward])
        kept = self._best(torch.where(_repeated(x), -torch.inf, rewards))
        after = _kept(state.step + 1, pick(x, kept), rewards.gather(0, kept))
        taken, changed = (kept >= self.keep).double().mean(0), (after.x_0 != state.x_0).sum(1)
        return after, Info(taken, torch.isneginf(reward).all(0), changed, decisions=(Decision(new, reward),))

    def _varied(self, run: Run, x: Tensor, loop: int, rng: Rng) -> Tensor:
        """Kept texts (K, B, L), renoised and brought back by plain decoding -> (K, B, L)."""
        turn = loop % len(turns(self.span_steps or self.span))
        a_s = clean_share(self.span, self.span_steps, self.steps, run.noise.schedule, 0.0, turn)
        s = time_of(run, a_s)
        a_0, a_s = float(run.noise.a(0.0)), float(run.noise.a(s))
        y = run.renoise(x.flatten(0, 1), a_0, a_s, rng.fork("back"))
        times = [s * now for now in grid(self.denoise_steps)]
        for k in range(self.denoise_steps):
            y = self.decoder.step(run, y, times[k], times[k + 1], rng.fork("forth", k))
        return y.unflatten(0, (self.keep, -1))

    def _best(self, reward: Tensor) -> Tensor:
        """Which of (N, B) rewards are kept, the highest first, (K, B) long; ties by place."""
        return reward.argsort(dim=0, descending=True, stable=True)[: self.keep]


def _repeated(x: Tensor) -> Tensor:
    """Which of the texts (N, B, L) have been listed before, (N, B) bool: those would fill two places with one text."""
    earlier = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).tril(-1)
    return ((x[:, None] == x).all(3) & earlier[..., None]).any(1)


def _kept(step: int, x: Tensor, reward: Tensor) -> ScoredCloud:
    """The state of kept finished texts (K, B, L), the best first, which it shows."""
    particles = replace(Particles.equal(x).without_constant(), x_0=x, reward=reward)
    return ScoredCloud(step, 0.0, x[0], x[0], reward[0], particles)
