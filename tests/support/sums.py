"""An exact text model that answers sums: three characters, of which the right answer is the likeliest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from iterref.exact.table import Table
from iterref.models.base import TextModel
from iterref.noise import absorbing
from tests.support.fakes import FakeDenoiser

LETTERS = " 0123456789\n"  # the last ends an answer
LENGTH, END = 3, len(LETTERS) - 1
SUM = re.compile(r"(\d+) ([+-]) (\d+) =$")


class Letters:
    """How texts are cut: a letter each."""

    template = None

    def ids(self, texts: Sequence[str], what: str = "text") -> list[list[int]]:
        for row, text in enumerate(texts):
            if wrong := sorted({*text} - {*LETTERS}):
                raise ValueError(f"{what} {row} holds {wrong[0]!r}, which is no letter here: take it out")
        return [[LETTERS.index(letter) for letter in text] for text in texts]


class Sums(TextModel):
    """p(answer | prompt) falls with the distance to what the prompt's last sum is: " 7", "12\\n", ... of the numbers up
    to 999, "" where the prompt ends with no sum."""

    def __init__(self) -> None:
        self.noise, self.length, self.device = absorbing(len(LETTERS) + 1), LENGTH, torch.device("cpu")
        self.ends, self.fill, self.codec = [END], END, Letters()

    def table(self, prompt: str) -> Table:
        """The exact distribution of the answers to a prompt."""
        found = SUM.search(prompt)
        right = None if found is None else int(found[1]) + (int(found[3]) if found[2] == "+" else -int(found[3]))
        scores = torch.full((len(LETTERS),) * LENGTH, -40.0, dtype=torch.float64)
        for ids in product(range(len(LETTERS)), repeat=LENGTH):
            text = "".join(LETTERS[token] for token in ids)
            number = text.partition("\n")[0]
            if re.fullmatch(r" ?(0|[1-9]\d*)\n*", text) and right is not None:
                scores[ids] = -0.4 * abs(int(number) - right) - 3.0 * (not number.startswith(" "))
        return Table(scores, self.noise)

    def prepare(self, prompts: Sequence[str]) -> tuple[FakeDenoiser, Tensor, Tensor]:
        canvas = torch.full((len(prompts), LENGTH), len(LETTERS))
        denoiser = FakeDenoiser([self.table(prompt) for prompt in prompts], self.noise)
        return denoiser, canvas, torch.ones_like(canvas, dtype=torch.bool)

    def decode(self, tokens: Tensor) -> list[str]:
        texts = ("".join(LETTERS[token] for token in row if token < len(LETTERS)) for row in tokens.tolist())
        return [text.partition("\n")[0] for text in texts]

    def _canvases(self, texts: Sequence[str], rows: Sequence[int]) -> list[list[int]]:
        return [(ids + [END] * LENGTH)[:LENGTH] for ids in self.codec.ids(texts)]


def right(completions: list[str], answer: list[str]) -> list[float]:
    """Whether each text is the answer that its document has."""
    return [float(text.strip() == one) for text, one in zip(completions, answer, strict=True)]
