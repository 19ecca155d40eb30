"""The habits of the project, as far as files can keep them: hooks, forms, the citation, the changelog, the version."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import iterref
from iterref.legacy import KERNELS, OPTIONS, RENAMED

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").rglob("*.py") if path.name != "__init__.py")


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


# --- the version ------------------------------------------------------------------------------------------------------


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "iterref/__init__.py"
    assert "version" not in read("CITATION.cff")  # a second place
    found = [path for path in (ROOT / "iterref").rglob("*.py") if re.search(r"^__version__ = ", path.read_text(), re.M)]
    assert found == [Path(iterref.__file__)]


def test_everything_that_is_asked_for_is_pinned_once() -> None:
    def name(asked: str) -> str:
        return re.split(r"[\[<>=!~; ]", asked)[0].lower().replace("_", "-")

    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = {name(one) for group in (PROJECT["project"]["dependencies"], *extras) for one in group}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins) and len({name(pin) for pin in pins}) == len(pins)
    assert asked - {name(pin) for pin in pins} <= {"iterref"}  # its own extras


def test_the_licences_of_weights_and_packages_are_listed() -> None:
    listed = (ROOT / "WEIGHTS.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "iterref").rglob("*.safetensors")}
    assert folders == set(re.findall(r"^\| `(iterref/[\w/-]+)` \|", listed, re.M))
    extras = PROJECT["project"]["optional-dependencies"]
    users = {name: asked for name, asked in extras.items() if name not in ("all", "docs", "dev")}
    wanted = {(one, "always") for one in PROJECT["project"]["dependencies"]}
    wanted |= {(one, f"`{name}`") for name, asked in users.items() for one in asked}
    found = set(re.findall(r"^\| ([\w-]+) \| (always|`[\w-]+`) \| \S", listed, re.M))
    assert found == {(re.split(r"[\[<>=!~]", one)[0], extra) for one, extra in wanted}


def test_a_release_is_checked_and_published_without_a_token() -> None:
    told = read(".github/workflows/release.yml")
    assert told[True]["push"]["tags"] == ["v*"]  # YAML reads `on` as true
    steps = [str(step.get("run", "")) for step in told["jobs"]["build"]["steps"]]
    assert any("twine check --strict" in step and "hatchling version" in step for step in steps)
    assert told["permissions"] == {"contents": "read"}
    assert told["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets" not in (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_are_read_by_pre_commit_and_fetch_nothing() -> None:
    from pre_commit.clientlib import load_config

    assert load_config(ROOT / ".pre-commit-config.yaml")["repos"]
    [local] = read(".pre-commit-config.yaml")["repos"]
    hooks = local["hooks"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in hooks} == {"system"}
    assert {"ruff", "mypy"} <= {hook["id"] for hook in hooks}
    beside = Path(sys.executable).parent
    for hook in hooks:
        tool = hook["entry"].split()[0]
        assert (beside / tool).exists() or shutil.which(tool), f"{tool} is no command of this environment"


def test_a_hook_finds_what_it_is_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os\nx = 1 \n")
    hooks = {hook["id"]: hook["entry"].split() for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"]}
    for name in ("ruff", "whitespace"):
        tool, *options = hooks[name]
        path = Path(sys.executable).parent / tool
        command = [str(path) if path.exists() else tool, *options, "bad.py"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1
    assert bad.read_text() == "import os\nx = 1\n"


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_issue_forms_have_the_form_that_the_forge_reads(form: Path) -> None:
    told = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert set(told) <= {"name", "description", "title", "labels", "assignees", "body"} and told["name"]
    assert told["description"] and told["body"]
    ids = [part["id"] for part in told["body"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]+", name) for name in ids)
    for part in told["body"]:
        assert set(part) <= {"type", "id", "attributes", "validations"} and part["attributes"]["label"]
        assert part["type"] in ("input", "textarea", "dropdown", "checkboxes")
        options = part["attributes"].get("options", [])
        assert bool(options) == (part["type"] in ("dropdown", "checkboxes"))
        if part["type"] == "dropdown":  # a bare yes or no is no text in YAML
            assert all(isinstance(option, str) for option in options) and len(set(options)) == len(options)
        assert set(part.get("validations", {})) <= {"required"}


def test_there_is_a_form_for_bugs_features_and_models() -> None:
    assert [form.stem for form in FORMS] == ["bug", "feature", "model"]


# --- what is cited, and what has changed ------------------------------------------------------------------------------


def test_the_citation_names_the_software_and_the_paper() -> None:
    told = read("CITATION.cff")
    assert told["cff-version"] == "1.2.0" and told["message"] and told["authors"]
    assert told["title"].startswith("iterref") and told["license"] == PROJECT["project"]["license"]
    [paper] = told["references"]
    assert "2511.05562" in paper["url"] and len(paper["authors"]) == 5 and paper["year"] == 2025


def test_the_changelog_has_what_comes_next_first() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert re.fullmatch(r"## \d+\.\d+\.\d+ \(unreleased\)", versions[0])
    assert all(re.fullmatch(r"## \d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    kinds = {line for line in lines if line.startswith("### ")}
    known = ("Migration from 0.1", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    assert kinds <= {f"### {kind}" for kind in known}


# --- benchmarks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(ROOT)))
def test_scripts_are_modules_of_a_package(script: Path) -> None:
    """None changes the import path, none imports a sibling by its bare name, and each says how it is run."""
    source = script.read_text(encoding="utf-8")
    siblings = {path.stem for path in script.parent.glob("*.py")}
    tree = ast.parse(source)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not modules & siblings and "sys.path" not in source and "noqa" not in source
    name = ".".join(script.relative_to(ROOT).with_suffix("").parts)
    assert all(find_spec(module) for module in modules if module.split(".")[0] in ("benchmarks", "tests"))
    if "__main__" in source and script.name != "__main__.py":
        assert f"python -m {name}" in (ast.get_docstring(tree) or "")


TRAINING = ["models.train_digits", "models.train_sudoku", "models.tiny_books", "rewards.sentiment"]


@pytest.mark.parametrize("name", TRAINING)
def test_scripts_can_be_imported(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").main)


def test_the_changelog_shows_every_name_that_changed() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = text[text.index("### Migration") : text.index("### Added")]
    for old, new in {**RENAMED, **KERNELS, **{f"{old}=": f"{new}=" for old, new in OPTIONS.items()}}.items():
        assert old in table and new in table, (old, new)
