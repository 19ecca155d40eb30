"""Arithmetic: worked sums by `tiny-arith`, right or wrong by their answers, searched with and without the key.

    case     the method's reward                                             what it stands for
    key      1 where the answer is right (`MathAnswer`)                      a verifier that knows: pass@N of best-of-N
    steps    minus the steps of the working that do not hold                 a user without the key, who can check steps

`accuracy` is the share of right answers, by `MathAnswer`, in both cases, so in `steps` the judge is held out. `vote` is
the most frequent answer of plain drafts that the whole budget buys (self-consistency: Wang et al. 2023,
arXiv:2203.11171); it sees no reward. Row n is about problem n of those that were never trained on, additions and
stories as `benchmarks.sums` mixes them. A plain run is 8 NFE, for texts of some 25 tokens.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.frame import regret
from benchmarks.frame.budgets import EQUAL
from benchmarks.frame.task import Direction, Task
from benchmarks.models.tiny_arith import WEIGHTS
from benchmarks.sums import Sum, broken_steps, sums
from iterref.budget import Budget
from iterref.generation import generate
from iterref.loading import load
from iterref.models.base import TextModel
from iterref.result import Result
from iterref.rewards.math_answer import MathAnswer
from iterref.samplers.strings import sampler_from_string

CASES = ("key", "steps")
PLAIN, PROBLEMS, SEED = 8, 4096, 918_273
SHOWN = (2, 16)  # budgets of the page's tables
ALPHA = 0.1
VOTE = "vote"
DRAFT = f"ancestral:steps={PLAIN},order=confidence"
PATH = f"steps={PLAIN},order=confidence,objective=maximise"
METHODS = (
    "ancestral:order=confidence", VOTE, f"best_of_n:steps={PLAIN},order=confidence", f"smc:{PATH}",
    f"smc:x0_samples=8,{PATH}", f"trajectory:{PATH},span=0.5", f"vgb:{PATH}",
    "iterref:objective=maximise", "auto",
)  # fmt: skip
RIGHT = MathAnswer(symbolic=False)


class Arithmetic(Task):
    """The task, by a text model that reads problems and writes workings."""

    name, main = "arithmetic", "accuracy"
    cases = CASES
    samples = 200
    measures: dict[str, Direction] = {
        "reward": "higher", "accuracy": "higher", "sound": "higher", "additions": "higher", "stories": "higher",
    }  # fmt: skip

    def __init__(self, model: TextModel, quick: bool = False) -> None:
        self.model, self._quick = model, quick

    @cached_property
    def problems(self) -> list[Sum]:
        """The problems of all rows, none of which was trained on."""
        return list(islice(sums(SEED, held=True), PROBLEMS))

    def plain(self, case: str) -> int:
        """The NFE of one plain run."""
        self.known(case)
        return PLAIN

    def ours(self, case: str) -> str:
        """The default of `generate`."""
        return "auto"

    def methods(self, case: str) -> list[str]:
        """What is compared: plain sampling first, the default last."""
        return list(METHODS)

    def tables(self, runs: Path) -> Mapping[str, str]:
        """The accuracies of every case."""
        return {f"arithmetic {case}": table(runs, case) for case in CASES}

    def check(self, method: str) -> None:
        """A method as this task writes it."""
        if method != VOTE:
            sampler_from_string(method)

    def sample(self, case: str, method: str, budget: Budget | None, rows: Tensor, seed: int) -> Result:
        """A run on rows (R,) long. Raises `ValueError` where a budget is too small."""
        asked, reward = self._asked(rows), self._reward(case)
        prompts, columns = [one.prompt for one in asked], {"reference": [one.answer for one in asked]}
        options: dict[str, Any] = {"reward": reward, "columns": columns, "seed": seed, "rows": rows, "alpha": ALPHA}
        if method != VOTE:
            return generate(self.model, prompts, sampler=method, budget=budget, **options)
        n = 16 if budget is None else int(min(budget.nfe, budget.total)) // PLAIN
        if n < 1:
            raise ValueError(f"the budget of {budget} is too small for a draft of {PLAIN} NFE: raise it")
        drafts = generate(self.model, prompts, sampler=DRAFT, num_return_sequences=n, **options)
        assert drafts.texts is not None
        groups = [drafts.texts[at : at + n] for at in range(0, len(drafts.texts), n)]
        chosen = torch.tensor([at * n + elected(group) for at, group in enumerate(groups)])
        # the reward of the drafts is reported and was not looked at
        return replace(
            drafts, tokens=drafts.tokens[chosen], rewards=drafts.rewards[chosen],
            texts=[drafts.texts[at] for at in chosen.tolist()], asked=replace(drafts.asked * n, reward_calls=0),
            best=replace(drafts.best, tokens=drafts.best.tokens[chosen], reward=drafts.best.reward[chosen]),
        )  # fmt: skip

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Of every sample: its reward, whether its answer is right, and whether every step of its working holds."""
        texts, asked = result.texts or [], self._asked(rows)
        keys = [one.answer for one in asked]
        columns = {"reference": keys, "prompts": [one.prompt for one in asked]}
        return {
            "reward": np.array(self._reward(case)(texts, **columns)),
            "accuracy": np.array(RIGHT(texts, reference=keys)),
            "sound": np.array([value == 0 for value in broken_steps(texts)], dtype=np.float64),
        }

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """The accuracy of each kind of problem."""
        asked, found = self._asked(rows), dict[str, float]()
        right = RIGHT(result.texts or [], reference=[one.answer for one in asked])
        for name, kind in (("additions", "addition"), ("stories", "story")):
            values = np.array([value for value, one in zip(right, asked, strict=True) if one.kind == kind])
            found |= {name: float(values.mean()) if len(values) else 0.0}
        return found

    def _reward(self, case: str) -> Any:
        return RIGHT if self.known(case) == "key" else broken_steps

    def _asked(self, rows: Tensor) -> list[Sum]:
        return [self.problems[row % PROBLEMS] for row in rows.tolist()]


def elected(texts: Sequence[str]) -> int:
    """The first text that has the most frequent answer; texts without an answer have no vote."""
    answers = [RIGHT.answer(text) for text in texts]
    counts = Counter(answer for answer in answers if answer is not None)
    return answers.index(counts.most_common(1)[0][0]) if counts else 0


def table(runs: Path, case: str) -> str:
    """The accuracy of every method at the budgets of `SHOWN` that a runs.csv has, by both accounts."""
    with runs.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["case"] == case]
    known = {(row["account"], int(row["budget"])) for row in found}
    columns = [(account, budget) for account in EQUAL for budget in SHOWN if (account, budget) in known]
    head = ["method", *(f"{regret.SHORT[account]} {budget}x" for account, budget in columns)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    made = {(row["method"], row["account"], int(row["budget"])): row for row in found if not row["note"]}
    for method in METHODS:
        rows = [made.get((method, *column)) for column in columns]
        cells = ["" if row is None else f"{float(row['accuracy']):.2f}" for row in rows]
        lines.append(f"| `{short(method)}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def short(method: str) -> str:
    """A method without the options that the page says once."""
    name, _, options = method.partition(":")
    left = [part for part in options.split(",") if part and part not in PATH.split(",")]
    return f"{name}:{','.join(left)}" if left else name


def task(*, model: TextModel | str | Path | None = None, quick: bool = False) -> Arithmetic:
    """The task, with the bundled `tiny-arith` unless told otherwise. Raises as `iterref.load` does."""
    if model is None or isinstance(model, str | Path):
        model = load(WEIGHTS if model is None else model)
    return Arithmetic(model, quick)
