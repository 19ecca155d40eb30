"""Budgets: what a run costs a sample, counted by a meter and never by hand.

    cost = (NFE, reward calls, depth);      a budget bounds each of them, and their sum at a price

An *NFE* is one sequence through the network, a *reward call* one sequence through the reward; *depth* is the number of
network calls that must happen one after the other, which sets the latency of a single prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from numbers import Real
from typing import Protocol, TypeVar, cast

# Where no bound of a budget touches an option, the search for the largest value that fits ends here.
FAR = 2**40


@dataclass(frozen=True)
class Cost:
    """What one sample takes."""

    nfe: float = 0
    reward_calls: float = 0
    depth: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.nfe + other.nfe, self.reward_calls + other.reward_calls, self.depth + other.depth)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.nfe * times, self.reward_calls * times, self.depth * times)

    def shared(self, samples: float) -> Cost:
        """What it is for each of several samples that it is spent for once; the depth is the same."""
        return Cost(self.nfe / samples, self.reward_calls / samples, self.depth)

    def wide(self, copies: int) -> Cost:
        """That of several copies side by side: the depth is that of one."""
        return Cost(self.nfe * copies, self.reward_calls * copies, self.depth)


@dataclass(frozen=True)
class Budget:
    """What a sample may cost at the most: `nfe`, `reward_calls`, `depth`, and `total` = NFE + `price` x reward calls,
    where a reward call costs `price` NFE. Unlimited where nothing is said.

    Raises `TypeError` for what is no number, and `ValueError` for bounds that are not positive (reward calls may be 0),
    or where nothing is bounded."""

    nfe: float = inf
    reward_calls: float = inf
    total: float = inf
    price: float = 1.0
    depth: float = inf

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"the budget's {name} is {value!r}: give a number")
        if not (self.nfe > 0 and self.reward_calls >= 0 and self.total > 0 and self.depth > 0 and self.price >= 0):
            raise ValueError(f"a budget needs a positive NFE, total and depth, the rest not negative, got {self!r}")
        if min(self.nfe, self.reward_calls, self.total, self.depth) == inf:
            raise ValueError("a budget without limits fits no method: bound the NFE or the reward calls")

    def __str__(self) -> str:
        bounds = {"NFE": self.nfe, "reward calls": self.reward_calls, "calls in total": self.total}
        parts = [f"{value:,.10g} {name}" for name, value in bounds.items() if value < inf]
        return " + ".join(parts + ([f"a depth of {self.depth:g}"] if self.depth < inf else []))

    def allows(self, cost: Cost) -> bool:
        """Whether a cost is within every bound."""
        return (
            cost.nfe <= self.nfe
            and cost.reward_calls <= self.reward_calls
            and cost.nfe + self.price * cost.reward_calls <= self.total
            and cost.depth <= self.depth
        )

    def less(self, spent: Cost) -> Budget:
        """What is left after `spent`. Raises `ValueError` where no NFE is."""
        together = spent.nfe + self.price * spent.reward_calls
        takes = {"nfe": spent.nfe, "total": together, "depth": spent.depth}
        for name, taken in takes.items():
            if taken >= (given := getattr(self, name)):
                told = f"{name} {given:g}, of which {taken:g} are spent before a method begins"
                raise ValueError(f"a budget needs a positive NFE, total and depth, got {told}: raise it")
        calls = max(0.0, self.reward_calls - spent.reward_calls)
        return replace(self, reward_calls=calls, **{name: getattr(self, name) - one for name, one in takes.items()})

    def per(self, passes: int, turns: int = 1) -> Budget:
        """The same budget for a denoiser whose sequences take `passes` NFE each (`guidance.ClassifierFreeGuidance`), a
        share of it for each of several `turns` (`iterref.turns`)."""
        if turns > 1:
            return replace(self.times(1 / turns), depth=self.depth / turns).per(passes)
        if passes == 1:
            return self
        return replace(self, nfe=self.nfe / passes, total=self.total / passes, price=self.price / passes)

    def times(self, share: float) -> Budget:
        """A part, or a multiple, of every bound on calls."""
        return replace(self, nfe=self.nfe * share, reward_calls=self.reward_calls * share, total=self.total * share)


# How a budget may be written: a number of NFE, (NFE, reward calls), or a `Budget`.
BudgetLike = Budget | float | tuple[float, float]


@dataclass
class Meter:
    """Counts the calls of one run over its whole batch.

    `asked` are the calls that the method asked for, `made` those that were really computed: fewer where an identical
    question had been answered before, or a sequence had no open position. `passes` is how many NFE one sequence takes
    (two under classifier-free guidance)."""

    asked_nfe: int = 0
    asked_reward_calls: int = 0
    made_nfe: int = 0
    made_reward_calls: int = 0
    depth: int = 0
    passes: int = 1
    seconds: dict[str, float] = field(default_factory=lambda: {"denoiser": 0.0, "reward": 0.0})

    def asked(self, batch: int) -> Cost:
        """Calls asked for a sample, in a batch of `batch` samples."""
        return Cost(self.asked_nfe * self.passes / batch, self.asked_reward_calls / batch, self.depth)

    def declare(self, cost: Cost, batch: int) -> None:
        """Counts as asked for what a method declares, where samples take different amounts of it, so that a sample's
        cost does not depend on the others."""
        self.asked_nfe, self.asked_reward_calls = round(cost.nfe * batch), round(cost.reward_calls * batch)
        self.depth = int(cost.depth)

    def made(self, batch: int) -> Cost:
        """Calls computed for a sample, in a batch of `batch` samples."""
        return Cost(self.made_nfe * self.passes / batch, self.made_reward_calls / batch, self.depth)


class Fits(Protocol):
    """What `fit_budget` needs of a method: its name, its cost, and how it spends a given budget."""

    @property
    def name(self) -> str: ...

    def cost(self) -> Cost: ...

    def spend(self, budget: Budget) -> Fits: ...


S = TypeVar("S", bound=Fits)


def budget_of(value: BudgetLike) -> Budget:
    """A budget a sample: a `Budget`, a number of NFE, or (NFE, reward calls). Raises as `Budget` does."""
    if isinstance(value, Budget):
        return value
    if isinstance(value, tuple | list):
        return Budget(*value)
    return Budget(nfe=value)


def most(fits: Callable[[int], bool], least: int, limit: float = FAR) -> int:
    """The largest whole number from `least` to `limit` that fits, where less fits if more does.

    `least` is not asked: it is the answer where nothing larger fits. The search doubles its steps first, so that it
    never tries a number more than twice as large as the answer."""
    low, step, end = least, 1, int(limit)
    while low + step <= end and fits(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, end + 1)  # the first number known, or bound, not to fit
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fit_budget(sampler: S, budget: BudgetLike) -> S:
    """The same method with the options that spend `budget` (calls a sample) as fully as it can.

    Methods then compete at equal cost. Raises `ValueError` where not even one run fits, saying what one costs."""
    limit = budget_of(budget)
    spent = sampler.spend(limit)
    cost = spent.cost()
    if not limit.allows(cost):
        deep = f" at a depth of {cost.depth:g}" if cost.depth > limit.depth else ""
        least = f"{cost.nfe:g} NFE + {cost.reward_calls:g} reward calls{deep}"
        told = f"the budget of {limit} is too small for one run of {sampler.name}, which takes at least {least}"
        raise ValueError(f"{told}: raise the budget or lower the method's steps")
    return cast(S, spent)


def fitted(method: S, budget: BudgetLike | None, pool: Cost, passes: int = 1, turns: int = 1) -> S:
    """The method with the options that spend what a pool of drafts leaves of the budget, a sample.

    A sequence of the method takes `passes` NFE (the pool's are counted as what they took), and it runs in `turns`.

    Raises `ValueError` where the pool leaves no room for one run."""
    if budget is None:
        return method
    limit = budget_of(budget)
    if not pool.nfe:
        return fit_budget(method, limit.per(passes, turns))
    try:
        left = limit.less(pool)
    except ValueError:
        drafts = f"the {pool.nfe:g} NFE of the drafts that the reward compares texts with"
        how = "raise it, draw fewer (consensus:n=8,steps=4), or name another reward"
        raise ValueError(f"the budget of {limit} leaves no room after {drafts}: {how}") from None
    try:
        return fit_budget(method, left.per(passes, turns))
    except ValueError as error:
        raise ValueError(f"after the {pool.nfe:g} NFE of the drafts, {error}") from None
