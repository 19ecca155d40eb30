"""Packaged: trained weights that come inside a Python package, read under a name of their own; one package a file.

    iterref.load("antiberty")     Classifier("antiberty-species", "Human")     Similarity("minilm", to="a cat")

A file of this room has CHECKPOINTS, a tuple of `Packaged` (`iterref.packaged.source`), or only helps the others. To
bring another package, put a file here, or extend the room's `__path__` by a folder of your own. The package itself is
never imported.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iterref.packaged.source import Packaged


def checkpoints(room: str | None = None) -> dict[str, Packaged]:
    """What the files of this room bring, by name: all, or the "models" or "rewards" alone."""
    files = [import_module(f"{__name__}.{name}") for name in sorted(one.name for one in iter_modules(__path__))]
    found: list[Packaged] = [one for file in files for one in getattr(file, "CHECKPOINTS", ())]
    return {one.name: one for one in found if room in (None, one.room)}


def located(name: str | Path) -> Path | None:
    """The folder of a checkpoint that a file of this room brings, None for another name. Raises `MissingExtra` where
    its package is not installed, and `ValueError` where that holds other weights."""
    known = checkpoints().get(str(name))
    return None if known is None else known.folder()
