"""Drift: how far a text has moved from the first one, and the bound that keeps it near, as a hard constraint.

    share   d(x, x^1) = #{free i : x_i != x^1_i} / #free                    (Hamming)
    edit    d(x, x^1) = Levenshtein(x, x^1) / max(|x|, |x^1|)               over tokens, the padding left out
    pi(x | d <= bound)  proportional to  p(x) exp(r(x) / alpha) [d(x, x^1) <= bound]

The bound is a reward of -inf outside the ball around the first text, so a kernel that is exact for a reward is exact
for pi restricted to it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist
from torch import Tensor

from iterref.rewards.base import Reward
from iterref.rewards.partial import WrappedReward

Distance = Literal["share", "edit"]
DISTANCES: tuple[str, ...] = ("share", "edit")
# A share is a ratio of whole numbers: what a bound like 0.1 * 3 loses to rounding is given back.
SLACK = 1e-9


@dataclass(frozen=True)
class Drift:
    """The distance from the first texts `first` (B, L), over the positions `free` (B, L) that may change. `blank` (L,)
    is the canvas of an empty text where the model has one; "edit" leaves out the padding that it shows. Raises
    `ValueError` for an unknown distance."""

    first: Tensor
    free: Tensor
    distance: Distance = "share"
    blank: Tensor | None = None

    def __post_init__(self) -> None:
        expect_bound(self.distance, 0.0)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long tokens of (R,) long rows -> (R,) float64 in [0, 1]."""
        first, free = self.first[rows], self.free[rows]
        if self.distance == "share":
            return ((tokens != first) & free).sum(1).double() / free.sum(1).clamp_min(1)
        written = []
        for texts in (tokens, first):
            lengths = text_lengths(texts, self.blank).tolist()
            written.append([ids[:length] for ids, length in zip(texts.tolist(), lengths, strict=True)])
        found = cpdist(*written, scorer=Levenshtein.normalized_distance, dtype=np.float64)
        return torch.from_numpy(np.asarray(found)).to(tokens.device)


class Allowing(WrappedReward):
    """A reward of the texts that are `allowed`; -inf for others, of which the reward itself is not asked. An unfinished
    one may still become either: its value is the reward's own."""

    @abstractmethod
    def allowed(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) bool."""

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        inside = self.allowed(tokens, rows)
        values = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=tokens.device)
        if bool(inside.any()):
            values[inside] = self.reward(tokens[inside], rows[inside])
        return values


class Within(Allowing):
    """A reward inside the ball `drift <= bound`. Raises `ValueError` for a bound outside [0, 1]."""

    def __init__(self, reward: Reward, drift: Drift, bound: float) -> None:
        expect_bound(drift.distance, bound)
        super().__init__(reward)
        self.drift, self.bound = drift, bound

    def allowed(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return self.drift(tokens, rows) <= self.bound + SLACK


def expect_bound(distance: str, bound: float) -> None:
    """Raises `ValueError` for an unknown distance, or a bound outside [0, 1]."""
    if distance not in DISTANCES:
        raise ValueError(f"unknown distance {distance!r}: use one of {', '.join(DISTANCES)}")
    if not 0 <= bound <= 1:
        raise ValueError(f"the drift's bound must lie in [0, 1], got {bound}: it is a share of the tokens")


def text_lengths(tokens: Tensor, blank: Tensor | None) -> Tensor:
    """How many positions the texts (R, L) take up before their padding, (R,) long: up to the last token that the
    empty canvas `blank` (L,) has not; all of them where it is not known."""
    if blank is None:
        return torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    index = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return ((tokens != blank) * index).amax(1)
