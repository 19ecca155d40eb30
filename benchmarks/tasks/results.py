"""Results: all tables and pictures of the benchmark tasks from their CSV files, into the documentation.

    python -m benchmarks results benchmarks/results        make results

Every folder of the given one that is named after a task, or after a task and more (`images-realism`), is reported
anew from its CSV files; nothing is run. What stands between `<!-- results: MARK -->` and `<!-- end -->` on a page was
written by this. The task's page has the marks FOLDER (the table), and FOLDER with `behind` (where `auto` loses to a
fixed method; all of it is in behind.csv), `front` (reward against log-likelihood) and `texts` (samples side by side);
docs/benchmarks.md has `overview`, `regret`, `more budget` and `tuned`, docs/rules.md its own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from itertools import product
from math import isfinite
from pathlib import Path

import click

from benchmarks.frame import front, regret, report, texts
from benchmarks.frame.budgets import EQUAL
from benchmarks.frame.front import FEWEST, Place
from benchmarks.frame.ledger import Row
from benchmarks.frame.paired import Entry, ahead, entries, needed, rivals
from benchmarks.frame.plan import Plan
from benchmarks.frame.task import Task, names
from benchmarks.tasks import more_budget, rules, tuned
from iterref.optional import MissingExtra

HOME = Path(__file__).parents[2]
# Whose texts stand on a page; those of all methods are in the folder's texts.md.
WRITTEN = ("ancestral", "smc", "iterref", "hex", "power", "auto")
SHOWN = {"ancestral": "plain sampling", "best_of_n": "best of N", "smc": "SMC", "svdd": "SVDD"}
WORLDS = {"defaults": "world", "world512": "world"}  # folders of runs in worlds that are not named after the task
HEAD = ["case", "equal", "measure", *SHOWN.values(), "ours", "lead over the best other", "matches best of N, SMC"]
BRIEF = (0, 2, 3, 4, 5, 7, 8)  # columns of the table of all tasks
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines under their heads."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def headlines(task: Task, found: Sequence[Entry]) -> list[list[str]]:
    """A row under `HEAD` a case, account and measure (at equal NFE + calls the main one alone): ours beside the best
    variant of the usual methods at 8x, or the largest budget below that all of them were run at; the lead over the
    rival that comes nearest; and the budget at which ours has what best-of-N and SMC have at most."""
    lines: list[list[str]] = []
    for case, account in product(dict.fromkeys(one.cell.case for one in found), EQUAL):
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
        for measure in dict.fromkeys(("reward", task.main) if account == "nfe" else (task.main,)):
            by = {name: ahead(task, own, one, measure) for name, one in others.items() if measure in one.scores}
            nearest = min(by, key=lambda name: by[name].value)
            numbers = [f"{others[name].means[measure].value:.3g}" if name in others else "" for name in SHOWN]
            gap = f"{report.marked(by[nearest])} (`{nearest.partition(':')[0]}`)"
            mine = f"{own.means[measure].value:.3g}"
            saved = _saved(task, found, case, account, measure)
            at = f"{case}, {max(whole)}x"
            lines.append([at, regret.SHORT[account], measure, *numbers, mine, gap, saved])
    return lines


def places(found: Sequence[Entry], case: str) -> dict[str, list[Place]]:
    """Where the methods of a case stand at equal NFE: a panel at 8x, or the largest budget below at which enough of
    them have a likelihood."""
    by: dict[int, list[Place]] = {}
    for one in found:
        if (one.cell.case, one.cell.account) == (case, "nfe") and {"reward", "log_likelihood"} <= set(one.means):
            spot = Place(one.method, one.means["reward"], one.means["log_likelihood"])
            by.setdefault(one.cell.budget, []).append(spot)
    enough = [budget for budget, spots in by.items() if budget <= BUDGET and len(spots) >= FEWEST]
    return {f"{case}, {budget}x": by[budget] for budget in sorted(enough)[-1:]}


def fronts(task: Task, found: Sequence[Entry], folder: Path, pictured: bool) -> list[str]:
    """The fronts of all cases as a table, and as a picture in the folder where `pictured`; nothing where runs have no
    likelihoods."""
    panels: dict[str, list[Place]] = {}
    for case in dict.fromkeys(one.cell.case for one in found):
        panels |= places(found, case)
    if not panels:
        return []
    ours = task.ours(found[0].cell.case)
    if pictured:
        front.picture(panels, folder / "front.png", ours, "log-likelihood under the model, nats a text")
    return front.table(panels, ours)


def written(plan: Plan, names: Collection[str] = ()) -> list[str]:
    """What the methods of a folder wrote, or those of some names, case by case; nothing where no texts are kept."""
    found = {
        case: {
            method: own for method, own in texts.kept(plan, case).items()
            if not names or method.partition(":")[0] in names
        } for case in plan.task.cases
    }  # fmt: skip
    lines: list[str] = []
    for case, samples in found.items():
        if samples:
            likely = "log p" if any(isfinite(one.likely) for own in samples.values() for one in own) else ""
            lines += ([""] if lines else []) + [f"`{case}`:", "", *texts.table(samples, likely, plan.task.main)]
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
    return f"not by {largest}x" if budget is None else f"their {largest}x at {budget:.2g}x"


def put(page: str, name: str, lines: Sequence[str]) -> bool:
    """Puts lines between the marks of a page of docs/; whether it has them."""
    file = HOME / "docs" / f"{page}.md"
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
    overview: list[list[str]] = []
    level: list[list[str]] = []
    behind = [list(regret.COLUMNS)]
    for each in sorted(folder.iterdir()):
        if each.name.startswith("rules"):
            for mark, lines in rules.tables(each, pictures).items():
                put("rules", mark, lines)
        for own in (more_budget, tuned):
            for mark, lines in own.tables(each).items() if own.__name__.endswith(f".{each.name}") else ():
                put("benchmarks", mark, lines)
        plan = planned(each)
        if plan is None:
            continue
        runs = reported(plan)
        facts = plan.facts.rows() if plan.task.facts else []
        report.write(plan, runs, facts, pictured=pictures and each.name not in WORLDS)
        for mark, text in plan.task.tables(each / "runs.csv").items():
            put(plan.name, mark, text.splitlines())
        if plan.task.exact:  # they have a page of their own
            continue
        found = entries(plan.task, runs, plan.runs.scores())
        lines = headlines(plan.task, found)
        whole = regret.regrets(plan.task, found, plan.task.claims)
        left = [one for one in whole if plan.task.ours(one.cell.case) == "auto"]
        level += regret.table(each.name, left)
        behind += regret.rows(each.name, left)
        put(plan.name, each.name, table(HEAD, lines))
        put(plan.name, f"{each.name} behind", regret.behind(left))
        put(plan.name, f"{each.name} front", fronts(plan.task, found, each, pictures))
        if told := written(plan):
            whole = "\n".join([f"# What every method wrote: {each.name}", "", *told, ""])
            (each / "texts.md").write_text(whole, encoding="utf-8")
        put(plan.name, f"{each.name} texts", written(plan, WRITTEN))
        ours = [line for line in lines if line[1:3] == [regret.SHORT["nfe"], plan.task.main]]
        overview += [[f"{each.name}: {line[0]}", *(line[column] for column in BRIEF[1:])] for line in ours]
    put("benchmarks", "overview", table([HEAD[column] for column in BRIEF], overview))
    head = ["task", "measure", "level or ahead at equal NFE (lost)", "at equal NFE + reward calls (lost)"]
    put("benchmarks", "regret", table(head, level))
    with open(folder / "behind.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(behind)
