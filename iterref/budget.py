"""Budgets: what a run costs a sample, counted by a meter and never by hand.

    cost = (denoiser rows, reward rows, depth);      a budget bounds each of them, and their sum at a price

A *row* is one sequence through the denoiser, or one sequence through the reward; *depth* is the number of denoiser
calls that must happen one after the other, which sets the latency of a single prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isnan
from typing import Protocol, TypeVar

# Where no bound of a budget touches an option, the search for the largest value that fits ends here.
FAR = 2**20


@dataclass(frozen=True)
class Cost:
    """Rows of each kind for one sample."""

    denoiser: float = 0
    reward: float = 0
    depth: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.denoiser + other.denoiser, self.reward + other.reward, self.depth + other.depth)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.denoiser * times, self.reward * times, self.depth * times)


@dataclass(frozen=True)
class Budget:
    """What a sample may cost at the most: `denoiser` rows, `reward` rows, `depth`, and `total` = denoiser rows +
    `price` x reward rows, where a reward row costs `price` denoiser rows. Unlimited where nothing is said.

    Raises `ValueError` for bounds that are not positive (reward rows may be 0), or where nothing is bounded.
    """

    denoiser: float = inf
    reward: float = inf
    total: float = inf
    price: float = 1.0
    depth: float = inf

    def __post_init__(self) -> None:
        if not (self.denoiser > 0 and self.reward >= 0 and self.total > 0 and self.depth > 0 and self.price >= 0):
            raise ValueError(f"a budget needs positive numbers of denoiser rows, total rows and depth, got {self}")
        if min(self.denoiser, self.reward, self.total, self.depth) == inf:
            raise ValueError("a budget without limits fits no method: bound the denoiser rows or the reward rows")

    def __str__(self) -> str:
        said = {"denoiser rows": self.denoiser, "reward rows": self.reward, "rows in total": self.total}
        parts = [f"{value:g} {name}" for name, value in said.items() if value < inf]
        return " and ".join(parts + ([f"a depth of {self.depth:g}"] if self.depth < inf else []))

    def allows(self, cost: Cost) -> bool:
        """Whether a cost is within every bound."""
        return (
            cost.denoiser <= self.denoiser
            and cost.reward <= self.reward
            and cost.denoiser + self.price * cost.reward <= self.total
            and cost.depth <= self.depth
        )

    def less(self, spent: Cost) -> Budget:
        """What is left after `spent`. Raises `ValueError` where no denoiser row is."""
        return replace(
            self,
            denoiser=self.denoiser - spent.denoiser,
            reward=max(0.0, self.reward - spent.reward),
            total=self.total - spent.denoiser - self.price * spent.reward,
            depth=self.depth - spent.depth,
        )

    def per(self, passes: int) -> Budget:
        """The same budget in rows that take `passes` denoiser rows each (see `guidance.ClassifierFreeGuidance`)."""
        if passes == 1:
            return self
        return replace(self, denoiser=self.denoiser / passes, total=self.total / passes, price=self.price / passes)


Rows = Budget | float | tuple[float, float]


@dataclass
class Meter:
    """Counts the rows of one run over its whole batch.

    `asked` are the rows that the method asked for, `made` those that were really computed: fewer where an
    identical question had been answered before, or a row had no open position. `passes` is how many network passes
    one row takes (two under classifier-free guidance); costs count them.
    """

    asked_denoiser: int = 0
    asked_reward: int = 0
    made_denoiser: int = 0
    made_reward: int = 0
    depth: int = 0
    passes: int = 1
    seconds: dict[str, float] = field(default_factory=lambda: {"denoiser": 0.0, "reward": 0.0})

    def asked(self, batch: int) -> Cost:
        """Rows asked for a sample, in a batch of `batch` samples."""
        return Cost(self.asked_denoiser * self.passes / batch, self.asked_reward / batch, self.depth)

    def made(self, batch: int) -> Cost:
        """Rows computed for a sample, in a batch of `batch` samples."""
        return Cost(self.made_denoiser * self.passes / batch, self.made_reward / batch, self.depth)


class Fits(Protocol):
    """What `fit` needs of a method: its name, its cost, and how it spends a given budget."""

    @property
    def name(self) -> str: ...

    def cost(self) -> Cost: ...

    def spend(self, budget: Budget) -> Fits: ...


S = TypeVar("S", bound=Fits)


def budget_of(value: Rows) -> Budget:
    """A budget a sample: a `Budget`, a number of denoiser rows, or (denoiser rows, reward rows)."""
    if isinstance(value, Budget):
        return value
    if isinstance(value, tuple):
        return Budget(*value)
    if isnan(value) or value == inf:
        return Budget(value)
    return Budget(denoiser=value)


def most(fits: Callable[[int], bool], least: int, limit: float = FAR) -> int:
    """The largest whole number from `least` to `limit` that fits, where less fits if more does.

    `least` is not asked: it is the answer where nothing larger fits. The search doubles its steps first, so that it
    never tries a number more than twice as large as the answer.
    """
    low, step, end = least, 1, int(limit)
    while low + step <= end and fits(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, end + 1)  # the first number known, or bound, not to fit
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fit(sampler: S, budget: Rows) -> S:
    """The same method with the options that spend `budget` (rows a sample) as fully as it can.

    Methods then compete at equal cost. Raises `ValueError` where not even one run fits, saying what one costs.
    """
    limit = budget_of(budget)
    fitted = sampler.spend(limit)
    cost = fitted.cost()
    if not limit.allows(cost):
        deep = f" at a depth of {cost.depth:g}" if cost.depth > limit.depth else ""
        raise ValueError(
            f"the budget of {limit} is too small for one run of {sampler.name}, which takes at least "
            f"{cost.denoiser:g} denoiser rows and {cost.reward:g} reward rows{deep}: raise the budget or lower the "
            "method's steps"
        )
    return fitted  # type: ignore[return-value]
