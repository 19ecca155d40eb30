"""A text model of a small exact law, whose texts are four letters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.exact.markov import world


class Letters:
    """Every prompt has the same law."""

    def __init__(self) -> None:
        self.denoiser = world(4, 3)[0]
        self.noise = self.denoiser.noise

    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        canvas = torch.zeros(len(prompts), 4, dtype=torch.long)
        return self.denoiser, canvas, torch.ones_like(canvas, dtype=torch.bool)

    def encode(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([["abc".index(letter) for letter in text] for text in texts])

    def decode(self, tokens: Tensor) -> list[str]:
        return ["".join("abc"[token] for token in row) for row in tokens.tolist()]


def letters_a(completions: Sequence[str]) -> list[float]:
    """How many letters of each text are an a."""
    return [float(text.count("a")) for text in completions]
