"""Prompted: a text model whose canvas is the answer alone; the prompt stands before it, outside of what is refined.

    network input  =  prompt  answer  [tail]  padding            L free positions, whatever the prompt's length

Unequal prompts are padded behind the answer, hidden: every position keeps the number that it has alone.

The published samplers of LLaDA and Dream forbid nothing: a begin token or a chat's header may stand in an answer, as
rare as the model finds it. Impossible are only the mask and what the tokenizer has no text for (`Roles`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iterref.denoiser import Denoiser
from iterref.hub import read_json
from iterref.models.base import Chat, Masked, TextModel
from iterref.models.bidirectional import Bidirectional
from iterref.models.checkpoint import Checkpoint
from iterref.models.text.codec import Codec, ids_under, mismatch, unwritten
from iterref.models.text.tokenized import TokenizedModel
from iterref.noise import Noise, Schedule, absorbing


@dataclass(frozen=True, eq=False)
class Filling:
    """How a network that fills in is asked for answers of `length` positions: of B prompts it makes their denoiser.
    `impossible` (K,) lists the tokens that stand in no answer. `tail` stands behind every answer, `pad` fills up
    shorter inputs, `most` is the number of positions that the network has, if bounded. `filler` is a token that it
    never saw in training, None where it did: behind an answer it is hidden, and the tail stands right behind it."""

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
        given = pad_sequence([torch.tensor([*ids, *behind]) for ids in prompts], True, self.pad)
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
    """Prompts in, a denoiser of answers with empty canvases out, and answers to tokens and back. `bind` is a data class
    with a `noise` and the answers' `length`; called with B prompts as token ids, it makes their denoiser. `head` stands
    before every prompt that is no chat, `ends` are the tokens that end an answer, `fill` what stands behind the end. A
    codec with a chat template puts each prompt into it as a user's message, unless `chat` is False; "" is no prompt at
    all."""

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
        denoiser.fill, denoiser.unseen = (None, [*self.ends, self.fill]) if self.fixed_length else (self.fill, ())
        return denoiser, canvas, torch.ones_like(canvas, dtype=torch.bool)

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
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


@dataclass(frozen=True)
class Roles:
    """The tokens of an answer: `mask`, those that end it (what is written is first), `fill`, `impossible` (K,) long."""

    mask: int
    ends: list[int]
    fill: int
    impossible: Tensor


def roles(
    checkpoint: Checkpoint, codec: Codec | None, vocab: int, mask: str, chat: bool, endless: bool = False
) -> Roles:
    """The roles in a checkpoint whose network knows `vocab` tokens and whose family calls its mask `mask`. A `chat`'s
    answer ends with its turn; an `endless` one ends where its canvas does, whatever the configuration says. Raises
    `ValueError` for an unknown mask, a word as an end, and a tokenizer that does not fit."""
    hidden = _mask(checkpoint, codec, vocab, mask)
    own = None if codec is None else codec.within(vocab, hidden)
    turns, known = ([], []) if own is None else (own.turns if chat else [], own.ends)
    named = dict.fromkeys([*turns, *([] if endless else _ends(checkpoint, own)), *known])
    ends = [end for end in named if 0 <= end < vocab and end != hidden]
    padding = checkpoint.config.get("pad_token_id") if own is None else own.filler
    fill = padding if isinstance(padding, int) and padding != hidden else next(iter(ends), 0)
    return Roles(hidden, ends, fill, unwritten(codec, vocab))


def answers(
    network: Bidirectional, role: Roles, codec: Codec | None, *, length: int, chat: bool | None,
    head: Sequence[int] = (), tail: Sequence[int] = (), pad: int | None = None, most: int | None = None,
    endless: bool = False,
) -> PromptedModel:  # fmt: skip
    """The text model of a network that fills in answers: under absorbing noise, a_t = 1 - t, as all of these were
    trained. `head` and `tail` stand around a text that is no chat; padding is `pad`, or what fills up an answer. A
    network that is `endless` was trained without ends and filler within texts: it writes none, and sees none."""
    noise = absorbing(network.vocab, role.mask, Schedule("linear"))
    own = codec.within(network.vocab, role.mask) if endless and codec is not None else None
    never = [] if own is None else list(own.special)
    impossible = torch.tensor(sorted({*role.impossible.tolist(), *never} - {role.mask}), dtype=torch.long)
    ends = role.ends if own is None else list(dict.fromkeys([*tail, *own.ends]))
    how = Filling(
        network, noise, impossible.to(network.device), length, tail=tail, pad=role.fill if pad is None else pad,
        most=network.most if most is None else most, filler=None if own is None else own.filler,
    )  # fmt: skip
    made = PromptedModel(how, codec, network, network.device, head=head, ends=ends, fill=role.fill, chat=chat)
    made.ranks, made.fixed_length = network.ranks, endless
    return made


def talks(codec: Codec | None, chat: bool | None) -> bool:
    """Whether prompts are put into the chat template: as asked for, or where there is one and a token that ends a turn.
    A template may be left in a base model's tokenizer; LLaDA's has no such token."""
    return codec is not None and codec.template is not None and bool(codec.turns) if chat is None else chat


def _mask(checkpoint: Checkpoint, codec: Codec | None, vocab: int, name: str) -> int:
    own = None if codec is None else codec.tokenizer.token_to_id(name)
    written = ids_under(checkpoint.config, "mask_token_id", codec if own is None else None, checkpoint.name)
    # What the tokenizer calls [MASK] may be left from another use: it is asked last, and may differ.
    known = [*written[:1], own, None if codec is None else codec.mask]
    mask: int | None = next((one for one in known if one is not None), None)
    if mask is None:
        how = "write mask_token_id into its config.json, or name the tokenizer of its training (tokenizer=...)"
        raise ValueError(f"nothing says which token of {checkpoint.name} is the mask: {how}")
    fits = 0 <= mask < vocab and (codec is None or mask < codec.reach <= vocab)
    if not fits or own not in (None, mask):
        raise mismatch(checkpoint.name, vocab, codec, f", with the mask {mask}")
    return mask


def _ends(checkpoint: Checkpoint, codec: Codec | None) -> Sequence[int]:
    file = checkpoint.folder / "generation_config.json"
    configs = [read_json(file, checkpoint.name) if file.is_file() else {}, checkpoint.config]
    return [end for config in configs for end in ids_under(config, "eos_token_id", codec, checkpoint.name)]
