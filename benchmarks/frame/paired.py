"""Paired: runs of a task over seeds, compared row by row.

    value of a row      mean over seeds
    mean                over rows, +- 1.96 s / sqrt(rows)
    a difference        of two methods: the same of the rows' differences, since rows name the same prompts
    ahead               the difference is on the better side, *clearly* so where its interval leaves zero out

A method competes with all variants of another together: with the one that has the best reward in the cell. What is
claimed of a held-out measure is claimed against that same variant, as if a user had chosen it by the reward, since the
held-out one is not known to who chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt
from typing import NamedTuple

import numpy as np

from benchmarks.frame.ledger import Row, number
from benchmarks.frame.plan import Direction
from benchmarks.frame.summary import Mean


class Cell(NamedTuple):
    """What is compared with what: methods in one of these."""

    case: str
    account: str
    budget: int


@dataclass(frozen=True)
class Entry:
    """A method in a cell, over all seeds: what it was `fitted` to, the mean of every figure with half an interval, and
    the rows' own `scores` of some."""

    cell: Cell
    method: str
    fitted: str
    means: dict[str, Mean]
    scores: dict[str, np.ndarray]

    @property
    def family(self) -> str:
        """Under what name it competes."""
        return self.method.removeprefix("drafts+").partition("@")[0].partition(":")[0]


def entries(runs: Sequence[Row], samples: Sequence[Row], measures: Sequence[str]) -> list[Entry]:
    """The runs that were made, seeds brought together, in the order in which they first appear."""
    scores: dict[tuple[object, ...], dict[str, np.ndarray]] = {}
    for row in samples:
        values = np.array([float(text) for text in str(row["values"]).split()])
        scores.setdefault(_identity(row), {})[str(row["measure"])] = values
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in runs:
        if row["note"] is None:
            groups.setdefault(_identity(row)[:-1], []).append(row)
    return [_entry(group, [scores[_identity(row)] for row in group], measures) for group in groups.values()]


def _identity(row: Row) -> tuple[object, ...]:
    return (row["case"], row["account"], row["budget"], row["method"], row["seed"])


def _entry(group: Sequence[Row], scores: Sequence[dict[str, np.ndarray]], measures: Sequence[str]) -> Entry:
    first = group[0]
    means = {}
    for name in ("denoiser_rows", "reward_rows", "depth", "acceptance", "seconds", *measures):
        values = [value for row in group if (value := number(row, name)) is not None]
        if len(values) == len(group):
            spread = sum(float(row.get(f"{name}_sd") or 0) ** 2 for row in group) / len(group)
            means[name] = Mean(float(np.mean(values)), 1.96 * sqrt(spread / (len(group) * int(first["rows"] or 1))))
    own = {name: np.mean([one[name] for one in scores], axis=0) for name in scores[0]}
    cell = Cell(str(first["case"]), str(first["account"]), int(first["budget"] or 0))
    return Entry(cell, str(first["method"]), str(first["fitted"]), means, own)


def ahead(one: Entry, other: Entry, measure: str, direction: Direction) -> Mean:
    """By how much `one` is better than `other` in a measure of which the rows' scores are known."""
    difference = one.scores[measure] - other.scores[measure]
    if direction == "lower":
        difference = -difference
    return Mean(float(difference.mean()), 1.96 * float(difference.std(ddof=1)) / sqrt(len(difference)))


def rivals(group: Sequence[Entry], ours: str) -> dict[str, Entry]:
    """The variant of every family that has the best reward, among entries of one cell; not our own method."""
    found: dict[str, Entry] = {}
    for one in group:
        name = one.family
        if one.method == ours or name == "iterref":
            continue
        if name not in found or one.means["reward"].value > found[name].means["reward"].value:
            found[name] = one
    return found


class Duel(NamedTuple):
    """Ours against a rival in one cell, and by how much it is ahead in a measure; `ours` None where the budget is too
    small for it."""

    cell: Cell
    against: str
    ours: Entry | None
    theirs: Entry
    ahead: Mean | None


def duels(found: Sequence[Entry], ours: str, measure: str, direction: Direction) -> list[Duel]:
    """Every cell of one case in which another family could run."""
    made = []
    for cell in dict.fromkeys(one.cell for one in found if one.cell.account != "moves"):
        group = [one for one in found if one.cell == cell]
        own = next((one for one in group if one.method == ours), None)
        for name, theirs in sorted(rivals(group, ours).items()):
            known = own is not None and measure in own.scores and measure in theirs.scores
            by = ahead(own, theirs, measure, direction) if own and known else None
            made.append(Duel(cell, name, own, theirs, by))
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
