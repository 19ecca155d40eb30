"""Sources: what the package's files declare, read without running them; a base class is followed to its own file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
EXTENDED = ("samplers", "rewards", "models")  # rooms whose `__path__` may hold folders beside the package's own
REQUIRED = ...  # stands for the default of an option that has none


def paths(room: str) -> list[Path]:
    """The folders of a room: the package's own, and those that its `__path__` was extended by."""
    return [Path(path) for path in import_module(f"iterref.{room}").__path__]


def declared(file: Path, name: str) -> tuple[str, dict[str, Any]]:
    """The first line of a file, and the options of one of its classes or functions with their defaults, unimported."""
    return (ast.get_docstring(parsed(file)) or "").partition("\n")[0], options_of(file, name)


def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, remembered until the file changes."""
    return _parsed(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(file: Path, changed: int) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def lineage(file: Path, node: ast.ClassDef) -> Iterator[tuple[Path, ast.ClassDef]]:
    """The classes of this package that a class is made of, the class itself last."""
    for base in reversed(node.bases):  # as a dataclass orders their fields
        found = defined(file, ast.unparse(base.value if isinstance(base, ast.Subscript) else base))
        if found is not None and isinstance(found[1], ast.ClassDef):
            yield from lineage(found[0], found[1])
    yield file, node


def defined(file: Path, name: str) -> tuple[Path, ast.ClassDef | ast.FunctionDef] | None:
    """Where a name that a file uses is defined in this package."""
    for node in parsed(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return file, node
    blocks = [node.body if isinstance(node, ast.If) else [node] for node in parsed(file).body]  # for type checkers too
    lines = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    module = next((line.module for line in lines if name in (one.asname or one.name for one in line.names)), None)
    home = None if module is None else source_of(module)
    return None if home is None or home == file else defined(home, name)


def source_of(module: str) -> Path | None:
    """The file of a module of this package."""
    top, *parts = module.split(".")
    if top != "iterref" or not parts:
        return None
    extended = parts[0] in EXTENDED and len(parts) > 1
    stems = [path.joinpath(*parts[1:]) for path in paths(parts[0])] if extended else [HOME.joinpath(*parts)]
    files = (file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def options_of(file: Path, name: str) -> dict[str, Any]:
    """Options with defaults: a function's by name, those of a class' `__init__`, or else its fields and its bases'."""
    found = defined(file, name)
    if found is None:
        return {}
    if isinstance(found[1], ast.FunctionDef):
        return _parameters(found[1], False)
    options: dict[str, Any] = {}
    by_name: set[str] = set()  # these stand behind those by place
    for _, node in lineage(found[0], found[1]):
        written = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        if written:
            options = dict(list(_parameters(written[0]).items())[1:])  # without self
        every = any("kw_only=True" in ast.unparse(one) for one in node.decorator_list)
        for line in node.body if node.decorator_list else ():
            if isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation):
                option, said = ast.unparse(line.target), _field(line.value)
                options[option] = _value(said.get("default", said.get("default_factory")))
                if "init" in said:  # a class that needs no such option of its base
                    del options[option]
                elif _value(said["kw_only"]) if "kw_only" in said else every:
                    by_name.add(option)
    return {option: options[option] for option in sorted(options, key=by_name.__contains__)}


def _field(value: ast.expr | None) -> dict[str, ast.expr | None]:
    """What a field of a dataclass is given, its default or the arguments of `field`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        return {str(one.arg): one.value for one in value.keywords}
    return {"default": value}


def _parameters(function: ast.FunctionDef, placed: bool = True) -> dict[str, Any]:
    """Parameters with their defaults: those by name, and where `placed`, those by place before them."""
    given = function.args
    named = {one.arg: _value(value) for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)}
    if not placed:
        return named
    defaults = [*[None] * (len(given.args) - len(given.defaults)), *given.defaults]
    return {one.arg: _value(value) for one, value in zip(given.args, defaults, strict=True)} | named


def _value(node: ast.expr | None) -> Any:
    """A default: what its literal means, or its text."""
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
