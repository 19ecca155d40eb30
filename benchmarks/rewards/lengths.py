"""How far a summary's length is off what was asked for, in words; full stops and the like are none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iterref.rewards.algebra import TextComposable

MARKS = r"!-\"$-/:-@\[-`{-~"  # all of ASCII but letters, digits, blanks and #, which stands for a number
NO_WORD = rf"[{MARKS}]+"
WORD = rf"[^ ]*[^ {MARKS}][^ ]*"


def counted(text: str) -> int:
    """The words of a text."""
    return sum(re.fullmatch(WORD, one) is not None for one in text.split())


@dataclass(frozen=True)
class Wanted(TextComposable):
    """Minus the words that a text has more or fewer than `words`, as a share of these."""

    words: int

    def __call__(self, completions: Sequence[str], **_: Any) -> list[float]:
        return [-abs(counted(text) - self.words) / self.words for text in completions]


def lengths(references: Sequence[str | Sequence[str]]) -> list[int]:
    """The words of references, of the first where there are several; one without a word asks for one."""
    return [max(1, counted(one if isinstance(one, str) else one[0])) for one in references]


def as_reference(completions: Sequence[str], reference: Sequence[str | Sequence[str]], **_: Any) -> list[float]:
    """The same for the length of each text's reference."""
    return [Wanted(length)([text])[0] for text, length in zip(completions, lengths(reference), strict=True)]


def of_words(n: int) -> str:
    """The texts of n words, as a regular expression."""
    return rf"({NO_WORD} )*{WORD}( ({NO_WORD} )*{WORD}){{{n - 1}}}( {NO_WORD})*"
