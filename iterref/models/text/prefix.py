"""Prefix: a text model made of an unconditional denoiser; the prompt is what its canvases begin with.

    canvas  =  [start] prompt  then free positions up to L           p(rest | prompt): infilling, the prompt is frozen

Every canvas has the same L positions, so a prompt's length changes how many are free and needs no padding: a row's
answer is the same whatever prompts stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.models.base import Text, TextModel
from iterref.models.text.codec import Codec


class PrefixModel(TextModel):
    """Prompts in, a denoiser with canvases that begin with them out, and text to tokens and back.

    `denoiser` is the model of whole canvases, `length` their positions L (prompt and start token included), `codec` the
    tokenizer, or None for a model of tokens alone. `framed` says that the model's texts begin with the codec's start
    token. The texts that `encode` and `decode` know are whole: prompt and continuation.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        length: int,
        codec: Codec | None,
        framed: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if length < 1:
            raise ValueError(f"a canvas needs at least one position, got length={length}")
        self.denoiser, self.length, self.device = denoiser, length, torch.device(device)
        self.noise = denoiser.noise
        self._codec = codec = None if codec is None else codec.within(self.noise.vocab, self.noise.mask)
        self._head = [codec.start] if framed and codec is not None and codec.start is not None else []
        if self._codec is not None:
            self.masks = self._codec.masks
        self.ends = [] if codec is None or codec.end is None else [codec.end]

    def compile(self, *, dynamic: bool = True, mode: str | None = None) -> None:
        """Has torch compile the denoiser's network at first use; `dynamic` lets sizes vary."""
        self.denoiser.network.compile(dynamic=dynamic, mode=mode)  # type: ignore[attr-defined]

    @property
    def codec(self) -> Codec:
        """The tokenizer. Raises `ValueError` for a model that was loaded without one."""
        if self._codec is None:
            raise ValueError("this model was loaded without a tokenizer: pass token ids, or load it with tokenizer=...")
        return self._codec

    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        """B prompts -> the denoiser, canvases (B, L) long, and their free positions (B, L) bool. "" is no prompt.

        Raises `ValueError` for no prompts, or one that leaves nothing free, naming the row.
        """
        if not len(prompts):
            raise ValueError('there are no prompts: pass at least one, "" for a text without any')
        fill = self.codec.fill if self.noise.mask is None else self.noise.mask
        canvas = torch.full((len(prompts), self.length), fill, device=self.device)
        free = torch.ones_like(canvas, dtype=torch.bool)
        for row, ids in enumerate(self.codec.ids(prompts, "prompt")):
            ids = self._head + ids
            if len(ids) >= self.length:
                raise ValueError(
                    f"prompt {row} takes {len(ids)} of the canvas' {self.length} positions, which leaves nothing to "
                    "write: shorten it, or load the model with a greater length= (--length)"
                )
            canvas[row, : len(ids)] = torch.tensor(ids, dtype=torch.long, device=self.device)
            free[row, : len(ids)] = False
        return self.denoiser, canvas, free

    def decode(self, tokens: Tensor) -> list[str]:
        """Finished canvases (R, L) long as texts, up to the first end; what a model writes behind it is another text.

        Masks and other special tokens are left out.
        """
        pieces, canvases = [], tokens.tolist()
        for ids in canvases:
            ids = ids[len(self._head) :] if ids[: len(self._head)] == self._head else ids
            end = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
            pieces.append([token for token in ids[:end] if token != self.noise.mask])
        return list(map(Text, self.codec.text(pieces), canvases))

    def readings(self) -> Mapping[str, TextModel]:
        """Without the start token before a text, or with it."""
        start = self.codec.start
        if start is None:
            return {}
        other = copy(self)
        other._head = [] if self._head else [start]
        return {"without the start token" if self._head else "behind the start token": other}

    def _canvases(self, texts: Sequence[str], rows: Sequence[int]) -> list[list[int]]:
        """Start, pieces, end, and fill to the last position."""
        canvases = []
        for row, ids in zip(rows, self.codec.ids(texts, rows=rows), strict=True):
            ids = self._head + ids
            if len(ids) > self.length:
                raise ValueError(f"text {row} takes {len(ids)} positions and the canvas has {self.length}: shorten it")
            ids = (ids + self.ends)[: self.length]
            canvases.append(ids + [self.codec.fill] * (self.length - len(ids)))
        return canvases
