"""Paired: the runs of a task brought together over seeds, and methods compared.

    value of a row   mean over seeds
    mean             of rows: +- 1.96 s / sqrt(rows x seeds), s within a seed; of what a run has once (seconds, a
                     distance of the set): +- t_{0.975, seeds - 1} times its standard error, none for a single seed
    a difference     of two methods: 1.96 s / sqrt(rows) of the rows' differences, since rows name the same prompts;
                     where the target is exact and rows are independent, the square root of the sum of both squares
    ahead            the difference is on the better side, significantly so where its interval excludes 0

A method competes with all variants of another together: with the one that has the best reward in the cell. What is
claimed of a held-out measure is claimed against that same variant, as if a user had chosen it by the reward, since the
held-out one is not known to who chooses. Where the target distribution is exact it is the best in the measure itself,
and rewards count up to the exact mean: beyond it a sampler tilts too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log2, sqrt
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from benchmarks.frame.ledger import Row, number
from benchmarks.frame.task import Task
from iterref.paired import Mean

OURS = ("iterref", "mtm", "published", "trajectory")  # methods of which every variant competes on its own
FIGURES = ("nfe", "reward_calls", "depth", "acceptance", "seconds")


class Cell(NamedTuple):
    """What is compared with what: methods in one of these."""

    case: str
    account: str
    budget: int


@dataclass(frozen=True)
class Entry:
    """A method in a cell, over all seeds: what it was `fitted` to, the mean of every figure with half an interval, the
    rows' own `scores` of some, and the mean reward beyond which more is no better."""

    cell: Cell
    method: str
    fitted: str
    means: dict[str, Mean]
    scores: dict[str, np.ndarray]
    most: float = inf

    @property
    def name(self) -> str:
        """The method without its options."""
        return self.method.removeprefix("drafts+").partition("@")[0].partition(":")[0]

    @property
    def family(self) -> str:
        """Under what name it competes: a variant of ours on its own, those of any other method together."""
        return self.method if self.name in OURS else self.name

    def mean(self, measure: str) -> Mean:
        """A mean, of rewards up to the most that counts."""
        found = self.means[measure]
        return Mean(min(found.value, self.most), found.half) if measure == "reward" else found


def entries(task: Task, runs: Sequence[Row], samples: Sequence[Row], facts: Sequence[Row] = ()) -> list[Entry]:
    """The runs that were made, seeds brought together, in the order in which they first appear."""
    scores: dict[tuple[object, ...], dict[str, np.ndarray]] = {}
    for row in samples:
        values = np.array([float(text) for text in str(row["values"]).split()])
        scores.setdefault(_identity(row), {})[str(row["measure"])] = values
    most = {fact["case"]: task.most(figures(fact)) for fact in facts}
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in runs:
        if row["note"] is None:
            groups.setdefault(_identity(row)[:-1], []).append(row)
    return [
        _entry(group, [scores.get(_identity(row), {}) for row in group], task.measures, most.get(group[0]["case"], inf))
        for group in groups.values()
    ]


def figures(row: Row) -> dict[str, float]:
    """The numbers of a line."""
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}


def _identity(row: Row) -> tuple[object, ...]:
    return (row["case"], row["account"], row["budget"], row["method"], row["seed"])


def _entry(
    group: Sequence[Row], scores: Sequence[Mapping[str, np.ndarray]], measures: Iterable[str], most: float
) -> Entry:
    first, means = group[0], {}
    for name in (*FIGURES, *measures):
        values = [value for row in group if (value := number(row, name)) is not None]
        if len(values) == len(group):
            means[name] = over_seeds(values, [number(row, f"{name}_sd") for row in group], int(first["rows"] or 1))
    own = {name: np.mean([one[name] for one in scores], axis=0) for name in scores[0]}
    cell = Cell(str(first["case"]), str(first["account"]), int(first["budget"] or 0))
    return Entry(cell, str(first["method"]), str(first["fitted"]), means, own, most)


def over_seeds(values: Sequence[float], spreads: Sequence[float | None], rows: int) -> Mean:
    """The mean of a figure over seeds, from its standard deviations over rows where there are any."""
    known = [spread for spread in spreads if spread is not None]
    if len(known) == len(values):
        return Mean(mean(values), 1.96 * sqrt(mean(spread**2 for spread in known) / (len(values) * rows)))
    if len(values) < 2:
        return Mean(values[0], inf)
    return Mean(mean(values), float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values)))


def ahead(task: Task, one: Entry, other: Entry, measure: str) -> Mean:
    """By how much `one` is better than `other` in a measure."""
    if measure in one.scores and measure in other.scores:
        rows = one.scores[measure] - other.scores[measure]
        found = Mean(float(rows.mean()), 1.96 * float(rows.std(ddof=1)) / sqrt(len(rows)))
    else:
        found = one.mean(measure) - other.mean(measure)
    return Mean(-found.value, found.half) if task.measures[measure] == "lower" else found


def rivals(task: Task, group: Iterable[Entry], ours: str, measure: str = "reward") -> dict[str, Entry]:
    """The variant of every family that is taken for it, among entries of one cell; not our own method."""
    by = measure if task.exact else "reward"
    way = -1 if task.measures[by] == "lower" else 1
    found: dict[str, Entry] = {}
    for one in group:
        if one.method == ours or by not in one.means:
            continue
        best = found.get(one.family)
        if best is None or way * (one.mean(by).value - best.mean(by).value) > 0:
            found[one.family] = one
    return found


class Duel(NamedTuple):
    """Ours against a rival in one cell, and by how much it is ahead in a measure; both None where the budget is too
    small for ours, `ahead` alone where a measure is missing."""

    cell: Cell
    against: str
    ours: Entry | None
    theirs: Entry
    ahead: Mean | None


def duels(task: Task, found: Sequence[Entry], measure: str) -> list[Duel]:
    """Every cell in which another family could run and has the measure; the same options under another name are no
    rival."""
    made = []
    for cell in dict.fromkeys(one.cell for one in found if one.cell.account != "moves"):
        group, ours = [one for one in found if one.cell == cell], task.ours(cell.case)
        own = next((one for one in group if one.method == ours), None)
        for name, theirs in sorted(rivals(task, group, ours, measure).items()):
            if measure in theirs.means and (own is None or own.fitted != theirs.fitted):
                both = own is not None and measure in own.means
                made.append(Duel(cell, name, own, theirs, ahead(task, own, theirs, measure) if own and both else None))
    return made


def needed(found: Sequence[Entry], method: str, account: str, measure: str, level: float, higher: bool) -> float | None:
    """The least budget at which a method's mean reaches a level, between two budgets on a logarithmic scale; None if it
    never does."""
    sign = 1 if higher else -1
    points = sorted(
        (one.cell.budget, sign * one.means[measure].value)
        for one in found
        if one.method == method and one.cell.account == account and measure in one.means
    )
    before: tuple[int, float] | None = None
    for budget, value in points:
        if value >= sign * level:
            if before is None or value == before[1]:
                return float(budget)
            share = (sign * level - before[1]) / (value - before[1])
            return float(2 ** (log2(before[0]) + share * (log2(budget) - log2(before[0]))))
        before = (budget, value)
    return None


def gains(found: Sequence[Entry], measure: str) -> dict[tuple[str, str], dict[int, Mean]]:
    """Of every case and kind of move: the share of the gain of most moves a grid time that fewer bring.

    The gain of m moves is the mean above that of none; where most moves bring none, it is no number and left out.
    """
    kinds: dict[tuple[str, str], dict[int, Mean]] = {}
    for one in sorted(found, key=lambda one: one.cell.budget):
        if one.cell.account == "moves" and measure in one.means:
            kind = ",".join(part for part in one.method.split(",") if not part.startswith("moves="))
            kinds.setdefault((one.cell.case, kind), {})[one.cell.budget] = one.means[measure]
    shares = {}
    for key, means in kinds.items():
        most = means[max(means)] - means[0] if 0 in means and len(means) > 1 else Mean(0.0)
        if most.significant:
            by_moves = {moves: one - means[0] for moves, one in means.items() if moves}
            shares[key] = {m: Mean(one.value / most.value, abs(one.half / most.value)) for m, one in by_moves.items()}
    return shares
