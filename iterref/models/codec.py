"""Codec: a tokenizer file, and which of its tokens begin, end, fill and mask a text.

    text  <->  [start] pieces [end] [fill] ...

Read by `tokenizers` from tokenizer.json, without code of the checkpoint's; a tokenizer of Qwen2's kind that comes as
vocab.json and merges.txt is made of these (`iterref.models.byte_pairs`). The special tokens are those that
tokenizer_config.json or special_tokens_map.json names, else the usual names (`<|endoftext|>`, `[CLS]`, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from iterref.hub import fetched, first_line, read_json
from iterref.models import byte_pairs
from iterref.models.checkpoint import TOKENIZER

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
TURNS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>")  # what ends an answer in a chat


@dataclass(frozen=True)
class Codec:
    """A tokenizer and the ids of its special tokens; None where it has no such token."""

    tokenizer: Tokenizer
    start: int | None
    end: int | None
    pad: int | None
    mask: int | None
    template: str | None = None  # of a chat, in Jinja

    @classmethod
    def load(cls, name: str | Path) -> Codec:
        """The tokenizer in a folder or of a hub name, e.g. "gpt2". Raises `FileNotFoundError` or `ValueError`."""
        folder, config = fetched(name, TOKENIZER), dict[str, Any]()
        for side in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / side).is_file():
                config |= read_json(folder / side, str(name))
        file = folder / "tokenizer.json"
        if not file.is_file() and not byte_pairs.written(folder, config):
            raise FileNotFoundError(
                f"{name} has no tokenizer.json: name the model's tokenizer (tokenizer='gpt2', or a folder that "
                "transformers' fast tokenizer saved), or load without one (tokenizer='none')"
            )
        try:
            tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else byte_pairs.read(folder, config)
        except Exception as error:  # the library's parser raises bare Exceptions
            found = file.name if file.is_file() else "vocab.json and merges.txt"
            raise ValueError(f"{found} of {name} cannot be read ({error}): get it again") from None
        special = {role: _special(tokenizer, config, role) for role in NAMED}
        return cls(tokenizer, **special, template=_template(folder, config))

    @property
    def size(self) -> int:
        """How many tokens the tokenizer was trained with; tokens added later are no part of a checkpoint's."""
        size: int = self.tokenizer.get_vocab_size(with_added_tokens=False)
        return size

    @cached_property
    def reach(self) -> int:
        """One above the highest id that the tokenizer knows, tokens added later included."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def fill(self) -> int:
        """What stands behind the end of a text: padding, the end again, or token 0."""
        return next((token for token in (self.pad, self.end) if token is not None), 0)

    @property
    def ends(self) -> list[int]:
        """The tokens behind which there is no more text: the end, a turn's end, padding; what is written is first."""
        return list(dict.fromkeys(token for token in (self.end, *self.turns, self.pad) if token is not None))

    @property
    def turns(self) -> list[int]:
        """The tokens that end what one side of a chat says."""
        return [token for token in map(self.tokenizer.token_to_id, TURNS) if token is not None]

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer itself puts before a text and behind it, such as [CLS] and [SEP]."""
        plain = self.tokenizer.encode("a", add_special_tokens=False).ids
        framed = self.tokenizer.encode("a", add_special_tokens=True)
        before = next((at for at, special in enumerate(framed.special_tokens_mask) if not special), len(framed.ids))
        return framed.ids[:before], framed.ids[before + len(plain) :]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The pieces of texts, without start and end."""
        return [one.ids for one in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def asked(self, prompt: str) -> str:
        """A chat in which the user says the prompt and the answer is next. Raises `ValueError` without a template, or
        for one that cannot be filled in."""
        if self.template is None:
            raise ValueError("this tokenizer has no chat template: write the prompt as the model reads it")
        said = [{"role": "user", "content": prompt}]
        try:
            return str(self._chat.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program of the checkpoint's, run in Jinja's sandbox
            raise ValueError(
                f"the chat template cannot be filled in ({first_line(error)}): load with chat=False"
            ) from None

    @cached_property
    def _chat(self) -> Any:
        """The tokenizer as `transformers` wraps it, which fills in templates. It copies the vocabulary: a second."""
        from transformers import PreTrainedTokenizerFast

        names = {role: None if token is None else self.tokenizer.id_to_token(token)
                 for role, token in (("bos_token", self.start), ("eos_token", self.end))}  # fmt: skip
        return PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, chat_template=self.template, **names)

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


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the configuration, where one of several is called "default"."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    written = config.get("chat_template")
    if isinstance(written, list):
        written = next((one.get("template") for one in written if one.get("name") == "default"), None)
    return written if isinstance(written, str) else None
