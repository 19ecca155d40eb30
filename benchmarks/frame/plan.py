"""Tasks: what a benchmark is made of, and its runs: every method at 1x, 2x, 4x ... of one plain run, by two accounts.

    run = (case, method, account, budget, rows, seed)      made once, kept in runs.csv; its rows' scores in samples.csv

Rows name prompts and random streams, so two methods of a seed are compared row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from rapidfuzz.process import extractOne
from torch import Tensor

from benchmarks.frame.budgets import ACCOUNTS, BUDGETS, EQUAL, SIDE_BY_SIDE, budget
from benchmarks.frame.ledger import Ledger, Row, cross, run
from iterref.budget import Budget
from iterref.run import Result

TASKS = ("summarization", "steering", "images", "constraints")
QUICK_BUDGETS = (1, 4)
RIVALS = ("ancestral", "best_of_n", "smc", "svdd")  # what is shown where there is no room for all
GRID, GRID_ROWS = 4, 40  # the budget and the samples of a picture of samples
KEY = ("case", "method", "account", "budget", "rows", "seed")
RUN = ("fitted", "denoiser_rows", "reward_rows", "depth", "acceptance", "seconds")
Direction = Literal["higher", "lower", "neither"]


class Task(Protocol):
    """A benchmark: `cases`, the `measures` and which way each is better (`reward`, the one that is optimised, first),
    the held-out one that claims are about, `main`, and the method that they are about, `ours`."""

    @property
    def name(self) -> str: ...

    @property
    def cases(self) -> tuple[str, ...]: ...

    @property
    def measures(self) -> dict[str, Direction]: ...

    @property
    def main(self) -> str: ...

    def ours(self, case: str) -> str:
        """The method that claims are about."""
        ...

    def plain(self, case: str) -> int:
        """Denoiser rows of one plain run."""
        ...

    def methods(self, case: str) -> list[str]:
        """The methods that are compared, plain sampling first."""
        ...

    def sample(self, case: str, method: str, budget: Budget | None, rows: Tensor, seed: int) -> Result:
        """A run on rows (R,) long, which name prompts and random streams. Raises `ValueError` where it is refused."""
        ...

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Measures of every sample, (R,) each."""
        ...

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """Measures of the set of samples."""
        ...


def load(name: str, **options: Any) -> Task:
    """A task by name; `options` are its own, such as `model`, `data` and `quick`. Raises `ValueError` with the nearest
    name for an unknown one."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: did you mean {extractOne(name, TASKS)[0]!r}?")
    made: Task = import_module(f"benchmarks.tasks.{name}").task(**options)
    return made


@dataclass(frozen=True)
class Runs(Ledger):
    """The file of all runs, and beside it that of their samples' scores, four digits each."""

    samples: Ledger | None = None

    def add(self, row: Row) -> None:
        """Appends a run, its samples first, so that no run lacks them."""
        assert self.samples is not None
        for name in [name for name in row if name.startswith("samples ")]:
            told = {"measure": name.removeprefix("samples "), "values": row.pop(name)}
            self.samples.add({key: row[key] for key in self.key} | told)
        super().add(row)


@dataclass(frozen=True)
class Plan:
    """What to run of a task, made by `load` from `name` and `options`. No `cases` or `methods` stands for all of them;
    files are written to `out`, by `jobs` processes. Raises `ValueError` for unknown cases and accounts, or numbers
    below 1."""

    name: str
    out: Path
    options: tuple[tuple[str, Any], ...] = ()
    cases: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    budgets: tuple[int, ...] = BUDGETS
    accounts: tuple[str, ...] = ACCOUNTS
    rows: int = 100
    seeds: int = 1
    jobs: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        for given, known in ((self.cases, self.task.cases), (self.accounts, ACCOUNTS)):
            for text in given:
                if text not in known:
                    raise ValueError(f"{self.name} has no {text!r}: choose one of {', '.join(known)}")
        if min(self.rows - 1, self.seeds, self.jobs, *self.budgets) < 1:
            raise ValueError("seeds, jobs and budgets must be at least 1, and rows at least 2")

    @property
    def task(self) -> Task:
        """The task."""
        return _task(self.name, self.options, self.quick)

    @property
    def runs(self) -> Runs:
        """The file of all runs."""
        per_run = [name for measure in self.task.measures for name in (measure, f"{measure}_sd")]
        samples = Ledger(self.out / "samples.csv", (*KEY, "measure"), ("values",))
        return Runs(self.out / "runs.csv", KEY, (*RUN, *per_run, "note"), samples)

    def cells(self) -> list[Row]:
        """All runs, case by case."""
        found: list[Row] = []
        seeds = range(self.seeds)
        for case in self.cases or self.task.cases:
            texts = self.methods or self.task.methods(case)
            if self.quick and not self.methods:
                texts = quick_methods(texts, self.task.ours(case))
            equal = [account for account in EQUAL if account in self.accounts]
            found += cross(case=[case], method=texts, account=equal, budget=self.budgets, rows=[self.rows], seed=seeds)
            more = getattr(self.task, "moves", None) if "moves" in self.accounts and not self.methods else None
            for moves, text in ({} if more is None else more(case)).items():
                found += cross(
                    case=[case], method=[text], account=["moves"], budget=[moves], rows=[self.rows], seed=seeds
                )
        return list({self.runs.identity(cell): cell for cell in found}.values())


QUICK: dict[str, Any] = {"budgets": QUICK_BUDGETS, "rows": 16, "seeds": 1, "accounts": ("denoiser",)}


def quick_methods(texts: Sequence[str], ours: str) -> list[str]:
    """One variant of plain sampling, best-of-N, SMC and SVDD, and ours."""
    by_name = {text.partition(":")[0]: text for text in reversed(texts)}
    return [*(by_name[name] for name in RIVALS if name in by_name), ours]


@lru_cache(maxsize=8)
def _task(name: str, options: tuple[tuple[str, Any], ...], quick: bool) -> Task:
    return load(name, **dict(options), quick=quick)


@dataclass(frozen=True)
class Work:
    """Makes one run; processes know it by the task's name and options."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    quick: bool = False
    side_by_side: int = field(default=SIDE_BY_SIDE)

    def __call__(self, cell: Row) -> Row:
        """The run of a cell, or a note why there is none: a budget or a noise that the method is not for."""
        task, case = _task(self.name, self.options, self.quick), str(cell["case"])
        seed, multiple = int(cell["seed"] or 0), int(cell["budget"] or 0)
        given = budget(str(cell["account"]), multiple * task.plain(case))
        rows = torch.arange(int(cell["rows"] or 0))
        try:
            # a candidate is a row of the network, so large budgets go in smaller parts
            parts = rows.split(max(1, self.side_by_side // max(1, multiple)))
            result = joined([task.sample(case, str(cell["method"]), given, part, seed) for part in parts])
        except ValueError as error:
            return {"note": str(error)}
        return told(task, case, result, rows)


def measure(plan: Plan, progress: bool = False) -> list[Row]:
    """The runs of a plan; what was done before is read from its folder.

    Raises `ValueError` where the folder has runs of another number of rows.
    """
    for row in plan.runs.rows():
        if row["rows"] != plan.rows:
            raise ValueError(f"{plan.out} holds runs of {row['rows']} rows: keep to them, or give another folder")
    return run(plan.cells(), Work(plan.name, plan.options, plan.quick), plan.runs, progress, plan.jobs)


def grids(plan: Plan) -> list[Path]:
    """Samples of plain sampling, the usual rivals and ours at `GRID` plain runs, drawn side by side, one picture a
    case, for a task with a `gallery`; a picture that stands is not drawn again."""
    draw = getattr(plan.task, "gallery", None)
    if draw is None:
        return []
    paths = []
    for case in plan.cases or plan.task.cases:
        paths.append(plan.out / f"{case}-grid.png")
        if paths[-1].exists():
            continue
        bound, rows = budget("denoiser", GRID * plan.task.plain(case)), torch.arange(min(GRID_ROWS, plan.rows))
        variants = {text.partition(":")[0]: text for text in plan.task.methods(case)}  # the last of a family
        chosen = {name: variants[name] for name in RIVALS if name in variants} | {"iterref": plan.task.ours(case)}
        draw(case, {name: plan.task.sample(case, text, bound, rows, 0) for name, text in chosen.items()}, paths[-1])
    return paths


def joined(parts: Sequence[Result]) -> Result:
    """The results of a batch that ran in parts, as one; of the trace the first part's is kept."""
    first = parts[0]
    if len(parts) == 1:
        return first
    texts = None if first.texts is None else [text for part in parts for text in part.texts or []]
    best = replace(
        first.best,
        tokens=torch.cat([part.best.tokens for part in parts]),
        reward=torch.cat([part.best.reward for part in parts]),
    )
    return replace(
        first,
        tokens=torch.cat([part.tokens for part in parts]),
        rewards=torch.cat([part.rewards for part in parts]),
        best=best,
        texts=texts,
        seconds=sum(part.seconds for part in parts),
    )


def told(task: Task, case: str, result: Result, rows: Tensor) -> Row:
    """What a run comes to: means and standard deviations of its measures, and the samples' own of the main ones."""
    judged, whole = task.judge(case, result, rows), task.whole(case, result, rows)
    row: Row = {
        "fitted": str(result.sampler),
        "denoiser_rows": result.asked.denoiser,
        "reward_rows": result.asked.reward,
        "depth": result.asked.depth,
        "acceptance": result.trace.acceptance(),
        "seconds": result.seconds,
        **whole,
    }
    for name, values in judged.items():
        row |= {name: float(values.mean()), f"{name}_sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0}
    for name in dict.fromkeys(("reward", task.main)):
        row[f"samples {name}"] = " ".join(f"{value:.4g}" for value in judged[name])
    return row
