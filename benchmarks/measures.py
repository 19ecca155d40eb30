"""Measures: how far samples are from an exact distribution, how likely and how diverse they are.

    tv_single   mean over positions i    of  1/2 sum_v   |share of x^i = v - pi_i(v)|
    tv_pair     mean over neighbours     of  1/2 sum_uv  |share of (x^i-1, x^i) = (u, v) - pi_i(u, v)|
    tv_pooled   1/2 sum_uv |share of (u, v) among all neighbours of all positions - mean_i pi_i(u, v)|
    entropy     mean over positions of the entropy of the single marginal, in nats
    distinct    share of different sequences

The standard deviation of a distance, NAME_sd, is that of one row: 1/2 sum_u sign(share_u - pi_u) is what a row that
falls on u adds to it, to first order, so that NAME_sd / sqrt(R) is the standard error of the distance of R rows.

Shares of R rows differ from the distribution that they are drawn from, so every distance has a floor: its mean over
as many exact draws. Where pairs have more values than there are rows the floor of `tv_pair` is near one, and
`tv_pooled`, which has L - 1 times as many pairs to count, is the one to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from iterref.exact.markov import Markov, TiltedMarkov
from iterref.random import Rng

DRAWS = 16  # sets of exact draws that a floor is the mean of
SEED = 12345  # theirs; runs have small seeds


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The exact distribution of a world, `tilted`, and the model that it tilts."""

    model: Markov
    tilted: TiltedMarkov

    @cached_property
    def singles(self) -> Tensor:
        """The distribution of every position, (L, K)."""
        return self.tilted.marginals()

    @cached_property
    def pairs(self) -> Tensor:
        """The distribution of every pair of neighbours, (L - 1, K^2)."""
        return self.tilted.pair_marginals().flatten(1)

    def measure(self, tokens: Tensor) -> dict[str, float]:
        """All measures of (R, L) sequences."""
        count = self.model.tokens
        neighbours = tokens[:, :-1] * count + tokens[:, 1:]
        singles, pairs = shares(tokens, count), shares(neighbours, count**2)
        pooled = pairs.mean(0, keepdim=True), self.pairs.mean(0, keepdim=True)
        return {
            "tv_single": distance(singles, self.singles),
            "tv_single_sd": spread(tokens, singles, self.singles),
            "tv_pair": distance(pairs, self.pairs),
            "tv_pair_sd": spread(neighbours, pairs, self.pairs),
            "tv_pooled": distance(*pooled),
            "tv_pooled_sd": spread(neighbours, *(law.expand_as(pairs) for law in pooled)),
            "entropy": entropy(singles),
            "distinct": len(tokens.unique(dim=0)) / len(tokens),
        }

    def floor(self, rows: int) -> dict[str, float]:
        """The means of all measures over sets of `rows` exact draws."""
        drawn = self.tilted.sample(Rng.seeded(SEED, rows * DRAWS))
        found = [self.measure(part) for part in drawn.split(rows)]
        return {name: sum(one[name] for one in found) / DRAWS for name in found[0]}


def shares(items: Tensor, kinds: int) -> Tensor:
    """The share of every kind at every place: (R, P) long below `kinds` -> (P, kinds) float64."""
    counts = torch.zeros(items.shape[1], kinds, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64).expand(items.shape[1], len(items))
    return counts.scatter_add_(1, items.T, one) / len(items)


def distance(p: Tensor, q: Tensor) -> float:
    """Total variation of distributions (*, kinds), the mean over *."""
    return float((p - q).abs().sum(-1).mean() / 2)


def spread(items: Tensor, p: Tensor, q: Tensor) -> float:
    """The standard deviation of what a row of (R, P) adds to the distance of shares p from a law q, (P, kinds)."""
    part = torch.sign(p - q).gather(1, items.T).mean(0) / 2
    return float(part.std()) if len(part) > 1 else 0.0


def entropy(p: Tensor) -> float:
    """Entropy of distributions (*, kinds) in nats, the mean over *."""
    return float(torch.special.entr(p).sum(-1).mean())
