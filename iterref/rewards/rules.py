"""Rules of the algebra of rewards: how one number a text comes of several.

    values = rule(ask, index),      ask(k, index) = r_k of those texts of the call

A rule knows neither tokens nor texts, and asks only for what it needs: a part of weight 0 is never asked, and what
stands under a condition only for the texts that meet it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any, Literal

import torch
from torch import Tensor

# Part k of a rule at some texts of the call, (K,) long -> (K,) float64.
Ask = Callable[[int, Tensor], Tensor]
Symbol = Literal[">", ">=", "<", "<="]
_COMPARE = {">": gt, ">=": ge, "<": lt, "<=": le}


class Rule(ABC):
    """What makes one number a text out of those of several rewards; `skips`: a part may leave texts out, by NaN."""

    skips: bool = False

    @abstractmethod
    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Texts of the call (K,) long -> (K,) float64, or bool for a test."""


@dataclass(frozen=True)
class Sum(Rule):
    """sum_k weight_k r_k; a part of weight 0 is not asked.

    With `skips`, the weights of the parts that judge a text grow to the total of |weight|; NaN where there are none.
    """

    weights: tuple[float, ...]
    skips: bool = False

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        total = torch.zeros(len(index), dtype=torch.float64, device=index.device)
        judged = torch.zeros_like(total)
        for part, weight in enumerate(self.weights):
            if weight != 0.0:
                values = ask(part, index)
                known: Any = ~values.isnan() if self.skips else slice(None)
                total[known] += weight * values[known]
                judged[known] += abs(weight)
        everyone = sum(map(abs, self.weights))
        return torch.where(judged == everyone, total, total * (everyone / judged))


@dataclass(frozen=True)
class Clip(Rule):
    """min(max(r, low), high), and -inf for -inf."""

    low: float
    high: float

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        values = ask(0, index)
        return torch.where(values.isneginf(), values, values.clamp(self.low, self.high))


@dataclass(frozen=True)
class Standardise(Rule):
    """(r - mean) / sd."""

    mean: float
    sd: float

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        return (ask(0, index) - self.mean) / self.sd


@dataclass(frozen=True)
class Where(Rule):
    """r_0 where the test of the last parts holds, `otherwise` or, for None, r_1 elsewhere."""

    test: Rule
    otherwise: float | None

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        first = 2 if self.otherwise is None else 1
        holds = self.test(lambda part, texts: ask(first + part, texts), index)
        values = torch.full((len(index),), self.otherwise or 0.0, dtype=torch.float64, device=index.device)
        if bool(holds.any()):
            values[holds] = ask(0, index[holds])
        if self.otherwise is None and not bool(holds.all()):
            values[~holds] = ask(1, index[~holds])
        return values


@dataclass(frozen=True)
class Compare(Rule):
    """r_0 against a threshold or, for None, against r_1."""

    symbol: Symbol
    threshold: float | None

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        other: Any = ask(1, index) if self.threshold is None else self.threshold
        held: Tensor = _COMPARE[self.symbol](ask(0, index), other)
        return held


@dataclass(frozen=True)
class Joint(Rule):
    """Two tests together: both or either of them. The second's parts follow the `split` of the first."""

    every: bool
    first: Rule
    second: Rule
    split: int

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        one, other = self.first(ask, index), self.second(lambda part, texts: ask(self.split + part, texts), index)
        return one & other if self.every else one | other


@dataclass(frozen=True)
class Opposite(Rule):
    """Where a test does not hold."""

    test: Rule

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        return ~self.test(ask, index)
