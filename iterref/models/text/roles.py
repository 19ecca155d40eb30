"""Roles: which tokens of a large model's checkpoint hide, end and fill an answer, and which never stand in one.

    mask    config.json's `mask_token_id`, or the tokenizer's
    ends    the end of a turn (in chats), of a text, padding
    fill    padding, or the end again: what answers were filled up with in training

The published samplers of LLaDA and Dream forbid nothing: a begin token or a chat's header may stand in an answer, as
rare as the model finds it. Impossible are only the mask and what the tokenizer has no text for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iterref.hub import read_json
from iterref.models.bidirectional import Bidirectional
from iterref.models.checkpoint import Checkpoint
from iterref.models.text.codec import Codec, ids_under, mismatch, unwritten
from iterref.models.text.prompted import Filling, PromptedModel
from iterref.noise import Schedule, absorbing


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
    """The ends of a text that generation_config.json and config.json name: one each, or several."""
    file = checkpoint.folder / "generation_config.json"
    configs = [read_json(file, checkpoint.name) if file.is_file() else {}, checkpoint.config]
    return [end for config in configs for end in ids_under(config, "eos_token_id", codec, checkpoint.name)]
