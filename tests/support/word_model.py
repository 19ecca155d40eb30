"""A text model of five words and an exact distribution, the same for every prompt: what tests of rewards run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.exact.table import Table
from iterref.noise import absorbing

WORDS = ("alpha", "beta", "gamma", "delta", ".")  # the last ends a text, as <eos> does
LENGTH = 3


class Words:
    """How texts of at most three words are read and written."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = [[WORDS.index(word) for word in text.lower().rstrip(".").split()] for text in texts]
        return torch.tensor([ids + [len(WORDS) - 1] * (LENGTH - len(ids)) for ids in rows])

    def decode(self, tokens: Tensor) -> list[str]:
        texts = []
        for ids in tokens.tolist():
            words = [WORDS[i] for i in ids if i < len(WORDS)]
            texts.append(" ".join(words[: words.index(".")] if "." in words else words))
        return texts


class WordModel(Words):
    """The same distribution for every prompt. `ends` lists the tokens that end a text."""

    ends = (len(WORDS) - 1,)

    def __init__(self) -> None:
        self.noise = absorbing(len(WORDS) + 1)
        generator = torch.Generator().manual_seed(0)
        self.table = Table(torch.randn((len(WORDS),) * LENGTH, generator=generator, dtype=torch.float64), self.noise)

    def prepare(self, prompts: Sequence[str]) -> tuple[Table, Tensor, Tensor]:
        canvas = torch.full((len(prompts), LENGTH), len(WORDS))
        return self.table, canvas, torch.ones_like(canvas, dtype=torch.bool)
