"""Reading: what stands on the command line or in input files, as the objects that it means."""

from __future__ import annotations

import json
from io import TextIOWrapper
from math import inf
from typing import IO, Any

from iterref.lines import KEPT, objects, readable
from iterref.rewards.strings import reward_from_string as read_reward

__all__ = ["read_budget", "read_budgets", "read_option", "read_prompts", "read_reward", "read_texts"]


def read_prompts(file: IO[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Prompts, and the further fields of JSON input as columns. Raises `ValueError` naming the line."""
    return _read_lines(file, "document", "prompt")


def read_texts(file: IO[str]) -> tuple[list[str], list[str] | None, dict[str, list[Any]]]:
    """Texts, their prompts if every line has a `document`, and the further fields of JSON input as columns. Raises
    `ValueError` naming the line."""
    texts, columns = _read_lines(file, "text", "text", partner="document")
    return texts, columns.pop("document", None), columns


def _read_lines(
    file: IO[str], field: str, what: str, partner: str | None = None
) -> tuple[list[str], dict[str, list[Any]]]:
    """The texts of a `field`, and as columns what all lines have beside; all or none have the text `partner`."""
    if isinstance(file, TextIOWrapper):
        file.reconfigure(errors=KEPT)
    lines = [line.rstrip("\n") for line in readable(file, "the input")]
    if lines:
        lines[0] = lines[0].removeprefix("\ufeff")  # a mark of the byte order
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"the input is empty: give one {what} a line")
    if not first.lstrip().startswith("{"):
        empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
        if empty:
            raise ValueError(f"line {empty[0]} is empty: give every line a {what}, or take the line out")
        return lines, {}
    entries = list(objects(lines))
    needed = [field, partner] if partner and any(partner in entry for _, entry in entries) else [field]
    for place, entry in entries:
        for name in needed:
            if not isinstance(entry.get(name), str):
                raise ValueError(f"{place} has no text in a field `{name}`: add it")
    shared = sorted(set.intersection(*(set(entry) for _, entry in entries)) - {field})
    return [entry[field] for _, entry in entries], {name: [entry[name] for _, entry in entries] for name in shared}


def read_budget(text: str) -> Any:
    """A budget a sample from "256", "256,1024" (denoiser and reward rows), or "total=512,price=0.1,depth=64"."""
    from iterref.budget import FAR, Budget

    names = ("denoiser", "reward", "total", "price", "depth")
    bounds: dict[str, float] = {}
    for place, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        name, value = (name.strip(), value) if equals else (names[min(place, 2)], name)
        try:
            bounds[name] = float(value) if name in names and (equals or place < 2) else bounds[""]
        except (ValueError, KeyError):
            raise ValueError(
                f"the budget {text!r} cannot be read: write DENOISER or DENOISER,REWARD, or name the bounds, as in "
                "total=512,depth=64"
            ) from None
    if any(FAR < value < inf for value in bounds.values()):
        raise ValueError(f"the budget {text!r} is for more than {FAR} rows a text, which no method can plan: say less")
    return Budget(**bounds)


def read_budgets(text: str | None) -> tuple[int, ...]:
    """Budgets in plain runs from "1,2,4"; none from None."""
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"the budgets {text!r} cannot be read: write whole numbers of plain runs, as in 1,2,4")
    return tuple(map(int, parts))


def read_option(text: str) -> tuple[str, Any]:
    """An option of a task from "name=value": a number where it reads as one."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ValueError(f"the option {text!r} cannot be read: write NAME=VALUE, as in limit=100")
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = value
    return name.strip(), value if isinstance(found, list | dict) else found
