"""Results: all tables and pictures of the benchmark tasks from their CSV files, into the documentation.

    python -m benchmarks results benchmarks/results        make results

Every folder of the given one that is named after a task, or after a task and more (`images-realism`), is reported
anew from its CSV files; nothing is run. What stands between `<!-- results: FOLDER -->` and `<!-- end -->` was written
by this: `regret` and `behind` say what `auto` loses against the best fixed method, `overview` has the held-out figures
at equal NFE, and `duels` in how many settings (case, budget) of each task ours is ahead of whom.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.frame import regret, report
from benchmarks.frame.budgets import EQUAL
from benchmarks.frame.ledger import Row
from benchmarks.frame.paired import Entry, ahead, duels, entries, needed, rivals
from benchmarks.frame.plan import Plan
from benchmarks.frame.task import Task, names
from iterref.optional import MissingExtra

HOME = Path(__file__).parents[2]
SHOWN = {"ancestral": "plain sampling", "best_of_n": "best of N", "smc": "SMC", "svdd": "SVDD"}
WORLDS = {"defaults": "world", "world512": "world"}  # folders of runs in worlds that are not named after the task
BUDGET = 8  # plain runs, of the tables in the documentation, or the largest below that was run


def planned(folder: Path) -> Plan | None:
    """The plan whose runs a folder holds, if it holds those of a task."""
    name = WORLDS.get(folder.name, folder.name.partition("-")[0])
    if name not in names() or not (folder / "runs.csv").exists():
        return None
    try:
        rows = {int(row["rows"] or 0) for row in Plan(name, folder).runs.rows()}
    except MissingExtra:  # the task's weights are in a package that is not installed: what is written stays
        return None
    return Plan(name, folder, rows=max(rows))


def reported(plan: Plan) -> list[Row]:
    """The finished runs of a folder; of the worlds', into which options were tried out too, those of the plan in every
    world that was finished."""
    done = {plan.runs.identity(row): row for row in plan.runs.rows()}
    if plan.out.name != "world":
        return list(done.values())
    rows = [done[identity] for identity in map(plan.runs.identity, plan.cells()) if identity in done]
    settings: dict[object, set[object]] = {}
    for row in rows:
        settings.setdefault(row["case"], set()).add((row["account"], row["budget"], row["seed"]))
    return [row for row in rows if settings[row["case"]] == set().union(*settings.values())]


def table(lines: Sequence[str]) -> list[str]:
    """Lines of results under their heads."""
    head = ["case", "equal", "at", "measure", *SHOWN.values(), "`iterref`", "ahead of the nearest", "`iterref` needs"]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]


def headlines(task: Task, found: Sequence[Entry]) -> list[str]:
    """A line a case, account and measure: ours beside the best variant of the usual methods at 8x, or the largest
    budget below that all of them were run at; the rival that comes nearest; and the budget at which ours has what
    best-of-N and SMC have at most."""
    lines = []
    for case, account in dict.fromkeys((one.cell.case, one.cell.account) for one in found):
        here = [one for one in found if one.cell.case == case and one.cell.account == account]
        whole = [
            budget for budget in {one.cell.budget for one in here if one.method == task.ours(case)}
            if budget <= BUDGET and set(SHOWN) <= {one.family for one in here if one.cell.budget == budget}
        ]  # fmt: skip
        if not whole:
            continue
        group = [one for one in here if one.cell.budget == max(whole)]
        own = next(one for one in group if one.method == task.ours(case))
        others = rivals(task, group, task.ours(case))
        for measure in dict.fromkeys(("reward", task.main)):
            by = {name: ahead(task, own, one, measure) for name, one in others.items() if measure in one.scores}
            nearest = min(by, key=lambda name: by[name].value)
            numbers = [f"{others[name].means[measure].value:.3g}" if name in others else "" for name in SHOWN]
            gap = f"{report.marked(by[nearest])} (`{nearest}`)"
            mine = f"{own.means[measure].value:.3g}"
            saved = _saved(task, found, case, account, measure)
            told = [case, account, f"{max(whole)}x", measure, *numbers, mine, gap, saved]
            lines.append(f"| {' | '.join(told)} |")
    return lines


def score(task: Task, found: Sequence[Entry]) -> list[str]:
    """A line an account and measure, over all cases at 2x to 16x: of the settings in which ours and a rival ran, where
    ours is significantly ahead, and where it is significantly behind."""
    low, high = report.MIDDLE
    lines = []
    for account in EQUAL:
        for measure in dict.fromkeys(("reward", task.main)):
            met = [
                duel
                for case in dict.fromkeys(one.cell.case for one in found)
                for duel in duels(
                    task, [one for one in found if one.cell.case == case and one.cell.account == account], measure
                )
                if duel.ahead is not None and low <= duel.cell.budget <= high
            ]  # fmt: skip
            told = []
            for name in SHOWN:
                gaps = [duel.ahead for duel in met if duel.against == name and duel.ahead is not None]
                clear = [gap.value for gap in gaps if gap.significant]
                won, lost = sum(value > 0 for value in clear), sum(value < 0 for value in clear)
                told.append(f"{won} of {len(gaps)}" + (f", behind in {lost}" if lost else "") if gaps else "")
            if met:
                lines.append(f"| {' | '.join([task.name, account, measure, *told])} |")
    return lines


def _saved(task: Task, found: Sequence[Entry], case: str, account: str, measure: str) -> str:
    """At which budget ours has what best-of-N and SMC have at their largest."""
    here = [one for one in found if one.cell.case == case and one.cell.account == account]
    largest = max((one.cell.budget for one in here if one.family in ("best_of_n", "smc")), default=0)
    last = rivals(task, [one for one in here if one.cell.budget == largest], task.ours(case))
    levels = [last[name].means[measure].value for name in ("best_of_n", "smc") if name in last]
    if not levels:
        return ""
    higher = task.measures[measure] != "lower"
    level = max(levels) if higher else min(levels)
    budget = needed(here, task.ours(case), account, measure, level, higher)
    return f"{f'more than {largest}' if budget is None else f'{budget:.2g}'}x to match their {largest}x"


def put(file: Path, name: str, lines: Sequence[str]) -> bool:
    """Puts lines between a file's marks; whether it has them."""
    text = file.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- results: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    told = "\n".join(["", *lines, "", ""])
    file.write_text(marks.sub(lambda found: found[1] + told + found[2], text), encoding="utf-8")
    return bool(marks.search(text))


@click.command("results", help=__doc__.partition("\n")[0])
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Draw the pictures anew, too.")
def command(folder: Path, pictures: bool) -> None:
    """Reports every folder."""
    overview: list[str] = []
    scores: list[str] = []
    lost: list[str] = []
    behind: list[str] = []
    for each in sorted(folder.iterdir()):
        plan = planned(each)
        if plan is None:
            continue
        rows = reported(plan)
        facts = plan.facts.rows() if plan.task.facts else []
        report.write(plan, rows, facts, pictured=pictures and each.name not in WORLDS)
        for mark, text in plan.task.tables(each / "runs.csv").items():
            put(HOME / "docs" / f"{plan.name}.md", mark, text.splitlines())
        if plan.task.exact:  # they have a page of their own
            continue
        found = entries(plan.task, rows, plan.runs.scores())
        lines = headlines(plan.task, found)
        scores += score(plan.task, found)
        whole = regret.regrets(plan.task, found, plan.task.claims)
        left = [one for one in whole if plan.task.ours(one.cell.case) == "auto"]
        lost += regret.table(each.name, left)
        behind += regret.exceptions(each.name, left)
        put(HOME / "docs" / "benchmarks.md", each.name, table(lines))
        mark = f"x | {plan.task.main} |"
        ours = [line for line in lines if "| nfe | " in line and mark in line]
        overview += [line.replace("| ", f"| {plan.name}: ", 1) for line in ours]
    put(HOME / "docs" / "benchmarks.md", "overview", table(overview))
    for name, head, lines in (
        ("regret", ["task", "equal", "measure", "level or ahead", "lost in the mean"], lost),
        ("behind", ["case", "equal", "at", "measure", "best fixed method", "regret"], behind),
    ):
        put(HOME / "docs" / "benchmarks.md", name, [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])
    head = ["task", "equal", "measure", *(f"significantly ahead of {name}" for name in SHOWN.values())]
    put(HOME / "docs" / "benchmarks.md", "duels", [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *scores])
