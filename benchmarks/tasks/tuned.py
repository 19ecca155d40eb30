"""Tuned: every method with options chosen on validation rows, beside `auto`, which is given none.

    grid          all combinations of the options in GRID, at 8x of a plain run's NFE with 16 reward calls an NFE
    validation    rows from 1000 on: other puzzles, images, problems and sentences (of steering other random streams)
    chosen        for each measure the method and the options that are best in it there
    test          the chosen ones and `auto` on rows 0, 1, ..., paired, 95 %

    python -m benchmarks tuned --data sentcomp.test.jsonl.gz        (an hour on one core)

Finished runs are kept and not made again. Without --data the sentences are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.frame.budgets import budget
from benchmarks.frame.command import OUT
from benchmarks.frame.ledger import Ledger, Row, number, run
from benchmarks.frame.task import Task, load
from iterref.paired import difference

CASES = (
    ("constraints", "brackets"), ("constraints", "sudoku9"), ("images", "masked-free"), ("arithmetic", "key"),
    ("steering", "sentiment"), ("summarization", "length"),
)  # fmt: skip
ORDERS = ("order=random", "order=confidence")
BLOCKS = (*ORDERS, "order=confidence,block_length=8")
BEST = ("objective=maximise",)
# The axes of each method's grid; an empty option is the default.
GRID: Mapping[str, Sequence[Sequence[str]]] = {
    "best_of_n": (("steps=4", "steps=8", "steps=16"), BLOCKS),
    "smc": (BEST, ("steps=8", "steps=16"), BLOCKS, ("", "x0_samples=8", "x0_samples=16")),
    "svdd": (BEST, ("steps=8", "steps=16"), ORDERS),
    "growth": (BEST, ("steps=8", "steps=16"), ORDERS),
    "trajectory": (BEST, ("steps=8,tries=1", "steps=16,tries=1"), ORDERS),
    "iterref": (BEST, ("", "span=0.25", "span=0.5+0.25", "span=1.0+0.75+0.5"), ("", "spacing=0")),
    "beam": (("steps=8", "steps=16", "steps=24"), ("", "width=2")),
    "tempering": (("", "ratio=4"),),
    "waste_free": (BEST, ("", "steps=8")),
    "select_refine": (("n=2", "n=4"), ("", "span=0.5")),
    "unmaskfork": (("",),),
    "vgb": (("",),),
    "power": (("",),),
}
FIRST = 1000  # of the validation rows
TIMES = 8
OURS = "auto"
KEY = ("task", "case", "part", "method", "rows", "seed")
MEASURES = ("reward", "main", "j")
HEAD = {"reward": "reward", "main": "held-out", "j": "J"}
PARTS = {"validation": FIRST, "test": 0}


def methods() -> list[str]:
    """Every method of the grid with every combination of its options."""
    found = list[str]()
    for name, axes in GRID.items():
        for options in product(*axes):
            given = ",".join(filter(None, options))
            found.append(f"{name}:{given}" if given else name)
    return found


@dataclass(frozen=True)
class Work:
    """Makes one run: the means of its measures, and the values of the test's rows."""

    data: Path | None

    def __call__(self, cell: Row) -> Row:
        """The run of a cell, or a note why there is none."""
        task, case, seed = _task(str(cell["task"]), self.data), str(cell["case"]), int(cell["seed"] or 0)
        rows = torch.arange(int(cell["rows"] or 0)) + PARTS[str(cell["part"])]
        given = budget("nfe", TIMES * task.plain(case))
        try:
            found = task.judge(case, task.sample(case, str(cell["method"]), given, rows, seed), rows)
        except ValueError as error:
            return {"note": str(error)}
        values = {"reward": found["reward"], "main": found[task.main], **({"j": found["j"]} if "j" in found else {})}
        made: Row = {measure: float(np.mean(of)) for measure, of in values.items()} | {"judged_by": task.main}
        if cell["part"] == "test":
            made |= {f"{measure}_values": " ".join(f"{value:.6g}" for value in of) for measure, of in values.items()}
        return made


def runs(folder: Path) -> Ledger:
    """The file of all runs."""
    values = (f"{measure}_values" for measure in MEASURES)
    return Ledger(folder / "tuned.csv", KEY, (*MEASURES, *values, "judged_by", "note"))


def chosen(made: Sequence[Row], task: str, case: str) -> dict[str, str]:
    """For each measure the method that is best in it on the validation rows; of equal ones the first."""
    here = [row for row in made if (row["task"], row["case"], row["part"]) == (task, case, "validation")]
    best = dict[str, str]()
    for measure in MEASURES:
        known = [row for row in here if number(row, measure) is not None]
        if known:
            best[measure] = str(max(known, key=lambda row: number(row, measure) or 0.0)["method"])
    return best


def tables(folder: Path) -> dict[str, list[str]]:
    """What the page shows, from the CSV file of a folder: a line a case, in each measure what ours has more than the
    best on validation rows, bold where that is significant."""
    made = runs(folder).rows()
    lines = [f"| case | {' | '.join(HEAD.values())} |", "|---" * (1 + len(HEAD)) + "|"]
    for task, case in dict.fromkeys((str(row["task"]), str(row["case"])) for row in made):
        test = {
            str(row["method"]): row for row in made if (row["task"], row["case"], row["part"]) == (task, case, "test")
        }
        cells, best = dict.fromkeys(HEAD, ""), chosen(made, task, case)
        if not {OURS, *best.values()} <= test.keys():  # a run that broke off
            continue
        for measure, method in best.items():
            by = difference(_values(test[OURS], measure), _values(test[method], measure))
            mark = "**" if by.significant else ""
            cells[measure] = f"{mark}{by.value:+.2g}{mark}±{by.half:.2g} `{method}`"
        cells["main"] = f"{test[OURS]['judged_by']} {cells['main']}"
        lines.append(f"| {task}: {case} | {' | '.join(cells.values())} |")
    return {"tuned": lines}


def _values(row: Row, measure: str) -> np.ndarray:
    return np.array([float(value) for value in str(row[f"{measure}_values"]).split()])


@lru_cache(maxsize=8)
def _task(name: str, data: Path | None) -> Task:
    return load(name, **({"data": data, "limit": FIRST + 500} if name == "summarization" else {}))


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=OUT / "tuned", show_default=True, help="The folder.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="JSON lines of `document` and `summary`.")
@click.option("--case", "only", multiple=True, help="TASK:CASE; all unless given.")
@click.option("--rows", type=click.IntRange(2, 500), default=64, show_default=True, help="Rows of either part.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
def command(out: Path, data: Path | None, only: Sequence[str], rows: int, seed: int, jobs: int) -> None:
    """Runs the grid, then the chosen ones and `auto` on the test rows, and writes `tuned.csv`."""
    cases = [of for of in CASES if (not only or ":".join(of) in only) and (data or of[0] != "summarization")]
    if not cases:
        raise click.UsageError(f"no such case: {', '.join(map(':'.join, CASES))} are known")
    ledger = runs(out)

    def cells(part: str, of: tuple[str, str], named: Sequence[str]) -> list[Row]:
        where: Row = {"task": of[0], "case": of[1], "part": part, "rows": rows, "seed": seed}
        return [{**where, "method": name} for name in named]

    made = run([cell for of in cases for cell in cells("validation", of, methods())], Work(data), ledger, True, jobs)
    named = {of: dict.fromkeys([OURS, *chosen(made, *of).values()]) for of in cases}
    run([cell for of in cases for cell in cells("test", of, list(named[of]))], Work(data), ledger, True, jobs)
    click.echo("\n".join(tables(out)["tuned"]))
