"""Parallel tempering: chains of a row side by side at rising temperatures of the reward, which trade places.

    alpha_k = alpha ratio^k,  k = 0 .. W - 1;     target   prod_k Pi_k(x^k),   Pi_k(x) ~ p(x) exp(r(x) / alpha_k)
    every round, each chain makes a move of the shared kernel at its own alpha_k; then neighbours i, j = i + 1 swap with

        min(1, exp((1 / alpha_i - 1 / alpha_j) (r(x^j) - r(x^i))))

Hot chains cross between distant texts, and what they find comes down the ladder to chain 0, the result. The prior
cancels from the ratio, the noise level too (all chains are at the same t), and rewards travel with the states: a swap
costs nothing. Even pairs (0, 1), (2, 3), ... and odd ones (1, 2), ... are tried in turn, which is not reversible and
takes a text up and down the ladder in O(W) rounds instead of O(W^2); two chains have one pair, tried every round.

Swaps leave the product law invariant whatever the model; the moves do under the conditions of the shared kernel, and
then the whole does. A ladder shares its rows among the chains: it pays where the tilted law has modes that one chain
does not cross between, and costs where there are none.

Swendsen and Wang (1986); Geyer (1991); Okabe, Kawata, Okamoto, Mikami (2001); Syed, Bouchard-Cote, Deligiannidis,
Doucet (2022), arXiv:1905.02939.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.kernels import KERNELS, Entry, Info, Move, State
from iterref.noise import Schedule
from iterref.particles import Particles
from iterref.problem import Problem
from iterref.random import Rng
from iterref.samplers.base import OBJECTIVES, Chain
from iterref.samplers.iterref import IterRef


@dataclass(frozen=True)
class Tempering(Chain):
    """Replica exchange of `width` chains.

    Each drafts in `steps` grid steps, `guided` at its own alpha or plainly by the base decoder, and then makes `moves`
    moves on the finished text; tries, blocks, span and spacing as in `iterref`. ratio: alpha of a chain over that of
    the next cooler one. objective: `sample` returns the last state of chain 0, `maximise` the best text any chain saw.
    """

    name: ClassVar[str] = "tempering"
    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0

    steps: int = 4
    moves: int = 24
    width: int = 3
    ratio: float = 2.0
    tries: int = 2
    blocks: int = 0
    span: float | int | tuple[float | int, ...] = 0.5
    spacing: int = 2
    guided: bool = True
    objective: Literal["sample", "maximise"] = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(width=2)
        self._among(objective=OBJECTIVES)
        if not 1 < self.ratio < float("inf"):
            raise ValueError(f"tempering: ratio must be above 1 and finite, got {self.ratio}: chains get hotter by it")
        self._chain()

    @property
    def entry(self) -> Entry:
        """The shared kernel."""
        return KERNELS["shared"]

    def plan(self, schedule: Schedule, alpha: float) -> tuple[Move, ...]:
        """The moves of the coldest chain; every chain makes them at its own alpha."""
        return self._chain().plan(schedule, alpha)

    def init(self, problem: Problem, rng: Rng) -> State:
        """Pure noise, for every chain of a row."""
        return self._shown(super().init(problem.widened(self.width), rng.repeat(self.width)))

    def resume(self, problem: Problem, tokens: Tensor) -> State:
        """Every chain begins at the given text."""
        return self._shown(super().resume(problem, tokens.repeat(self.width, 1)))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One move of every chain, and one round of swaps; what is told of the moves are those of chain 0."""
        assert state.wide is not None
        before = state.wide
        wide, info = super().step(problem.widened(self.width), before, rng.repeat(self.width))
        if wide.reward is not None:
            # Which pairs are tried depends on the round alone.
            first = before.step % min(2, self.width - 1)
            places = exchange(wide.reward.view(self.width, -1), self.ladder(problem.alpha), first, rng.fork("swap"))
            wide = _placed(wide, places)
        return self._shown(wide), _cold(info, len(rng))

    def cost(self) -> Cost:
        """The rows of all chains, at the depth of one."""
        one = super().cost()
        return Cost(one.denoiser * self.width, one.reward * self.width, one.depth)

    def ladder(self, alpha: float) -> Tensor:
        """alpha_k of every chain, (W,) float64."""
        return alpha * self.ratio ** torch.arange(self.width, dtype=torch.float64)

    def _move(self, problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
        """A planned move, every chain at its own alpha."""
        batch = len(problem.canvas) // self.width
        alpha = self.ladder(problem.alpha).to(problem.canvas.device).repeat_interleave(batch)
        return super()._move(problem, state, replace(move, alpha=alpha), rng)

    def _chain(self) -> IterRef:
        return IterRef(
            self.steps, self.order, self.block, self.bound, moves=self.moves, tries=self.tries, blocks=self.blocks,
            span=self.span, spacing=self.spacing, early=0.0, guided=self.guided,
        )  # fmt: skip

    def _shown(self, wide: State) -> State:
        """The state of all chains, showing chain 0. Under the target's law it has all the weight: the others sample
        laws of their own."""
        x = wide.x_t.unflatten(0, (self.width, -1))
        x_0 = None if wide.x_0 is None else wide.x_0.unflatten(0, (self.width, -1))
        reward = None if wide.reward is None else wide.reward.view(self.width, -1)
        particles = replace(Particles.equal(x), x_0=x_0, reward=reward)
        particles.log_w[1:] = -torch.inf
        return State(
            wide.step, wide.t, x[0], None if x_0 is None else x_0[0], None if reward is None else reward[0],
            particles=particles, wide=wide,
        )  # fmt: skip


def exchange(reward: Tensor, alpha: Tensor, first: int, rng: Rng) -> Tensor:
    """One round of swaps: who stands at every place afterwards, (W, B) long, from rewards (W, B) and alphas (W,).

    Tried are the pairs (first, first + 1), (first + 2, first + 3), ... A text of density zero always gives way to one
    that is possible; two of them stay where they are.
    """
    width = len(reward)
    inverse = 1 / alpha.to(reward.device)
    log_ratio = (inverse[:-1] - inverse[1:])[:, None] * reward.diff(dim=0)  # -inf less -inf is undefined: no swap
    place = torch.arange(width, device=reward.device)[:, None]
    tried = place[:-1] % 2 == first
    chance = torch.where(tried, log_ratio.nan_to_num(nan=-torch.inf).clamp_max(0).exp(), 0.0)
    swaps = rng.bernoulli(chance.T.contiguous()).T.long()
    nobody = torch.zeros_like(swaps[:1])
    return place + torch.cat([swaps, nobody]) - torch.cat([nobody, swaps])


def _placed(wide: State, places: Tensor) -> State:
    """The chains (W * B, ...) of a state in their new places (W, B), with all that is known of each."""
    rows = torch.arange(places.shape[1], device=places.device)
    index = (places * places.shape[1] + rows).flatten()

    def moved(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[index]

    return replace(wide, x_t=wide.x_t[index], x_0=moved(wide.x_0), reward=moved(wide.reward))


def _cold(info: Info, batch: int) -> Info:
    """What chain 0 did: the first `batch` chains."""

    def cold(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:batch]

    return Info(
        cold(info.accepted), cold(info.stuck), cold(info.changed), span=info.span,
        decisions=tuple(decision.of(slice(batch)) for decision in info.decisions),
    )  # fmt: skip


SAMPLER = Tempering
