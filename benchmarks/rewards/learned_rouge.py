"""LearnedRouge: the ROUGE-L that a summary can expect, from how likely a reference keeps each word of the document.

    r(y) = 2 sum_(i in y) p_i  /  (|y| + sum_i p_i)        p_i = P(the reference keeps word i of the document)

The sum runs over the document's words that y keeps in their order, |y| counts the words of y, and the other sum is how
many words a reference is expected to have: ROUGE-L's F (Lin 2004) with expectations in its numerator and denominator.
The network reads a document once, whatever is asked about it, so a reward call costs a tenth of a millisecond.
`train_learned_rouge.py` trains it. Summaries by deletion: Filippova and Altun (2013); estimates of a metric as a
reward: Liu and Liu (2021), arXiv:2106.01890.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from rapidfuzz.distance import LCSseq
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertForTokenClassification

from benchmarks.rewards.texts import END, PAD, START, in_words, padded
from iterref.hub import quiet
from iterref.rewards.algebra import TextComposable
from iterref.rewards.memory import Memory

WEIGHTS = Path(__file__).parent / "weights" / "learned-rouge"
LENGTH = 128  # tokens that the network reads; what stands behind them is never kept


class LearnedRouge(TextComposable):
    """The expected ROUGE-L, in [0, 1], of summaries of the prompts: `LearnedRouge()`."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        with quiet():
            self.network = BertForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._known: Memory[str, tuple[list[str], list[float]]] = Memory(10_000)

    def __call__(self, completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
        """R texts and their documents -> R numbers."""
        found = self._known.fetch(list(prompts), lambda new: self._read([prompts[place] for place in new]))
        return [expected(text, *one) for text, one in zip(completions, found, strict=True)]

    def _read(self, documents: Sequence[str]) -> list[tuple[list[str], list[float]]]:
        """The words of documents that ROUGE counts, and how likely a reference keeps each."""
        found = []
        for document, chances in zip(documents, chances_of(self.network, self.tokenizer, documents), strict=True):
            pairs = [pair for pair in zip(in_words(document), chances, strict=True) if counts(pair[0])]
            found.append(([word for word, _ in pairs], [chance for _, chance in pairs]))
        return found


def expected(summary: str, words: Sequence[str], chances: Sequence[float]) -> float:
    """The expected ROUGE-L of a summary, from the document's words and how likely each is kept."""
    own = [word for word in in_words(summary) if counts(word)]
    same = (step for step in LCSseq.opcodes(own, words) if step.tag == "equal")
    hits = sum(sum(chances[step.dest_start : step.dest_end]) for step in same)
    total = len(own) + sum(chances)
    return 2 * hits / total if total else 0.0


def counts(word: str) -> bool:
    """Whether ROUGE reads a word: it drops punctuation, and numbers are written ## here."""
    return any(letter.isalnum() for letter in word)


@torch.no_grad()
def chances_of(
    network: nn.Module, tokenizer: Tokenizer, documents: Sequence[str], batch: int = 64
) -> list[list[float]]:
    """How likely a reference keeps each word of documents, by the word's first token; 0 beyond what is read."""
    found: list[list[float]] = []
    for begin in range(0, len(documents), batch):
        group = documents[begin : begin + batch]
        tokens, owners = encoded(tokenizer, group)
        logits = network(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits[..., 0]
        for document, line, owner in zip(group, logits.sigmoid().tolist(), owners, strict=True):
            first = dict(zip(reversed(owner), reversed(line[1 : len(owner) + 1]), strict=True))
            found.append([first.get(place, 0.0) for place in range(len(in_words(document)))])
    return found


def encoded(tokenizer: Tokenizer, documents: Sequence[str]) -> tuple[Tensor, list[list[int]]]:
    """<s> document </s> as tokens (R, T) long, and the word that each inner token belongs to."""
    read = [pieces(tokenizer, document) for document in documents]
    return padded([[START, *ids[: LENGTH - 2], END] for ids, _ in read]), [owner[: LENGTH - 2] for _, owner in read]


@lru_cache(maxsize=4096)
def pieces(tokenizer: Tokenizer, document: str) -> tuple[list[int], list[int]]:
    """The tokens of a document and the number of each one's word."""
    encoding = tokenizer.encode(document, add_special_tokens=False)
    return encoding.ids, encoding.word_ids
