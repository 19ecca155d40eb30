"""Diversity: how much a set of texts repeats itself, within one text and from one to the next, and its sources.

    copied         words of a text that stand in its document / all its words

    distinct-n     different n-grams / all n-grams of the set
    overlap        mean over pairs of texts of one group of their ROUGE-L F1: 1 where all are alike

Both depend on how many texts there are, so sets are compared at one size. Li et al. 2016, arXiv:1510.03055 (distinct);
overlap is Self-BLEU (Zhu et al. 2018, arXiv:1802.01886) with the longest common subsequence for its n-grams.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
from rapidfuzz.distance import LCSseq

from iterref.rewards.rouge import Tokenizer

WORD = re.compile(r"\w+(?:'\w+)*|#+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams of texts in words as a share of all; NaN where no text has n words.

    Raises `ValueError` for n below 1.
    """
    if n < 1:
        raise ValueError(f"an n-gram has at least one word, got n={n}")
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def overlap(texts: Sequence[Sequence[str]], groups: Sequence[Hashable]) -> float:
    """Mean ROUGE-L F1 of all pairs of texts in words that belong to one of the `groups`; the mean over groups.

    NaN where every text is alone; two texts without words are alike. Raises `ValueError` where lengths differ.
    """
    if len(texts) != len(groups):
        raise ValueError(f"there are {len(texts)} texts and groups for {len(groups)}: give one group a text")
    members: dict[Hashable, list[Sequence[str]]] = {}
    for text, group in zip(texts, groups, strict=True):
        members.setdefault(group, []).append(text)
    means = [np.mean([_alike(*pair) for pair in combinations(one, 2)]) for one in members.values() if len(one) > 1]
    return float(np.mean(means)) if means else float("nan")


def _alike(one: Sequence[str], other: Sequence[str]) -> float:
    size = len(one) + len(other)
    return 2 * LCSseq.similarity(one, other) / size if size else 1.0


def copied(texts: Sequence[str], documents: Sequence[str]) -> np.ndarray:
    """The share of the words of each text that stand in its document, (R,) float64, as ROUGE reads words; 0 of none."""
    tokenize = Tokenizer()
    shares = []
    for text, document in zip(texts, documents, strict=True):
        words, there = tokenize(text), set(tokenize(document))
        shares.append(sum(word in there for word in words) / max(len(words), 1))
    return np.array(shares, dtype=np.float64)
