"""ROUGE against references: an upper bound for search, since it sees the answer, and the reporting metric.

With h matching units of a candidate of c units and a reference of d units:
precision = h / c, recall = h / d, F = 2 precision recall / (precision + recall), each 0 where it is undefined.
rougeN: units are n-grams, h = sum_g min(count_candidate(g), count_reference(g)).
rougeL: units are words, h = length of the longest common subsequence.
rougeLsum: h = words in the union of the subsequences of sentence pairs, sentences being lines.
Source: Lin 2004 (ROUGE, sections 2 and 3). The numbers are those of the `rouge-score` package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from iterref.columns import needed_column
from iterref.rewards.algebra import TextComposable
from iterref.rewards.base import expect_choice
from iterref.rewards.memory import Memory
from iterref.rewards.words import Split, Splitting, split_of

Kind = Literal["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]
Measure = Literal["precision", "recall", "f"]
Group = TypeVar("Group", bound=Hashable)


class Tokenizer:
    """Text to words: as `rouge-score` does it unless another `tokenizer` is given, with Porter stems if asked."""

    def __init__(self, stem: bool = False, tokenizer: Splitting | Split = "words") -> None:
        self.split, self.stem = split_of(tokenizer), stem

    def __call__(self, text: str) -> list[str]:
        words = self.split(text)
        return list(filter(None, map(_stemmer(), words))) if self.stem else words


@cache
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer  # slow to import, and rarely asked for

    stem = PorterStemmer().stem
    return lru_cache(maxsize=2**18)(lambda word: word if len(word) <= 3 else str(stem(word)))


class Targets:
    """The texts that candidates of one row are compared with, tokenised once, and their words numbered from 1.

    Every other word of a candidate is number 0: it counts in the candidate's length and matches nothing."""

    def __init__(self, texts: Sequence[str], kind: Kind, tokenize: Tokenizer) -> None:
        self._tokenize, self._lines = tokenize, kind == "rougeLsum"
        self._order = int(kind[-1]) if kind[-1].isdecimal() else 0
        words = dict.fromkeys(word for text in texts for word in tokenize(text))
        self._number = {word: at for at, word in enumerate(words, 1)}
        self._targets = [self._intern(text) for text in texts]
        grams = list(map(self._grams, self._targets))
        self._column = {gram: place for place, gram in enumerate(dict.fromkeys(gram for one in grams for gram in one))}
        self._counts = np.array([[one[gram] for gram in self._column] for one in grams], dtype=np.int64)
        self._sizes = np.array([self._size(sentences) for sentences in self._targets], dtype=np.int64)

    def score(self, candidates: Sequence[str]) -> np.ndarray:
        """C candidates against D targets: (C, D, 3) float64 of precision, recall and F."""
        if not candidates:
            return np.zeros((0, len(self._targets), 3))
        texts = [self._intern(text) for text in candidates]
        sizes = np.array([self._size(sentences) for sentences in texts], dtype=np.int64)
        if self._order:
            hits = np.array([self._gram_hits(self._grams(text)) for text in texts])
        elif self._lines and any(len(sentences) > 1 for sentences in [*texts, *self._targets]):
            hits = np.array([[union_hits(target, text) for target in self._targets] for text in texts])
        else:  # one sentence each: the union is the longest common subsequence itself
            flat = [[sentence[0] if sentence else [] for sentence in group] for group in (texts, self._targets)]
            hits = cdist(flat[0], flat[1], scorer=LCSseq.similarity, dtype=np.int32)
        hits = hits.reshape(len(texts), len(self._targets))
        precision = hits / np.maximum(sizes, 1)[:, None]
        recall = hits / np.maximum(self._sizes, 1)[None, :]
        total = precision + recall
        f = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
        return np.stack([precision, recall, f], axis=-1)

    def _intern(self, text: str) -> list[list[int]]:
        """A text as its sentences, each a list of word numbers; one sentence unless lines count."""
        number = self._number
        sentences = [line for line in text.split("\n") if line] if self._lines else [text]
        return [[number.get(word, 0) for word in self._tokenize(sentence)] for sentence in sentences]

    def _size(self, sentences: list[list[int]]) -> int:
        words = sum(map(len, sentences))
        return max(words - self._order + 1, 0) if self._order else words

    def _grams(self, sentences: list[list[int]]) -> Counter[tuple[int, ...]]:
        """The n-grams of a text for rougeN."""
        return Counter(zip(*(sentences[0][start:] for start in range(self._order)), strict=False))

    def _gram_hits(self, grams: Counter[tuple[int, ...]]) -> np.ndarray:
        known = {self._column[gram]: times for gram, times in grams.items() if gram in self._column}
        return np.minimum(self._counts[:, [*known]], np.array([*known.values()], dtype=np.int64)).sum(axis=1)


def union_hits(reference: Sequence[Sequence[Hashable]], candidate: Sequence[Sequence[Hashable]]) -> int:
    """Hits of rougeLsum: words of each reference sentence in its subsequences with any candidate sentence. A word
    counts at most as often as the whole candidate holds it (Lin 2004, section 3.2, as version 1.5.5 does it)."""
    from rouge_score.rouge_scorer import lcs_ind  # imports nltk, which takes most of a second

    left = Counter(word for sentence in candidate for word in sentence)
    hits = 0
    for sentence in reference:
        alike = (other for other in candidate if set(sentence) & set(other))
        for place in sorted({place for other in alike for place in lcs_ind(sentence, other)}):
            if left[sentence[place]] > 0:
                left[sentence[place]] -= 1
                hits += 1
    return hits


def by_group(
    keys: Sequence[Group], texts: Sequence[str], score: Callable[[Group, list[str]], Sequence[float]]
) -> list[float]:
    """One number a text, where `score(key, texts)` judges all texts of equal key together."""
    groups: dict[Group, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    values = [0.0] * len(texts)
    for key, places in groups.items():
        for place, value in zip(places, score(key, [texts[place] for place in places]), strict=True):
            values[place] = value
    return values


@dataclass(eq=False, repr=False)
class Rouge(TextComposable):
    """ROUGE of a completion against its reference: an **upper bound** (an oracle), because it sees the answer.

    Use it to learn what a search could reach, never as a result beside methods that do not see the reference. The
    column of `references` has one text or several an entry, of which the one of the highest F counts; the latest
    `limit` of them are remembered. `tokenizer` splits texts into words: "words" as `rouge-score` does (a-z and 0-9),
    "unicode" for other scripts, "characters", or a function of a text.

    Raises ValueError for an unknown kind or measure, a missing column or entry, and a reference in which `tokenizer`
    finds no word, or few. Nothing agrees with an empty one, or one of signs alone: 0, as in `rouge-score`."""

    kind: Kind = "rougeL"
    measure: Measure = "f"
    references: str = "reference"
    stem: bool = False
    limit: int = 10_000
    tokenizer: Splitting | Split = "words"

    def __post_init__(self) -> None:
        expect_choice(self.kind, Kind, "there is no ROUGE called")
        self._pick, self._tokenize = measure_index(self.measure), Tokenizer(self.stem, self.tokenizer)
        self._memory: Memory[tuple[str, ...], Targets] = Memory(self.limit)

    def __call__(self, completions: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        column = needed_column(columns, self.references, len(completions), "ROUGE")
        entries = [reference_texts(entry, f"row {position}") for position, entry in enumerate(column)]
        targets = self._memory.fetch(entries, lambda new: [self._prepared(entries[position]) for position in new])
        return by_group(targets, completions, self._best)

    def against(self, references: Sequence[str | Sequence[str]]) -> RougeAgainst:
        """The same reward with its references bound, one entry a row: a callable (completions, rows)."""
        entries = [reference_texts(entry, f"row {row}") for row, entry in enumerate(references)]
        return RougeAgainst(self, list(map(self._prepared, entries)))

    def _prepared(self, texts: tuple[str, ...]) -> Targets:
        for text in texts:
            expect_words(text, self._tokenize)
        return Targets(texts, self.kind, self._tokenize)

    def _best(self, targets: Targets, completions: Sequence[str]) -> list[float]:
        scores = targets.score(completions)
        best = scores[:, :, 2].argmax(axis=1)
        return list(map(float, scores[np.arange(len(best)), best, self._pick]))


class RougeAgainst(TextComposable):
    """`Rouge` with one or several references bound to each row: an upper bound as well."""

    def __init__(self, rouge: Rouge, targets: list[Targets]) -> None:
        self._rouge, self._targets = rouge, targets

    def __call__(self, completions: Sequence[str], rows: Sequence[int]) -> list[float]:
        """R texts and the R rows that they belong to -> R numbers in [0, 1]."""
        for row in rows:
            if not 0 <= row < len(self._targets):
                raise ValueError(f"row {row} has no reference, there are {len(self._targets)}: add its reference")
        return by_group([self._targets[row] for row in rows], completions, self._rouge._best)


def measure_index(measure: str) -> int:
    """Where `Targets.score` keeps a measure on its last axis. Raises ValueError for an unknown one."""
    expect_choice(measure, Measure, "there is no measure called")
    return get_args(Measure).index(measure)


def expect_words(text: str, tokenize: Callable[[str], list[str]]) -> None:
    """Raises `ValueError` for a text that says something, no word or less than half of which the tokenizer finds."""
    said, words = sum(map(str.isalnum, text)), tokenize(text)
    found = sum(len(str(word)) for word in words) if 2 * sum(map(str.isascii, text)) < len(text) else said
    if said and (not words or 2 * found < said):
        told = "no word" if not words else f"only {' '.join(words)[:40]!r}"
        raise ValueError(f"the tokenizer finds {told} in the reference {text[:40]!r}: say tokenizer='unicode'")


def reference_texts(entry: Any, where: str) -> tuple[str, ...]:
    """A reference or several as texts. Raises `ValueError` for none, and for what is no text."""
    several = isinstance(entry, Iterable) and not isinstance(entry, str | Mapping)
    texts = tuple(entry) if several else (entry,)
    if not texts:
        raise ValueError(f"{where} has an empty list of references: give it at least one text")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{where} has the reference {text!r}, which is no text: give a string, or several")
    return texts


def report_rouge_rows(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    stem: bool = False,
) -> dict[str, np.ndarray]:
    """F of every row by the `rouge-score` package itself, the metric of reports: (B,) float64 for each kind.

    With several references a row gets its best, as in the package. Raises ValueError when the lengths differ."""
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes most of a second

    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions for {len(references)} references: give one each")
    texts = [reference_texts(entry, f"row {row}") for row, entry in enumerate(references)]
    rows = list(map(RougeScorer(list(kinds), use_stemmer=stem).score_multi, texts, predictions))
    return {kind: np.array([row[kind].fmeasure for row in rows], dtype=np.float64) for kind in kinds}


def report_rouge(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    stem: bool = False,
) -> dict[str, float]:
    """The mean over rows of `report_rouge_rows`, in [0, 1]. Raises ValueError when there is nothing to report."""
    if not predictions:
        raise ValueError("there are no predictions to report: give at least one row")
    rows = report_rouge_rows(predictions, references, kinds, stem)
    return {kind: float(values.mean()) for kind, values in rows.items()}


REWARD = Rouge
