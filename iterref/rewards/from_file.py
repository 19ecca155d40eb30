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
_LOADED: dict[tuple[str, int, int], ModuleType] = {}


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


def _module(file: Path) -> ModuleType:
    """The module of a file, run anew only where the file has changed."""
    state = file.stat()
    key = (str(file), state.st_mtime_ns, state.st_size)
    if key in _LOADED:
        return _LOADED[key]
    root = file.parent
    while _relative(file) and (root / "__init__.py").is_file():
        root = root.parent
    for folder in dict.fromkeys((str(file.parent), str(root))):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    name = _name(file) if root == file.parent else ".".join(file.relative_to(root).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = module
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
    _LOADED[key] = module
    return module


def _relative(file: Path) -> bool:
    """Whether a file imports from its own package, as in `from .near import judge`."""
    try:
        nodes = ast.walk(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):
        return False  # running it says what is wrong
    return any(isinstance(node, ast.ImportFrom) and node.level for node in nodes)


def _name(file: Path) -> str:
    """The file's own name, or another one where a module of Python or of another folder is called so."""
    there = sys.modules.get(file.stem)
    taken = there is not None and Path(getattr(there, "__file__", None) or "").absolute() != file
    if taken or not file.stem.isidentifier() or file.stem in sys.stdlib_module_names:
        return f"iterref_reward_{blake2b(str(file).encode(), digest_size=6).hexdigest()}"
    return file.stem
