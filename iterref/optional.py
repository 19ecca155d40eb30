"""Optional: packages that only some uses need, and the extra of this package that installs each.

    require("matplotlib", "plots", "a picture")     a picture needs matplotlib: pip install 'iterref[plots]'

Whoever uses one asks here first, inside of a function, so that its absence is one sentence, said before anything runs.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec

# What a module's package is called, where it has another name.
PACKAGES = {"PIL": "pillow", "google.protobuf": "protobuf"}


class MissingExtra(ImportError, ValueError):
    """A package that is not installed; the message names the extra that installs it."""


def require(module: str, extra: str, what: str, otherwise: str = "") -> None:
    """Raises `MissingExtra` unless a module is there: what needs it, and `otherwise`, which ends the sentence."""
    with suppress(ModuleNotFoundError):  # of the package that a module is in
        if find_spec(module) is not None:
            return
    raise MissingExtra(f"{what} needs {PACKAGES.get(module, module)}: pip install 'iterref[{extra}]'{otherwise}")
