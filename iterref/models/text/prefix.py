"""Prefix: a text model made of an unconditional denoiser; the prompt is what its canvases begin with.

    canvas  =  [start] prompt  then free positions up to L           p(rest | prompt): infilling, the prompt is frozen

Every canvas has the same L positions, so that prompts need no padding, and do not feel each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.models.base import TextModel
from iterref.models.text.codec import Codec
from iterref.models.text.tokenized import TokenizedModel

# Positions that are written at a time where the surest tokens come first: a sixth of the canvas, within bounds. LLaDA's
# authors write 32 (Nie et al. 2025, arXiv:2502.09992); docs/tiny_books.md has what it does to the length of texts.
LEAST, MOST, SHARE = 8, 32, 6


class PrefixModel(TokenizedModel):
    """Prompts in, a denoiser with canvases that begin with them out, and whole texts (with prompts) to tokens and back.
    `denoiser` is the model of whole canvases, `length` their positions L (prompt and start token included). `framed`
    says that the model's texts begin with the codec's start token."""

    continues = True

    def __init__(
        self, denoiser: Denoiser, length: int, codec: Codec | None, framed: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        super().__init__(denoiser.noise, length, codec, device, getattr(denoiser, "network", None))
        self.denoiser, own = denoiser, self._codec
        self.begin = [own.start] if framed and own is not None and own.start is not None else []
        self.ends = [] if own is None or own.end is None else [own.end]
        if self.ends:
            denoiser.fill = self.fill
        if self.ends and denoiser.noise.mask is not None and not denoiser.block_length:
            denoiser.surest_block = min(MOST, max(LEAST, length // SHARE))

    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        """As `TextModel.prepare`; "" is no prompt, and one that leaves nothing free is refused."""
        canvas = self._blank(prompts)
        free = torch.ones_like(canvas, dtype=torch.bool)
        for row, ids in enumerate(self.codec.ids(prompts, "prompt")):
            ids = self.begin + ids
            if len(ids) >= self.length:
                told = f"prompt {row} takes {len(ids)} of the canvas' {self.length} positions"
                raise ValueError(f"{told}, which leaves nothing to write: shorten it, or load with a greater length=")
            canvas[row, : len(ids)] = torch.tensor(ids, dtype=torch.long, device=self.device)
            free[row, : len(ids)] = False
        return self.denoiser, canvas, free

    def readings(self) -> Mapping[str, TextModel]:
        """Without the start token before a text, or with it."""
        start = self.codec.start
        if start is None:
            return {}
        other = copy(self)
        other.begin = [] if self.begin else [start]
        return {"without the start token" if self.begin else "behind the start token": other}
