"""The public names of the package with their signatures, one a line, as `public_api.txt` lists them.

    public = `__all__` of the package and of its rooms, and what the documentation and the examples import

After a change that is meant: `python -m tests.support.public_api > tests/support/public_api.txt`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import iterref
from iterref.registry import ROOMS

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("public_api.txt")
MARK = re.compile(r"^(__all__ = |lazy.attach\()", re.MULTILINE)
CODE = re.compile(r"^```(?:python|py)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def rooms() -> list[str]:
    """The package and its rooms that have an `__all__`."""
    home = Path(iterref.__file__).parent
    marked = [file for file in sorted(home.rglob("*.py")) if MARK.search(file.read_text(encoding="utf-8"))]
    paths = [("iterref", *file.relative_to(home).with_suffix("").parts) for file in marked]
    return [".".join(path).removesuffix(".__init__") for path in paths]


def imported(source: str) -> set[tuple[str, str]]:
    """(module, name) of what a source imports from the package or asks it for, as in `iterref.report.plots.ess`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "iterref":
            found |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[0] == "iterref":
            found.add((ast.unparse(node.value), node.attr))
    return {(module, name) for module, name in found if is_module(module) and not is_module(f"{module}.{name}")}


def is_module(path: str) -> bool:
    """Whether a dotted path is a module of the package, and no name that it has made public."""
    name = path.removeprefix("iterref.")
    if path != "iterref" and name in iterref.__all__ and name not in ROOMS:
        return False
    try:
        return find_spec(path) is not None
    except (ModuleNotFoundError, ValueError):  # a part of it is no module
        return False


def documented() -> set[tuple[str, str]]:
    """What the documentation and the examples import."""
    found = set()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for code in CODE.findall(page.read_text(encoding="utf-8")):
            try:
                found |= imported(code)
            except SyntaxError:  # a part of a program
                continue
    for file in sorted((ROOT / "examples").glob("*.py")):
        found |= imported(file.read_text(encoding="utf-8"))
    return found


def _annotation(note: Any) -> str:
    return "" if note is inspect.Parameter.empty else note if isinstance(note, str) else inspect.formatannotation(note)


def written(default: Any) -> str:
    """A default; a function by its name, for its address is another in every run."""
    return default.__name__ if inspect.isfunction(default) else repr(default)


def signature(function: Any) -> str:
    """Parameters with their kinds and defaults, and what is returned; the same in every version of Python."""
    try:
        asked = inspect.signature(function)
    except ValueError:
        return "(...)"
    made = {f.name for f in fields(function) if f.default_factory is not MISSING} if is_dataclass(function) else set()
    parts, starred = [], False
    for name, one in asked.parameters.items():
        if one.kind is one.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred |= one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        mark = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        note = f": {_annotation(one.annotation)}" if _annotation(one.annotation) else ""
        default = "" if one.default is one.empty else f" = {'<made>' if name in made else written(one.default)}"
        parts.append(mark + name + note + default)
    result = "" if isinstance(function, type) else _annotation(asked.return_annotation)
    return f"({', '.join(parts)})" + (f" -> {result}" if result else "")


def members(cls: type) -> Iterator[str]:
    """The public methods and properties that a class of this package has from the package."""
    for name in sorted({name for base in cls.__mro__ if base.__module__.startswith("iterref") for name in vars(base)}):
        value = inspect.getattr_static(cls, name)
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            yield f".{name}"
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            yield f".{name}{signature(function)}"


def told(module: str, name: str) -> list[str]:
    """The lines of one name."""
    value = getattr(import_module(module), name)
    head = f"{module}.{name}"
    if isinstance(value, type) and value.__module__.startswith("iterref"):
        protocol = getattr(value, "_is_protocol", False)
        return [head if protocol else head + signature(value), *(f"{head}{member}" for member in members(value))]
    if inspect.isfunction(value):
        return [head + signature(value)]
    return [head]


def lines() -> list[str]:
    """The whole list, in order."""
    names = {(room, name) for room in rooms() for name in import_module(room).__all__} | documented()
    names = {(module, name) for module, name in names if not name.startswith("__")}
    return sorted({line for module, name in names for line in told(module, name)})


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in lines()))
