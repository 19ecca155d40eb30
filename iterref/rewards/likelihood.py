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

Measure = Literal["mean", "sum"]


class SelfLikelihood(Composable):
    """The model's own pseudo-likelihood of a text, a reward of tokens: `SelfLikelihood(*model.prepare(prompts))`.

    `denoiser`, `canvas` (B, L) and `free` (B, L) bool are those of the problem that the reward is for; frozen positions
    are read and not counted, nor are positions that hold one of the tokens `ignore`, such as what fills up the end.
    `value` is the mean over the counted positions or their sum. `groups` bounds the NFE a text (all L unless given),
    `max_rows` the sequences of one call. `passes` counts the NFE, which no method's budget holds.

    A text with no counted position is forbidden, as is one that the model rules out. Raises ValueError for a denoiser
    under other noise that has no leave-one-out conditionals.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        canvas: Tensor,
        free: Tensor,
        *,
        value: Measure = "mean",
        groups: int | None = None,
        ignore: Sequence[int] = (),
        max_rows: int = 256,
    ) -> None:
        if value not in ("mean", "sum"):
            raise ValueError(f"a likelihood has no value {value!r}: use mean or sum")
        if canvas.shape != free.shape or canvas.dim() != 2:
            raise ValueError(f"`free` has shape {tuple(free.shape)}, the canvas {tuple(canvas.shape)}: make them equal")
        if max_rows < 1 or (groups is not None and groups < 1):
            raise ValueError(f"groups={groups} and max_rows={max_rows}: give at least 1 of each")
        if not denoiser.has_leave_one_out and denoiser.noise.mask is None:
            raise ValueError("the denoiser has neither a mask nor leave-one-out conditionals: use Perplexity")
        self.denoiser, self.free, self.value = denoiser, free.bool(), value
        self.groups = min(groups or canvas.shape[1], canvas.shape[1])
        self.ignore = torch.tensor(list(ignore), dtype=torch.long, device=canvas.device)
        self.max_rows, self.passes = max_rows, 0

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        if len(rows) and int(rows.max()) >= len(self.free):
            raise ValueError(f"row {int(rows.max())} has no canvas, there are {len(self.free)}: prepare its prompt")
        counted = self.free[rows] & ~torch.isin(tokens, self.ignore)
        ask = self._leave_one_out if self.denoiser.has_leave_one_out else self._masked
        cells = ask(tokens, counted, rows)
        total, size = cells.sum(1), counted.sum(1)
        value = total if self.value == "sum" else total / size.clamp_min(1)
        return torch.where(size > 0, value, -torch.inf)

    def _leave_one_out(self, tokens: Tensor, counted: Tensor, rows: Tensor) -> Tensor:
        """log p(x^i | x^{-i}) of the counted cells (R, L), 0 elsewhere, from the leave-one-out conditionals."""
        cells = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        for i in torch.arange(len(tokens), device=tokens.device).split(self.max_rows):
            log_p = self.denoiser.leave_one_out(tokens[i], counted[i], rows[i])
            cells[i] = _placed(log_p, tokens[i], counted[i])
            self.passes += len(i)
        return cells

    def _masked(self, tokens: Tensor, counted: Tensor, rows: Tensor) -> Tensor:
        """The same from masks: in copy g of a text, the counted positions i with i mod groups = g are masked."""
        noise, mask = self.denoiser.noise, self.denoiser.noise.mask
        assert mask is not None
        group = torch.arange(tokens.shape[1], device=tokens.device) % self.groups
        where = counted[:, None] & (group == torch.arange(self.groups, device=tokens.device)[:, None])  # (R, G, L)
        text, copy = where.any(2).nonzero(as_tuple=True)
        masked = where[text, copy]
        shares = masked.sum(1) / self.free[rows[text]].sum(1)  # of the free positions: the time of such a state
        times = noise.schedule.time(1 - shares.double())
        cells = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        for i in torch.arange(len(text), device=tokens.device).split(self.max_rows):
            clean, open_ = tokens[text[i]], masked[i]
            log_p = self.denoiser(clean.masked_fill(open_, mask), times[i], open_, rows[text[i]])
            row, position = open_.nonzero(as_tuple=True)
            cells[text[i][row], position] = _placed(log_p, clean, open_)[row, position]
            self.passes += len(i)
        return cells


def _placed(log_p: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """Packed log-probabilities (M, V) -> that of each text's own token at its cell (R, L) float64, 0 elsewhere."""
    cells = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    cells[where] = log_p.gather(1, tokens[where][:, None])[:, 0].double()
    return cells
