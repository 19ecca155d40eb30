"""Regret: what is lost by leaving the choice of the method alone, against the best of all fixed methods with hindsight.

    regret    (best fixed method) - ours, of a measure in one setting (case, account, budget), rows paired, 95 %
    level     the interval reaches 0, or the regret is below 3 % of what lies between plain sampling and the best
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from benchmarks.frame.budgets import EQUAL
from benchmarks.frame.paired import Cell, Entry, ahead
from benchmarks.frame.task import Task
from iterref.paired import Mean

SMALL = 0.03
SHORT = {"nfe": "NFE", "total": "NFE + calls"}
COLUMNS = ("task", "case", "account", "budget", "measure", "best_fixed", "regret", "half")


class Regret(NamedTuple):
    """The regret of one setting, the best fixed method, and the span between plain sampling and it."""

    cell: Cell
    measure: str
    best: str
    lost: Mean
    span: float

    @property
    def level(self) -> bool:
        """Whether ours is as good as the best."""
        return self.lost.low <= 0 or self.lost.value <= SMALL * self.span


def regrets(task: Task, found: Sequence[Entry], measures: Iterable[str]) -> list[Regret]:
    """One a setting and measure in which ours ran beside others whose samples are known."""
    made = []
    for cell in dict.fromkeys(one.cell for one in found if one.cell.account != "moves"):
        group = [one for one in found if one.cell == cell]
        ours = next((one for one in group if one.method == task.ours(cell.case)), None)
        others = [one for one in group if one is not ours]
        for measure in measures:
            known = [one for one in others if measure in one.scores]
            if ours is None or measure not in ours.scores or not known:
                continue
            sign = -1 if task.measures[measure] == "lower" else 1
            best = max(known, key=lambda one: sign * float(one.scores[measure].mean()))
            span = sign * float(best.scores[measure].mean() - known[0].scores[measure].mean())
            made.append(Regret(cell, measure, best.method, ahead(task, best, ours, measure), span))
    return made


def table(name: str, found: Sequence[Regret]) -> list[list[str]]:
    """A row a measure, a column an account: in how many settings ours is level or ahead, and what it loses in the mean
    as a share of what lies between plain sampling and the best."""
    lines = []
    for measure in dict.fromkeys(one.measure for one in found):
        cells = []
        for account in EQUAL:
            here = [one for one in found if (one.cell.account, one.measure) == (account, measure)]
            spans = [max(0.0, one.lost.value) / one.span for one in here if one.span > 0]
            share = f" ({100 * sum(spans) / len(spans):.0f}%)" if spans else ""
            cells.append(f"{sum(one.level for one in here)}/{len(here)}{share}" if here else "")
        lines.append([name, measure, *cells])
    return lines


def behind(found: Sequence[Regret]) -> list[str]:
    """The settings in which ours is behind: a line a case and account, a column a measure, the loss at each budget."""
    measures = list(dict.fromkeys(one.measure for one in found))
    lines = [f"| case | equal | {' | '.join(measures)} |", "|---" * (2 + len(measures)) + "|"]
    lost = sorted((one for one in found if not one.level), key=lambda one: one.cell.budget)
    for case, account in product(dict.fromkeys(one.cell.case for one in found), EQUAL):
        here = [one for one in lost if (one.cell.case, one.cell.account) == (case, account)]
        if not here:
            continue
        cells = [
            ", ".join(f"{one.cell.budget}x {one.lost.value:.2g}" for one in here if one.measure == measure)
            for measure in measures
        ]
        lines.append(f"| {case} | {SHORT[account]} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else ["Nowhere."]


def rows(name: str, found: Sequence[Regret]) -> list[list[str]]:
    """The same for a CSV file under `COLUMNS`: a line a setting and measure, with the best fixed method."""
    return [
        [name, *map(str, one.cell), one.measure, one.best, f"{one.lost.value:.3g}", f"{one.lost.half:.2g}"]
        for one in found if not one.level
    ]  # fmt: skip
