"""Rewards from a Python file of the user's own, which is imported as Python imports the modules beside a script.

FILE.py:NAME      the file's folder goes on `sys.path`, and the module has the file's own name, by which data classes,
                  pickles and process pools find it again; one that imports relatively is imported as a part of the
                  package that it is in
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

_FORM = re.compile(r"(.*\.py)(?::(.*))?", re.DOTALL)  # a colon may stand in the path, as in C:\rewards\mine.py
State = tuple[int, int]
_LOADED: dict[tuple[tuple[Path, State], ...], ModuleType] = {}
_RUN: dict[Path, State] = {}  # as files were when they were run


def split_file(text: str) -> tuple[Path, str] | None:
    """The file and the name in "FILE.py:NAME"; None for a text of another form."""
    found = _FORM.fullmatch(text)
    return None if found is None else (Path(found[1]), found[2] or "")


def function_from_file(file: Path, name: str) -> Callable[..., Any]:
    """The function or reward `name` of a Python file, which is run once. Raises `ValueError` saying what is wrong."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}: give the reward as FILE.py:NAME")
    module = _module(file.resolve())
    function = getattr(module, name, None) if name else None
    if isinstance(function, type):
        raise ValueError(f"{name} in {file} is a class: write reward = {name}(...) there, and give {file}:reward")
    if not callable(function):
        own = (key for key, value in vars(module).items() if callable(value) and not isinstance(value, type))
        known = ", ".join(key for key in own if getattr(vars(module)[key], "__module__", "") == module.__name__)
        what = f"has no function {name!r}" if name else "holds the reward, and no function of it is named"
        raise ValueError(f"{file} {what}: give the reward as FILE.py:NAME{', of ' + known if known else ''}")
    return function


def modules_of(file: Path) -> list[Path]:
    """A Python file and the modules beside it that it imports, and these in turn."""
    found = [file]
    for one in found:  # which grows
        for folder, name, _ in _imports(one):
            place = folder / name
            beside = (place.with_suffix(".py"), *(place.rglob("*.py") if place.is_dir() else ()))
            found += [other for other in beside if other.is_file() and other not in found]
    return found


def _imports(file: Path) -> list[tuple[Path, str, bool]]:
    """The first names of what a file imports, with the folders where these may be, and whether it does so relatively,
    as in `from .near import judge`; nothing where it is no Python, of which running it says what is wrong."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return []
    root = next(one for one in file.parents if not (one / "__init__.py").is_file())  # of the file's package
    names = [([root, file.parent], alias.name, False) for node in nodes if isinstance(node, ast.Import)
             for alias in node.names]  # fmt: skip
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            above = [file.parents[node.level - 1]] if node.level else [root, file.parent]
            written = [node.module] if node.module else [alias.name for alias in node.names]
            names += [(above, name, bool(node.level)) for name in written]
    return [(folder, name.partition(".")[0], near) for above, name, near in names for folder in above]


def _expect_own(file: Path) -> None:
    """Refuses a file that imports a module beside it under a name that another module has, which it would get."""
    beside: dict[str, list[Path]] = {}
    for one in modules_of(file):
        for folder, name, near in _imports(one):
            places = (folder / f"{name}.py", folder / name / "__init__.py")
            beside.setdefault(name, []).extend(place for place in places if place.is_file() and not near)
    for name, files in beside.items():
        there = str(getattr(sys.modules.get(name), "__file__", None) or "Python's own")
        own = {place.resolve() for place in files}
        if files and name in sys.modules and Path(there).resolve() not in own and name != "iterref":
            raise ValueError(f"{file} imports {files[0]}, and the module {name} is {there} here: rename one")


def _module(file: Path) -> ModuleType:
    """The module of a file, run anew only where the file, or one beside it that it imports, has changed."""
    states = {one: (one.stat().st_mtime_ns, one.stat().st_size) for one in modules_of(file)}
    key = tuple(states.items())
    if key in _LOADED:
        return _LOADED[key]
    if any(_RUN.get(one, state) != state for one, state in states.items()):
        beside = {*map(str, states)} - {str(file)}
        for name, one in list(sys.modules.items()):
            if getattr(one, "__file__", None) in beside:
                del sys.modules[name]
    _expect_own(file)
    root = file.parent
    while any(near for _, _, near in _imports(file)) and (root / "__init__.py").is_file():
        root = root.parent
    folders = dict.fromkeys((str(root), str(file.parent)))
    sys.path[:] = [*folders, *(one for one in sys.path if one not in folders)]
    name = _name(file) if root == file.parent else ".".join(file.relative_to(root).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = module
    # Bytecode is known by its source's size and second, so that a file edited at once would be run as it was.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        if root != file.parent:
            package = importlib.import_module(name.rpartition(".")[0])
            if str(file.parent) not in package.__path__:
                raise ImportError(f"another package is called {package.__name__}: rename one")
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        sys.modules.update(before)
        raise ValueError(f"{file} cannot be run ({type(error).__name__}: {error}): fix it") from error
    finally:
        sys.dont_write_bytecode = writes
    _LOADED[key] = module
    _RUN.update(states)
    return module


def _name(file: Path) -> str:
    """The file's own name, or another one where a module of Python or of another folder is called so."""
    there = sys.modules.get(file.stem)
    taken = there is not None and Path(getattr(there, "__file__", None) or "").absolute() != file
    if taken or not file.stem.isidentifier() or file.stem in sys.stdlib_module_names:
        return f"iterref_reward_{blake2b(str(file).encode(), digest_size=6).hexdigest()}"
    return file.stem
