"""Lists of words: a denoiser of words of one length, and a text model around it; a model family of your own.

p(x_0^i = v | x_t)  =  share of the words that agree with the letters shown and have v at place i
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from iterref import absorbing, generate
from iterref.check import check, table
from iterref.denoiser import Denoiser
from iterref.models.family import Family

FAMILY = Family(title="lists of words", reads=("word-list",), whole="a list of words has its own length and letters")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = "apple angle maple eagle table cable noble title tidal metal medal petal camel cabal canal naval alarm".split()


class WordList(Denoiser):
    """The exact denoiser of the uniform distribution over `words`; where no word agrees, single letters decide."""

    time_independent, uses_prompts = True, False  # neither t nor the prompt matters: equal sequences are evaluated once

    def __init__(self, words: list[str]) -> None:
        self.noise = absorbing(len(LETTERS) + 1)  # the last token is the mask
        self.words = self.encode(words)
        self.shown = torch.nn.functional.one_hot(self.words, self.noise.vocab).double()  # (W, L, V)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L) tokens, (R,) times, (R, L) bool, (R,) prompts -> (M, V) log p(x_0^i | x_t) of the True cells."""
        agree = ((x_t[:, None] == self.words) | (x_t[:, None] == self.noise.mask)).all(-1)  # (R, W)
        counts = torch.einsum("rw,wlv->rlv", agree.double(), self.shown) + 1e-6 * self.shown.sum(0)
        known = torch.nn.functional.one_hot(x_t, self.noise.vocab).double()  # a letter that is shown is certain
        counts = torch.where((x_t == self.noise.mask)[..., None], counts, known)
        return (counts / counts.sum(-1, keepdim=True)).log()[where]

    def prepare(self, prompts: list[str]) -> tuple["WordList", Tensor, Tensor]:
        canvas = torch.full((len(prompts), self.words.shape[1]), self.noise.mask)
        return self, canvas, torch.ones_like(canvas, dtype=torch.bool)

    def encode(self, texts: list[str]) -> Tensor:
        return torch.tensor([[LETTERS.index(letter) for letter in text] for text in texts])

    def decode(self, tokens: Tensor) -> list[str]:
        return ["".join(LETTERS[token] if token < len(LETTERS) else "?" for token in row) for row in tokens.tolist()]


def load(name: str | Path, *, revision: str | None = None, dtype: torch.dtype, device: torch.device) -> WordList:
    """The words that config.json lists, on the CPU; a list has neither weights nor a precision."""
    return WordList(json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))["words"])


if __name__ == "__main__":
    print(table(check(model := WordList(WORDS), model.words, real=True)))
    for name in ("ancestral:steps=5,order=left", "trajectory:steps=5,order=left"):
        result = generate(model, [""] * 8, sampler=name, alpha=0.2, reward=lambda texts: [x.count("a") for x in texts])
        print(f"{name}\n  {' '.join(result.texts or [])}   mean reward {float(result.rewards.mean()):.2f}")
