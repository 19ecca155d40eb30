"""Registry: what lies in the package's rooms, by name. A file's name is the public name, and nothing is listed by hand.

    samplers/NAME.py     a subclass of `iterref.samplers.base.Sampler`
    rewards/NAME.py      a function NAME, or REWARD = a class or "module:name" of what the name builds; TRUSTED = True
                         where it runs code or asks addresses, so that no client of a server may name it
    models/NAME.py       FAMILY = Family(...) (`iterref.models.family`), and `load`
    models/weights/NAME  rewards/weights/NAME           a bundled checkpoint: a folder with config.json

To add one, put the file into a room, or extend the room's `__path__` by a folder of your own. Files are read, not run,
so that lists need no torch; only what is asked for is imported.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from iterref.sources import lineage, options_of, parsed, paths, source_of

ROOMS = {"samplers": "sampler", "rewards": "reward", "models": "model family"}  # and what one is called
# The share of letters from which on a name is taken for another, and for a mere slip of it.
CLOSE, SLIP = 0.6, 0.8
OF_EVERY_MODEL = ("length", "dtype", "device", "revision")  # options of `iterref.load`, no family's own


class Entry(NamedTuple):
    """What a file offers: the module and the name of its object, the file's first line, its options with their
    defaults, and what else it says of itself (a family's fields; DEFAULT, JUDGES and TRUSTED of a reward)."""

    module: str
    target: str
    summary: str
    options: dict[str, Any]
    facts: dict[str, Any]

    def load(self) -> Any:
        return getattr(import_module(self.module), self.target)


def entries(room: str) -> dict[str, Entry]:
    """All that a room offers, by name, sorted."""
    files = {file.stem: file for path in reversed(paths(room)) for file in path.glob("[a-z]*.py")}
    return {name: one for name in sorted(files) if (one := entry_of(room, files[name])) is not None}


def names(room: str = "samplers") -> list[str]:
    """The public names in a room, sorted."""
    return list(entries(room))


def entry(room: str, name: str) -> Entry:
    """What a name stands for. Raises `ValueError` with the nearest name for an unknown one."""
    files = (path / f"{name}.py" for path in paths(room)) if name.isidentifier() else ()
    for found in (entry_of(room, file) for file in files if file.is_file()):
        if found is not None:
            return found
    raise unknown(ROOMS[room], name, names(room))


def get(name: str, room: str = "samplers") -> Any:
    """The object of a name: a sampler's class unless another room is given. Raises `ValueError` as `entry` does."""
    return entry(room, name).load()


def bundled(room: str) -> dict[str, Path]:
    """The checkpoints that come with a room, by name."""
    files = (file for path in reversed(paths(room)) for file in sorted((path / "weights").glob("*/config.json")))
    return {file.parent.name: file.parent for file in files}


def family_of(config: Mapping[str, Any]) -> str | None:
    """The family that reads a checkpoint, by its configuration (config.json, or a pipeline's model_index.json). What
    the configuration is called counts before patterns, and its keys only where it has no name."""
    kinds, families = kinds_of(config), entries("models")
    for match in (str.__eq__, fnmatchcase):
        for kind in kinds:
            for name, family in families.items():
                if any(match(kind, known.lower()) for known in family.facts.get("reads", ())):
                    return name
    keys = {name: set(family.facts.get("keys", ())) for name, family in families.items()}
    return next((name for name, known in keys.items() if not kinds and known and known <= set(config)), None)


def kinds_of(config: Mapping[str, Any]) -> list[str]:
    """What a configuration says that it is, in lower case."""
    named = map(config.get, ("model_type", "format", "_class_name"))
    return [str(one).lower() for one in (*named, *(config.get("architectures") or ())) if one is not None]


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a bundled checkpoint's folder."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def unknown(kind: str, name: str, known: Collection[str], *forms: str) -> ValueError:
    """What to raise for a name that is not there, or is no form like FILE.py:NAME."""
    return ValueError(f"unknown {kind} {name!r}{did_you_mean(name, known)} It is one of {', '.join([*known, *forms])}")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """What to say behind an unknown name: the known one that is meant, where one is close enough to be. That is one
    that a slip leads to, else the only one that holds the given name or is held by it, else one that few slips do."""
    from rapidfuzz.distance import DamerauLevenshtein

    like, given = DamerauLevenshtein.normalized_similarity, _plain(name)
    alike = {one: (like(given, _plain(one)), like(name, one)) for one in known}
    near = max(alike, key=lambda one: alike[one], default="")
    held = [one for one in known if min(len(one), len(given)) > 3 and _within(given, _plain(one))]
    if near and alike[near][0] < SLIP and (len(held) == 1 or alike[near][0] < CLOSE):
        near = held[0] if len(held) == 1 else ""
    return f": did you mean {near!r}?" if near else "."


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _within(one: str, other: str) -> bool:
    return one in other or other in one


def entry_of(room: str, file: Path) -> Entry | None:
    """What a file of a room offers, None for one that only helps the others. Remembered until the file changes."""
    return _entry_of(room, file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _entry_of(room: str, file: Path, changed: int) -> Entry | None:
    marks = {"samplers": ("\nclass ",), "rewards": ("\nREWARD = ", f"\ndef {file.stem}("), "models": ("\nFAMILY = ",)}
    text = "\n" + file.read_text(encoding="utf-8")
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
        try:
            told = {field.arg: ast.literal_eval(field.value) for field in getattr(says["FAMILY"], "keywords", ())}
            target, facts = "load", {"title": told.pop("title"), **{str(name): value for name, value in told.items()}}
        except (ValueError, KeyError):
            form = 'FAMILY = Family(title="...", reads=("...",)), with literals, each by name'
            raise ValueError(f"{file} does not say what it reads: write {form}") from None
    elif "REWARD" in says:
        target = ast.unparse(says["REWARD"])
        if isinstance(says["REWARD"], ast.Constant):
            module, _, target = str(says["REWARD"].value).partition(":")
        facts = {name: ast.literal_eval(says[name]) for name in ("DEFAULT", "JUDGES", "TRUSTED") if name in says}
    home = file if module == f"iterref.{room}.{file.stem}" else source_of(module)
    options = {} if home is None else options_of(home, target)
    if room == "models":
        options = {name: default for name, default in options.items() if name not in OF_EVERY_MODEL}
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Entry(module, target, summary, options, facts)


def _is_method(file: Path, node: ast.ClassDef) -> bool:
    abstract = any("abstractmethod" in map(ast.unparse, getattr(one, "decorator_list", ())) for one in node.body)
    return not abstract and any(base.name == "Sampler" for _, base in list(lineage(file, node))[:-1])
