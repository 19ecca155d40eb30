"""A small exact text model for tests that need no network: three words a text, no prompts in its law."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.exact.table import Table
from iterref.noise import absorbing

WORDS = ("alpha", "beta", "gamma", "delta")
LENGTH = 3


class WordModel:
    """A text model whose texts are `LENGTH` of the `WORDS`, by one random table; prompts longer than six words are
    refused."""

    prompted = True

    def __init__(self, seed: int = 0) -> None:
        self.noise = absorbing(len(WORDS) + 1)
        logits = torch.randn((len(WORDS),) * LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.table = Table(logits, self.noise)

    def prepare(self, prompts: Sequence[str]) -> tuple[Table, Tensor, Tensor]:
        """The table, masked canvases (B, L), all of them free."""
        for row, prompt in enumerate(prompts):
            if len(prompt.split()) > 6:
                raise ValueError(f"prompt {row} has more than 6 words: shorten it")
        canvas = torch.full((len(prompts), LENGTH), len(WORDS))
        return self.table, canvas, torch.ones_like(canvas, dtype=torch.bool)

    def decode(self, tokens: Tensor) -> list[str]:
        """Words with blanks between them, masks left out."""
        return [" ".join(WORDS[i] for i in ids if i < len(WORDS)) for ids in tokens.tolist()]
