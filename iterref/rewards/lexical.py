"""Lexical: words that must or must not be there, regular expressions and length bands, hard or soft.

violation(x) = required words missing + occurrences of forbidden words + patterns that do not match
               + occurrences of rejected patterns + distance to each length band, as a share of the bound passed
hard:  r(x) = -inf where violation(x) > 0, else 0           soft:  r(x) = -violation(x)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unicodedata import category

from iterref.columns import needed_column
from iterref.rewards.algebra import TextComposable
from iterref.rewards.words import UNSPACED, joins, normalised

Band = tuple[int | None, int | None]
Pattern = re.Pattern[str]


class Lexical(TextComposable):
    """Rules on the words and the length of a text, as a text reward: `Lexical(required=["orchard"], words=(5, 12))`.

    `required` and `forbidden` list words or phrases, found as whole words, in any case unless `case`, however their
    accents are composed; in a script without blanks (Chinese, Japanese, Thai) a word is found wherever it stands. The
    entry, one word or several, of `required_column` and `forbidden_column` holds for its row's text only. `matches` and
    `rejects` list regular expressions that must, or must not, be found anywhere (case counts). `words`, runs without
    blanks, and `characters` are bands (least, most), either of them None for no bound.

    `hard` forbids every text that breaks a rule (-inf), and is 0 otherwise; `hard=False` counts violations, so that a
    sampler can feel its way. As a condition: `fluent.where(rules >= 0)`.

    Raises ValueError for no rule, an empty word, one both required and forbidden, a pattern that is none, and a band
    that nothing fits."""

    def __init__(
        self,
        required: Sequence[str] = (),
        forbidden: Sequence[str] = (),
        *,
        matches: Sequence[str] = (),
        rejects: Sequence[str] = (),
        words: Band = (None, None),
        characters: Band = (None, None),
        required_column: str | None = None,
        forbidden_column: str | None = None,
        case: bool = False,
        hard: bool = True,
    ) -> None:
        self.hard, self.case = hard, case
        self.required_column, self.forbidden_column = required_column, forbidden_column
        required, forbidden = _listed(required, "required"), _listed(forbidden, "forbidden")
        self.required = [self._word(word) for word in required]
        self.forbidden = [self._word(word) for word in forbidden]
        clash = set(map(self._form, required)) & set(map(self._form, forbidden))
        if clash:
            raise ValueError(f"{min(clash)!r} is both required and forbidden: drop one of the two")
        self.matches = [_pattern(pattern) for pattern in _listed(matches, "matches")]
        self.rejects = [_pattern(pattern) for pattern in _listed(rejects, "rejects")]
        self.words, self.characters = _band(words, "words"), _band(characters, "characters")
        rules = (required, forbidden, matches, rejects, required_column, forbidden_column)
        if not any(rules) and self.words == self.characters == (None, None):
            raise ValueError("there is no rule: give words, patterns or a length band")

    def __call__(self, completions: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """R texts and the columns, each of R entries -> R numbers: 0 where every rule holds, less or -inf elsewhere."""
        required = self._column(self.required_column, columns, len(completions))
        forbidden = self._column(self.forbidden_column, columns, len(completions))
        counts = map(self._violations, completions, required, forbidden)
        return [0.0 if not count else -float("inf") if self.hard else -count for count in counts]

    def _violations(self, text: str, required: list[Pattern], forbidden: list[Pattern]) -> float:
        form = normalised(text, self.case)
        missing = sum(not pattern.search(text) for pattern in self.matches)
        missing += sum(not occurrences(word, form) for word in (*self.required, *required))
        found = sum(len(pattern.findall(text)) for pattern in self.rejects)
        found += sum(occurrences(word, form) for word in (*self.forbidden, *forbidden))
        return missing + found + _outside(len(text.split()), self.words) + _outside(len(text), self.characters)

    def _column(self, name: str | None, columns: dict[str, Sequence[Any]], size: int) -> list[list[Pattern]]:
        if name is None:
            return [[] for _ in range(size)]
        found = []
        for row, entry in enumerate(needed_column(columns, name, size, "the rule")):
            words = list(entry) if isinstance(entry, Iterable) and not isinstance(entry, str | Mapping) else [entry]
            wrong = [word for word in words if not isinstance(word, str) or not word.split()]
            if wrong:
                raise ValueError(f"row {row} has {wrong[0]!r} in {name!r}, which is no word: give a word, or several")
            found.append([self._word(word) for word in words])
        return found

    def _form(self, word: str) -> str:
        return " ".join(normalised(word, self.case).split())

    def _word(self, word: str) -> Pattern:
        """A word or phrase as a pattern, with any blanks between its parts."""
        if not isinstance(word, str) or not word.split():
            raise ValueError(f"{word!r} is no word: give at least one character that is not blank")
        return re.compile(r"\s+".join(map(re.escape, self._form(word).split())))


def occurrences(word: Pattern, text: str) -> int:
    """How often a word is found in a text, with nothing beside it that belongs to the word."""
    count, start = 0, 0
    while found := word.search(text, start):
        first, last = found.span()
        before, behind = text[first - 1 : first], text[last : last + 1]
        open_ = not UNSPACED.match(text[first]) and bool(before) and joins(before)
        # a mark changes the character before it, whatever its script
        open_ |= bool(behind) and (joins(behind) and not UNSPACED.match(text[last - 1]) or category(behind)[0] == "M")
        count += not open_
        start = first + 1 if open_ else last
    return count


def _listed(entries: Sequence[str], name: str) -> list[str]:
    if isinstance(entries, str):
        raise ValueError(f"{name}={entries!r} is one string: pass a list of strings")
    return list(entries)


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}): fix it, or escape its signs") from None


def _band(band: Band, name: str) -> Band:
    if isinstance(band, str) or not isinstance(band, Sequence) or len(band) != 2:
        raise ValueError(f"{name}={band!r} is no band: give the least and the most, as in {name}=(4, 9)")
    low, high = band
    if (low or 0) < 0 or (high is not None and high < (low or 0)):
        raise ValueError(f"no text has between {low} and {high} {name}: give 0 <= least <= most")
    return low, high


def _outside(size: int, band: Band) -> float:
    """How far a size lies outside a band, as a share of the bound that it passed."""
    low, high = band
    if low is not None and size < low:
        return (low - size) / low
    if high is not None and size > high:
        return (size - high) / max(high, 1)
    return 0.0


REWARD = Lexical
