"""A model that writes in blocks, small enough to know what it says."""

from __future__ import annotations

import math

import torch

from iterref.denoiser import Denoiser, carry_over
from iterref.noise import absorbing

LENGTH = 8


class InBlocks(Denoiser):
    """A token hangs on the last one of the block before, where all blocks before are finished; else it is a guess."""

    time_independent = True

    def __init__(self, vocab: int, block: int, offset: int = 0) -> None:
        self.noise, self.block_length, self.guesses = absorbing(vocab + 1), block, 0
        self.block_offset = torch.tensor([offset]) if offset else None
        random = torch.randn(vocab + 1, vocab, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.following = torch.nn.functional.pad(random.log_softmax(1), (0, 1), value=-torch.inf)
        self.number = (torch.arange(LENGTH) + offset) // block
        begin = torch.searchsorted(self.number, self.number)
        self.before = torch.where(begin > 0, begin - 1, -1)

    def known(self, x: torch.Tensor) -> torch.Tensor:
        """log p(. | the block before) at every position, (R, L, V)."""
        return self.following[x[:, self.before].where(self.before >= 0, self.noise.mask)]

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, where: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert self.noise.mask is not None
        first = self.number.where(x_t == self.noise.mask, LENGTH).amin(1)
        guess = torch.full_like(self.following[0], -math.log(self.noise.vocab - 1))
        self.guesses += int((where & (self.number > first[:, None])).sum())
        log_p = self.known(x_t).where((self.number <= first[:, None])[..., None], guess)
        return carry_over(log_p[where], x_t, where, self.noise.mask)
