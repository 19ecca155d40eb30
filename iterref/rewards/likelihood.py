"""SelfLikelihood: how likely a text is under the diffusion model itself, one token at a time.

    r(x) = sum_i log p(x^i | x^{-i})  over the free positions i, or the mean over them          (pseudo-likelihood)

Under absorbing noise p(x^i | x^{-i}) is the denoiser's posterior with token i alone masked, M passes for M positions.
Where the denoiser has leave-one-out conditionals, one pass gives all of them. With `groups` = g, every g-th position is
masked at once, in g passes: cheaper, and blind to how the tokens masked together belong together.
Sources: Besag 1975 (pseudo-likelihood); Salazar et al. 2020, arXiv:1910.14659 (scores of masked language models).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.rewards.algebra import Composable
from iterref.rewards.base import expect_choice

Measure = Literal["mean", "sum"]


class SelfLikelihood(Composable):
    """The model's own pseudo-likelihood of a text, a reward of tokens: `SelfLikelihood(*model.prepare(prompts))`.

    `denoiser`, `canvas` (B, L) and `free` (B, L) bool are those of the problem that the reward is for; frozen positions
    do not count, nor do those that hold one of the tokens `ignore`, such as what fills up the end, or one that stands
    `unseen` behind a text. `value` is the mean over the counted positions or their sum. `groups` bounds the NFE a text
    (all L unless given), `max_rows` the sequences of one call. `passes` counts the NFE, which no method's budget holds.

    A text with no counted position is forbidden, as is one that the model rules out. Raises ValueError for a denoiser
    under other noise that has no leave-one-out conditionals."""

    def __init__(
        self, denoiser: Denoiser, canvas: Tensor, free: Tensor, *, value: Measure = "mean", groups: int | None = None,
        ignore: Sequence[int] = (), max_rows: int = 256,
    ) -> None:  # fmt: skip
        expect_choice(value, Measure, "a likelihood has no value")
        if canvas.shape != free.shape or canvas.dim() != 2:
            raise ValueError(f"`free` has shape {tuple(free.shape)}, the canvas {tuple(canvas.shape)}: make them equal")
        if max_rows < 1 or (groups is not None and groups < 1):
            raise ValueError(f"groups={groups} and max_rows={max_rows}: give at least 1 of each")
        if not denoiser.has_leave_one_out and denoiser.noise.mask is None:
            raise ValueError("the denoiser has neither a mask nor leave-one-out conditionals: use Perplexity")
        self.denoiser, self.free, self.value = denoiser, free.bool(), value
        self.groups = min(groups or canvas.shape[1], canvas.shape[1])
        self.ignore = torch.tensor([*ignore, *denoiser.unseen], dtype=torch.long, device=canvas.device)
        self.max_rows, self.passes = max_rows, 0

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        if len(rows) and int(rows.max()) >= len(self.free):
            raise ValueError(f"row {int(rows.max())} has no canvas, there are {len(self.free)}: prepare its prompt")
        counted = self.free[rows] & ~torch.isin(tokens, self.ignore)
        total, size = self._cells(tokens, counted, rows).sum(1), counted.sum(1)
        value = total if self.value == "sum" else total / size.clamp_min(1)
        return torch.where(size > 0, value, -torch.inf)

    def _cells(self, tokens: Tensor, counted: Tensor, rows: Tensor) -> Tensor:
        """log p(x^i | x^{-i}) of the counted cells (R, L) float64, 0 elsewhere.

        Leave-one-out conditionals take one pass a text. Of masks, copy g of a text has the counted positions i with
        i mod groups = g."""
        noise, mask, where = self.denoiser.noise, self.denoiser.noise.mask, counted[:, None]  # (R, G, L)
        if not self.denoiser.has_leave_one_out:
            group = torch.arange(tokens.shape[1], device=tokens.device) % self.groups
            where = where & (group == torch.arange(self.groups, device=tokens.device)[:, None])
        text, copy = where.any(2).nonzero(as_tuple=True)
        where = where[text, copy]
        shares = where.sum(1) / self.free[rows[text]].sum(1)  # of the free positions: the time of such a state
        times = noise.schedule.time(1 - shares.double())
        cells = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        for i in torch.arange(len(text), device=tokens.device).split(self.max_rows):
            clean, opened, whose = tokens[text[i]], where[i], rows[text[i]]
            if mask is None or self.denoiser.has_leave_one_out:
                log_p = self.denoiser.leave_one_out(clean, opened, whose)
            else:
                log_p = self.denoiser(clean.masked_fill(opened, mask), times[i], opened, whose)
            row, position = opened.nonzero(as_tuple=True)
            cells[text[i][row], position] = log_p.gather(1, clean[opened][:, None])[:, 0].double()
            self.passes += len(i)
        return cells
