"""Plans: the runs of a task, every method at 1x, 2x, 4x ... of one plain run, by two accounts of what is equal.

    run = (case, method, account, budget, rows, seed)      made once, kept in runs.csv; its rows' scores in samples.csv,
                                                           and at SHOWN its first rows' texts in texts.csv

Rows name prompts and random streams, so two methods of a seed are compared row by row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.frame.budgets import ACCOUNTS, BUDGETS, EQUAL, SIDE_BY_SIDE, budget
from benchmarks.frame.ledger import Ledger, Row, cross, run
from benchmarks.frame.task import Task, load
from iterref.budget import Cost
from iterref.result import Result

QUICK: dict[str, Any] = {"budgets": (1, 4), "rows": 16, "seeds": 1, "accounts": ("nfe",)}
RIVALS = ("ancestral", "best_of_n", "smc", "svdd")  # what is shown where there is no room for all
GRID, GRID_ROWS = 4, 40  # the budget and the samples of a picture of samples
SHOWN = ("nfe", 8, 0)  # account, budget and seed of the runs whose texts are kept, GRID_ROWS of each
KEY = ("case", "method", "account", "budget", "rows", "seed")
RUN = ("fitted", "nfe", "reward_calls", "depth", "acceptance", "seconds")


@dataclass(frozen=True)
class Runs(Ledger):
    """The file of all runs, and beside it those of their samples' scores, four digits each, and of some texts, where
    there are any."""

    samples: Ledger | None = None
    texts: Ledger | None = None

    def add(self, row: Row) -> None:
        """Appends a run, its samples first, so that no run lacks them."""
        written = row.pop("texts", None)
        if self.texts is not None and written is not None:
            self.texts.add({key: row[key] for key in self.key} | {"values": written})
        for name in [name for name in row if name.startswith("samples ")]:
            scores = {"measure": name.removeprefix("samples "), "values": row.pop(name)}
            if self.samples is not None:
                self.samples.add({key: row[key] for key in self.key} | scores)
        super().add(row)

    def scores(self) -> list[Row]:
        """All samples' scores."""
        return [] if self.samples is None else self.samples.rows()


@dataclass(frozen=True)
class Plan:
    """What to run of a task, made by `load` from `name` and `options`. No `cases` or `methods` stands for all of them,
    0 `rows` or `seeds` for the task's own number; files are written to `out`, by `jobs` processes.

    Raises `ValueError` for unknown cases, methods and accounts, or numbers below 1.
    """

    name: str
    out: Path
    options: tuple[tuple[str, Any], ...] = ()
    cases: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    budgets: tuple[int, ...] = BUDGETS
    accounts: tuple[str, ...] = ACCOUNTS
    rows: int = 0
    seeds: int = 0
    jobs: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        known = [self.task.known(case) for case in self.cases or self.task.cases]
        for name, value in (
            ("cases", tuple(dict.fromkeys(known))),
            ("rows", self.rows or self.task.samples),
            ("seeds", self.seeds or self.task.seeds),
        ):
            object.__setattr__(self, name, value)
        for method in self.methods:
            self.task.check(method)
        for account in self.accounts:
            if account not in ACCOUNTS:
                raise ValueError(f"unknown account {account!r}: choose one of {', '.join(ACCOUNTS)}")
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
        samples = None if self.task.exact else Ledger(self.out / "samples.csv", (*KEY, "measure"), ("values",))
        texts = None if self.task.exact else Ledger(self.out / "texts.csv", KEY, ("values",))
        return Runs(self.out / "runs.csv", KEY, (*RUN, *per_run, "note"), samples, texts)

    @property
    def facts(self) -> Ledger:
        """The file of the figures of a case that no method changes."""
        return Ledger(self.out / "facts.csv", ("case", "rows"), self.task.facts)

    def cells(self) -> list[Row]:
        """All runs, case by case."""
        found: list[Row] = []
        equal = [account for account in EQUAL if account in self.accounts]
        for case in self.cases:
            texts = self.methods or self.task.methods(case)
            if self.quick and not self.methods:
                texts = quick_methods(texts, self.task.ours(case))
            axes = {"rows": [self.rows], "seed": range(self.seeds)}
            found += cross(case=[case], method=texts, account=equal, budget=self.budgets, **axes)
            if "moves" in self.accounts and not self.methods and not self.quick:
                for moves, text in self.task.moves(case):
                    found += cross(case=[case], method=[text], account=["moves"], budget=[moves], **axes)
        return list({self.runs.identity(cell): cell for cell in found}.values())


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
            # a candidate is a sequence of the network, so large budgets go in smaller parts
            parts = rows.split(max(1, self.side_by_side // max(1, multiple)))
            results = [task.sample(case, str(cell["method"]), given, part, seed) for part in parts]
        except ValueError as error:
            return {"note": str(error)}
        shares = [len(part) / len(rows) for part in parts]
        accepted = sum(share * one.trace.acceptance() for share, one in zip(shares, results, strict=True))
        whole = joined(results, shares)
        row = {**measured(task, case, whole, rows), "acceptance": accepted}
        shown = task.keeps and (cell["account"], cell["budget"], seed) == SHOWN
        return row | kept(whole) if shown else row


@dataclass(frozen=True)
class Facts:
    """Makes the facts of a case."""

    task: Task

    def __call__(self, cell: Row) -> Row:
        """The facts of a cell's case."""
        return dict(self.task.fact(str(cell["case"]), int(cell["rows"] or 0)))


def measure(plan: Plan, progress: bool = False) -> tuple[list[Row], list[Row]]:
    """The runs of a plan and the facts of its cases; what was done before is read from its folder.

    Raises `ValueError` where the folder has runs of another number of rows.
    """
    for row in plan.runs.rows():
        if row["rows"] != plan.rows and row["case"] in plan.cases:
            raise ValueError(f"{plan.out} holds runs of {row['rows']} rows: keep to them, or give another folder")
    cells = plan.cells()
    facts = run(cross(case=plan.cases, rows=[plan.rows]), Facts(plan.task), plan.facts) if plan.task.facts else []
    return run(cells, Work(plan.name, plan.options, plan.quick), plan.runs, progress, plan.jobs), facts


def grids(plan: Plan) -> list[Path]:
    """Samples of plain sampling, the usual rivals and ours at `GRID` plain runs, drawn side by side, one picture a
    case, for tasks whose samples are pictures; a picture that stands is not drawn again."""
    paths = []
    for case in plan.cases if plan.task.draws else ():
        paths.append(plan.out / f"{case}-grid.png")
        if paths[-1].exists():
            continue
        bound, rows = budget("nfe", GRID * plan.task.plain(case)), torch.arange(min(GRID_ROWS, plan.rows))
        variants = {text.partition(":")[0]: text for text in plan.task.methods(case)}  # the last of a family
        chosen = {name: variants[name] for name in RIVALS if name in variants}
        chosen |= {text.partition(":")[0]: text for text in (*plan.task.pictured, plan.task.ours(case))}
        runs = {name: plan.task.sample(case, text, bound, rows, 0) for name, text in chosen.items()}
        plan.task.gallery(case, runs, paths[-1])
    return paths


def joined(parts: Sequence[Result], shares: Sequence[float]) -> Result:
    """The results of a batch that ran in parts, as one, `shares` of it each; of the trace the first part's is kept."""
    first = parts[0]
    if len(parts) == 1:
        return first
    texts = None if first.texts is None else [text for part in parts for text in part.texts or []]
    best = replace(
        first.best,
        tokens=torch.cat([part.best.tokens for part in parts]),
        reward=torch.cat([part.best.reward for part in parts]),
    )
    likely = [part.log_likelihood for part in parts if part.log_likelihood is not None]
    made = sum((part.cost * share for part, share in zip(parts, shares, strict=True)), Cost())
    return replace(
        first,
        tokens=torch.cat([part.tokens for part in parts]),
        rewards=torch.cat([part.rewards for part in parts]),
        best=best,
        texts=texts,
        log_likelihood=torch.cat(likely) if likely else None,
        cost=made,
        seconds=sum(part.seconds for part in parts),
    )


def kept(result: Result) -> Row:
    """The first texts of a run, each with its log-likelihood where that is known, as JSON: nothing of images."""
    if result.texts is None:
        return {}
    likely = [None] * len(result.texts) if result.log_likelihood is None else result.log_likelihood.tolist()
    pairs = list(zip(result.texts, likely, strict=True))[:GRID_ROWS]
    return {"texts": json.dumps(pairs, ensure_ascii=False)}


def measured(task: Task, case: str, result: Result, rows: Tensor) -> Row:
    """What a run comes to: means and standard deviations of its measures, and the samples' own of the main ones."""
    judged, whole = task.judge(case, result, rows), task.whole(case, result, rows)
    row: Row = {
        "fitted": str(result.sampler),
        "nfe": result.asked.nfe,
        "reward_calls": result.asked.reward_calls,
        "depth": result.asked.depth,
        "acceptance": result.trace.acceptance(),
        "seconds": result.seconds,
        **whole,
    }
    for name, values in judged.items():
        row |= {name: float(values.mean()), f"{name}_sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0}
    for name in () if task.exact else task.claims:
        if name in judged:
            row[f"samples {name}"] = " ".join(f"{value:.4g}" for value in judged[name])
    return row
