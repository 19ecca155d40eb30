"""LearnedRouge: ROUGE-L with the unseen reference of a document, as a network estimates it.

    r(y) = sigmoid(f(document, marks of the words that y keeps, words of y that the document has not))

A summary of this kind keeps words of its document in their order, so the cross-encoder reads the document once, and the
type of a token says whether y keeps its word. `train_learned_rouge.py` trains it on the summariser's own drafts, whose
ROUGE-L is known there, by value and by rank (Liu and Liu 2021, arXiv:2106.01890; Liu et al. 2022, arXiv:2203.16804).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rapidfuzz.distance import LCSseq
from torch import Tensor

from benchmarks.rewards.texts import END, START, in_words
from iterref.rewards.network import Encoding, Pair, TextNetwork

WEIGHTS = Path(__file__).parent / "weights" / "learned-rouge"
AROUND, LEFT, KEPT, NEW = range(4)  # types of tokens: the frame, words of the document, other words of the summary


@dataclass(eq=False, repr=False, kw_only=True)
class LearnedRouge(TextNetwork[float]):
    """The estimated ROUGE-L, in (0, 1), of summaries of the prompts: `LearnedRouge()`."""

    kind = "SequenceClassification"

    model: Any = field(default=WEIGHTS, kw_only=False)
    given: str | None = "prompts"

    def read(self, batch: dict[str, Tensor]) -> list[float]:
        return self.checkpoint.network(**batch).logits[:, 0].double().sigmoid().tolist()

    def _tokens(self, pairs: Sequence[Pair], **options: Any) -> list[Encoding]:
        cut = options.get("max_length")
        tokens = self.tokenizer.backend_tokenizer
        encodings = []
        for document, text in pairs:
            ids, types = marked(tokens, document or "", tuple(in_words(text)))
            encodings.append(
                {"input_ids": ids[:cut], "token_type_ids": types[:cut], "attention_mask": [1] * len(ids[:cut])}
            )
        return encodings


@lru_cache(maxsize=4096)
def pieces(tokenizer: Any, text: str) -> tuple[list[str], list[int], list[int]]:
    """The words of a text, its tokens, and the number of each token's word."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return in_words(text), encoding.ids, encoding.word_ids


def kept(document: Sequence[str], summary: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Which words of a document stand in a summary, by a longest common subsequence, and the summary's other words."""
    marks, new = [False] * len(document), list[str]()
    for step in LCSseq.opcodes(summary, document):
        if step.tag == "equal":
            marks[step.dest_start : step.dest_end] = [True] * (step.dest_end - step.dest_start)
        else:
            new += summary[step.src_start : step.src_end]
    return marks, new


def marked(tokenizer: Any, document: str, summary: Sequence[str]) -> tuple[list[int], list[int]]:
    """<s> document </s> other words of the summary </s>: tokens and their types."""
    words, ids, places = pieces(tokenizer, document)
    marks, new = kept(words, summary)
    more = tokenizer.encode(" ".join(new), add_special_tokens=False).ids if new else []
    types = [AROUND, *(KEPT if marks[place] else LEFT for place in places), AROUND, *[NEW] * len(more), AROUND]
    return [START, *ids, END, *more, END], types
