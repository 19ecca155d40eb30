"""Dependence: do the tokens that a spaced move opens together depend on each other? The moves themselves tell.

    told_i = sum_v c_v p(x^i = v | x_s)          fixed numbers c_v in [0, 1): equal distributions, equal numbers
    change = 3 |told_i - told_i of the move before|            about the total variation; both moves opened position i

Two moves in a row hide other tokens. Where spaced tokens are independent given the rest (a Markov chain), none of those
changes the distribution at i, and every change is 0; elsewhere the product of marginals that moves draw from is not
the joint distribution. What only shows when all others stand (a parity) shows in a move that opens one of the positions
of the move before, alone: the last of those that measure, a fifth of all. Without a mask nothing is hidden: there the
tokens at the other positions have to change, which may take longer, and all moves measure until they find something.

Where tokens are independent the moves go on as they are; elsewhere they open fewer and fewer positions, and one in the
last quarter, which is exact for any distribution. A row changes its moves once, so that its chain converges as theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor

from iterref.moves.renoise import Excursion
from iterref.moves.shared import Candidates, Shared
from iterref.random import Rng, grouped
from iterref.run import Run
from iterref.samplers.base import Paired

# Of the moves on a finished text: the share that measures, the share at the end that opens one position, and how many
# there must be.
MEASURING, ALONE, LEAST = 0.2, 0.25, 4
GOLDEN = (sqrt(5) - 1) / 2  # its multiples, less their whole parts, are spread evenly: no two tokens are alike


@dataclass(frozen=True)
class Measuring(Paired):
    """Pairs with the positions `where` (R, L) bool that the last move opened, what was `told` of them, (R, L) float64,
    the `total` (R,) of the `count` (R,) changes found so far, and the change of the position that was opened alone."""

    where: Tensor
    told: Tensor
    total: Tensor
    count: Tensor
    alone: Tensor

    @property
    def dependence(self) -> Tensor:
        """The mean change or that of the position alone, whichever is larger, (R,) float64."""
        return torch.maximum(self.total / self.count.clamp_min(1), self.alone)


@dataclass(frozen=True)
class Stages:
    """The stages of `moves` moves on a finished text: they measure; where they find a dependence above `most`, they
    thin out; then they open one position."""

    moves: int
    most: float

    @property
    def measuring(self) -> int:
        """How many measure; 0 where there are too few moves."""
        return max(2, round(MEASURING * self.moves)) if self.moves >= LEAST else 0

    def kept(self, index: int) -> float:
        """How much of its span the `index`-th move keeps, from 1 to 0 for one position, as a power."""
        last = max(1, round(ALONE * self.moves))
        return max(0.0, (self.moves - index - last) / (self.moves - self.measuring - last + 1))

    def propose(
        self, kernel: Shared, run: Run, state: Paired, trip: Excursion, index: int, rng: Rng
    ) -> tuple[Candidates, Excursion]:
        """The candidates of the `index`-th move, and where it goes instead of `trip`."""
        tell = telling if index < self.measuring or run.noise.mask is None and self.measuring else None
        if not isinstance(state, Measuring) or index < self.measuring - 1:
            return kernel.propose(run, state, trip, rng, tell=tell), trip
        if index == self.measuring - 1:
            trip, few = one_position(run), torch.ones_like(state.where[:, 0])
            return kernel.propose(run.within(run.canvas, state.where), state, trip, rng, few, tell), trip
        if not bool((few := state.dependence > self.most).any()):
            return kernel.propose(run, state, trip, rng, tell=tell), trip
        trip = thinned(run, trip, self.kept(index), few)
        return kernel.propose(run, state, trip, rng, few, tell), trip

    def compare(self, before: Paired, state: Paired, new: Candidates, index: int) -> Paired:
        """The state after the `index`-th move, with what its distributions say beside those of the move before; of
        rows that have found their dependence nothing more is asked."""
        if new.told is None:
            return state
        none, pair = torch.zeros_like(state.reward), (state.step, state.t, state.x_t, state.x_0, state.reward)
        if not isinstance(before, Measuring):
            return Measuring(*pair, new.where, new.told, none, none, none)
        both = new.where & before.where & (before.dependence <= self.most)[:, None]
        count, change = both.sum(1), (3 * (new.told - before.told).abs() * both).cumsum(1)[:, -1]
        if index == self.measuring - 1:
            return Measuring(*pair, new.where, new.told, before.total, before.count, change)
        return Measuring(*pair, new.where, new.told, before.total + change, before.count + count, before.alone)


def telling(p: Tensor, drawn: Tensor, log: bool = True) -> Tensor:
    """What is told of distributions (M, V), in the shape (N, M) of the tokens drawn from them."""
    weights = (p.exp() if log else p) * _numbers(p.shape[1], p.dtype, p.device)
    parts = grouped(weights)  # as matrices multiply, bits hang on the batch
    return parts.cumsum(1, dtype=torch.float64)[:, -1].expand(drawn.shape)


@lru_cache(maxsize=8)
def _numbers(vocab: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number in [0, 1) for each token, spread evenly, (V,)."""
    return (torch.arange(vocab, dtype=torch.float64, device=device) * GOLDEN % 1).to(dtype)


def one_position(run: Run) -> Excursion:
    """The excursion of a finished text that opens one of its free positions."""
    return _opening(run, 1 / run.free.sum(1).clamp_min(1).double())


def thinned(run: Run, trip: Excursion, kept: float, few: Tensor) -> Excursion:
    """An excursion of which rows `few` (R,) bool keep that power of the span, down to one position."""
    one = 1 / run.free.sum(1).clamp_min(1).double()
    own = torch.as_tensor(trip.span, dtype=torch.float64, device=one.device).expand_as(one)
    return _opening(run, torch.where(few, own**kept * one ** (1 - kept), own))


def _opening(run: Run, span: Tensor) -> Excursion:
    """The excursion of finished texts that opens a share (R,) of each."""
    return Excursion.planned(run.noise.schedule, 0.0, 1 - span, masked=run.noise.mask is not None)
