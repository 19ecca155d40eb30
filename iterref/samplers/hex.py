"""HEX: a vote among drafts that were written by different block schedules, without a reward.

    x^jm ~ decoding in blocks of length b_j, m = 1 .. n, for every schedule j
    return the draft that agrees best with all of them:   argmax_x  sum_y (share of free positions where x, y agree)

The text that more than half of the drafts agree on wins, and where there is none, the one nearest to the others. The
publication votes on the answers that are read off the texts; what stands for an answer here is the text. The reward is
asked for the returned text alone, to report it. Under noise without a mask there are no blocks to write, and all drafts
are those of the reverse process.

Lee et al. (2025), arXiv:2510.05040.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.decoding import Decoder, grid
from iterref.particles import pick
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Cloud, Info, Sampler, State, noise
from iterref.samplers.spans import GridSpans, turns


@dataclass(frozen=True)
class HEX(Sampler):
    """`n` drafts of `steps` grid steps by each of `block_lengths` (0 is the whole text), in `order` within one."""

    name: ClassVar[str] = "hex"
    knob: ClassVar[str] = "n"

    steps: int = 8
    n: int = 1
    block_lengths: GridSpans = (0, 4, 8)
    order: str = "confidence"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, n=1)
        for length in turns(self.block_lengths):
            Decoder(self.order, int(length))
        if not turns(self.block_lengths):
            raise ValueError("hex: block_lengths names no schedule: give at least one, as in block_lengths=0+4+8")

    def in_blocks(self, block: int, blocks: int) -> Self:
        """As it is, where each of its blocks is a part of one of the model's."""
        whole = [length for length in turns(self.block_lengths) if not length or block % length]
        return super().in_blocks(block, blocks) if whole or self.steps < blocks else self

    @property
    def drafts(self) -> int:
        return self.n * len(turns(self.block_lengths))

    def init(self, run: Run, rng: Rng) -> State:
        return noise(run, self.drafts, rng)

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all drafts from one call; the last one votes."""
        assert isinstance(state, Cloud)
        t, u = grid(self.steps)[state.step : state.step + 2]
        wide, streams, x_t = run.repeat(self.drafts), rng.repeat(self.drafts), state.particles.x_t.flatten(0, 1)
        decoders = self._decoders(run)
        draws, sure = wide.draw(x_t, t, wide.undetermined(x_t, t), 1, streams.fork("draw"), decoders[0].confidence)
        parts, every = [], torch.arange(len(x_t), device=x_t.device).split(self.n * run.batch * run.copies)
        for decoder, of in zip(decoders, every, strict=True):
            given = x_t[of], draws[0, of], sure[0, of]
            parts.append(decoder.reveal(run.repeat(self.n), *given, t, u, streams.take(of)))
        x = torch.cat(parts).unflatten(0, (self.drafts, -1))
        shown = x[0] if u > 0 else pick(x, voted(x, run.free))
        return Cloud(state.step + 1, u, shown, replace(state.particles, x_t=x)), Info()

    def cost(self) -> Cost:
        """Every draft is a run of its own; the reward of the returned text is reported."""
        return Cost(self.drafts * self.steps, 1, self.steps)

    def _decoders(self, run: Run) -> list[Decoder]:
        masked = run.noise.mask is not None
        return [Decoder(self.order, int(length)) if masked else Decoder() for length in turns(self.block_lengths)]


def voted(x: Tensor, free: Tensor) -> Tensor:
    """Which of drafts (N, B, L) agrees best with all of them at the free positions (B, L), the first of several, (B,).
    One draft after the other is compared with the others: (N, B, L) is held, never (N, N, B, L)."""
    agreed = torch.stack([((x == one) & free).sum(-1).sum(0) for one in x])
    return agreed.argmax(0)
