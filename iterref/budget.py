"""Budgets: what a run costs a sample, counted by a meter and never by hand.

    cost = (denoiser rows, reward rows, depth)

A *row* is one sequence through the denoiser, or one sequence through the reward; *depth* is the number of denoiser
calls that must happen one after the other, which sets the latency of a single prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Protocol, TypeVar


@dataclass(frozen=True)
class Cost:
    """Rows of each kind for one sample; `inf` means unlimited where a `Cost` is a budget."""

    denoiser: float = 0
    reward: float = 0
    depth: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.denoiser + other.denoiser, self.reward + other.reward, self.depth + other.depth)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.denoiser * times, self.reward * times, self.depth * times)

    def within(self, budget: Cost) -> bool:
        """Whether both kinds of rows fit `budget` (depth is reported, not limited)."""
        return self.denoiser <= budget.denoiser and self.reward <= budget.reward


@dataclass
class Meter:
    """Counts the rows of one run over its whole batch.

    `asked` are the rows that the method asked for, `made` those that were really computed: fewer where an
    identical question had been answered before, or a row had no open position.
    """

    asked_denoiser: int = 0
    asked_reward: int = 0
    made_denoiser: int = 0
    made_reward: int = 0
    depth: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"denoiser": 0.0, "reward": 0.0})

    def asked(self, batch: int) -> Cost:
        """Rows asked for a sample, in a batch of `batch` samples."""
        return Cost(self.asked_denoiser / batch, self.asked_reward / batch, self.depth)

    def made(self, batch: int) -> Cost:
        """Rows computed for a sample, in a batch of `batch` samples."""
        return Cost(self.made_denoiser / batch, self.made_reward / batch, self.depth)


class Fits(Protocol):
    """What `fit` needs of a method: its name, its cost, and how it spends a given budget."""

    @property
    def name(self) -> str: ...

    def cost(self) -> Cost: ...

    def spend(self, budget: Cost) -> Fits: ...


S = TypeVar("S", bound=Fits)


def budget_of(value: Cost | int | float | tuple[float, float]) -> Cost:
    """A budget a sample: a `Cost`, a number of denoiser rows, or (denoiser rows, reward rows).

    Raises `ValueError` for budgets that are not positive, or that bound nothing.
    """
    if isinstance(value, tuple):
        value = Cost(*value)
    if not isinstance(value, Cost):
        value = Cost(value, inf)
    if not (value.denoiser > 0 and value.reward >= 0):
        raise ValueError(f"a budget needs a positive number of denoiser rows, got {value}")
    if value.denoiser == inf and value.reward == inf:
        raise ValueError("a budget without limits fits no method: bound the denoiser rows or the reward rows")
    return value


def most(fits: Callable[[int], bool], least: int, limit: float) -> int:
    """The largest whole number from `least` to a finite `limit` that fits, where less fits if more does.

    `least` is not asked: it is the answer where nothing larger fits.
    """
    low, high = least, int(limit)
    if high > low and fits(high):
        return high
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fit(sampler: S, budget: Cost | int | float | tuple[float, float]) -> S:
    """The same method with the options that spend `budget` (rows a sample) as fully as it can.

    Methods then compete at equal cost. Raises `ValueError` where not even one run fits, saying what one costs.
    """
    limit = budget_of(budget)
    fitted = sampler.spend(limit)
    cost = fitted.cost()
    if not cost.within(limit):
        raise ValueError(
            f"the budget of {limit.denoiser:g} denoiser rows and {limit.reward:g} reward rows is too small for one "
            f"run of {sampler.name}, which takes at least {cost.denoiser:g} and {cost.reward:g}: raise the budget or "
            "lower the method's steps"
        )
    return fitted  # type: ignore[return-value]
