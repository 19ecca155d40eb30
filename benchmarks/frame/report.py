"""Tables: what the runs of a task come to, as markdown, CSV and pictures.

    report.md      case by case: the reward and the held-out measure by budget, who is ahead, at what cost
    summary.csv    one line a method and cell, every measure with half its 95 % interval
    CASE-ACCOUNT.png    reward and held-out measure against budget
"""

from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from datetime import date
from math import isfinite
from pathlib import Path

import torch

from benchmarks.frame.budgets import REWARD_ROWS
from benchmarks.frame.ledger import Row
from benchmarks.frame.paired import Cell, Duel, Entry, duels, entries, needed, rivals
from benchmarks.frame.plan import Plan, Task
from benchmarks.frame.summary import Mean

NAMED = {"denoiser": f"denoiser rows (up to {REWARD_ROWS} reward rows each)", "total": "rows of both kinds together"}
MIDDLE = (2, 16)  # budgets for which claims are made
FIGURES = ("acceptance", "denoiser_rows", "reward_rows", "seconds")


def write(plan: Plan, rows: Sequence[Row]) -> list[Path]:
    """Writes everything beside the runs and returns the paths, the report first."""
    task, out = plan.task, plan.out
    found = entries(rows, plan.runs.samples.rows() if plan.runs.samples else [], list(task.measures))
    paths = [out / "report.md", out / "summary.csv"]
    out.mkdir(parents=True, exist_ok=True)
    told = [*_header(plan, rows), *report(task, found), *refused(rows)]
    paths[0].write_text("\n".join(told) + "\n", encoding="utf-8")
    with open(paths[1], "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = list(dict.fromkeys(name for one in found for name in one.means))
        halves = [f"{name}{half}" for name in names for half in ("", "_half")]
        writer.writerow(["case", "account", "budget", "method", "fitted", *halves])
        for one in found:
            means = [one.means.get(name) for name in names]
            numbers = [f"{value:.6g}" if mean else "" for mean in means for value in mean or (0.0, 0.0)]
            writer.writerow([*one.cell, one.method, one.fitted, *numbers])
    return paths + pictures(task, found, out)


def brief(task: Task, rows: Sequence[Row], samples: Sequence[Row]) -> str:
    """Who is ahead of whom, for a terminal."""
    found = entries(rows, samples, list(task.measures))
    lines = []
    for case in dict.fromkeys(one.cell.case for one in found):
        lines += ["", f"{task.name}, {case}: {task.ours(case)}", *summed(task, case, found)]
    return "\n".join(lines).lstrip("\n")


def report(task: Task, found: Sequence[Entry]) -> list[str]:
    """All cases."""
    lines: list[str] = []
    for case in dict.fromkeys(one.cell.case for one in found):
        here = [one for one in found if one.cell.case == case]
        lines += [f"## {case}", "", f"Ours: `{task.ours(case)}`.", "", *summed(task, case, here), ""]
        for account in [name for name in NAMED if any(one.cell.account == name for one in here)]:
            group = [one for one in here if one.cell.account == account]
            lines += [f"### {case}, at equal {NAMED[account]}", ""]
            for measure in dict.fromkeys(("reward", task.main)):
                lines += [f"Mean {measure.replace('_', ' ')}, 95 % intervals:", "", *by_budget(group, measure), ""]
                lines += [f"Ours ahead in {measure} by, row by row:", "", *differences(task, case, group, measure), ""]
            lines += ["All measures at the largest budget:", "", *all_measures(task, group), ""]
        lines += moves(task, here)
    return lines


def summed(task: Task, case: str, found: Sequence[Entry]) -> list[str]:
    """Against every family: in how many cells ours is ahead, and at which budget it reaches what they reach at most."""
    ours, lines = task.ours(case), []
    found = [one for one in found if one.cell.case == case]
    for measure in dict.fromkeys(("reward", task.main)):
        direction = task.measures[measure]
        all_duels = duels(found, ours, measure, direction)
        for account in [name for name in NAMED if any(duel.cell.account == name for duel in all_duels)]:
            here = [duel for duel in all_duels if duel.cell.account == account]
            for against in dict.fromkeys(duel.against for duel in here):
                group = [duel for duel in here if duel.against == against]
                own = [duel for duel in group if duel.ahead is not None]
                middle = [duel for duel in own if MIDDLE[0] <= duel.cell.budget <= MIDDLE[1]]
                lines.append(
                    f"| {measure} | {account} | `{against}` | {_share(own, False)} | {_share(middle, True)} "
                    f"| {_share(own, True, behind=True)} | {_reached(task, found, ours, group, measure)} |"
                )
    head = "| measure | at equal | against | ahead | clearly at 2x to 16x | clearly behind | theirs at most, ours at |"
    return [head, "|---" * 7 + "|", *lines]


def by_budget(group: Sequence[Entry], measure: str) -> list[str]:
    """A line a method, a column a budget."""
    budgets = sorted({one.cell.budget for one in group})
    lines = [f"| method | {' | '.join(f'{budget}x' for budget in budgets)} |", "|---" * (len(budgets) + 1) + "|"]
    for method in dict.fromkeys(one.method for one in group):
        means = {one.cell.budget: one.means[measure] for one in group if one.method == method and measure in one.means}
        shown = [_shown(means[budget]) if budget in means else "" for budget in budgets]
        lines.append(f"| `{method}` | {' | '.join(shown)} |")
    return lines


def differences(task: Task, case: str, group: Sequence[Entry], measure: str) -> list[str]:
    """A line a family, a column a budget: ours against the variant with the best reward."""
    found = duels(group, task.ours(case), measure, task.measures[measure])
    budgets = sorted({duel.cell.budget for duel in found})
    lines = [f"| against | {' | '.join(f'{budget}x' for budget in budgets)} |", "|---" * (len(budgets) + 1) + "|"]
    for against in sorted({duel.against for duel in found}):
        told = {duel.cell.budget: duel.ahead for duel in found if duel.against == against and duel.ahead is not None}
        shown = [_marked(told[budget]) if budget in told else "" for budget in budgets]
        lines.append(f"| `{against}` | {' | '.join(shown)} |")
    return lines


def all_measures(task: Task, group: Sequence[Entry]) -> list[str]:
    """Every figure of the methods at the largest budget."""
    names = [name for name in (*task.measures, *FIGURES) if any(name in one.means for one in group)]
    lines = [f"| method | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * (len(names) + 1) + "|"]
    most = max(one.cell.budget for one in group)
    for one in group:
        if one.cell.budget == most:
            shown = [_shown(one.means[name]) if name in one.means else "" for name in names]
            lines.append(f"| `{one.fitted}` | {' | '.join(shown)} |")
    return lines


def moves(task: Task, found: Sequence[Entry]) -> list[str]:
    """What more refinement moves bring: the share of the gain of most moves, in the reward and the held-out measure."""
    group = sorted((one for one in found if one.cell.account == "moves"), key=lambda one: one.cell.budget)
    if not group:
        return []
    budgets = " | ".join(str(one.cell.budget) for one in group)
    lines = ["### Refinement moves at every grid time", "", f"| moves | {budgets} |", "|---" * (len(group) + 1) + "|"]
    for measure in dict.fromkeys(("reward", task.main)):
        values = [one.means[measure] for one in group]
        lines.append(f"| {measure} | {' | '.join(map(_shown, values))} |")
        gain = values[-1].value - values[0].value
        if gain:
            shares = [f"{(value.value - values[0].value) / gain:.0%}" for value in values]
            lines.append(f"| share of the gain | {' | '.join(shares)} |")
    return [*lines, ""]


def refused(rows: Sequence[Row]) -> list[str]:
    """The methods that are missing from some cells, and why."""
    small: set[str] = set()
    other: set[str] = set()
    for row in rows:
        if row["note"] is not None:
            too_small = "too small" in str(row["note"])
            (small if too_small else other).add(f"`{row['method']}` ({row['case']})")
    lines = [f"Left out where the budget is too small for one run: {', '.join(sorted(small))}.", ""] if small else []
    return lines + [f"Refused: {', '.join(sorted(other))}; the column `note` of runs.csv says why."] * bool(other)


def pictures(task: Task, found: Sequence[Entry], out: Path) -> list[Path]:
    """Reward and held-out measure against budget, one picture a case and account: ours and the best of every family."""
    from iterref.plots import Panel, Point, panels

    paths = []
    for case, account in dict.fromkeys((one.cell.case, one.cell.account) for one in found if one.cell.account in NAMED):
        parts = []
        for measure in dict.fromkeys(("reward", task.main)):
            series: dict[str, list[Point]] = {"iterref": []}
            for budget in sorted({one.cell.budget for one in found}):
                cell = Cell(case, account, budget)
                group = [one for one in found if one.cell == cell and measure in one.means]
                own = [("iterref", one) for one in group if one.method == task.ours(case)]
                for label, one in [*own, *rivals(group, task.ours(case)).items()]:
                    series.setdefault(label, []).append(Point(budget, *one.means[measure]))
            drawn = {label: points for label, points in series.items() if points}
            parts.append(Panel(drawn, measure.replace("_", " ")))
        parts[0] = parts[0]._replace(title=f"{task.name}, {case}, at equal {NAMED[account]}")
        paths.append(panels(parts, out / f"{case}-{account}.png", "budget, in plain runs"))
    return paths


def _header(plan: Plan, rows: Sequence[Row]) -> list[str]:
    task = plan.task
    ways = ", ".join(f"{name} ({way})" if way != "neither" else name for name, way in task.measures.items())
    return [
        f"# {task.name}", "",
        f"`iterref bench {task.name}`, {date.today()}, {platform.machine()} CPU, torch {torch.__version__}: "
        f"{len(rows)} runs of {plan.rows} rows, seeds 0 to {max(int(row['seed'] or 0) for row in rows)}. Measures: "
        f"{ways}; claims are about {task.main}. Intervals are 95 %, of differences row by row. Of any other method "
        "that variant counts which has the best reward in the cell; of `iterref` one method, named below. Methods of a "
        "line differ by budget: `fitted` in summary.csv has their options.", "",
    ]  # fmt: skip


def _share(group: Sequence[Duel], clearly: bool, behind: bool = False) -> str:
    sign = -1 if behind else 1
    hits = [duel for duel in group if duel.ahead and sign * duel.ahead.value > 0 and (duel.ahead.clear or not clearly)]
    return f"{len(hits)} of {len(group)}"


def _reached(task: Task, found: Sequence[Entry], ours: str, group: Sequence[Duel], measure: str) -> str:
    """The budget at which ours reaches what the rival reaches at its largest."""
    last = max(group, key=lambda duel: duel.cell.budget)
    if measure not in last.theirs.means:
        return ""
    level, higher = last.theirs.means[measure].value, task.measures[measure] != "lower"
    budget = needed(found, ours, last.cell.account, measure, level, higher)
    return "not reached" if budget is None else f"{budget:.2g}x (theirs {last.cell.budget}x)"


def _marked(mean: Mean) -> str:
    mark = "**" if mean.clear else ""
    return f"{mark}{mean.value:+.3g}{mark} ± {mean.half:.2g}"


def _shown(mean: Mean) -> str:
    return f"{mean.value:.4g} ± {mean.half:.2g}" if isfinite(mean.half) and mean.half > 0 else f"{mean.value:.4g}"
