"""Spelling: the bytes that every token of a tokenizer writes, and what its decoder does to the joined string.

    text = tidied(bytes(v_1) + bytes(v_2) + ...)          the first token of a text may be spelled in another way

The string is put together as `tokenizers` does, from the decoder that the tokenizer's file describes: byte-level,
byte fallback, blanks as a character, word pieces. Random texts are compared with the tokenizer's own, and a decoder
that differs is refused: a constraint on another text than the one that comes out would be none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from iterref.constraint.strings import Strings

TRIED = 300  # random texts that are compared


@dataclass(frozen=True)
class Spelling:
    """The bytes `inside` a text of every token, None for one that stands in no text, and at its beginning, `first`;
    and the `tidying` of the decoder, in order: (old, new) is a replacement, (byte, most) takes up to so many of a byte
    from the beginning."""

    inside: Sequence[bytes | None]
    first: Sequence[bytes | None]
    tidying: Sequence[tuple[bytes, bytes | int]]

    def text(self, tokens: Sequence[int]) -> bytes:
        """What tokens write."""
        pieces = [(self.inside if at else self.first)[token] for at, token in enumerate(tokens)]
        text = b"".join(piece for piece in pieces if piece is not None)
        for what, by in self.tidying:
            if isinstance(by, bytes):
                text = text.replace(what, by)
            else:
                taken = min(by, len(text) - len(text.lstrip(what)))
                text = text[taken:]
        return text

    def strings(self, language: Strings) -> Strings:
        """The joined bytes that become a text of a language."""
        for what, by in reversed(self.tidying):
            if isinstance(by, bytes):
                language = language.before_replacing(what, by)
            else:
                language = language.before_stripping(what[0], by)
        return language


def spelling(tokenizer: Tokenizer, vocab: int, silent: Sequence[int], decode: Callable[..., list[str]]) -> Spelling:
    """How the tokens 0 .. vocab - 1 of a tokenizer are spelled; the `silent` ones stand in no text. `decode` reads
    lists of tokens as the model does. Raises `ValueError` for a decoder that is not understood."""
    parts = _decoders(tokenizer)
    whole = next((at for at, part in enumerate(parts) if part["type"] in ("ByteLevel", "Fuse")), len(parts))
    names = [tokenizer.id_to_token(token) for token in range(vocab)]
    hidden = set(silent)
    live = [None if token in hidden else name for token, name in enumerate(names)]
    first, inside = _pieces(tokenizer, live, parts[: whole + 1])
    tidying = [_tidying(part) for part in parts[whole + 1 :]]
    if parts and parts[0]["type"] == "Metaspace":
        tidying = [] if parts[0].get("prepend_scheme") == "never" else [(b" ", 1)]
    if any(rule is None for rule in tidying):
        raise _unknown(tokenizer)
    made = Spelling(inside, first, [rule for rule in tidying if rule is not None])
    _compare(made, decode, tokenizer)
    return made


def _pieces(
    tokenizer: Tokenizer, names: Sequence[str | None], parts: Sequence[dict[str, Any]]
) -> tuple[list[bytes | None], list[bytes | None]]:
    """The bytes of tokens at the beginning and inside of a text, before it is tidied up as a whole."""
    kinds = [part["type"] for part in parts]
    if kinds[-1:] == ["ByteLevel"] and len(kinds) == 1:
        made = [None if name is None else _bytes_of(name) for name in names]
        return made, made
    if kinds[:1] == ["Metaspace"]:
        blank = parts[0]["replacement"]
        made = [None if name is None else name.replace(blank, " ").encode() for name in names]
        return made, made
    if "ByteFallback" in kinds or kinds[-1:] == ["Fuse"]:
        known = all("String" in part["pattern"] for part in _replacing(parts))
        if set(kinds) - {"ByteFallback", "Fuse", "Replace"} or not known:
            raise _unknown(tokenizer)
        made = [None if name is None else _fallen_back(name, parts) for name in names]
        return made, made
    if not parts:
        inside = [None if name is None else f" {name}".encode() for name in names]
        return [None if name is None else name.encode() for name in names], inside
    if kinds != ["WordPiece"]:
        raise _unknown(tokenizer)
    decoder = tokenizer.decoder
    written = [name for name in names if name is not None]
    first = {name: decoder.decode([name]).encode() for name in written}
    anchor = written[0]
    skipped = len(first[anchor])
    inside_of = {name: decoder.decode([anchor, name]).encode()[skipped:] for name in written}
    return [first.get(name) for name in names], [inside_of.get(name) for name in names]  # type: ignore[arg-type]


def _replacing(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts if part["type"] == "Replace"]


def _fallen_back(name: str, parts: Sequence[dict[str, Any]]) -> bytes:
    """A token of a vocabulary with bytes such as <0x0A>."""
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    for part in _replacing(parts):
        name = name.replace(part["pattern"]["String"], part["content"])
    return name.encode()


def _tidying(part: dict[str, Any]) -> tuple[bytes, bytes | int] | None:
    """A decoder's rule for the joined text; None for one that is not understood."""
    if part["type"] == "Replace" and part["pattern"].get("String"):
        return part["pattern"]["String"].encode(), part["content"].encode()
    if part["type"] == "Strip" and not part["stop"] and len(part["content"].encode()) == 1:
        return part["content"].encode(), int(part["start"])
    return None


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """The characters that stand for bytes in a byte-level vocabulary: printable ones for themselves, the rest in
    order from U+0100 on."""
    own = {chr(byte): byte for byte in range(256) if chr(byte) in set(pre_tokenizers.ByteLevel.alphabet())}
    others = [byte for byte in range(256) if byte not in own.values()]
    return own | {chr(256 + at): byte for at, byte in enumerate(others)}


def _bytes_of(name: str) -> bytes:
    known = _alphabet()
    return bytes(known[c] for c in name) if all(c in known for c in name) else name.encode()


def _decoders(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The decoder's parts as the tokenizer's file describes them."""
    if tokenizer.decoder is None:
        return []
    written = json.loads(tokenizer.decoder.__getstate__())
    return list(written["decoders"]) if written["type"] == "Sequence" else [written]


def _compare(made: Spelling, decode: Callable[..., list[str]], tokenizer: Tokenizer) -> None:
    """Refuses a spelling that writes another text than the tokenizer does. Where tokens are no UTF-8 together, they are
    no text of any language, and decoders differ in what they show."""
    choice, known = random.Random(0), [token for token, piece in enumerate(made.inside) if piece is not None]
    texts = [choice.choices(known, k=1 + at % 9) for at in range(TRIED)] if known else []
    for tokens, text in zip(texts, decode(texts), strict=True):
        spelled = made.text(tokens).decode("utf-8", "replace")
        if spelled != str(text) and "\ufffd" not in spelled:
            raise _unknown(tokenizer)


def _unknown(tokenizer: Tokenizer) -> ValueError:
    kinds = " + ".join(part["type"] for part in _decoders(tokenizer)) or "none"
    return ValueError(
        f"a constraint needs to know which text tokens write, and this tokenizer's decoder ({kinds}) writes texts in a "
        "way that is not understood: take a model with a byte-level or word-piece tokenizer"
    )
