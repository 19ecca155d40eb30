"""Registry: what lies in the package's rooms, by name. A file's name is the public name, and nothing is listed by hand.

    samplers/NAME.py     a subclass of `iterref.samplers.base.Sampler`
    rewards/NAME.py      a function NAME, or REWARD = a class or "module:name" of what the name builds
    models/NAME.py       FAMILY = Family(...) (`iterref.models.family`), and `load`
    models/weights/NAME  rewards/weights/NAME           a bundled checkpoint: a folder with config.json

To add one, put the file into a room, or extend the room's `__path__` by a folder of your own. Files are read, not run,
so that lists need no torch; only what is asked for is imported.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent
ROOMS = {"samplers": "method", "rewards": "reward", "models": "model family"}  # and what one is called
REQUIRED = ...  # stands for the default of an option that has none
# A function up to the colon of its signature, and the deeper or empty lines behind it.
BODY = re.compile(
    r"(?P<head>^(?P<indent> *)def (?:(?!\n *(?:class |def |@))[^#])*?:(?: *#.*)?\n)(?:(?P=indent) +.*\n| *\n)+", re.MULTILINE
)
OF_EVERY_MODEL = ("length", "dtype", "device", "revision")  # options of `iterref.load`, no family's own


class Entry(NamedTuple):
    """What a file offers: the module and the name of its object, the file's first line, its options with their
    defaults, and what else it says of itself (a family's fields; DEFAULT and JUDGES of a reward)."""

    module: str
    target: str
    summary: str
    options: dict[str, Any]
    facts: dict[str, Any]

    def load(self) -> Any:
        """The object itself, imported now."""
        return getattr(import_module(self.module), self.target)


def paths(room: str) -> list[Path]:
    """The folders of a room: the package's own, and those that its `__path__` was extended by."""
    return [Path(path) for path in import_module(f"iterref.{room}").__path__]


def entries(room: str) -> dict[str, Entry]:
    """All that a room offers, by name, sorted."""
    found: dict[str, Entry] = {}
    for file in (file for path in paths(room) for file in path.glob("[a-z]*.py")):
        entry = entry_of(room, file)
        if entry is not None:
            found.setdefault(file.stem, entry)
    return dict(sorted(found.items()))


def names(room: str = "samplers") -> list[str]:
    """The public names in a room, sorted."""
    return list(entries(room))


def entry(room: str, name: str) -> Entry:
    """What a name stands for. Raises `ValueError` with the nearest name for an unknown one."""
    files = (path / f"{name}.py" for path in paths(room)) if name.isidentifier() else ()
    found = next((one for file in files if file.is_file() and (one := entry_of(room, file)) is not None), None)
    if found is None:
        raise unknown(ROOMS[room], name, names(room))
    return found


def get(name: str, room: str = "samplers") -> Any:
    """The object of a name: a sampler's class unless another room is given. Raises `ValueError` as `entry` does."""
    return entry(room, name).load()


def parse(text: Any) -> Any:
    """`iterref.strings.sampler_from_string`, under the name that modules not yet renamed import."""
    return import_module("iterref.strings").sampler_from_string(text)


def bundled(room: str) -> dict[str, Path]:
    """The checkpoints that come with a room, by name."""
    found: dict[str, Path] = {}
    for file in (file for path in paths(room) for file in sorted((path / "weights").glob("*/config.json"))):
        found.setdefault(file.parent.name, file.parent)
    return found


def family_of(config: Mapping[str, Any]) -> str | None:
    """The family that reads a checkpoint, by its configuration (config.json, or a pipeline's model_index.json).

    What the configuration is called counts before patterns, and its keys only where it has no name.
    """
    kinds, families = kinds_of(config), entries("models")
    for match in (str.__eq__, fnmatchcase):
        for kind in kinds:
            for name, family in families.items():
                if any(match(kind, known) for known in family.facts.get("reads", ())):
                    return name
    keys = {name: set(family.facts.get("keys", ())) for name, family in families.items()}
    return next((name for name, known in keys.items() if not kinds and known and known <= set(config)), None)


def kinds_of(config: Mapping[str, Any]) -> list[str]:
    """What a configuration says that it is, in lower case."""
    named = [config.get("model_type"), *(config.get("architectures") or ()), *map(config.get, ("format", "_class_name"))]
    return [str(one).lower() for one in named if one is not None]


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a bundled checkpoint's folder."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def unknown(kind: str, name: str, known: Collection[str], *forms: str) -> ValueError:
    """What to raise for a name that is not there, or is no form like FILE.py:NAME."""
    return ValueError(
        f"unknown {kind} {name!r}: did you mean {nearest(name, known)!r}? It is one of {', '.join([*known, *forms])}"
    )


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that is most like another."""
    from rapidfuzz.process import extractOne

    match = extractOne(name, list(known))
    return str(match[0]) if match else next(iter(known))


# --- reading files ----------------------------------------------------------------------------------------------------


def entry_of(room: str, file: Path) -> Entry | None:
    """What a file of a room offers, None for one that only helps the others. Remembered until the file changes."""
    return _entry_of(room, file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _entry_of(room: str, file: Path, changed: int) -> Entry | None:
    marks = {"samplers": ("\nclass ",), "rewards": ("\nREWARD = ", f"\ndef {file.stem}("), "models": ("\nFAMILY = ",)}
    text = file.read_text(encoding="utf-8")
    if file.stem in ("base", "family") or not any(mark in text for mark in marks[room]):
        return None  # most files of a room are seen to be none without being parsed
    tree, module, target = parsed(file), f"iterref.{room}.{file.stem}", file.stem
    says = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    facts: dict[str, Any] = {}
    if room == "samplers":
        public = (node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))
        methods = [node.name for node in public if _is_method(file, node)]
        if not methods:
            return None
        target = methods[-1]
    elif room == "models":
        family = says["FAMILY"]
        assert isinstance(family, ast.Call)
        target, facts = "load", {str(field.arg): ast.literal_eval(field.value) for field in family.keywords}
    elif "REWARD" in says:
        target = ast.unparse(says["REWARD"])
        if isinstance(says["REWARD"], ast.Constant):
            module, _, target = str(says["REWARD"].value).partition(":")
        facts = {name: ast.literal_eval(says[name]) for name in ("DEFAULT", "JUDGES") if name in says}
    home = file if module == f"iterref.{room}.{file.stem}" else _source(module)
    options = {} if home is None else _options(home, target)
    if room == "models":
        options = {name: default for name, default in options.items() if name not in OF_EVERY_MODEL}
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Entry(module, target, summary, options, facts)


def declared(file: Path, name: str) -> tuple[str, dict[str, Any]]:
    """The first line of a file, and the options of one of its classes or functions with their defaults, unimported."""
    return (ast.get_docstring(parsed(file)) or "").partition("\n")[0], _options(file, name)


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


def _is_method(file: Path, node: ast.ClassDef) -> bool:
    abstract = any("abstractmethod" in map(ast.unparse, getattr(one, "decorator_list", ())) for one in node.body)
    return not abstract and any(base.name == "Sampler" for _, base in list(_lineage(file, node))[:-1])


def _lineage(file: Path, node: ast.ClassDef) -> Iterator[tuple[Path, ast.ClassDef]]:
    """The classes of this package that a class is made of, the class itself last."""
    for base in node.bases:
        found = _defined(file, ast.unparse(base.value if isinstance(base, ast.Subscript) else base))
        if found is not None and isinstance(found[1], ast.ClassDef):
            yield from _lineage(found[0], found[1])
    yield file, node


def _defined(file: Path, name: str) -> tuple[Path, ast.ClassDef | ast.FunctionDef] | None:
    """Where a name that a file uses is defined in this package."""
    for node in parsed(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return file, node
    module = _imported(file, file.stat().st_mtime_ns).get(name)
    home = None if module is None else _source(module)
    return None if home is None or home == file else _defined(home, name)


@lru_cache(maxsize=256)
def _imported(file: Path, changed: int) -> dict[str, str]:
    """Names that a file imports at its top, for type checkers too, and the modules that they come from."""
    blocks = [node.body if isinstance(node, ast.If) else [node] for node in parsed(file).body]
    lines = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(line.module) for line in lines for alias in line.names}


def _source(module: str) -> Path | None:
    """The file of a module of this package."""
    top, *parts = module.split(".")
    if top != "iterref" or not parts:
        return None
    folders = [path.joinpath(*parts[1:-1]) for path in paths(parts[0])] if parts[0] in ROOMS and parts[1:] else [
        HOME.joinpath(*parts[:-1])
    ]  # fmt: skip
    files = [folder / tail for folder in folders for tail in (f"{parts[-1]}.py", f"{parts[-1]}/__init__.py")]
    return next((file for file in files if file.is_file()), None)


def _options(file: Path, name: str) -> dict[str, Any]:
    """Options with defaults: a function's by name, those of a class' `__init__`, or else its fields and its bases'."""
    found = _defined(file, name)
    if found is None:
        return {}
    if isinstance(found[1], ast.FunctionDef):
        return {name: default for name, default in _parameters(found[1]).items() if name in _named(found[1])}
    options: dict[str, Any] = {}
    for _, node in _lineage(found[0], found[1]):
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
