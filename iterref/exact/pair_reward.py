"""Pair rewards: sums over neighbouring tokens, which keep a tilted Markov chain a Markov chain, in four kinds.

    r(x) = sum_i values(x^i-1, x^i)

    pairs    1 for (v, perm(v)) of a random permutation, 0 elsewhere
    smooth   a few low frequencies on the ring of tokens, 0.5 in standard deviation: neighbours on the ring agree
    rough    independent normal values, 0.5 in standard deviation
    rare     0 but for K/4 pairs (u, v), v the token that the chain goes to least often from u: log(1 / T(u, v)) / 2, so
             that at alpha = 0.5 the rare step from u weighs as much as all others together
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from iterref.exact.table import add_up, expect_clean

KINDS = ("pairs", "smooth", "rough", "rare")
SPREAD = 0.5  # of smooth and rough values: at alpha = 0.5 a pair's log-weight has standard deviation 1
HIGHEST = 2  # whole waves that a smooth reward makes around the ring at the most


@dataclass(frozen=True, eq=False)
class PairReward:
    """A reward of neighbouring tokens, r(x) = sum_i values[x^i-1, x^i], with finite `values` (K, K)."""

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or not bool(self.values.isfinite().all()):
            raise ValueError(f"values must be a finite matrix, one entry a pair, got shape {tuple(self.values.shape)}")

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64; every prompt has the same reward, so `rows` plays no part."""
        expect_clean(tokens, len(self.values), tokens.shape[-1])
        if tokens.shape[-1] < 2:
            return torch.zeros(tokens.shape[:-1], dtype=torch.float64)
        return add_up(self.values.double()[tokens[..., :-1], tokens[..., 1:]], -1)


def random_reward(kind: str, log_transition: Tensor, generator: torch.Generator) -> PairReward:
    """A random reward of a kind, over the tokens of a homogeneous chain with log-weights `log_transition` (K, K).
    Raises `ValueError` for an unknown kind."""
    tokens = len(log_transition)
    if kind == "pairs":
        return PairReward(torch.eye(tokens, dtype=torch.float64)[torch.randperm(tokens, generator=generator)])
    if kind == "smooth":
        return PairReward(_standard(_waves(tokens, generator)))
    if kind == "rough":
        return PairReward(_standard(torch.randn(tokens, tokens, generator=generator).double()))
    if kind == "rare":
        return PairReward(_hardly_ever(torch.log_softmax(log_transition.double(), 1), generator))
    raise ValueError(f"unknown kind of reward {kind!r}: choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def _standard(values: Tensor) -> Tensor:
    """Mean 0 and standard deviation `SPREAD` over all pairs."""
    return SPREAD * (values - values.mean()) / values.std(correction=0)


def _waves(tokens: int, generator: torch.Generator) -> Tensor:
    """sum a_fg cos(2 pi (f u + g v) / K + phase_fg) over frequencies f, g up to `HIGHEST`."""
    frequency = torch.arange(HIGHEST + 1, dtype=torch.float64)
    amplitude = torch.randn(HIGHEST + 1, HIGHEST + 1, generator=generator).double()
    phase = 2 * pi * torch.rand(HIGHEST + 1, HIGHEST + 1, generator=generator).double()
    around = 2 * pi * torch.arange(tokens, dtype=torch.float64) / tokens
    angle = frequency[:, None, None, None] * around[:, None] + frequency[:, None, None] * around
    return (amplitude[..., None, None] * torch.cos(angle + phase[..., None, None])).sum((0, 1))


def _hardly_ever(log_transition: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter of the tokens, and the least likely step from each."""
    tokens = len(log_transition)
    source = torch.randperm(tokens, generator=generator)[: max(1, tokens // 4)]
    worth, target = (-log_transition[source] / 2).max(1)
    values = torch.zeros(tokens, tokens, dtype=torch.float64)
    values[source, target] = worth
    return values
