"""Prefix: a text model made of an unconditional denoiser; the prompt is what its canvases begin with.

    canvas  =  [start] prompt  then free positions up to L           p(rest | prompt): infilling, the prompt is frozen

Every canvas has the same L positions, so a prompt's length changes how many are free and needs no padding: a row's
answer is the same whatever prompts stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.models.codec import Codec
from iterref.noise import Noise


class PrefixModel:
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
        self._codec = codec
        self._head = [codec.start] if framed and codec is not None and codec.start is not None else []

    def compile(self, *, dynamic: bool = True, mode: str | None = None) -> None:
        """Has torch compile the denoiser's network at first use; `dynamic` lets sizes vary."""
        self.denoiser.network.compile(dynamic=dynamic, mode=mode)  # type: ignore[attr-defined]

    @property
    def noise(self) -> Noise:
        """The noise process that the model undoes."""
        return self.denoiser.noise

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
        for row, ids in enumerate(self.codec.ids(prompts)):
            ids = self._head + ids
            if len(ids) >= self.length:
                raise ValueError(
                    f"prompt {row} takes {len(ids)} of the canvas' {self.length} positions, which leaves nothing to "
                    "write: shorten it, or load the model with a greater length= (--length)"
                )
            canvas[row, : len(ids)] = torch.tensor(ids, dtype=torch.long, device=self.device)
            free[row, : len(ids)] = False
        return self.denoiser, canvas, free

    def encode(self, texts: Sequence[str]) -> Tensor:
        """R whole texts as finished canvases (R, L) long: start, pieces, end, and fill to the last position.

        Raises `ValueError` for a text that is too long, naming it.
        """
        close = [] if self.codec.end is None else [self.codec.end]
        canvas = torch.full((len(texts), self.length), self.codec.fill, device=self.device)
        for row, ids in enumerate(self.codec.ids(texts)):
            ids = self._head + ids
            if len(ids) > self.length:
                raise ValueError(
                    f"text {row} takes {len(ids)} positions and the canvas has {self.length}: "
                    "shorten it, or load with a greater length= (--length)"
                )
            ids = (ids + close)[: self.length]
            canvas[row, : len(ids)] = torch.tensor(ids, dtype=torch.long, device=self.device)
        return canvas

    def decode(self, tokens: Tensor) -> list[str]:
        """Finished canvases (R, L) long as texts, up to the first end; what a model writes behind it is another text.

        Masks and other special tokens are left out.
        """
        texts = []
        for ids in tokens.tolist():
            ids = ids[len(self._head) :] if ids[: len(self._head)] == self._head else ids
            end = next((at for at, token in enumerate(ids) if token == self.codec.end), len(ids))
            texts.append([token for token in ids[:end] if token < self.codec.size])
        return self.codec.text(texts)
