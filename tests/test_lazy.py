"""Lazy packages: names come on first use, static types see them all, and the lists are those of the files."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import iterref
from iterref import lazy, registry
from iterref.sources import HOME

PACKAGES = ("iterref", "iterref.constraint", "iterref.models", "iterref.rewards", "iterref.samplers")


def file_of(package: str) -> Path:
    return HOME.joinpath(*package.split(".")[1:], "__init__.py")


@pytest.mark.parametrize("package", PACKAGES)
def test_static_types_name_all_that_is_public_and_it_is_there(package: str) -> None:
    """Type checkers and editors read imports under TYPE_CHECKING; `__all__` lists the same, written out."""
    module = import_module(package)
    source = ast.parse(file_of(package).read_text())
    [block] = [node for node in source.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imported = [(line.module, one) for line in block.body if isinstance(line, ast.ImportFrom) for one in line.names]
    assert sorted(one.name for _, one in imported) == sorted(module.__all__)
    assert any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in source.body)
    assert set(module.__all__) <= set(dir(module)) and all(one.asname is None for _, one in imported)
    for home, one in imported:
        assert getattr(module, one.name) is getattr(import_module(str(home)), one.name)


@pytest.mark.parametrize("room", registry.ROOMS)
def test_the_list_of_a_room_has_what_its_files_offer(room: str) -> None:
    """To fix: import what is missing under TYPE_CHECKING in the room's __init__.py."""
    own = {name: entry for name, entry in registry.entries(room).items() if entry.module.startswith(f"iterref.{room}.")}
    offered = set(own) if room == "models" else {entry.target for entry in own.values()}
    assert offered - set(import_module(f"iterref.{room}").__all__) == set()


def test_objects_complete_and_are_what_strings_build() -> None:
    assert str(iterref.samplers.IterRef(tries=16)) == "iterref:tries=16"
    assert iterref.samplers.IterRef(tries=16) == iterref.sampler_from_string("iterref:tries=16")
    assert iterref.rewards.Length(4) == iterref.reward_from_string("length:4")
    assert iterref.models.load is iterref.load and iterref.models.mdlm.FAMILY.title == "MDLM"


def test_importing_loads_no_torch_and_neither_do_its_rooms() -> None:
    check = "assert not {'torch', 'numpy', 'transformers', 'rapidfuzz'} & set(sys.modules)\n"
    script = f"import sys, iterref\n{check}iterref.samplers, iterref.rewards, iterref.models\n{check}"
    subprocess.run([sys.executable, "-c", f"{script}dir(iterref.samplers)\n{check}"], check=True)


@pytest.mark.parametrize("name", ["no_such_name", "__wrapped__", "_private"])
@pytest.mark.parametrize("package", PACKAGES)
def test_other_names_are_refused(package: str, name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute '{name}'"):
        getattr(import_module(package), name)


def test_a_function_that_is_called_like_its_file_stays_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python binds a file to its package when it is loaded, whoever loads it, over whatever has the name."""

    def thing() -> None: ...

    package, file = lazy.Package("pack"), ModuleType("pack.thing")
    vars(package)["homes"], vars(file)["thing"] = {"thing": "pack.thing"}, thing
    package.other = other = ModuleType("pack.other")
    package.thing = file
    assert package.thing is thing and package.other is other
    monkeypatch.setitem(sys.modules, "pack.thing", file)
    del vars(package)["thing"]
    assert package.thing is thing


@pytest.mark.parametrize("name", ["tiny-news", "tiny-books"])
def test_loading_a_bundled_model_leaves_torchs_compiler_alone(name: str) -> None:
    """Importing it takes a second, several times what loading takes."""
    script = f"import sys, iterref\niterref.load({name!r})\nassert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
