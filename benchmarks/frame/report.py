"""Reports: what the runs of a task come to, as markdown, CSV and pictures.

    report.md      over all cases: who is ahead, the settings that ours loses, moves a grid time; then case by case
    summary.csv    one line a method and cell, every measure with half its 95 % interval
    CASE-ACCOUNT.png    the first two claims against budget
"""

from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from datetime import date
from math import inf, isfinite
from pathlib import Path

import torch

from benchmarks.frame.budgets import REWARD_CALLS
from benchmarks.frame.ledger import Row
from benchmarks.frame.paired import (
    FIGURES,
    OURS,
    Cell,
    Duel,
    Entry,
    ahead,
    duels,
    entries,
    figures,
    gains,
    needed,
    rivals,
)
from benchmarks.frame.plan import Plan
from benchmarks.frame.task import Task
from iterref.paired import Mean

NAMED = {"nfe": f"NFE (up to {REWARD_CALLS} reward calls each)", "total": "NFE + reward calls"}
MIDDLE = (2, 16)  # budgets for which claims are made


def write(plan: Plan, rows: Sequence[Row], facts: Sequence[Row] = (), pictured: bool = True) -> list[Path]:
    """Writes everything beside the runs and returns the paths, the report first."""
    task, out = plan.task, plan.out
    found = entries(task, rows, plan.runs.scores(), facts)
    paths = [out / "report.md", out / "summary.csv"]
    out.mkdir(parents=True, exist_ok=True)
    told = [*_header(plan, rows), *report(task, found, facts), *refused(rows)]
    paths[0].write_text("\n".join(told) + "\n", encoding="utf-8")
    with open(paths[1], "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = list(dict.fromkeys(name for one in found for name in one.means))
        halves = [f"{name}{half}" for name in names for half in ("", "_half")]
        writer.writerow(["case", "account", "budget", "method", "fitted", *halves])
        for one in found:
            means = [one.means.get(name) for name in names]
            numbers = [value for mean in means for value in mean or (inf, inf)]
            told = [f"{value:.6g}" if isfinite(value) else "" for value in numbers]
            writer.writerow([*one.cell, one.method, one.fitted, *told])
    return paths + (pictures(task, found, facts, out) if pictured else [])


def brief(task: Task, found: Sequence[Entry]) -> str:
    """Who is ahead of whom, for a terminal."""
    return "\n".join([f"{task.name}, over {len(_cases(found))} cases", *dominance(task, found)])


def report(task: Task, found: Sequence[Entry], facts: Sequence[Row]) -> list[str]:
    """Everything that compares: over all cases, then case by case."""
    lines = ["## Over all cases", "", *dominance(task, found), "", "## Cells that it loses", "", *lost(task, found), ""]
    lines += moves(task, found)
    known = {str(fact["case"]): figures(fact) for fact in facts}
    for case in _cases(found):
        here = [one for one in found if one.cell.case == case]
        lines += [f"## {case}", "", f"Ours: `{task.ours(case)}`.", ""]
        if case in known:
            told = (f"{name.replace('_', ' ')} {value:.3f}" for name, value in known[case].items() if name != "rows")
            lines += [f"Of {known[case]['rows']:g} rows: {', '.join(told)}.", ""]
        lines += [*summed(task, here), ""]
        for account in _accounts(here):
            group = [one for one in here if one.cell.account == account]
            lines += [f"### {case}, at equal {NAMED[account]}", ""]
            for measure in [one for one in task.claims if any(one in entry.means for entry in group)]:
                lines += [f"Mean {measure.replace('_', ' ')}, 95 % intervals:", "", *by_budget(group, measure), ""]
                if not task.exact and (apart := differences(task, group, measure)):
                    lines += [f"Ours ahead in {measure}, paired by prompt:", "", *apart, ""]
            lines += ["All measures at the largest budget:", "", *all_measures(task, group), ""]
    return lines


def dominance(task: Task, found: Sequence[Entry]) -> list[str]:
    """Against every family: in how many settings (case, budget) ours is ahead, and significantly so, or behind."""
    head = ["measure", "at equal", "against", "settings", "ahead", "significantly", "level", "significantly behind"]
    lines = [f"| {' | '.join(head)} | too small for ours |", "|---" * 9 + "|"]
    for measure in task.claims:
        everything = duels(task, found, measure)
        for account, against in sorted({(duel.cell.account, duel.against) for duel in everything}):
            group = [duel for duel in everything if (duel.cell.account, duel.against) == (account, against)]
            own = [duel.ahead for duel in group if duel.ahead is not None]
            hits, won, behind = (_count(own, *asked) for asked in ((1, False), (1, True), (-1, True)))
            small = sum(duel.ours is None for duel in group)
            told = (len(group), f"{hits / len(group):.0%}", won, len(own) - won - behind, behind, small)
            lines.append(f"| {measure} | {account} | `{against}` | {' | '.join(map(str, told))} |")
    return lines


def lost(task: Task, found: Sequence[Entry]) -> list[str]:
    """The cells in which another family has more reward, significant ones first, in bold, and what tells them apart."""
    behind = [duel for duel in duels(task, found, "reward") if duel.ahead is not None and duel.ahead.value < 0]
    if not behind:
        return ["None."]
    lines = ["| at equal | case | budget | ahead of ours | its reward | ours | why |", "|---" * 7 + "|"]
    for duel in sorted(behind, key=lambda duel: (not (duel.ahead and duel.ahead.significant), *duel.cell)):
        assert duel.ours is not None and duel.ahead is not None
        mark = "**" if duel.ahead.significant else ""
        theirs, ours = (_shown(one.means["reward"]) for one in (duel.theirs, duel.ours))
        case, account, budget = duel.cell
        lines.append(
            f"| {account} | {case} | {budget}x | {mark}`{duel.theirs.fitted}`{mark} | {theirs} "
            f"| {ours}, `{duel.ours.fitted}` | {why(task, duel)} |"
        )
    return lines


def why(task: Task, duel: Duel) -> str:
    """What the figures of a lost cell say about it."""
    assert duel.ours is not None and duel.ahead is not None
    ours, theirs, said = duel.ours, duel.theirs, []
    if not duel.ahead.significant:
        said.append("within the interval")
    if theirs.means["reward"].low > theirs.most:
        said.append(f"it tilts too much: above the exact mean of {theirs.most:.2f}")
    if theirs.means["reward_calls"].value * 2 < ours.means["reward_calls"].value and duel.cell.account == "total":
        nfe = [f"{one.means['nfe'].value:g}" for one in (ours, theirs)]
        said.append(f"ours spends its budget on rewards: {nfe[0]} NFE against {nfe[1]}")
    for measure in task.claims[1:]:
        better = ahead(task, ours, theirs, measure) if measure in ours.means and measure in theirs.means else None
        if better and better.low > 0:
            values = [f"{one.means[measure].value:.3g}" for one in (theirs, ours)]
            said.append(f"it is worse in {measure.replace('_', ' ')}: {values[0]} against {values[1]}")
    accepted = ours.means.get("acceptance")
    if accepted is not None and accepted.value < 0.1:
        said.append(f"{accepted.value:.0%} of our moves are accepted")
    return "; ".join(said) or "it gets more out of the same budget"


def moves(task: Task, found: Sequence[Entry]) -> list[str]:
    """The share of the gain of the most moves a grid time that fewer bring, in the first two claims."""
    lines: list[str] = []
    for measure in task.claims[:2]:
        shares = gains(found, measure)
        steps = sorted({step for by_moves in shares.values() for step in by_moves})
        if not shares:
            continue
        lines += [f"## Moves at every grid time: {measure.replace('_', ' ')}", ""]
        lines += [f"Share of what {steps[-1]} moves at each grid time gain over none.", ""]
        lines += [f"| case | method | {' | '.join(map(str, steps))} |", "|---" * (len(steps) + 2) + "|"]
        for (case, kind), by_moves in shares.items():
            told = [f"{by_moves[m].value:.0%}" if m in by_moves else "" for m in steps]
            lines.append(f"| {case} | `{kind}` | {' | '.join(told)} |")
        for kind in dict.fromkeys(kind for _, kind in shares):
            group = [by_moves for (_, other), by_moves in shares.items() if other == kind]
            columns = [[by_moves[m].value for by_moves in group if m in by_moves] for m in steps]
            means = [f"**{sum(values) / len(values):.0%}**" if values else "" for values in columns]
            lines.append(f"| **mean** | `{kind}` | {' | '.join(means)} |")
        lines.append("")
    return lines


def summed(task: Task, found: Sequence[Entry]) -> list[str]:
    """Of one case, against every family: where ours is ahead, and at which budget it reaches what they have at most."""
    head = ["measure", "at equal", "against", "ahead", "significantly at 2x to 16x", "significantly behind"]
    head.append("budget to match their most")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for measure in task.claims:
        everything = duels(task, found, measure)
        for account, against in sorted({(duel.cell.account, duel.against) for duel in everything}):
            group = [duel for duel in everything if (duel.cell.account, duel.against) == (account, against)]
            own = [duel.ahead for duel in group if duel.ahead is not None]
            low, high = MIDDLE
            middle = [duel.ahead for duel in group if duel.ahead is not None and low <= duel.cell.budget <= high]
            told = [f"{_count(own, 1, False)} of {len(own)}", f"{_count(middle, 1, True)} of {len(middle)}"]
            told += [f"{_count(own, -1, True)} of {len(own)}", _reached(task, found, group, measure)]
            lines.append(f"| {measure} | {account} | `{against}` | {' | '.join(told)} |")
    return lines


def by_budget(group: Sequence[Entry], measure: str) -> list[str]:
    """A line a method, a column a budget."""
    budgets = sorted({one.cell.budget for one in group})
    lines = [f"| method | {' | '.join(f'{budget}x' for budget in budgets)} |", "|---" * (len(budgets) + 1) + "|"]
    for method in dict.fromkeys(one.method for one in group):
        means = {one.cell.budget: one.means[measure] for one in group if one.method == method and measure in one.means}
        shown = [_shown(means[budget]) if budget in means else "" for budget in budgets]
        lines.append(f"| `{method}` | {' | '.join(shown)} |")
    return lines


def differences(task: Task, group: Sequence[Entry], measure: str) -> list[str]:
    """A line a family, a column a budget: ours against the variant with the best reward; nothing without a rival."""
    found = duels(task, group, measure)
    if not found:
        return []
    budgets = sorted({duel.cell.budget for duel in found})
    lines = [f"| against | {' | '.join(f'{budget}x' for budget in budgets)} |", "|---" * (len(budgets) + 1) + "|"]
    for against in sorted({duel.against for duel in found}):
        told = {duel.cell.budget: duel.ahead for duel in found if duel.against == against and duel.ahead is not None}
        shown = [marked(told[budget]) if budget in told else "" for budget in budgets]
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


def pictures(task: Task, found: Sequence[Entry], facts: Sequence[Row], out: Path) -> list[Path]:
    """The first two claims against budget, one picture a case and account: ours and the best of every family."""
    from PIL import Image

    from iterref.report.plots import Panel, Point, panels

    paths = []
    across = {fact["case"]: task.levels(figures(fact)) for fact in facts}
    for case, account in dict.fromkeys((one.cell.case, one.cell.account) for one in found if one.cell.account in NAMED):
        parts, ours = [], task.ours(case)
        label = ours.partition(":")[0]
        for measure in task.claims[:2]:
            series: dict[str, list[Point]] = {label: []}
            for budget in sorted({one.cell.budget for one in found}):
                group = [one for one in found if one.cell == Cell(case, account, budget) and measure in one.means]
                shown = [one for one in group if one.name not in OURS or one.method in ("iterref", *task.pictured)]
                own = [(label, one) for one in group if one.method == ours]
                for name, one in [*own, *rivals(task, shown, ours, measure).items()]:
                    series.setdefault(name, []).append(Point(budget, *one.means[measure]))
            drawn = {name: points for name, points in series.items() if points}
            parts.append(Panel(drawn, measure.replace("_", " "), across.get(case, {}).get(measure, {})))
        parts[0] = parts[0]._replace(title=f"{task.name}, {case}, at equal {NAMED[account]}")
        paths.append(panels(parts, out / f"{case}-{account}.png", "budget, in plain runs"))
        Image.open(paths[-1]).convert("RGB").quantize(128).save(paths[-1], optimize=True)
    return paths


def marked(mean: Mean, digits: int = 3) -> str:
    """A difference with half its interval, bold where that excludes 0."""
    mark = "**" if mean.significant else ""
    return f"{mark}{mean.value:+.{digits}g}{mark} ± {mean.half:.2g}"


def _header(plan: Plan, rows: Sequence[Row]) -> list[str]:
    task = plan.task
    known = {name: way for name, way in task.measures.items() if any(row[name] is not None for row in rows)}
    ways = ", ".join(f"{name} ({way})" if way != "neither" else name for name, way in known.items())
    against = "best in the measure itself" if task.exact else "with the best reward in the cell"
    return [
        f"# {task.name}", "",
        f"`python -m benchmarks {task.name}`, {date.today()}, {platform.machine()} CPU, torch {torch.__version__}: "
        f"{len(rows)} runs of {plan.rows} rows, seeds 0 to {max(int(row['seed'] or 0) for row in rows)}. Measures: "
        f"{ways}; claims are about {', '.join(one for one in task.claims if one in known)}. Intervals are 95 %. Every "
        f"other method is reported by its variant that is {against}, ours by one method, named below. Options differ "
        "by budget: `fitted` in summary.csv has them.", "",
    ]  # fmt: skip


def _cases(found: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(one.cell.case for one in found))


def _accounts(found: Sequence[Entry]) -> list[str]:
    return [name for name in NAMED if any(one.cell.account == name for one in found)]


def _count(gaps: Sequence[Mean], sign: int, significant: bool) -> int:
    return sum(sign * gap.value > 0 and (gap.significant or not significant) for gap in gaps)


def _reached(task: Task, found: Sequence[Entry], group: Sequence[Duel], measure: str) -> str:
    """The budget at which ours reaches what the rival reaches at its largest."""
    last = max(group, key=lambda duel: duel.cell.budget)
    if measure not in last.theirs.means:
        return ""
    level, higher = last.theirs.means[measure].value, task.measures[measure] != "lower"
    budget = needed(found, task.ours(last.cell.case), last.cell.account, measure, level, higher)
    return "not reached" if budget is None else f"{budget:.2g}x (theirs {last.cell.budget}x)"


def _shown(mean: Mean) -> str:
    return f"{mean.value:.4g} ± {mean.half:.2g}" if isfinite(mean.half) and mean.half > 0 else f"{mean.value:.4g}"
