"""Lines: text files line by line, packed or not, and the objects of JSON lines; each has a place that sentences name.

    line ends    line feed, carriage return, or both; what else `str.splitlines` cuts at may stand within a text
    refused      bytes that are no UTF-8, bytes NUL, half of a surrogate pair, a line of more than `MOST` characters
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from math import isfinite, isnan
from pathlib import Path
from typing import IO, Any, TextIO

MOST = 2**24  # characters: what has no line ends is no list of texts, and is not read whole to be refused
KEPT = "surrogateescape"  # how bytes that are no UTF-8 are decoded, so that the line that holds them is known
HOW = "write one object a line"

Place = str  # "line 3 of news.csv", to begin a sentence with


def opened(file: Path) -> TextIO:
    """A text file, packed or not, with its line ends as they are; a mark of its byte order is no part of it."""
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", errors=KEPT, newline="")
    return open(file, encoding="utf-8-sig", errors=KEPT, newline="")


def readable(file: IO[str], name: str, long: bool = False) -> Iterator[str]:
    """The lines of an open file that is called `name`, `long` ones too where an array of JSON may be one. Raises
    `ValueError` for what is no text, naming the line."""
    number = 0
    try:
        while line := file.readline(-1 if long else MOST + 1):
            number += 1
            if len(line) > MOST and not long:
                raise ValueError(f"line {number} of {name} has more than {MOST} characters: write one text a line")
            _expect_unicode(line, f"line {number} of {name}")
            if "\0" in line:  # of a file of other things; a text of JSON may have it as an escape
                raise ValueError(f"line {number} of {name} holds the byte NUL, which no text does: take it out")
            yield line
    except UnicodeDecodeError:  # of a file that was opened elsewhere
        raise ValueError(f"{name} is no UTF-8 text: save it as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ValueError(f"{name} is no whole gzip file: get it again") from None


def objects(lines: Iterable[str], name: str = "", how: str = HOW) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of JSON lines with their places, "line 3" or "line 3 of `name`". Raises `ValueError` for others,
    saying `how` to write them."""
    of = f" of {name}" if name else ""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number}{of}"
        row = parsed(line, place, how)
        if not isinstance(row, dict):
            raise ValueError(f"{place} is a JSON {type(row).__name__} and no object: {how}")
        yield place, row


def parsed(text: str, place: Place, how: str = HOW) -> Any:
    """A JSON value. Raises `ValueError` for what is none, saying `how` to write it, and for what no file could hold."""
    try:
        found = json.loads(text, object_pairs_hook=_object)
        strings = list(_texts(found)) if "\\u" in text else []  # an escape may write half of a surrogate pair
    except Twice as error:
        raise ValueError(f"{place} has the field {str(error)!r} twice: rename one, or take it out") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is no JSON ({error.msg}): {how}") from None
    except ValueError:
        raise ValueError(f"{place} holds a number of thousands of digits: write it as a string") from None
    except RecursionError:
        raise ValueError(f"{place} is nested too deeply: {how}") from None
    for string in strings:
        _expect_unicode(string, place, "an escape in it is half of a surrogate pair; write the whole character")
    return found


class Twice(ValueError):
    """A field that an object has twice, by its name."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Twice(next(name for name in names if names.count(name) > 1))
    return found


def finite(value: Any) -> Any:
    """Numbers, also within lists and objects, with null for those that JSON has no form for."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def as_json(value: Any) -> Any:
    """A value as JSON holds it: what is no number is null, and what JSON has no form for is its text: a date in ISO's
    form, bytes as UTF-8 or else in base64."""
    if isinstance(value, float) and not isfinite(value):
        return None if isnan(value) else str(value)
    if isinstance(value, dict):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return b64encode(value).decode()
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _expect_unicode(text: str, place: Place, how: str = "save it as UTF-8") -> None:
    """Refuses what is no Unicode text: bytes that were no UTF-8, and halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} is no UTF-8 text: {how}") from None


def _texts(value: Any) -> Iterator[str]:
    """All strings within a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(part)
