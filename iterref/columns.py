"""Columns: anything that holds one entry a prompt, read by position, whatever library it comes from.

    list, tuple, range, generator (read once), numpy array, tensor, Series of any index, column of a data set  ->  list

A Series is never read by label. What has no order (a set, a dict) or several columns (a data frame) is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from math import isnan
from pathlib import PurePath
from typing import Any


def read_column(column: Any, name: str) -> list[Any]:
    """The entries of a column by position. Raises `TypeError` that calls it `name` and says what to pass."""
    if isinstance(column, str | bytes):
        raise TypeError(f"{name} is one {_kind(column)}: pass a list with one entry a prompt")
    names = table_columns(column)
    if names is not None:
        which = f", such as {names[0]!r}" if names else ""
        raise TypeError(f"{name} is a table ({_kind(column)}): pass one of its columns{which}")
    if isinstance(column, Mapping | AbstractSet) or not isinstance(column, Iterable) or getattr(column, "ndim", 1) == 0:
        why = ", which has no order of prompts" if isinstance(column, Mapping | AbstractSet) else ""
        raise TypeError(f"{name} is {shown(column)}{why}: pass a list with one entry a prompt")
    for method in ("to_pylist", "tolist", "to_list"):  # of arrow, numpy and torch, pandas and polars
        if hasattr(column, method) and getattr(column, "ndim", 1) == 1:
            return list(getattr(column, method)())
    return [scalar(entry) for entry in column]


def scalar(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def missing(value: Any) -> bool:
    """Whether an entry is none: None, NaN, or what pandas has for these."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or isinstance(value, float) and isnan(value)


def read_columns(columns: Any, batch: int) -> dict[str, list[Any]]:
    """The columns of a mapping or a table, each of `batch` entries, by name. Raises `TypeError` for what is neither,
    and `ValueError` for a column of another length."""
    if columns is None:
        return {}
    names = list(columns) if isinstance(columns, Mapping) else table_columns(columns)
    if names is None:
        raise TypeError(f"columns= is {shown(columns)}: pass a dict from names to lists, or a data frame")
    found = {}
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"columns= has the name {name!r}: name every column by a string")
        found[name] = read_column(columns[name], f"column {name!r}")
        if len(found[name]) != batch:
            raise ValueError(f"column {name!r} has {len(found[name])} entries for {batch} prompts: give one a prompt")
    return found


def is_column(value: Any, size: int) -> bool:
    """Whether a value holds one entry for each of `size` texts; strings, mappings and what is read once do not."""
    if isinstance(value, str | bytes | Mapping | AbstractSet) or table_columns(value) is not None:
        return False
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0 and _size(value) == size


def needed_column(columns: Mapping[str, Any], name: str, size: int, whose: str) -> list[Any]:
    """The column that a reward needs, one entry for each of `size` texts. Raises `ValueError` where it is not so."""
    if columns.get(name) is None:
        raise ValueError(f"{whose} needs the column {name!r}, but there is only {sorted(columns)}: add it")
    entries = read_column(columns[name], f"column {name!r}")
    if len(entries) != size:
        raise ValueError(f"column {name!r} has {len(entries)} entries for {size} completions: give one each")
    return entries


def shown(value: Any) -> str:
    """A value as a sentence names it: its type, and itself where it is short."""
    if value is None:
        return "None"
    kind = type(value).__name__
    kind = f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
    return f"{kind} ({brief(value)})" if brief(value) else kind


def brief(value: Any) -> str:
    """A plain value's text, cut where it is long; nothing for any other."""
    told = repr(value) if isinstance(value, str | bytes | bool | int | float | PurePath) else ""
    return told if len(told) <= 40 else told[:37] + "..."


def table_columns(value: Any) -> list[Any] | None:
    """The names of a table's columns (pandas, polars, arrow, data sets, records of numpy); None for no table."""
    names = getattr(getattr(value, "dtype", None), "names", None)
    for attribute in ("column_names", "columns"):
        if names is None and not isinstance(value, type):
            names = getattr(value, attribute, None)
    if names is None or callable(names) or isinstance(names, str):
        return None
    return list(names)


def _size(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:  # a generator, an iterable data set
        return None


def _kind(value: Any) -> str:
    return "string" if isinstance(value, str) else type(value).__name__
