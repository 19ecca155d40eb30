"""Padding: calls of a few sizes only, for networks that are compiled or recorded for fixed shapes.

    rows K -> K', open positions M -> M'      the next of 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...: a quarter more at most

Every new shape costs a compilation, or a CUDA graph. Further copies of the first row bring rows and open positions up
to size; they stand last, so what is said of them is cut off. No row sees another, so results stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from iterref.denoiser import Denoiser, Wrapped

# How many shapes of one function torch may compile before it gives up: a few octaves of sizes, rows by open positions.
SHAPES = 64


def padded_size(count: int) -> int:
    """The least of 4, 5, 6, 7 times a power of two, or of 0 to 4, that holds so many."""
    step = max(1, 1 << count.bit_length() >> 3)
    return -(-count // step) * step


class Padded(Wrapped):
    """A denoiser that is asked for calls of padded sizes, and is the same in everything else."""

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._asked(self.denoiser, x_t, t, where, rows)

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._asked(self.denoiser.probabilities, x_t, t, where, rows)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        ask, untimed = self.denoiser.leave_one_out, torch.zeros_like(rows)
        return self._asked(lambda x, _, where, rows: ask(x, where, rows), x, untimed, where, rows)

    def _asked(self, ask: Callable[..., Tensor], x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        cells, length = int(where.sum()), x_t.shape[1]
        if not cells:
            return ask(x_t, t, where, rows)
        more = padded_size(cells) - cells
        size = padded_size(len(x_t) + -(-more // length))
        index = torch.arange(size, device=x_t.device)
        index = torch.where(index < len(x_t), index, 0)
        opened = torch.arange((size - len(x_t)) * length, device=x_t.device).view(-1, length) < more
        return ask(x_t[index], t[index], torch.cat([where, opened]), rows[index])[:cells]


class StaticModel:
    """A text model whose denoisers are `Padded`, however one comes by them; everything else is the model's own."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        denoiser, canvas, free = self.model.prepare(prompts)
        return Padded(denoiser), canvas, free

    def with_length(self, max_new_tokens: int) -> StaticModel:
        return StaticModel(self.model.with_length(max_new_tokens))

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet, while a copy is being made
            raise AttributeError(name)
        found = getattr(self.model, name)
        if name == "denoiser":
            return Padded(found)
        return (lambda ids: Padded(found(ids))) if name == "bind" else found


def compile_static(model: Any) -> StaticModel:
    """The model, compiled for each padded size on its own at first use; on a GPU recorded as CUDA graphs, too."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    model.compile(dynamic=False, mode="reduce-overhead" if model.device.type == "cuda" else None)
    return StaticModel(model)
