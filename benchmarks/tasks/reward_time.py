"""Time to a reward: processor seconds a sample until a method has the reward of plain best-of-N at 8x and at 32x.

    target(k) = mean reward of best-of-N at k plain runs;    time = seconds of the least budget that has it

    python -m benchmarks reward_time                     runs what is missing; benchmarks/results/reward_time.csv
    python -m benchmarks reward_time --page FILE         writes the table between its marks in a page, runs nothing

Budgets are 1, 2, 4, ... plain runs in NFE, 16 reward calls each at the most. A method stops when it has the larger
target. One thread; seconds are the process's own, so that other work on the machine is not in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from time import process_time

import click
import torch

from benchmarks.frame.budgets import BUDGETS, budget
from benchmarks.frame.ledger import Ledger, Row, number
from benchmarks.frame.task import Task, load
from iterref.cli.refusals import refusals, resuming

FILE = Path(__file__).parents[1] / "results" / "reward_time.csv"
CASES = (
    "constraints sudoku4", "constraints brackets", "arithmetic steps", "images masked", "steering length",
    "steering sentiment",
)  # fmt: skip
BASE, TARGETS = "best_of_n", (8, 32)
METHODS = ("auto", "iterref", "smc", "svdd", "beam")
KEY = ("case", "method", "budget", "rows", "seed")
MARKS = re.compile(r"(<!-- reward_time -->\n).*?(<!-- end -->)", re.DOTALL)


def ledger(path: Path) -> Ledger:
    """The file of finished runs."""
    return Ledger(path, KEY, ("reward", "seconds"))


def variant(task: Task, case: str, name: str) -> str:
    """How a task writes a method that seeks the best text: its shortest variant with that objective, else its first."""
    written = [text for text in task.methods(case) if text.partition(":")[0] == name]
    best = [text for text in written if "objective=maximise" in text]
    return min(best, key=len) if best else (written or [name])[0]


def measure(task: Task, case: str, method: str, k: int, rows: int, seed: int) -> dict[str, float]:
    """The mean reward of a run and its processor seconds a sample."""
    names, limit = torch.arange(rows), budget("nfe", k * task.plain(case))
    start = process_time()
    result = task.sample(case, method, limit, names, seed)
    return {"seconds": (process_time() - start) / rows, "reward": float(result.rewards.mean())}


def missing(task: Task, name: str, case: str, file: Ledger, rows: int, seeds: int) -> Iterator[Row]:
    """Runs the cells that are not there, the baseline's first, and every method until it has the larger target."""
    target = None
    for method in (BASE, *METHODS):
        text, warm = variant(task, case, method), False
        for k in BUDGETS:
            cell = {"case": f"{name} {case}", "method": text, "budget": k, "rows": rows}
            cells: list[Row] = [{**cell, "seed": seed} for seed in range(seeds)]
            done = {file.identity(row): row for row in file.rows()}
            for cell in cells:
                if file.identity(cell) not in done:
                    try:
                        if not warm:  # a first run loads and plans
                            measure(task, case, text, k, 2, 0)
                            warm = True
                        row = {**cell, **measure(task, case, text, k, rows, int(cell["seed"] or 0))}
                    except ValueError:  # a budget too small for it
                        row = dict(cell)
                    file.add(row)
                    done[file.identity(cell)] = row
                    yield row
            found = [reward for cell in cells if (reward := number(done[file.identity(cell)], "reward")) is not None]
            if target is not None and found and fmean(found) >= target:
                break
        if method == BASE:
            target = fmean(found)


def table(rows: Sequence[Row]) -> list[str]:
    """The table in markdown: seconds of best-of-N, and those of every method over them."""
    lines = [
        f"| task | target | best-of-N | {' | '.join(f'`{name}`' for name in METHODS)} |",
        "|---" * (3 + len(METHODS)) + "|",
    ]
    for case in dict.fromkeys(str(row["case"]) for row in rows):
        points = {name: curve(rows, case, name) for name in (BASE, *METHODS)}
        for k in TARGETS:
            if k not in points[BASE]:
                continue
            target, plain = points[BASE][k]
            cells = [reached(points[name], target, plain) for name in METHODS]
            lines.append(f"| {case}, {k}x | {target:.3g} | {plain:.2g} s | {' | '.join(cells)} |")
    return lines


def curve(rows: Sequence[Row], case: str, name: str) -> dict[int, tuple[float, float]]:
    """Of every budget that a method was run at, its mean reward and the median of its seconds, over the seeds."""
    mine = [row for row in rows if row["case"] == case and str(row["method"]).partition(":")[0] == name]
    of = [row for row in mine if row["reward"] is not None]
    found = {}
    for k in sorted({int(row["budget"] or 0) for row in of}):
        at = [row for row in of if row["budget"] == k]
        rewards, seconds = ([number(row, name) or 0.0 for row in at] for name in ("reward", "seconds"))
        found[k] = fmean(rewards), median(seconds)
    return found


def reached(points: dict[int, tuple[float, float]], target: float, plain: float) -> str:
    """The seconds of the least budget that has the target, over best-of-N's own; a dash where none has."""
    there = [(k, seconds) for k, (reward, seconds) in sorted(points.items()) if reward >= target]
    return f"{there[0][1] / plain:.2f} ({there[0][0]}x)" if there else "-"


@click.command("reward_time", help=__doc__.partition("\n")[0])
@click.option("--case", "cases", multiple=True, help="TASK CASE; may be given again.  [default: all of the table]")
@click.option("--rows", type=click.IntRange(min=2), default=16, show_default=True, help="Samples a run.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=FILE, help="A CSV file.")
@click.option("--page", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Write its table.")
def command(cases: tuple[str, ...], rows: int, seeds: int, out: Path, page: Path | None) -> None:
    """Processor seconds to the reward of plain best-of-N."""
    with refusals(), resuming(f"finished runs are kept in {out}: rerun the command to resume"):
        torch.set_num_threads(1)
        file = ledger(out)
        for text in () if page else cases or CASES:
            name, _, case = text.partition(" ")
            task = load(name)
            for row in missing(task, name, task.known(case), file, rows, seeds):
                click.echo(" ".join(str(row.get(column)) for column in file.columns), err=True)
        lines = "\n".join(table(file.rows()))
        if page:
            page.write_text(MARKS.sub(lambda found: f"{found[1]}{lines}\n{found[2]}", page.read_text("utf-8")), "utf-8")
        click.echo(lines)
