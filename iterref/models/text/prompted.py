"""Prompted: a text model whose canvas is the answer alone; the prompt stands before it, outside of what is refined.

    network input  =  prompt  answer  [tail]  padding            L free positions, whatever the prompt's length

Unequal prompts are padded behind the answer, hidden: every position keeps the number that it has alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.models.base import Chat, Masked, TextModel
from iterref.models.bidirectional import Bidirectional
from iterref.models.text.codec import Codec
from iterref.models.text.tokenized import TokenizedModel
from iterref.noise import Noise


@dataclass(frozen=True, eq=False)
class Filling:
    """How a network that fills in is asked for answers of `length` positions: of B prompts it makes their denoiser.

    `impossible` (K,) lists the tokens that stand in no answer. `tail` stands behind every answer, `pad` fills up
    shorter inputs, `most` is the number of positions that the network has, if bounded. `filler` is a token that it
    never saw in training, None where it did: behind an answer it is hidden, and the tail stands right behind it.
    """

    network: Bidirectional
    noise: Noise
    impossible: Tensor
    length: int
    tail: Sequence[int] = ()
    pad: int = 0
    most: int | None = None
    filler: int | None = None

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Answering:
        """The denoiser of answers to B prompts, token ids. Raises `ValueError`, naming the row, without room."""
        expect_positions(prompts, self.length, self.most, len(self.tail))
        behind = [*[self.noise.mask] * self.length, *self.tail]
        given = torch.full((len(prompts), max(map(len, prompts)) + len(behind)), self.pad)
        for row, ids in enumerate(prompts):
            given[row, : len(ids) + len(behind)] = torch.tensor([*ids, *behind], dtype=torch.long)
        device = self.impossible.device
        return Answering(self, given.to(device), torch.tensor(list(map(len, prompts)), device=device))


class Answering(Masked):
    """The masked denoiser of B prompts' answers: `given` (B, T) long is the whole input with room for the answer, which
    begins at `begins` (B,)."""

    time_independent = True

    def __init__(self, how: Filling, given: Tensor, begins: Tensor) -> None:
        self.how, self.network, self.noise, self.impossible = how, how.network, how.noise, how.impossible
        self.given, self.begins = given, begins
        self.tail = torch.tensor(how.tail, dtype=torch.long, device=given.device)

    def logits(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        begins, length = self.begins[rows], x_t.shape[1]
        place = begins[:, None] + torch.arange(length, device=x_t.device)
        ids = self.given[rows].scatter(1, place, x_t)
        opened = torch.zeros_like(ids, dtype=torch.bool).scatter(1, place, where)
        size = begins + length + len(self.tail)
        if self.how.filler is not None:
            long, ended = written(x_t, self.how.filler, self.tail)
            ends = (begins + long)[:, None] + torch.arange(len(self.tail), device=x_t.device)
            ids = ids.scatter(1, ends, self.tail.expand(len(ids), -1))
            size = begins + long + torch.where(ended, 0, len(self.tail))
        return self._logits(ids, size, opened)

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


class PromptedModel(TokenizedModel):
    """Prompts in, a denoiser of answers with empty canvases out, and answers to tokens and back.

    `bind` is a data class with a `noise` and the answers' `length`; called with B prompts as token ids, it makes their
    denoiser. `head` stands before every prompt that is no chat, `ends` are the tokens that end an answer, `fill` what
    stands behind the end. A codec with a chat template puts each prompt into it as a user's message, unless `chat` is
    False; "" is no prompt at all.
    """

    def __init__(
        self, bind: Any, codec: Codec | None, network: Any, device: torch.device, *, head: Sequence[int] = (),
        ends: Sequence[int] = (), fill: int = 0, chat: bool | None = None,
    ) -> None:  # fmt: skip
        if chat and (codec is None or codec.template is None):
            raise ValueError("this model has no chat template: leave chat=True out, its prompts are plain texts")
        super().__init__(bind.noise, bind.length, codec, device, network)
        self.bind, self.head, self.ends, self.fill = bind, list(head), list(ends), fill
        self.chat = codec is not None and codec.template is not None if chat is None else chat

    def with_length(self, max_new_tokens: int) -> PromptedModel:
        if max_new_tokens < 1:
            raise ValueError(f"an answer has at least one token: got max_new_tokens={max_new_tokens}")
        other = copy(self)
        other.length, other.bind = max_new_tokens, replace(self.bind, length=max_new_tokens)
        return other

    def prepare(self, prompts: Sequence[str]) -> tuple[Denoiser, Tensor, Tensor]:
        """As `TextModel.prepare`; all positions of the canvases (B, L) are free."""
        canvas = self._blank(prompts)
        denoiser = self.bind(self.ids(prompts))
        denoiser.fill = None if self.fixed_length else self.fill
        return denoiser, canvas, torch.ones_like(canvas, dtype=torch.bool)

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The token ids that stand before every answer."""
        if not self.chat:
            return [self.head + ids for ids in self.codec.ids(prompts, "prompt")]
        blank = [not prompt and not isinstance(prompt, Chat) for prompt in prompts]
        return [self.head if none else ids for ids, none in zip(self.codec.chats(prompts), blank, strict=True)]

    def readings(self) -> Mapping[str, TextModel]:
        """Without the special tokens around a text, and with its filler in sight where that is hidden."""
        others: dict[str, TextModel] = {}
        how = self.bind if isinstance(self.bind, Filling) else None
        if how is not None and (self.head or how.tail) and not self.chat:
            others["without special tokens around it"] = bare = copy(self)
            bare.head, bare.bind = [], replace(how, tail=())
        if how is not None and how.filler is not None:
            others["with the filler in sight"] = filled = copy(self)
            filled.bind = replace(how, filler=None)
        return others


def expect_positions(prompts: Sequence[Sequence[int]], length: int, most: int | None, tail: int = 0) -> None:
    """Raises `ValueError` for a prompt, token ids, that leaves its answer of `length` positions, and a `tail`, no room
    among the `most` that a network has, naming the row."""
    for row, ids in enumerate(prompts):
        if most is not None and len(ids) + length + tail > most:
            told = f"prompt {row} takes {len(ids)} positions and its answer {length}, and the model reads {most}"
            raise ValueError(f"{told}: shorten the prompt, or load with a smaller length= (--length)")
