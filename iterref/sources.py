"""Sources: what the package's files declare, read without running them; a base class is followed to its own file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
EXTENDED = ("samplers", "rewards", "models")  # rooms whose `__path__` may hold folders beside the package's own
REQUIRED = ...  # stands for the default of an option that has none
# A function up to the colon of its signature, and the deeper or empty lines behind it.
BODY = re.compile(
    r"(?P<head>^(?P<indent> *)def (?:(?!\n *(?:class |def |@))[^#])*?:(?: *#.*)?\n)(?:(?P=indent) +.*\n| *\n)+",
    re.MULTILINE,
)


def paths(room: str) -> list[Path]:
    """The folders of a room: the package's own, and those that its `__path__` was extended by."""
    return [Path(path) for path in import_module(f"iterref.{room}").__path__]


def declared(file: Path, name: str) -> tuple[str, dict[str, Any]]:
    """The first line of a file, and the options of one of its classes or functions with their defaults, unimported."""
    return (ast.get_docstring(parsed(file)) or "").partition("\n")[0], options_of(file, name)


def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, functions without their bodies, remembered until the file changes."""
    return _parsed(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(file: Path, changed: int) -> ast.Module:
    text = file.read_text(encoding="utf-8")
    try:  # bodies are most of a file, and a list has half the time
        return ast.parse(BODY.sub(r"\g<head>\g<indent>    ...\n", text))
    except SyntaxError:  # a string that looks like a function
        return ast.parse(text)


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
    module = _imported(file, file.stat().st_mtime_ns).get(name)
    home = None if module is None else source_of(module)
    return None if home is None or home == file else defined(home, name)


@lru_cache(maxsize=256)
def _imported(file: Path, changed: int) -> dict[str, str]:
    """Names that a file imports at its top, for type checkers too, and the modules that they come from."""
    blocks = [node.body if isinstance(node, ast.If) else [node] for node in parsed(file).body]
    lines = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(line.module) for line in lines for alias in line.names}


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
        return {name: default for name, default in _parameters(found[1]).items() if name in _named(found[1])}
    options: dict[str, Any] = {}
    for _, node in lineage(found[0], found[1]):
        written = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        if written:
            options = dict(list(_parameters(written[0]).items())[1:])
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)] if node.decorator_list else []
        options |= {
            ast.unparse(field.target): _value(field.value)
            for field in fields if "ClassVar" not in ast.unparse(field.annotation)
        }  # fmt: skip
    return options


def _named(function: ast.FunctionDef) -> set[str]:
    return {one.arg for one in function.args.kwonlyargs}


def _parameters(function: ast.FunctionDef) -> dict[str, Any]:
    given = function.args
    placed = [one.arg for one in given.args]
    found = dict.fromkeys(placed, REQUIRED) | dict(zip(placed[::-1], map(_value, given.defaults[::-1]), strict=False))
    return found | {one.arg: _value(value) for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)}


def _value(node: ast.expr | None) -> Any:
    """A default: what its literal means, or its text."""
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
