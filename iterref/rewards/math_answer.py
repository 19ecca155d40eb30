r"""Math answers: whether the final answer of a text is the reference's, the verifier of GSM8K, MATH and their kin.

r(x) = 1 if answer(x) = answer(reference) else 0         1 for any of several references, 0 for a text without an answer

An oracle where the reference is the task's own key: best-of-N under it is pass@N. `iterref.rewards.answers` says what a
text's answer is and when two are equal. What it cannot decide (two formulas) goes to math-verify where that is
installed (`iterref[math]`), in a process that is ended when it takes too long.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from math import inf
from typing import Any

from iterref.columns import missing, needed_column
from iterref.rewards.algebra import TextComposable
from iterref.rewards.answers import LONGEST, Take, answer_of_key, equal, final_answer, number_of
from iterref.rewards.base import expect_choice
from iterref.rewards.memory import Memory
from iterref.rewards.symbolic import Symbolic


@dataclass(eq=False, repr=False)
class MathAnswer(TextComposable):
    r"""1 where the final answer of a completion equals that of its reference, else 0: `MathAnswer()`, `"math_answer"`.

    `take` says which part of a text is its answer: the last "boxed" one, the last behind a "label" (`answer:`, `the
    answer is`, `####`), the "last" number, or "auto", the first of these that there is. The column of `references` has
    one answer or several an entry: numbers, answers, or whole solutions that end with one. Numbers are equal as exact
    fractions, up to `tolerance`. `symbolic` compares formulas by math-verify: where it is installed (None), always or
    never; a pair that takes more than `seconds` counts as different, is warned about once and counted in `timed_out`.

    Raises ValueError for an unknown `take`, a tolerance below 0, a missing column, or a reference without an answer."""

    take: Take = "auto"
    references: str = "reference"
    tolerance: float = 0.0
    symbolic: bool | None = None
    seconds: float = 2.0
    limit: int = 200_000

    def __post_init__(self) -> None:
        expect_choice(self.take, Take, "an answer cannot be taken by")
        if not 0 <= self.tolerance < inf or not 0 < self.seconds < inf:
            raise ValueError(f"tolerance={self.tolerance:g}, seconds={self.seconds:g}: give at least 0 and more than 0")
        usable = find_spec("math_verify") is not None and sys.platform != "win32"
        there = usable if self.symbolic is None else self.symbolic
        self._symbolic = Symbolic(self.seconds) if there else None
        self._memory: Memory[tuple[str, str], bool] = Memory(self.limit)

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """R texts and the columns, each of R entries -> R numbers, 0 or 1."""
        column = needed_column(columns, self.references, len(completions), "the comparison of answers")
        return self._judge(completions, [self._wanted(entry, f"row {row}") for row, entry in enumerate(column)])

    @property
    def timed_out(self) -> int:
        """How many pairs of formulas took too long."""
        return 0 if self._symbolic is None else self._symbolic.timed_out

    def answer(self, text: str) -> str | None:
        """The final answer of a text, as it is written there; None where there is none."""
        return final_answer(text, self.take)

    def against(self, references: Sequence[Any]) -> MathAnswerAgainst:
        """The same reward with its references bound, one entry a row: a callable (completions, rows)."""
        return MathAnswerAgainst(self, [self._wanted(entry, f"row {row}") for row, entry in enumerate(references)])

    def _judge(self, completions: Sequence[str], wanted: Sequence[tuple[str, ...]]) -> list[float]:
        answers = [self.answer(text) for text in completions]
        return [
            float(one is not None and any(self._equal(one, other) for other in several))
            for one, several in zip(answers, wanted, strict=True)
        ]

    def _wanted(self, entry: Any, where: str) -> tuple[str, ...]:
        """The answers of a reference, or of several."""
        single = isinstance(entry, str | int | float | Fraction | Mapping)
        several = tuple(entry) if not single and isinstance(entry, Iterable) else (entry,)
        answers = [None if missing(one) or isinstance(one, Mapping) else answer_of_key(str(one)) for one in several]
        if not answers or None in answers:
            raise ValueError(f"{where} has the reference {entry!r}, in which there is no answer: give a number or text")
        return tuple(map(str, answers))

    def _equal(self, answer: str, reference: str) -> bool:
        if equal(answer, reference, self.tolerance):
            return True
        numbers = number_of(answer) is not None and number_of(reference) is not None
        if self._symbolic is None or numbers or max(len(answer), len(reference)) > LONGEST:
            return False
        by = self._symbolic

        def compare(_: list[int]) -> list[bool]:
            before = by.timed_out
            same = by.equal(answer, reference)
            if by.timed_out == 1 > before:
                told = f"MathAnswer: {answer[:40]!r} against {reference[:40]!r} took more than {self.seconds:g} s"
                warnings.warn(f"{told} and counts as different (said once; counted in `timed_out`)", stacklevel=2)
            return [same]

        return self._memory.fetch([(answer, reference)], compare)[0]


class MathAnswerAgainst(TextComposable):
    """`MathAnswer` with one or several references bound to each row."""

    def __init__(self, reward: MathAnswer, wanted: list[tuple[str, ...]]) -> None:
        self._reward, self._wanted = reward, wanted

    def __call__(self, completions: Sequence[str], rows: Sequence[int]) -> list[float]:
        """R texts and the R rows that they belong to -> R numbers, 0 or 1."""
        for row in rows:
            if not 0 <= row < len(self._wanted):
                raise ValueError(f"row {row} has no reference, there are {len(self._wanted)}: add its reference")
        return self._reward._judge(completions, [self._wanted[row] for row in rows])


REWARD = MathAnswer
TRUSTED = True  # starts a process of its own
