"""Tokenized: a text model with a tokenizer beside it: its texts as canvases, and back.

    canvas  =  [begin] pieces [end] [fill] ...              a text is over at its first end; masks are left out
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iterref.models.base import Text, TextModel
from iterref.models.text.codec import Codec
from iterref.noise import Noise


class TokenizedModel(TextModel):
    """A text model of `length` positions under a noise, with a `codec`, or None for a model of tokens alone. `network`
    has a `compile`, if any, `begin` is what a canvas begins with, `ends` are the tokens that end a text (what is
    written is first), `fill` is what stands behind the end."""

    longer = ", or load with length={} (--length)"  # what else to do about too long a text

    def __init__(
        self, noise: Noise, length: int, codec: Codec | None, device: torch.device | str, network: Any
    ) -> None:
        if length < 1:
            raise ValueError(f"a canvas needs at least one position, got length={length}")
        self.noise, self.length, self.device = noise, length, torch.device(device)
        self._network, self.begin, self.fill = network, list[int](), 0
        self._codec = None if codec is None else codec.within(noise.vocab, noise.mask)
        if self._codec is not None:
            self.masks, self.fill = self._codec.masks, self._codec.fill

    def compile(self, *, dynamic: bool = True, mode: str | None = None) -> None:
        if self._network is None:
            super().compile()
        else:
            self._network.compile(dynamic=dynamic, mode=mode)

    @property
    def codec(self) -> Codec:
        """The tokenizer. Raises `ValueError` for a model that was loaded without one."""
        if self._codec is None:
            raise ValueError("this model was loaded without a tokenizer: pass token ids, or load it with tokenizer=...")
        return self._codec

    def decode(self, tokens: Tensor) -> list[str]:
        """Finished canvases (R, L) long as texts, up to the first end; masks and other special tokens are left out."""
        canvases = tokens.tolist()
        return list(map(Text, self.codec.text([self._pieces(ids) for ids in canvases]), canvases))

    def _pieces(self, ids: list[int]) -> list[int]:
        ids = ids[len(self.begin) :] if ids[: len(self.begin)] == self.begin else ids
        end = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
        return [token for token in ids[:end] if token != self.noise.mask]

    def _canvases(self, texts: Sequence[str], rows: Sequence[int]) -> list[list[int]]:
        """As `TextModel._canvases`; a text that fills its canvas has no end."""
        canvases, size = [], self.length
        for row, pieces in zip(rows, self.codec.ids(texts, rows=rows), strict=True):
            ids = self.begin + pieces
            if len(ids) > size:
                told = f"text {row} takes {len(ids)} positions and the canvas has {size}: shorten it"
                raise ValueError(told + self.longer.format(len(ids)))
            if len(ids) < size and not self.ends and self.codec.filler is None:
                told = f"text {row} takes {len(ids)} of the canvas' {size} positions, and its tokenizer has no end"
                raise ValueError(f"{told} and no padding for the others: give texts of {size}, or load with length=")
            ids = [*ids, *self.ends[:1]][:size]
            canvases.append(ids + [self.fill] * (size - len(ids)))
        return canvases

    def _blank(self, prompts: Sequence[str]) -> Tensor:
        """An empty canvas (B, L) long for every prompt. Raises `ValueError` for no prompts."""
        if not len(prompts):
            raise ValueError('there are no prompts: pass at least one, "" for a text without any')
        empty = self.fill if self.noise.mask is None else self.noise.mask
        return torch.full((len(prompts), self.length), empty, device=self.device)
