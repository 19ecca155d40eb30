"""Texts: what methods wrote, side by side: of each the best, the median and the worst by reward.

    texts.csv     of a run at `plan.SHOWN` the first texts with their log-likelihoods; their scores are in samples.csv
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from benchmarks.frame.plan import Plan

RANKS = ("best", "median", "worst")


class Sample(NamedTuple):
    """A text, its reward, its log-likelihood, -inf where that is not known, and what a judge says."""

    reward: float
    likely: float
    text: str
    judge: float | None = None


def kept(plan: Plan, case: str) -> dict[str, list[Sample]]:
    """The texts of a case that a folder keeps, by method."""
    names = ("reward", plan.task.main)
    scores = {
        (plan.runs.identity(row), row["measure"]): [float(value) for value in str(row["values"]).split()]
        for row in plan.runs.scores() if row["case"] == case and row["measure"] in names
    }  # fmt: skip
    found = {}
    for row in plan.runs.texts.rows() if plan.runs.texts is not None else []:
        if row["case"] == case:
            rewards, judged = (scores[plan.runs.identity(row), name] for name in names)
            pairs = json.loads(str(row["values"]))
            found[str(row["method"])] = [
                Sample(reward, -inf if likely is None else likely, text, judge)
                for reward, judge, (text, likely) in zip(rewards, judged, pairs, strict=False)
            ]
    return found


def ranked(samples: Sequence[Sample]) -> dict[str, Sample]:
    """The best, the median and the worst by reward; of equal ones the one that the judge prefers, then the likelier, is
    better."""
    order = sorted(samples, key=lambda one: (one.reward, one.judge or 0.0, one.likely), reverse=True)
    return dict(zip(RANKS, (order[0], order[len(order) // 2], order[-1]), strict=True))


def table(samples: Mapping[str, Sequence[Sample]], likely: str, judge: str = "") -> list[str]:
    """Three lines a method; `likely` and `judge` name the columns of these figures, no name leaves one out."""
    head = ["method", "of its texts", "reward", *([judge] if judge else []), *([likely] if likely else []), "text"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    short = Counter(method.partition(":")[0] for method in samples)
    for method, own in samples.items():
        name = method.partition(":")[0]
        for rank, one in ranked(own).items():
            told = [escaped(name if short[name] == 1 else method) if rank == RANKS[0] else "", rank]
            told += [f"{one.reward + 0.0:.3g}"]  # no minus before 0
            told += [f"{one.judge:.3g}"] if judge and one.judge is not None else []
            told += [f"{one.likely:.3g}"] if likely else []
            lines.append(f"| {' | '.join([*told, escaped(one.text)])} |")
    return lines


def escaped(text: str) -> str:
    """A text as a cell of a table shows it, on one line."""
    return re.sub(r"([\\`*_|<>\[\]#~])", r"\\\1", " ".join(text.split()))
