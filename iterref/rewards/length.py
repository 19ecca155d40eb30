"""Length: nearness to a number of words.

r(x) = 1 - |words(x) - words| / words
"""

from __future__ import annotations

from dataclasses import dataclass

from iterref.numbers import whole_number
from iterref.rewards.algebra import TextComposable


@dataclass(frozen=True)
class Length(TextComposable):
    """1 for a text of so many `words`, less for a longer or shorter one. Words are what blanks part: " ." is one, too.

    Raises `ValueError` for less than one word."""

    words: int = 8

    def __post_init__(self) -> None:
        if whole_number("words", self.words, "give a number of words") < 1:
            raise ValueError(f"length is nearness to a number of words, got {self.words}: give at least 1")

    def __call__(self, completions: list[str]) -> list[float]:
        """R texts -> R numbers, at most 1."""
        return [1 - abs(len(text.split()) - self.words) / self.words for text in completions]


REWARD = Length
