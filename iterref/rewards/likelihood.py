"""SelfLikelihood: how likely a text is under the diffusion model itself, one token at a time.

    r(x) = sum_i log p(x^i | x^{-i})  over the free positions i, or the mean over them          (pseudo-likelihood)

Under absorbing noise p(x^i | x^{-i}) is the denoiser's posterior with token i alone under the mask, M passes for M
positions. Where the denoiser has a leave-one-out law, one pass gives all of them. With `groups` = g, every g-th
position is hidden at once, in g passes: cheaper, and blind to how the tokens hidden together belong together.
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
    `value` is the mean over the counted positions or their sum. `groups` bounds the passes a text (all L unless given).
    `max_rows` bounds the rows of one pass. `passes` counts the rows of the denoiser that were asked for; a run counts
    them as rewards, so a method's budget of denoiser rows does not hold them.

    A text with no counted position is forbidden, as is one that the model rules out. Raises ValueError for a denoiser
    under other noise that knows no leave-one-out law.
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
            raise ValueError(
                "the denoiser has neither a mask to hide tokens under nor a leave_one_out law: use Perplexity of "
                "another model"
            )
        self.denoiser = denoiser
        self.free = free.bool()
        self.value = value
        self.groups = min(groups or canvas.shape[1], canvas.shape[1])
        self.ignore = torch.tensor(list(ignore), dtype=torch.long, device=canvas.device)
        self.max_rows = max_rows
        self.passes = 0

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64."""
        if len(rows) and int(rows.max()) >= len(self.free):
            raise ValueError(f"row {int(rows.max())} has no canvas, there are {len(self.free)}: prepare its prompt")
        counted = self.free[rows] & ~torch.isin(tokens, self.ignore)
        known = self.denoiser.has_leave_one_out
        cells = (self._known_cells if known else self._hidden_cells)(tokens, counted, rows)
        total, size = cells.sum(1), counted.sum(1)
        value = total if self.value == "sum" else total / size.clamp_min(1)
        return torch.where(size > 0, value, -torch.inf)

    def _known_cells(self, tokens: Tensor, counted: Tensor, rows: Tensor) -> Tensor:
        """log p(x^i | x^{-i}) of the counted cells (R, L), 0 elsewhere, from the leave-one-out law."""
        cells = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        for i in torch.arange(len(tokens), device=tokens.device).split(self.max_rows):
            log_p = self.denoiser.leave_one_out(tokens[i], counted[i], rows[i])
            cells[i] = _placed(log_p, tokens[i], counted[i])
            self.passes += len(i)
        return cells

    def _hidden_cells(self, tokens: Tensor, counted: Tensor, rows: Tensor) -> Tensor:
        """The same from masks: copy g of a text hides the counted positions i with i mod groups = g."""
        noise, mask = self.denoiser.noise, self.denoiser.noise.mask
        assert mask is not None
        group = torch.arange(tokens.shape[1], device=tokens.device) % self.groups
        where = counted[:, None] & (group == torch.arange(self.groups, device=tokens.device)[:, None])  # (R, G, L)
        text, copy = where.any(2).nonzero(as_tuple=True)
        hidden = where[text, copy]
        shares = hidden.sum(1) / self.free[rows[text]].sum(
            1
        )  # of the free positions, at which time a denoiser is asked
        times = noise.schedule.time(1 - shares.double())
        cells = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        for i in torch.arange(len(text), device=tokens.device).split(self.max_rows):
            clean, open_ = tokens[text[i]], hidden[i]
            log_p = self.denoiser(clean.masked_fill(open_, mask), times[i], open_, rows[text[i]])
            row, position = open_.nonzero(as_tuple=True)
            cells[text[i][row], position] = _placed(log_p, clean, open_)[row, position]
            self.passes += len(i)
        return cells


def _placed(log_p: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """Packed laws (M, V) -> the log-probability of each text's own token at its cell (R, L) float64, 0 elsewhere."""
    cells = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    cells[where] = log_p.gather(1, tokens[where][:, None])[:, 0].double()
    return cells
