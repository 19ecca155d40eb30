"""Codec: a tokenizer file, and which of its tokens begin, end, fill and mask a text.

    text  <->  [start] pieces [end] [fill] ...

Read by `tokenizers` from tokenizer.json, without code of the checkpoint's. The special tokens are those that
tokenizer_config.json or special_tokens_map.json names, else the usual names (`<|endoftext|>`, `[CLS]`, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from iterref.models.checkpoint import TOKENIZER, fetched, read_json

# Where a role's token is named, and what it is usually called.
NAMED = {
    "start": ("bos_token", "cls_token"),
    "end": ("eos_token", "sep_token"),
    "pad": ("pad_token",),
    "mask": ("mask_token",),
}
USUAL = {
    "start": ("<|endoftext|>", "[CLS]", "<s>"),
    "end": ("<|endoftext|>", "[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
}


@dataclass(frozen=True)
class Codec:
    """A tokenizer and the ids of its special tokens; None where it has no such token."""

    tokenizer: Tokenizer
    start: int | None
    end: int | None
    pad: int | None
    mask: int | None

    @classmethod
    def load(cls, name: str | Path) -> Codec:
        """The tokenizer in a folder or of a hub name, e.g. "gpt2". Raises `FileNotFoundError` or `ValueError`."""
        folder = fetched(name, files=TOKENIZER)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{name} has no tokenizer.json: name the model's tokenizer (tokenizer='gpt2', or a folder that "
                "transformers' fast tokenizer saved), or load without one (tokenizer='none')"
            )
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library's parser raises bare Exceptions
            raise ValueError(f"tokenizer.json of {name} cannot be read ({error}): get it again") from None
        config: dict[str, Any] = {}
        for side in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / side).is_file():
                config |= read_json(folder / side, str(name))
        return cls(tokenizer, **{role: _special(tokenizer, config, role) for role in NAMED})

    @property
    def size(self) -> int:
        """How many tokens the tokenizer was trained with; tokens added later are no part of a checkpoint's."""
        size: int = self.tokenizer.get_vocab_size(with_added_tokens=False)
        return size

    @property
    def fill(self) -> int:
        """What stands behind the end of a text: padding, the end again, or token 0."""
        return next((token for token in (self.pad, self.end) if token is not None), 0)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The pieces of texts, without start and end."""
        return [one.ids for one in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def text(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Pieces as texts, special tokens left out."""
        found: list[str] = self.tokenizer.decode_batch([list(one) for one in ids], skip_special_tokens=True)
        return found


def unwritten(codec: Codec | None, vocab: int) -> Tensor:
    """The tokens (K,) long that the network knows and the tokenizer does not: they stand in no text."""
    return torch.arange(vocab if codec is None else min(codec.size, vocab), vocab)


def mismatch(name: str, vocab: int, codec: Codec | None, besides: str = "") -> ValueError:
    """What to raise where a model of `vocab` tokens and a tokenizer do not fit."""
    known = "" if codec is None else f" and the tokenizer {codec.size}"
    return ValueError(
        f"{name} knows {vocab} tokens{known}{besides}: they do not fit, so load the model with the tokenizer of its "
        "training (tokenizer=...)"
    )


def _special(tokenizer: Tokenizer, config: dict[str, Any], role: str) -> int | None:
    """The id of a role's token: as configured, or by its usual name."""
    for key in NAMED[role]:
        written = config.get(key)
        content = written.get("content") if isinstance(written, dict) else written
        token: int | None = tokenizer.token_to_id(content) if isinstance(content, str) else None
        if token is not None:
            return token
    known: list[int | None] = [tokenizer.token_to_id(name) for name in USUAL[role]]
    return next((token for token in known if token is not None), None)
