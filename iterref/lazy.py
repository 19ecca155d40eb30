"""Lazy: packages whose public names are looked up on first use (PEP 562), while editors and type checkers see them all.

    if TYPE_CHECKING:
        from iterref.samplers.iterref import IterRef       # the list that tools read, and `attach` too

    attach(__name__)                                       # iterref.samplers.IterRef imports its file on first use
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from iterref import legacy, registry
from iterref.sources import HOME, parsed


class Package(ModuleType):
    """A package with lazy names. Rooms of the registry offer files that were added to them, too."""

    homes: dict[str, str]  # the module of every name; a file of the package itself is its own

    def __getattr__(self, name: str) -> Any:
        room, home = self.__name__.rpartition(".")[2], self.__dict__.get("homes", {}).get(name)
        if home is not None:
            module = import_module(home)
            value = module if home == f"{self.__name__}.{name}" and name not in vars(module) else getattr(module, name)
        elif name in legacy.RENAMED and self.__name__ == "iterref" and legacy.RENAMED[name] in self.homes:
            return legacy.renamed(name, getattr(self, legacy.RENAMED[name]))
        elif name.startswith("_") or room not in registry.ROOMS or (one := _targets(room).get(name)) is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        else:
            value = import_module(one.module) if room == "models" else one.load()
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Python binds a file to its package once it is loaded; a public name that the file defines goes first."""
        if isinstance(value, ModuleType) and value.__name__ == self.homes.get(name) and name in vars(value):
            value = getattr(value, name)
        self.__dict__[name] = value

    def __dir__(self) -> list[str]:
        room = self.__name__.rpartition(".")[2]
        return sorted({*self.__dict__, *self.homes, *(_targets(room) if room in registry.ROOMS else ())})


def attach(package: str) -> None:
    """Makes a package that is being imported lazy, with the names that it imports for type checkers; its `__all__`
    lists them again, since checkers of typed packages take nothing else for public."""
    module = sys.modules[package]
    module.__dict__["homes"] = homes(Path(str(module.__file__)))
    module.__class__ = Package


def homes(file: Path) -> dict[str, str]:
    """Names that a file imports under `if TYPE_CHECKING:`, its one `if`, and the module that each comes from."""
    found: dict[str, str] = {}
    package = ".".join(("iterref", *file.parent.relative_to(HOME).parts))
    for block in (node for node in parsed(file).body if isinstance(node, ast.If)):
        for line in (line for line in block.body if isinstance(line, ast.ImportFrom)):
            home = "{0}.{1}" if line.module == package else "{0}"  # a file of the package is a module, too
            found |= {one.name: home.format(line.module, one.name) for one in line.names}
    return found


def _targets(room: str) -> dict[str, registry.Entry]:
    """What a room offers by the names of its objects, and model families by their own."""
    return {name if room == "models" else one.target: one for name, one in registry.entries(room).items()}

