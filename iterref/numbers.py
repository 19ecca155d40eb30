"""Numbers: what users give for one, as Python's own: scalars of numpy and torch are numbers, True and False are not.

    seed=np.int64(3) -> 3        alpha=torch.tensor(0.5) -> 0.5        tries=True, seed=1.0, alpha="0.1": refused

Raises `TypeError` for a value of a wrong type, a sentence with the name of the argument and a hint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from iterref.columns import scalar, shown


def number(name: str, value: Any, hint: str, kind: type = Real, noun: str = "number") -> Any:
    """A real number, a scalar of numpy or torch too."""
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name}= is {shown(value)} and no {noun}: {hint}")
    known: Any = value
    return known if kind is Integral else float(known)


def whole_number(name: str, value: Any, hint: str) -> int:
    """A whole number, a scalar of numpy or torch too."""
    return int(number(name, value, hint, Integral, "whole number"))


def whole_numbers(name: str, value: Any, hint: str) -> list[int]:
    """Several whole numbers: a list, a tuple, a range, an array or tensor of one axis."""
    return [whole_number(f"{name}[{place}]", one, hint) for place, one in enumerate(entries(value, name, hint))]


def entries(value: Any, name: str = "", hint: str = "") -> list[Any]:
    """What a list, a tuple, an array or a tensor holds; nothing of anything else, which is refused under a `name`."""
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy and torch
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        if not name:
            return []
        raise TypeError(f"{name}= is {shown(value)}: {hint}")
    return list(value)


def flag(name: str, value: Any) -> bool:
    """True or False, a scalar of numpy or torch too."""
    value = scalar(value)
    if not isinstance(value, bool):
        raise TypeError(f"{name}= is {shown(value)}: pass True or False")
    return value


def name_rows(rows: Iterable[int]) -> str:
    """Row numbers in words, the first eight of them."""
    distinct = sorted(set(rows))
    more = f" and {len(distinct) - 8} more" if len(distinct) > 8 else ""
    return f"row{'' if len(distinct) == 1 else 's'} {', '.join(map(str, distinct[:8]))}{more}"
