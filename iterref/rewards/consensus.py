"""Consensus: how well a text agrees with the model's own drafts of the same row. It needs no reference.

r(y) = sum_d (n_d / n) F(y, d) over the different drafts d of the row's pool, n_d their counts, F a ROUGE.
It estimates the expected utility of minimum-Bayes-risk decoding: the text of the highest r is the pool's MBR answer.
Sources: Kumar and Byrne 2004 (MBR decoding); Eikema and Aziz 2022, arXiv 2108.04718 (sampling-based MBR, section 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from iterref.rewards.algebra import TextComposable
from iterref.rewards.base import expect_choice
from iterref.rewards.memory import Memory
from iterref.rewards.rouge import Kind, Measure, Targets, Tokenizer, by_group, expect_words, measure_index
from iterref.rewards.words import Split, Splitting


class Consensus(TextComposable):
    """Mean ROUGE of a text against its row's pool of drafts, as a text reward `(completions, rows)`.

    `pools` holds, for every row of the problem, the drafts that the model itself wrote for it. Drafts of the same words
    are compared once and weigh by their number. The latest `limit` answers are remembered by (row, text). A candidate
    that is also a draft meets itself in the pool, as in sampling-based MBR: draw the pool apart from the search if that
    is not wanted. `tokenizer` is as for `Rouge`: "unicode", and "characters" for a pool without words, unless given.

    Raises ValueError for an empty pool, an unknown kind or measure, and a given tokenizer that finds no word in a pool.
    """

    def __init__(
        self,
        pools: Sequence[Sequence[str]],
        kind: Kind = "rougeL",
        measure: Measure = "f",
        stem: bool = False,
        limit: int = 200_000,
        tokenizer: Splitting | Split | None = None,
    ) -> None:
        expect_choice(kind, Kind, "there is no ROUGE called")
        self.kind, self.measure, self._pick = kind, measure, measure_index(measure)
        self._memory: Memory[tuple[int, str], float] = Memory(limit)
        self._targets, self._weights = list[Targets](), list[np.ndarray]()
        for row, pool in enumerate(pools):
            if not pool:
                raise ValueError(f"row {row} has an empty pool: give it at least one draft")
            tokenize = _tokenizer(pool, stem, tokenizer)
            # lines survive in the normal form, since rougeLsum reads them as sentences
            forms = ["\n".join(" ".join(tokenize(line)) for line in draft.split("\n")) for draft in pool]
            # the drafts themselves go on, not their normal forms: a stem must not be stemmed again
            drafts = dict(zip(forms, pool, strict=True))
            self._targets.append(Targets(list(drafts.values()), kind, tokenize))
            self._weights.append(np.array(list(Counter(forms).values()), dtype=np.float64) / len(pool))

    def __call__(self, completions: Sequence[str], rows: Sequence[int]) -> list[float]:
        """R texts and the R rows that they belong to -> R numbers in [0, 1]."""
        keys = list(zip(map(int, rows), completions, strict=True))

        def evaluate(new: list[int]) -> list[float]:
            return by_group([keys[place][0] for place in new], [keys[place][1] for place in new], self._score)

        return self._memory.fetch(keys, evaluate)

    def _score(self, row: int, texts: Sequence[str]) -> list[float]:
        if not 0 <= row < len(self._targets):
            raise ValueError(f"row {row} has no pool, there are {len(self._targets)}: add its drafts")
        scores = np.ascontiguousarray(self._targets[row].score(texts)[:, :, self._pick])
        # a sum over each row by itself, not a matrix product: a text's value must not depend on its neighbours
        return list(map(float, (scores * self._weights[row]).sum(axis=1)))


def _tokenizer(pool: Sequence[str], stem: bool, tokenizer: Splitting | Split | None) -> Tokenizer:
    """What splits a pool's drafts and what is compared with them."""
    found = Tokenizer(stem, tokenizer or "unicode")
    if any(map(found, pool)):
        return found
    if tokenizer is None:
        return Tokenizer(False, "characters")
    expect_words(" ".join(pool), found)
    return found


REWARD = "iterref.drafts:OwnDrafts"  # by name, the pool of drafts is still to be drawn
