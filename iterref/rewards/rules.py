"""Rules of the algebra of rewards: how one number a text comes of several.

    values = rule(ask, index),      ask(k, index) = r_k of those rows of the call

A rule knows neither tokens nor texts, and asks only for what it needs: a part of weight 0 is never asked, and what
stands under a condition only for the rows that meet it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

# Part k of a rule at some rows of the call, (K,) long -> (K,) float64.
Ask = Callable[[int, Tensor], Tensor]
Symbol = Literal[">", ">=", "<", "<="]
_COMPARE = {">": gt, ">=": ge, "<": lt, "<=": le}


class Rule(ABC):
    """What makes one number a row out of the numbers of several rewards; `skips` says that a part may leave rows out,
    by NaN."""

    skips: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) float64; asks only for what it needs."""


@dataclass(frozen=True)
class Sum(Rule):
    """sum_k weight_k r_k. A part of weight 0 is not asked; -inf times a negative weight is refused."""

    weights: tuple[float, ...]

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) float64."""
        total = torch.zeros(len(index), dtype=torch.float64, device=index.device)
        for part, weight in enumerate(self.weights):
            if weight != 0.0:
                total = total + weight * ask(part, index)
        return total


@dataclass(frozen=True)
class Weighted(Rule):
    """sum_k weight_k r_k over the parts that judge a row, times sum |weight| / sum |weight of these|; NaN for none."""

    skips: ClassVar[bool] = True

    weights: tuple[float, ...]

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) float64."""
        total = torch.zeros(len(index), dtype=torch.float64, device=index.device)
        judged = torch.zeros_like(total)
        for part, weight in enumerate(self.weights):
            if weight != 0.0:
                values = ask(part, index)
                known = ~values.isnan()
                total[known] += weight * values[known]
                judged[known] += abs(weight)
        everyone = judged == (full := sum(map(abs, self.weights)))
        return torch.where(everyone, total, total * (full / judged) if full else torch.zeros_like(total))


@dataclass(frozen=True)
class Clip(Rule):
    """min(max(r, low), high), and -inf for -inf."""

    low: float
    high: float

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) float64."""
        values = ask(0, index)
        return torch.where(values.isneginf(), values, values.clamp(self.low, self.high))


@dataclass(frozen=True)
class Standardise(Rule):
    """(r - mean) / sd."""

    mean: float
    sd: float

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) float64."""
        return (ask(0, index) - self.mean) / self.sd


@dataclass(frozen=True)
class Where(Rule):
    """r_0 where the test of the last parts holds, `otherwise` or, for None, r_1 elsewhere."""

    test: Rule
    otherwise: float | None

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) float64."""
        first = 2 if self.otherwise is None else 1
        holds = self.test(lambda part, rows: ask(first + part, rows), index)
        elsewhere = 0.0 if self.otherwise is None else self.otherwise
        values = torch.full((len(index),), elsewhere, dtype=torch.float64, device=index.device)
        if bool(holds.any()):
            values[holds] = ask(0, index[holds])
        if self.otherwise is None and not bool(holds.all()):
            values[~holds] = ask(1, index[~holds])
        return values


@dataclass(frozen=True)
class Compare(Rule):
    """r_0 against a threshold or, for None, against r_1; gives truth values."""

    symbol: Symbol
    threshold: float | None

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) bool."""
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
        """Rows of the call (K,) long -> (K,) bool."""
        one, other = self.first(ask, index), self.second(lambda part, rows: ask(self.split + part, rows), index)
        return one & other if self.every else one | other


@dataclass(frozen=True)
class Opposite(Rule):
    """Where a test does not hold."""

    test: Rule

    def __call__(self, ask: Ask, index: Tensor) -> Tensor:
        """Rows of the call (K,) long -> (K,) bool."""
        return ~self.test(ask, index)
