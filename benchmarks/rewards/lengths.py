"""How far a summary's length is off what was asked for, in words; full stops and the like are none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iterref.rewards.algebra import TextComposable

WORD = re.compile(r"\S*[\w#]\S*")


def counted(text: str) -> int:
    """The words of a text."""
    return len(WORD.findall(text))


@dataclass(frozen=True)
class Wanted(TextComposable):
    """Minus the words that a text has more or fewer than `words`, as a share of these."""

    words: int

    def __call__(self, completions: Sequence[str], **_: Any) -> list[float]:
        return [-abs(counted(text) - self.words) / self.words for text in completions]


def as_reference(completions: Sequence[str], reference: Sequence[str | Sequence[str]], **_: Any) -> list[float]:
    """The same for the length of each text's reference, the first where it has several. One of no word asks for one."""
    first = [one if isinstance(one, str) else one[0] for one in reference]
    lengths = [max(1, counted(one)) for one in first]
    return [Wanted(length)([text])[0] for text, length in zip(completions, lengths, strict=True)]
