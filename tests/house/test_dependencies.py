"""What the package needs: few packages always, the others as extras whose absence is one sentence."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions, requires
from os import environ
from pathlib import Path
from venv import create

import pytest

import iterref
from iterref import packaged
from iterref.optional import MissingExtra, require
from iterref.rewards.served import Served

ROOT = Path(iterref.__file__).parent
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
MOST = 12
CAME = {"nltk": "rouge-score"}  # imported as what a declared package brings along
UNUSED = {"einops"}  # comes into use with the axes of copies and candidates


def names(wanted: list[str]) -> set[str]:
    """The packages of requirements, without versions and extras."""
    return {re.split(r"[\[<>=~! ;]", one)[0].lower() for one in wanted}


HARD = names(PROJECT["dependencies"])
EXTRAS = {extra: names(wanted) for extra, wanted in PROJECT["optional-dependencies"].items()}
USERS = {extra: wanted for extra, wanted in EXTRAS.items() if extra not in {"all", "dev", "docs"}}


def imported(source: str) -> dict[str, bool]:
    """The modules that a source imports, and whether one is imported at the top, where its absence is a traceback."""
    found: dict[str, bool] = {}

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                name = module.split(".")[0]
                found[name] = found.get(name, False) or top
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        late |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            visit(child, top and not late)

    visit(ast.parse(source), True)
    return {name: top for name, top in found.items() if name not in sys.stdlib_module_names and name != "iterref"}


@cache
def imports() -> dict[str, dict[str, bool]]:
    """What every file of the package imports."""
    return {file.relative_to(ROOT).as_posix(): imported(file.read_text()) for file in ROOT.rglob("*.py")}


PACKAGES = {
    module: {name.lower().replace("_", "-") for name in known} for module, known in packages_distributions().items()
}


def test_few_packages_are_always_needed() -> None:
    assert len(HARD) <= MOST
    used = set().union(*(PACKAGES[module] for found in imports().values() for module in found))
    assert HARD - used <= UNUSED


def test_every_import_is_declared_and_an_extra_is_imported_late() -> None:
    for file, found in imports().items():
        for module, top in found.items():
            known = PACKAGES[module]
            if module in CAME:
                assert CAME[module] in HARD and known & names(requires(CAME[module]) or []), (file, module)
            elif not known & HARD:
                assert known & set().union(*USERS.values()), f"{file}: {module} is in no extra"
                assert not top, f"{file}: {module} is optional: import it inside a function, after `require`"


def test_an_import_at_the_top_and_one_that_is_undeclared_are_seen() -> None:
    """The control."""
    assert imported("import ray\ndef f():\n    import datasets") == {"ray": True, "datasets": False}
    assert imported("if TYPE_CHECKING:\n    import ray.data") == {"ray": False}
    assert not PACKAGES["pytest"] & (HARD | set().union(*USERS.values()))


def test_all_joins_the_extras_and_dev_has_all() -> None:
    joined = PROJECT["optional-dependencies"]["all"][0]
    assert set(re.findall(r"[\w-]+", joined)) - {"iterref"} == set(USERS)
    assert any(one.startswith("iterref[all") for one in PROJECT["optional-dependencies"]["dev"])


def test_every_extra_that_is_named_is_there() -> None:
    called = [
        node.args
        for file in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require"
    ]
    for _, extra, *_ in called:
        assert isinstance(extra, ast.Constant) and extra.value in USERS
    of_packages = {one.extra for one in packaged.checkpoints().values() if one.extra}  # whose weights are wanted
    assert {ast.literal_eval(args[1]) for args in called} | of_packages == set(USERS)


def test_what_is_absent_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    for kind in (ValueError, ImportError, MissingExtra):
        with pytest.raises(kind, match=r"^a page with pictures needs pillow: pip install 'iterref\[images\]'$"):
            require("PIL", "images", "a page with pictures")
    with pytest.raises(MissingExtra, match="^a tokenizer needs nowhere.x: pip install"):
        require("nowhere.x", "sentencepiece", "a tokenizer")
    require("torch", "data", "everything")


# A run without any extra: an import of what is None here fails, as one of what is not installed.
HIDDEN = "import sys\nsys.modules.update(dict.fromkeys(HIDE))\n"
README_EXAMPLE = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", (ROOT.parent / "README.md").read_text(), re.DOTALL)
REFUSED = """
from click.testing import CliRunner
from iterref.cli import main
for given, extra in [(["demo"], "plots"), (["generate", "--out", FOLDER, "--engine", "local"], "data")]:
    said = CliRunner().invoke(main, given, input="a man was found .")
    assert said.exit_code == 2 and f"pip install 'iterref[{extra}]'" in said.output, said.output
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
"""


def test_a_reward_behind_an_address_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ValueError, match=r"^a reward behind an address needs httpx2: pip install 'iterref\[http\]'$"):
        Served("http://localhost:1/x")


def test_readme_s_example_runs_without_extras_and_shows_its_output(tmp_path: Path) -> None:
    assert README_EXAMPLE is not None
    hidden = {module for module, known in PACKAGES.items() if known & set().union(*USERS.values()) and not known & HARD}
    # What packages that are always needed bring along themselves stays: a hub client has filelock and an HTTP client.
    hidden -= {"filelock", "httpx2"}
    code = f"HIDE, FOLDER = {hidden!r}, {str(tmp_path / 'out')!r}\n{HIDDEN}{README_EXAMPLE[1]}{REFUSED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    said, shown = (re.sub(r"[\d.]+ s in all", "", text) for text in (done.stdout, README_EXAMPLE[2]))
    assert said == shown


@pytest.mark.slow
def test_a_fresh_environment_with_nothing_else_runs_the_example(tmp_path: Path) -> None:
    """Minutes, and some GB: `pip install .` in an environment of its own, from the index that pip knows."""
    home, python = ROOT.parent, tmp_path / "empty" / "bin" / "python"
    create(tmp_path / "empty", with_pip=True)

    alone = {name: value for name, value in environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}

    def run(*given: str) -> str:
        done = subprocess.run([python, *given], capture_output=True, text=True, cwd=tmp_path, env=alone, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "pip", "install", "--quiet", "-c", str(home / "constraints.txt"), str(home))
    there = {one["name"].lower().replace("_", "-") for one in json.loads(run("-m", "pip", "list", "--format=json"))}
    assert there >= HARD and not there & {"matplotlib", "datasets", "pyarrow", "pandas", "pillow", "ray", "accelerate"}
    assert README_EXAMPLE is not None and "caldwick" in run("-c", README_EXAMPLE[1])
    run("-c", f"FOLDER = {str(tmp_path / 'out')!r}\n{REFUSED}")
