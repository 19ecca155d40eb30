"""A text model of five words whose distribution is an exact table, its prompts, and a reward that counts one word."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.exact.table import Table
from iterref.noise import Noise, absorbing
from tests.support.word_model import LENGTH, WORDS, Words

PROMPTS = ["one", "one two", "one two three", "one two three four"]
SMALL = "iterref:steps=2,moves=3,tries=3"


class FakeDenoiser(Denoiser):
    """One exact distribution a prompt."""

    def __init__(self, tables: list[Table], noise: Noise) -> None:
        self.tables, self.noise, self.rows_asked = tables, noise, 0

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self.rows_asked += len(x_t)
        if len(self.tables) == 1:
            return self.tables[0](x_t, t, where, rows)
        parts = [
            self.tables[int(row)](x_t[i : i + 1], t[i : i + 1], where[i : i + 1], rows[i : i + 1])
            for i, row in enumerate(rows)
        ]
        return torch.cat(parts)


class FakeModel(Words):
    """A text model whose distribution depends on the number of words of the prompt."""

    prompted, length = True, LENGTH

    def __init__(self) -> None:
        self.noise = absorbing(len(WORDS) + 1)
        self.denoiser: FakeDenoiser | None = None

    def table(self, prompt: str) -> Table:
        generator = torch.Generator().manual_seed(len(prompt.split()))
        return Table(torch.randn((len(WORDS),) * LENGTH, generator=generator, dtype=torch.float64), self.noise)

    def prepare(self, prompts: Sequence[str]) -> tuple[FakeDenoiser, Tensor, Tensor]:
        for row, prompt in enumerate(prompts):
            if len(prompt.split()) > 6:
                raise ValueError(f"prompt {row} has {len(prompt.split())} words and the model reads 6: shorten it")
        self.denoiser = FakeDenoiser([self.table(prompt) for prompt in prompts], self.noise)
        canvas = torch.full((len(prompts), LENGTH), len(WORDS))
        return self.denoiser, canvas, torch.ones_like(canvas, dtype=torch.bool)


def beta(completions: list[str]) -> list[float]:
    return [float(text.split().count("beta")) for text in completions]


def fails_after(calls: int) -> Callable[[list[str]], list[float]]:
    """`beta`, which raises `KeyError` at every call beyond so many."""
    made = itertools.count(1)

    def reward(completions: list[str]) -> list[float]:
        if next(made) > calls:
            raise KeyError("gone")
        return beta(completions)

    return reward
