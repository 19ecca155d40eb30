"""Reading: what of a text a tokenizer keeps, so that nothing is lost without a word.

    text  ->  normaliser  ->  pieces  ->  decoder  ->  text          equal up to blanks beside signs, or a sentence

What a tokenizer's normaliser rewrites (case, accents, numbers) is the form that its model was trained on. Lost is what
it drops altogether, what the vocabulary does not know, and words that come back joined or torn apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

BLANK = "\u2581"  # stands for a blank in pieces
SPACES = re.compile(rf"[\s{BLANK}]+")
BESIDE_SIGNS = re.compile(r" (?![^\W_])|(?<![^\W_]) ")
JOINERS = "\u200c\u200d"  # hold emoji and letters together; other marks of the format may go
SHOWN = 8  # characters that a message names at the most


def lost(tokenizer: Tokenizer, text: str, read: Encoding, unknown: int | None, back: str) -> str:
    """What of a text does not come back from its pieces `read` and their decoded text `back`, in words; "" for
    nothing. `unknown` is the id that stands for what the vocabulary does not know."""
    missing = [character for character in dict.fromkeys(text) if _dropped(tokenizer, character)]
    if unknown in read.ids:
        return unread(text, read, unknown)
    if not missing:
        form = _normal(tokenizer, text)
        wanted, found = _bare(form), _bare(back)
        if wanted == found:
            return ""
        missing = list((Counter(wanted.replace(" ", "")) - Counter(found.replace(" ", ""))).elements())
        if not missing:
            return f"comes back from its tokenizer as {_short(back)!r}"
    return _unknown(missing)


def unread(text: str, read: Encoding, unknown: int | None, literal: str = "") -> str:
    """The parts of a text that became the token `unknown`, in words; "" for none. `literal` may stand in the text."""
    missing = [text[a:b] for token, (a, b) in zip(read.ids, read.offsets, strict=True) if token == unknown]
    missing = [piece for piece in missing if not literal or piece.strip() != literal]
    return _unknown(missing) if missing else ""


def _unknown(missing: Sequence[str]) -> str:
    named = list(dict.fromkeys(piece for piece in missing if piece)) or ["characters"]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f"holds {', '.join(map(repr, map(_short, named[:SHOWN])))}{more}, which its tokenizer does not know"


def spelled(ids: Sequence[int], special: dict[int, str]) -> str:
    """The special token that a text's ids hold, in words; "" for none."""
    found = next((special[token] for token in ids if token in special), None)
    return "" if found is None else f"spells the special token {found!r}"


def _dropped(tokenizer: Tokenizer, character: str) -> bool:
    """Whether the normaliser drops a character that means something. Accents of Latin letters are form."""
    if character.isascii() or character.isspace() or "\u0300" <= character <= "\u036f":
        return False
    if unicodedata.category(character) in ("Cc", "Cf") and character not in JOINERS:
        return False
    return not _normal(tokenizer, character).strip()


def _normal(tokenizer: Tokenizer, text: str) -> str:
    return text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)


def _bare(text: str) -> str:
    """A text without its case, and without the blanks that do not part words."""
    return BESIDE_SIGNS.sub("", SPACES.sub(" ", text.casefold()).strip())


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
