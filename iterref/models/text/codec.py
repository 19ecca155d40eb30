"""Codec: a tokenizer file, and which of its tokens begin, end, fill and mask a text.

    text  <->  [start] pieces [end] [fill] ...

A text that would come back as another is refused (`iterref.models.text.reading`). The special tokens are those that
tokenizer_config.json or special_tokens_map.json names, else the usual names (`<|endoftext|>`, `[CLS]`, ...).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from iterref.hub import fetched, first_line, read_json
from iterref.models.base import MASKS, Chat
from iterref.models.checkpoint import TOKENIZER
from iterref.models.text.files import read_tokenizer
from iterref.models.text.reading import lost, spelled

# Where a role's token is named, and what it is usually called.
ROLES = {
    "start": (("bos_token", "cls_token"), ("<|endoftext|>", "[CLS]", "<s>")),
    "end": (("eos_token", "sep_token"), ("<|endoftext|>", "[SEP]", "</s>")),
    "pad": (("pad_token",), ("[PAD]", "<pad>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
}
PLAIN = Lock()  # one thread at a time says how a tokenizer takes special tokens
SIGN = re.compile(r"\W.*\W")  # a token that is spelled out but is no word, as "<eos>"
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
    named: Mapping[str, str] = field(default_factory=dict, hash=False)  # special tokens, as templates call them
    lossy: bool = False  # whether texts may lose what the tokenizer does not know
    vocab: int | None = None  # how many tokens the network beside it knows

    @classmethod
    def load(cls, name: str | Path, lossy: bool = False) -> Codec:
        """The tokenizer in a folder or of a hub name, e.g. "gpt2". Raises `FileNotFoundError` or `ValueError`."""
        folder, config = fetched(name, TOKENIZER), dict[str, Any]()
        for side in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / side).is_file():
                config |= read_json(folder / side, str(name))
        tokenizer = read_tokenizer(folder, config, str(name))
        named, special = _named(config), dict[str, Any]()
        for role, (keys, usual) in ROLES.items():
            special[role] = _first(tokenizer, [*(named[key] for key in keys if key in named), *usual])
        return cls(tokenizer, **special, template=_template(folder, config), named=named, lossy=lossy)

    def within(self, vocab: int, mask: int | None) -> Codec:
        """The codec beside a network of `vocab` tokens whose mask is `mask`: a role that a token added later took over,
        or that the network does not know, is none."""

        def kept(token: int | None) -> int | None:
            return token if token is not None and token < vocab and token != mask else None

        start, end, pad = kept(self.start), kept(self.end), kept(self.pad)
        return replace(self, start=start, end=end, pad=pad, mask=mask, vocab=vocab)

    @property
    def size(self) -> int:
        """How many tokens the tokenizer was trained with, without those that were added later."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=False))

    @cached_property
    def reach(self) -> int:
        """One above the highest id that the tokenizer knows, tokens added later included."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def filler(self) -> int | None:
        """What stands behind the end of a text: padding, or the end again; None where there is neither."""
        return self.end if self.pad is None else self.pad

    @property
    def fill(self) -> int:
        return self.filler or 0

    @property
    def ends(self) -> list[int]:
        """The tokens behind which there is no more text: the end, a turn's end, padding; what is written is first."""
        return list(dict.fromkeys(token for token in (self.end, *self.turns, self.pad) if token is not None))

    @property
    def turns(self) -> list[int]:
        """The tokens that end what one side of a chat says."""
        return [token for token in map(self.tokenizer.token_to_id, TURNS) if token is not None]

    @property
    def masks(self) -> Sequence[str]:
        """Usual ways to write one token that is to be filled in, and the tokenizer's own."""
        own = None if self.mask is None else self.tokenizer.id_to_token(self.mask)
        return MASKS if own in (None, *MASKS) else (own, *MASKS)

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer's post-processor puts before a text and behind it, such as [CLS] and [SEP]."""
        written = self.tokenizer.post_processor
        return ([], []) if written is None else _frame(json.loads(written.__getstate__()))

    @cached_property
    def special(self) -> dict[int, str]:
        """The tokens that no text may hold, with their names: they begin, end, fill and mask texts, or turn chats."""
        added = self.tokenizer.get_added_tokens_decoder()
        roles = [self.start, self.end, self.pad, self.mask, *self.turns]
        ids = {token for token, entry in added.items() if entry.special} | {one for one in roles if one is not None}
        return {token: str(self.tokenizer.id_to_token(token)) for token in sorted(ids)}

    @cached_property
    def unknown(self) -> int | None:
        """The token that stands for what the vocabulary does not know."""
        name = getattr(self.tokenizer.model, "unk_token", None)
        return _first(self.tokenizer, [name] if name else ["<unk>", "[UNK]"])

    def ids(self, texts: Sequence[str], what: str = "text", rows: Sequence[int] | None = None) -> list[list[int]]:
        """The pieces of texts, without start and end. A special token that is spelled out is text like any other.
        Raises `ValueError`, naming the text (`what` and its number, that in `rows` if given), for one that would lose
        something (unless `lossy`), or that cannot be told from a special token."""
        numbers = range(len(texts)) if rows is None else rows
        read = self._read(texts, numbers, what)
        back = self.tokenizer.decode_batch([one.ids for one in read], skip_special_tokens=False)
        for row, text, one, again in zip(numbers, texts, read, back, strict=True):
            lacks = "" if self.lossy else lost(self.tokenizer, text, one, self.unknown, again)
            self.expect_readable(f"{what} {row}", one, lacks)
            if self.vocab is not None and max(one.ids, default=0) >= self.vocab:
                token = str(self.tokenizer.id_to_token(max(one.ids)))
                raise ValueError(f"{what} {row} holds {token!r}, of which the network has no row: take it out")
        return [one.ids for one in read]

    def expect_readable(self, where: str, read: Encoding, lacks: str) -> None:
        """Raises `ValueError` for a text `where` that spells a special token, and, unless texts may be `lossy`, for
        what its tokenizer `lacks`, in words."""
        known = {token: name for token, name in self.special.items() if token != self.unknown}
        wrong = spelled(read.ids, known)
        if lacks and not self.lossy:
            raise ValueError(f"{where} {lacks}: take it out, or load the model with lossy=True")
        if wrong:
            raise ValueError(f"{where} {wrong}, which would be read as one: write it in another way")

    def _read(self, texts: Sequence[str], numbers: Sequence[int], what: str) -> list[Encoding]:
        for row, text in zip(numbers, texts, strict=True):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"{what} {row} holds half of a character (a lone surrogate): read it as UTF-8")
        with PLAIN:
            self.tokenizer.encode_special_tokens = True
            try:
                return list(self.tokenizer.encode_batch(list(map(str, texts)), add_special_tokens=False))
            except Exception:  # of the library: a word for which there is no token, not even an unknown one
                for row, text in zip(numbers, texts, strict=True):
                    try:
                        self.tokenizer.encode(str(text), add_special_tokens=False)
                    except Exception as error:
                        told = f"{what} {row} holds what its tokenizer has no token for ({first_line(error)})"
                        raise ValueError(f"{told}: take it out") from None
                raise
            finally:
                self.tokenizer.encode_special_tokens = False

    def chats(self, prompts: Sequence[str]) -> list[list[int]]:
        """Every prompt as what the user says in a chat whose answer is next, a `Chat` with all that was said before.
        Raises `ValueError`, naming the prompt, as `ids` does, and for one that spells a special token."""
        parts = [(row, text) for row, prompt in enumerate(prompts) for _, text in _messages(prompt)]
        rows, texts = [row for row, _ in parts], [text for _, text in parts]
        self.ids(texts, "prompt", rows)
        filled = [self.asked(prompt, f"prompt {row}") for row, prompt in enumerate(prompts)]
        with PLAIN:
            said, asked = (self.tokenizer.encode_batch(list(map(str, some)), add_special_tokens=False)
                           for some in (texts, filled))  # fmt: skip
        for row, one in zip(rows, said, strict=True):
            wrong = spelled(one.ids, self.special)
            if wrong:
                raise ValueError(f"prompt {row} {wrong}, which would be read as part of the chat: take it out")
        return [one.ids for one in asked]

    def asked(self, prompt: str, called: str = "the prompt") -> str:
        """A chat in which the user says the prompt (or which a `Chat` is) and the answer is next. Raises `ValueError`
        without a template, or for one that cannot be filled in, with what the prompt is `called`."""
        if self.template is None:
            raise ValueError("this tokenizer has no chat template: write the prompt as the model reads it")
        said = [{"role": role, "content": text} for role, text in _messages(prompt)]
        try:
            filled = str(self._chat.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **self.named))
        except Exception as error:  # a template is a program of the checkpoint's, run in Jinja's sandbox
            told = f"the chat template cannot be filled in with {called} ({first_line(error)})"
            raise ValueError(f"{told}: leave out what it refuses, or load with chat=False") from None
        if "".join(said[-1]["content"].split()) not in "".join(filled.split()):  # of other roles, or of parts
            told = f"the chat template leaves out what the user says in {called}"
            raise ValueError(f"{told}: it is for other messages, so load with chat=False")
        return filled

    @cached_property
    def _chat(self) -> Any:
        """The tokenizer as `transformers` wraps it, which fills in templates. It copies the vocabulary: a second."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, chat_template=self.template)

    def text(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Pieces as texts, special tokens left out."""
        return list(self.tokenizer.decode_batch([list(one) for one in ids], skip_special_tokens=True))


def _messages(prompt: str) -> Sequence[tuple[str, str]]:
    return prompt.messages if isinstance(prompt, Chat) else [("user", prompt)]


def ids_under(config: Mapping[str, Any], key: str, codec: Codec | None, name: str) -> list[int]:
    """The token ids that a checkpoint's configuration has under a key: none, one or several. Raises `ValueError` for
    what is no id, and for a word: a class of `transformers` has numbers of its own where nobody says others."""
    written = config.get(key)
    found = written if isinstance(written, list) else [] if written is None else [written]
    for token in found:
        if not isinstance(token, int) or isinstance(token, bool):
            raise ValueError(f"config.json of {name} has {key}={written!r}, which is no token id: write a whole number")
        word = "" if codec is None or token in codec.special or token < 0 else codec.text([[token]])[0].strip()
        if any(map(str.isalnum, word)) and not SIGN.fullmatch(word):
            told = f"{key} of {name} is {token}, which its tokenizer reads as {word!r}"
            raise ValueError(f"{told}: write the right one into its configuration, or make it a special token there")
    return found


def unwritten(codec: Codec | None, vocab: int) -> Tensor:
    """The tokens (K,) long that the network knows and the tokenizer does not: they stand in no text."""
    known = set(range(vocab)) if codec is None else set(codec.tokenizer.get_vocab(with_added_tokens=True).values())
    return torch.tensor(sorted(set(range(vocab)) - known), dtype=torch.long)


def mismatch(name: str, vocab: int, codec: Codec | None, besides: str = "") -> ValueError:
    """What to raise where a model of `vocab` tokens and a tokenizer do not fit."""
    known = "" if codec is None else f" and the tokenizer {codec.size}"
    how = "load the model with the tokenizer of its training (tokenizer=...)"
    return ValueError(f"{name} knows {vocab} tokens{known}{besides}: they do not fit, so {how}")


def _frame(processor: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """The ids before a text and behind it, from a post-processor as tokenizer.json writes it."""
    kind = processor.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [int(processor["cls"][1])], [int(processor["sep"][1])]
    if kind == "Sequence":
        before, behind = list[int](), list[int]()
        for one in processor["processors"]:
            first, last = _frame(one)
            before, behind = first + before, behind + last
        return before, behind
    if kind != "TemplateProcessing":
        return [], []
    parts = processor["single"]
    at = next(at for at, part in enumerate(parts) if "Sequence" in part)

    def ids(some: Sequence[Mapping[str, Any]]) -> list[int]:
        named = [processor["special_tokens"][part["SpecialToken"]["id"]] for part in some]
        return [int(token) for one in named for token in one["ids"]]

    return ids(parts[:at]), ids(parts[at + 1 :])


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    """The id of the first of some tokens that there is."""
    return next((token for token in map(tokenizer.token_to_id, names) if token is not None), None)


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a configuration names, by the names that templates call them by ("bos_token"). A usual
    name is no such: what the configuration leaves out, a template of `transformers` writes nothing for."""
    written = {**config, **(extra if isinstance(extra := config.get("extra_special_tokens"), dict) else {})}
    texts = {key: one.get("content") if isinstance(one, dict) else one for key, one in written.items()}
    return {key: text for key, text in texts.items() if key.endswith("_token") and isinstance(text, str)}


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the configuration, where one of several is called "default"."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    written = config.get("chat_template")
    if isinstance(written, list):
        several = {str(one.get("name")): one.get("template") for one in written}
        none = f"{{{{ raise_exception('of {', '.join(several)} none is called default') }}}}"
        written = several.get("default", none)
    return written if isinstance(written, str) else None
