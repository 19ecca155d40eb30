"""The registry: a file's name is the public name, and options are written after it.

    "iterref:tries=16,span=0.2"      "iterref:span=0.1+0.5,kernel=shared"      "best_of_n:n=8"

A method is found by the name of its file in `iterref/samplers`; nothing is listed by hand.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules

from rapidfuzz.process import extractOne

import iterref.samplers
from iterref.budget import FAR
from iterref.samplers.base import Sampler


def names() -> list[str]:
    """The public names of all methods, sorted."""
    return sorted(module.name for module in iter_modules(iterref.samplers.__path__) if module.name != "base")


def get(name: str) -> type[Sampler]:
    """The method called `name`; raises `ValueError` with the nearest name for an unknown one."""
    if name not in names():
        raise ValueError(
            f"unknown method {name!r}: {_nearest(name, names())} methods are {', '.join(names())}"
        )
    found: type[Sampler] = import_module(f"iterref.samplers.{name}").SAMPLER
    return found


def parse(text: str | Sampler) -> Sampler:
    """A method from "name" or "name:option=value,option=value"; several values of one option are joined by "+".

    Raises `ValueError` for an unknown method or option, naming the nearest, or a value that cannot be read.
    """
    if isinstance(text, Sampler):
        return text
    name, _, written = text.partition(":")
    method = get(name.strip())
    defaults = {f.name: f.default for f in fields(method)}
    several = {f.name for f in fields(method) if "tuple" in str(f.type)}
    options: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in written.split(","))):
        option, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{name}: {item!r} is no option: write option=value")
        if option not in defaults:
            raise ValueError(
                f"{name}: unknown option {option!r}: {_nearest(option, list(defaults))} options are "
                f"{', '.join(defaults)}"
            )
        options[option] = _read(f"{name}:{option}", value, defaults[option], option in several)
    return method(**options)


def _read(where: str, value: str, default: object, several: bool) -> object:
    """A value of the default's kind, or `several` of them."""
    if isinstance(default, str):
        return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"{where} is true or false, got {value!r}")
        return value.lower() in ("true", "1")
    try:
        parts = tuple(_number(part, default) for part in value.split("+"))
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{where} needs {kind}, got {value!r}") from None
    if isinstance(default, int) and max(map(abs, parts)) > FAR:
        raise ValueError(f"{where} is at most {FAR}, got {value[:20]!r}: no run is that long")
    if len(parts) > 1 and not several:
        raise ValueError(f"{where} takes one value, got {value!r}")
    return parts if len(parts) > 1 else parts[0]


def _number(text: str, default: object) -> int | float:
    if isinstance(default, int):
        return int(text)
    return float(text) if "." in text or "e" in text.lower() else int(text)


def _nearest(name: str, known: list[str]) -> str:
    """The name that was meant, where one is near, before a sentence goes on with all of them."""
    match = extractOne(name, known, score_cutoff=60)
    return f"did you mean {match[0]!r}? The" if match else "the"
