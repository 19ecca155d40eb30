"""Words of texts in every script, for rewards that compare words.

    words        runs of a-z and 0-9 in lower case, as the `rouge-score` package reads a text: nothing of other scripts
    unicode      runs of letters and digits of any script; where a script has no blanks between words, or for a symbol,
                 each character by itself. The same as `words` on texts in ASCII
    characters   every character that is no blank

The last two compare texts as equal that differ in case (`str.casefold`) or in how accents are composed (NFC).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal
from unicodedata import category, normalize

Split = Callable[[str], list[str]]
Splitting = Literal["words", "unicode", "characters"]

# Thai, Lao, Tibetan, Myanmar, Khmer, kana, bopomofo, and Han with its extensions: scripts without blanks
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U000323af]"
)
_ASCII_WORD = re.compile("[a-z0-9]+")


def ascii_words(text: str) -> list[str]:
    """The words of a text as `rouge-score` finds them."""
    return _ASCII_WORD.findall(text.lower())


def unicode_words(text: str) -> list[str]:
    """The words of a text of any script."""
    if text.isascii():
        return ascii_words(text)
    words, apart = list[str](), True
    for char in normalize("NFC", text).casefold():
        kind = category(char)[0]
        if kind == "M" and words:  # an accent or a vowel sign belongs to the character that it stands on
            words[-1] += char
        elif kind in "LN" and not UNSPACED.match(char):
            if apart:
                words.append("")
            words[-1] += char
            apart = False
        else:
            if kind in "LNS" and not char.isascii():
                words.append(char)
            apart = True
    return words


def characters(text: str) -> list[str]:
    """The characters of a text, blanks left out."""
    return [char for char in normalize("NFC", text).casefold() if not char.isspace()]


_SPLITS: dict[str, Split] = {"words": ascii_words, "unicode": unicode_words, "characters": characters}


def split_of(tokenizer: Splitting | Split) -> Split:
    """The function that splits texts: one of the three by name, or the user's own. Raises `ValueError` for others."""
    if not callable(tokenizer) and tokenizer not in _SPLITS:
        raise ValueError(f"there is no tokenizer {tokenizer!r}: use one of {', '.join(_SPLITS)}, or a function")
    return tokenizer if callable(tokenizer) else _SPLITS[tokenizer]


def joins(char: str) -> bool:
    """Whether a character is part of the word beside it: a letter, digit or mark of a script with blanks."""
    return (char == "_" or category(char)[0] in "LNM") and not UNSPACED.match(char)


def normalised(text: str, case: bool = False) -> str:
    """A text as it is compared: accents composed, and lower case in full unless `case` counts."""
    text = normalize("NFC", text.replace("\u2019", "'"))  # don\u2019t is don't
    return text if case else normalize("NFC", text.casefold())
