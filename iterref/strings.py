"""Strings: a name with options after it, the shorthand of shells and tables for an object.

    "iterref:tries=16,span=0.2"     name:option=value,option=value        several values of one option: span=0.1+0.5

Values are read as the option's declared type says, never by how they look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isnan
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from iterref.registry import did_you_mean

OPTION = re.compile(r"\s*[A-Za-z_]\w*\s*=")
MOST = 2**20  # of a whole number: no run is that long


def split(written: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands after a name: a part that names no option, and the (option, value) pairs behind it."""
    items = [item for item in written.split(",") if item.strip()]
    at = next((place for place in range(len(items)) if all(map(OPTION.match, items[place:]))), len(items))
    pairs = (item.partition("=") for item in items[at:])
    return ",".join(items[:at]).strip(), [(option.strip(), value.strip()) for option, _, value in pairs]


def read(name: str, given: Sequence[tuple[str, str]], hints: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options, by their types. Raises `ValueError` for an option that is not known or given twice."""
    values: dict[str, Any] = {}
    for option, value in given:
        if option not in hints:
            meant = did_you_mean(option, hints)
            raise ValueError(f"{name}: unknown option {option!r}{meant} The options are {', '.join(hints)}")
        if option in values:
            raise ValueError(f"{name}: {option} is given twice: give it once")
        values[option] = read_value(f"{name}:{option}", value, hints[option])
    return values


def read_value(where: str, value: str, hint: Any) -> Any:
    """A value of the type that a hint says. Raises `ValueError` for one that is none."""
    one, several = kinds(hint)
    parts = value.split("+")
    if str in one or Any in one or not several:
        if len(parts) > 1 and all(re.fullmatch(r"[-\d.]+", part) for part in parts) and {int, float} & {*one}:
            raise ValueError(f"{where} takes one value, got {value!r}")
        return _single(where, value, one)
    if len(parts) == 1 and one:
        return _single(where, value, one)
    return tuple(_single(where, part, several) for part in parts)


def kinds(hint: Any) -> tuple[list[Any], list[Any]]:
    """The types of a single value, and of the parts of several, that a hint allows; a string can hold no others."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        both = [kinds(part) for part in inside]
        return [kind for one, _ in both for kind in one], [kind for _, several in both for kind in several]
    if origin is Literal:
        return [hint], []
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return [], [kind for part in inside if part is not ... for kind in kinds(part)[0]]
    return ([hint], []) if hint in (Any, bool, int, float, str, NoneType) else ([], [])


def _single(where: str, value: str, allowed: Sequence[Any]) -> Any:
    words = [word for kind in allowed if get_origin(kind) is Literal for word in get_args(kind)]
    if value in words or value.lower() == "none" and NoneType in allowed:
        return value if value in words else None
    if bool in allowed and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if int in allowed and (float not in allowed or re.fullmatch(r"[+-]?\d+", value)):
        found = _converted(int, value)
        if found is None and str not in allowed:
            raise ValueError(f"{where} needs a whole number, got {value!r}")
        if found is not None and abs(found) > MOST:
            raise ValueError(f"{where} is at most {MOST}, got {value[:20]!r}: no run is that long")
        return value if found is None else found
    if str in allowed or Any in allowed:
        return value
    if float in allowed:
        number = _converted(float, value)
        if number is None or isnan(number):
            raise ValueError(f"{where} needs a number, got {value!r}")
        return number
    if words:
        raise ValueError(f"{where} must be one of {', '.join(words)}, got {value!r}{did_you_mean(value, words)}")
    if bool in allowed:
        raise ValueError(f"{where} is true or false, got {value!r}")
    raise ValueError(f"{where} cannot be written in a string: build the object in Python")


def _converted(kind: Callable[[str], Any], value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        return None
