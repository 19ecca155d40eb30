"""Prompted: a text model whose canvas is the answer alone; the prompt stands before it, outside of what is refined.

    network input  =  prompt  answer  [tail]  padding            L free positions, whatever the prompt's length

Unequal prompts are padded behind the answer and the padding is hidden, so that every position keeps the number that it
has alone. The input has the same shape in every call of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from iterref.denoiser import Denoiser, carry_over_
from iterref.models.base import Text, TextModel
from iterref.models.bidirectional import Bidirectional
from iterref.models.text.codec import Codec
from iterref.noise import Noise


@dataclass(frozen=True, eq=False)
class Answering(Denoiser):
    """The masked denoiser of B prompts' answers.

    `given` (B, T) long is the whole input with room for the answer, which begins at `begins` (B,) and which `tail` (K,)
    follows; `size` (B,) is how much of it is no padding. `impossible` (K,) lists the tokens besides the mask that are
    never written. `filler` is a token that a network never saw in training, None where it did: behind an answer it is
    hidden, and the tail stands right behind the answer.
    """

    network: Bidirectional
    noise: Noise
    given: Tensor
    begins: Tensor
    size: Tensor
    tail: Tensor
    impossible: Tensor
    filler: int | None = None

    time_independent = True
    has_probabilities = True

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L), (R,), (R, L) bool, (R,) -> (M, V) float32 log p(x_0^i | x_t, prompt)."""
        return self._law(x_t, t, where, rows, log=True)

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """The exponential of the same, (M, V) float32."""
        return self._law(x_t, t, where, rows, log=False)

    def _law(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor, log: bool) -> Tensor:
        assert self.noise.mask is not None
        begins, size = self.begins[rows][:, None], self.size[rows]
        place = begins + torch.arange(x_t.shape[1], device=x_t.device)
        ids = self.given[rows].scatter(1, place, x_t)
        opened = torch.zeros_like(ids, dtype=torch.bool).scatter(1, place, where)
        if self.filler is not None:
            long, ended = written(x_t, self.filler, self.tail)
            ends = (begins[:, 0] + long)[:, None] + torch.arange(len(self.tail), device=x_t.device)
            ids = ids.scatter(1, ends, self.tail.expand(len(ids), -1))
            size = begins[:, 0] + long + torch.where(ended, 0, len(self.tail))
        logits = self._logits(ids, size, opened)
        logits[:, self.impossible] = -torch.inf
        return carry_over_(logits, x_t, where, self.noise.mask, log)


    def _logits(self, ids: Tensor, size: Tensor, opened: Tensor) -> Tensor:
        """Logits (M, V) of inputs (R, T) of which `size` (R,) are no padding: all in one call, or one length a call
        where the network feels padding even if it is hidden."""
        if not self.network.feels_padding:
            seen = torch.arange(ids.shape[1], device=ids.device) < size[:, None]
            return self.network(ids, None if bool(seen.all()) else seen, opened)
        row, place = opened.nonzero(as_tuple=True)
        logits = torch.zeros(len(row), self.noise.vocab, device=ids.device)
        for length in size.unique().tolist():
            some = size == length
            cells = some[row] & (place < length)
            logits[cells] = self.network(ids[some, :length], None, opened[some, :length])
        return logits


def written(x_t: Tensor, filler: int, tail: Tensor) -> tuple[Tensor, Tensor]:
    """How many positions of canvases (R, L) come before the filler at their ends, (R,) long, and whether the last of
    them are the `tail` (K,) already, (R,) bool."""
    places = torch.arange(1, x_t.shape[1] + 1, device=x_t.device)
    long = ((x_t != filler) * places).amax(1)
    if not len(tail):
        return long, torch.zeros_like(long, dtype=torch.bool)
    last = long[:, None] - len(tail) + torch.arange(len(tail), device=x_t.device)
    return long, ((x_t.gather(1, last.clamp_min(0)) == tail) & (last >= 0)).all(1)


class Compiles(Protocol):
    """What torch can compile: a network."""

    def compile(self, *, dynamic: bool, mode: str | None) -> None: ...


class PromptedModel(TextModel):
    """Prompts in, a denoiser of answers with empty canvases out, and answers to tokens and back.

    `bind` makes the denoiser of B prompts given as token ids, `length` is the number L of an answer's positions,
    `network` what `compile` compiles. `head` stands before every prompt that is no chat, `ends` are the tokens that end
    an answer, `fill` what stands behind the end. A codec with a chat template puts each prompt into it as a user's
    message, unless `chat` is False; "" is no prompt at all.
    """

    def __init__(
        self,
        bind: Callable[[list[list[int]]], Denoiser],
        noise: Noise,
        length: int,
        codec: Codec | None,
        *,
        network: Compiles | None = None,
        head: Sequence[int] = (),
        ends: Sequence[int] = (),
        fill: int = 0,
        chat: bool | None = None,
        fixed_length: bool = False,
        device: torch.device | str = "cpu",
        ranks: int = 1,
    ) -> None:
        if length < 1:
            raise ValueError(f"an answer needs at least one position, got length={length}")
        if chat and (codec is None or codec.template is None):
            raise ValueError("this model has no chat template: leave chat=True out, its prompts are plain texts")
        self.bind, self.noise, self.length, self.device = bind, noise, length, torch.device(device)
        self.head, self.ends, self.fill = list(head), list(ends), fill
        self.chat = codec is not None and codec.template is not None if chat is None else chat
        self._codec = None if codec is None else codec.within(noise.vocab, noise.mask)
        if self._codec is not None:
            self.masks = self._codec.masks
        self._network, self.ranks, self.fixed_length = network, ranks, fixed_length

    def compile(self, *, dynamic: bool = True, mode: str | None = None) -> None:
        """Has torch compile the network at first use; `dynamic` lets sizes vary."""
        if self._network is not None:
            self._network.compile(dynamic=dynamic, mode=mode)

    @property
    def codec(self) -> Codec:
        """The tokenizer. Raises `ValueError` for a model that was loaded without one."""
        if self._codec is None:
            raise ValueError("this model was loaded without a tokenizer: use .bind(token ids), or load it with one")
        return self._codec

    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        """B prompts -> their denoiser, empty canvases (B, L) long, and free positions (B, L) bool, all of them.

        Raises `ValueError` for no prompts, or one that is longer than the model reads, naming the row.
        """
        if not len(prompts):
            raise ValueError('there are no prompts: pass at least one, "" for a text without any')
        empty = self.fill if self.noise.mask is None else self.noise.mask
        canvas = torch.full((len(prompts), self.length), empty, device=self.device)
        return self.bind(self.ids(prompts)), canvas, torch.ones_like(canvas, dtype=torch.bool)

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The token ids that stand before every answer."""
        if not self.chat:
            return [self.head + ids for ids in self.codec.ids(prompts, "prompt")]
        return [ids if prompt else self.head for ids, prompt in zip(self.codec.chats(prompts), prompts, strict=True)]

    def decode(self, tokens: Tensor) -> list[str]:
        """Finished canvases (R, L) long as texts, up to the first end; masks and other special tokens are left out."""
        pieces, canvases = [], tokens.tolist()
        for ids in canvases:
            end = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
            pieces.append([token for token in ids[:end] if token != self.noise.mask])
        return list(map(Text, self.codec.text(pieces), canvases))

    def readings(self) -> Mapping[str, TextModel]:
        """Without the special tokens around a text, and with its filler in sight where that is hidden."""
        others: dict[str, TextModel] = {}
        told = self.bind.keywords if isinstance(self.bind, partial) else {}
        if (self.head or told.get("tail")) and not self.chat and "tail" in told:
            others["without special tokens around it"] = bare = copy(self)
            bare.head, bare.bind = [], partial(self.bind, tail=())
        if told.get("filler") is not None:
            others["with the filler in sight"] = filled = copy(self)
            filled.bind = partial(self.bind, filler=None)
        return others

    def _canvases(self, texts: Sequence[str], rows: Sequence[int]) -> list[list[int]]:
        """Pieces, end, and fill to the last position."""
        canvases = []
        for row, ids in zip(rows, self.codec.ids(texts, rows=rows), strict=True):
            if len(ids) > self.length:
                raise ValueError(f"text {row} takes {len(ids)} positions and the canvas has {self.length}: shorten it")
            ids = (ids + self.ends[:1])[: self.length]
            canvases.append(ids + [self.fill] * (self.length - len(ids)))
        return canvases


def bound(
    network: Bidirectional,
    noise: Noise,
    prompts: Sequence[Sequence[int]],
    length: int,
    impossible: Tensor,
    *,
    tail: Sequence[int] = (),
    pad: int = 0,
    most: int | None = None,
    filler: int | None = None,
) -> Answering:
    """The denoiser of the answers to B prompts, token ids; `tail` stands behind every answer, `pad` fills up shorter
    rows, `most` is the number of positions that the network has, if bounded; `filler` as in `Answering`.

    Raises `ValueError` for a prompt that leaves no room for its answer, naming the row.
    """
    assert noise.mask is not None
    sizes = [len(ids) for ids in prompts]
    total = max(sizes) + length + len(tail)
    for row, size in enumerate(sizes):
        if most is not None and size + length + len(tail) > most:
            raise ValueError(
                f"prompt {row} takes {size} positions and its answer {length}, and the model reads {most}: shorten the "
                "prompt, or load with a smaller length= (--length)"
            )
    device = impossible.device
    given = torch.full((len(prompts), total), pad)
    for row, ids in enumerate(prompts):
        line = [*ids, *[noise.mask] * length, *tail]
        given[row, : len(line)] = torch.tensor(line, dtype=torch.long)
    begins, last = torch.tensor(sizes, device=device), torch.tensor(tail, dtype=torch.long, device=device)
    size = begins + length + len(tail)
    return Answering(network, noise, given.to(device), begins, size, last, impossible, filler)
