"""Rules of the algebra of rewards: how one number a text comes of several.

    values = rule(ask, index),      ask(k, index) = r_k of those texts of the call

`index` (K,) long names texts of the call, and a rule gives (K,) float64, or bool for a test. It knows neither tokens
nor texts, and asks only for what it needs: a part of weight 0 is never asked, and what stands under a condition only
for the texts that meet it. All but `Sum` are functions whose first arguments `functools.partial` binds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Part k of a rule at some texts of the call, (K,) long -> (K,) float64.
Ask = Callable[[int, Tensor], Tensor]
Rule = Callable[[Ask, Tensor], Tensor]


@dataclass(frozen=True)
class Sum:
    """sum_k weight_k r_k; a part of weight 0 is not asked.

    With `skips`, a part may leave texts out, by NaN: the weights of those that judge a text grow to the total of
    |weight|; NaN where there are none."""

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


def may_skip(rule: Rule) -> bool:
    """Whether the parts of a rule may leave texts out."""
    return isinstance(rule, Sum) and rule.skips


def clip(low: float, high: float, ask: Ask, index: Tensor) -> Tensor:
    """min(max(r, low), high), and -inf for -inf."""
    values = ask(0, index)
    return torch.where(values.isneginf(), values, values.clamp(low, high))


def standardise(mean: float, sd: float, ask: Ask, index: Tensor) -> Tensor:
    """(r - mean) / sd."""
    return (ask(0, index) - mean) / sd


def where(test: Rule, otherwise: float | None, ask: Ask, index: Tensor) -> Tensor:
    """r_0 where the test of the last parts holds, `otherwise` or, for None, r_1 elsewhere."""
    first = 2 if otherwise is None else 1
    holds = test(lambda part, texts: ask(first + part, texts), index)
    values = torch.full((len(index),), otherwise or 0.0, dtype=torch.float64, device=index.device)
    if bool(holds.any()):
        values[holds] = ask(0, index[holds])
    if otherwise is None and not bool(holds.all()):
        values[~holds] = ask(1, index[~holds])
    return values


def compare(operator: Callable[[Any, Any], Any], threshold: float | None, ask: Ask, index: Tensor) -> Tensor:
    """r_0 against a threshold or, for None, against r_1, by an operator such as `operator.gt`."""
    return operator(ask(0, index), ask(1, index) if threshold is None else threshold)


def join(operator: Callable[[Any, Any], Any], tests: tuple[Rule, Rule], split: int, ask: Ask, index: Tensor) -> Tensor:
    """Two tests together, by `operator.and_` or `or_`. The second's parts follow the `split` of the first."""
    return operator(tests[0](ask, index), tests[1](lambda part, texts: ask(split + part, texts), index))


def negate(test: Rule, ask: Ask, index: Tensor) -> Tensor:
    """Where a test does not hold."""
    return ~test(ask, index)
