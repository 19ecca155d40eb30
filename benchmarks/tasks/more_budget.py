"""More budget: whether a larger budget ever makes the texts of `auto` worse, in J or under the held-out judge.

    J = r / alpha + log p   and the task's judge, at 4x, 16x and 64x of a plain run's NFE, 16 reward calls an NFE

Rows are paired from budget to budget, intervals 95 %. A fall that is significant is a defect.

    python -m benchmarks more_budget        (half an hour on one core)
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.frame.budgets import budget
from benchmarks.frame.command import OUT
from benchmarks.frame.task import Task, load
from iterref.paired import difference
from iterref.progress import Bar

CASES = (
    ("images", "masked-free"), ("images", "uniform-free"), ("constraints", "brackets"),
    ("constraints", "brackets-uniform"), ("steering", "sentiment"), ("summarization", "length"),
)  # fmt: skip
TIMES = (4, 16, 64)
FIELDS = ("task", "case", "measure", "budget", "row", "value")


def measured(task: Task, case: str, times: int, rows: int, seed: int) -> dict[str, np.ndarray]:
    """J and the judge of every row."""
    index = torch.arange(rows)
    result = task.sample(case, "auto", budget("nfe", times * task.plain(case)), index, seed)
    found = task.judge(case, result, index)
    return {measure: found[measure] for measure in ("j", task.main)}


def table(values: dict[tuple[str, str, str], dict[int, np.ndarray]]) -> list[str]:
    """A line a case and measure: the means, bold where they differ significantly from those of the budget before, and
    what the largest budget adds to the least."""
    head = ["case", "measure", *(f"{k}x" for k in TIMES), f"{TIMES[0]}x to {TIMES[-1]}x"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (task, case, measure), of in values.items():
        means = [f"{of[TIMES[0]].mean():.3g}"]
        for before, now in pairwise(TIMES):
            mark = "**" if difference(of[now], of[before]).significant else ""
            means.append(f"{mark}{of[now].mean():.3g}{mark}")
        added = difference(of[TIMES[-1]], of[TIMES[0]])
        means.append(f"{added.value:+.2g}±{added.half:.2g}")
        lines.append(f"| {task}: {case} | {measure} | {' | '.join(means)} |")
    return lines


def tables(folder: Path) -> dict[str, list[str]]:
    """What the page shows, from the CSV file of a folder."""
    values: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    with (folder / "more_budget.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            own = values.setdefault((row["task"], row["case"], row["measure"]), {})
            own.setdefault(int(row["budget"]), []).append(float(row["value"]))
    arrays = {key: {times: np.array(of) for times, of in own.items()} for key, own in values.items()}
    return {"more budget": table(arrays)}


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=OUT / "more_budget", show_default=True)
@click.option("--rows", type=click.IntRange(2), default=32, show_default=True, help="Samples a run.")
@click.option("--case", multiple=True, help="TASK:CASE; all six unless given.")
@click.option("--seed", type=int, default=0, show_default=True)
def command(out: Path, rows: int, case: Sequence[str], seed: int) -> None:
    """Runs everything and writes `more_budget.csv`."""
    chosen = [(one, name) for one, name in CASES if not case or f"{one}:{name}" in case]
    if not chosen:
        raise click.UsageError(f"no such case: {', '.join(f'{one}:{name}' for one, name in CASES)} are known")
    tasks = {one: load(one) for one, _ in chosen}
    out.mkdir(parents=True, exist_ok=True)
    with (out / "more_budget.csv").open("w", newline="", encoding="utf-8") as file:
        to = csv.writer(file, lineterminator="\n")
        to.writerow(FIELDS)
        for one, name, times in Bar([(*of, times) for of in chosen for times in TIMES], "more budget", shown=True):
            for measure, found in measured(tasks[one], name, times, rows, seed).items():
                to.writerows([one, name, measure, times, row, f"{value:.6g}"] for row, value in enumerate(found))
            file.flush()
    click.echo("\n".join(tables(out)["more budget"]))
