"""Summaries: how the task writes its methods, and the table of what asking for a length comes to."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

TEMPERATURE = 0.5
MBR, FROM_DRAFTS, EXACT = "mbr", "drafts+", "exact+"
SHOWN_AT = 4  # plain runs
SHOWN = {
    "ancestral:order=confidence": "plain",
    "auto": "`auto`, the length as its reward",
    "svdd:steps=8,objective=maximise": "SVDD, the same",
    "exact+ancestral:order=confidence": "plain, the length as a constraint",
    "exact+auto": "`auto`, the length as a constraint",
}


@dataclass(frozen=True)
class Written:
    """A method as the task writes it: its options, where it starts, at which temperature it runs, and whether the
    length is a constraint."""

    method: str
    drafts: bool
    temperature: float
    exact: bool = False

    @classmethod
    def read(cls, text: str, start: Literal["drafts"] | None = None) -> Written:
        """From "drafts+METHOD@TEMPERATURE". Raises `ValueError` where it cannot be read."""
        if start not in (None, "drafts"):
            raise ValueError(f"summaries are refined from start='drafts', and not from {start!r}: say that or nothing")
        exact, text = text.strip().startswith(EXACT), text.strip().removeprefix(EXACT)
        method, at, warm = text.removeprefix(FROM_DRAFTS).partition("@")
        try:
            temperature = float(warm) if at else TEMPERATURE
        except ValueError:
            temperature = 0.0
        if not 0 < temperature < float("inf"):
            raise ValueError(f"{text!r} has no temperature after the @: write a number above 0, as in {method}@0.5")
        found = cls(method, start == "drafts" or text.startswith(FROM_DRAFTS), temperature, exact)
        if found.name == MBR and text != MBR:
            raise ValueError(f"{text!r} has options, and {MBR} has none: its drafts are those of the task")
        return replace(found, drafts=True) if found.name == MBR else found

    @property
    def name(self) -> str:
        """The method without its options."""
        return self.method.partition(":")[0].strip()

    @property
    def unguided(self) -> bool:
        """Whether it does not look at the reward."""
        return self.name in ("ancestral", "remdm") and not self.drafts


def of_lengths(runs: Path, cases: Sequence[str]) -> str:
    """How many texts have the length that `cases` ask for and what they are worth, from a runs.csv; "" without any."""
    with runs.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["budget"] == str(SHOWN_AT) and not row["note"]]
    found = {(row["case"], row["method"]): row for row in rows}
    lines = [
        f"| {case} | {SHOWN[method]} | {float(row['met']):.2f} | {float(row['rougeL']):.3f} | "
        f"{float(row['log_likelihood']):.1f} | {float(row['j']):.1f} |"
        for case in cases for method in SHOWN if (row := found.get((case, method)))
    ]  # fmt: skip
    head = [f"| case, {SHOWN_AT}x | method | met | ROUGE-L | log p, nats a text | J |", "|---" * 6 + "|"]
    return "\n".join([*head, *lines]) + "\n" if lines else ""
