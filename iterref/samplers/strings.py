"""Strings: a sampler by its name, with options after it.

    "iterref:tries=16,span=0.2"           str(sampler) writes it, `sampler_from_string` reads it
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import fields
from typing import get_type_hints

from iterref import legacy, registry
from iterref.samplers.base import Sampler
from iterref.strings import read, split


def sampler_from_string(text: str | Sampler) -> Sampler:
    """A sampler from "name" or "name:option=value,option=value"; one that is built already is returned as it is. Raises
    `ValueError` for an unknown name or option, with the nearest known one, and for a value that cannot be read, and
    `TypeError` for what is neither a string nor a sampler."""
    if isinstance(text, Sampler):
        return text
    if not isinstance(text, str):
        raise TypeError(f"the sampler is a {type(text).__name__}: pass a sampler or its name, as in 'iterref:tries=16'")
    text, warning = legacy.translated(text, _options_of)
    if warning is not None:
        warnings.warn(warning, FutureWarning, stacklevel=2)
    name, _, written = text.partition(":")
    kind, (head, given) = registry.get(name.strip()), split(written)
    if head:
        raise ValueError(f"{name}: {head!r} is no option: write option=value")
    hints = get_type_hints(kind)
    sampler: Sampler = kind(**read(name, given, {field.name: hints[field.name] for field in fields(kind)}))
    return sampler


def _options_of(name: str) -> Collection[str]:
    try:  # one file is read, where the names of all would take a fifth of a second
        return [field.name for field in fields(registry.get(name))]
    except ValueError:
        return ()
