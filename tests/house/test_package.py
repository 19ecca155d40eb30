"""The package as it is handed out: what the sdist and the wheel hold, and that the wheel works away from both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

import iterref

ROOT = Path(__file__).parents[2]
OURS = f"iterref-{iterref.__version__}"


def run(command: Sequence[str | Path], folder: Path, **variables: str) -> str:
    """What a command writes in a folder, away from this repository."""
    environment = dict(os.environ)
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False,
        env={**environment, **quiet, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(source: Path, out: Path, target: str) -> None:
    run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out], source)


def sources(folder: Path) -> set[str]:
    """The files of the package in a source tree."""
    found = (path for path in (folder / "iterref").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found if not path.name.endswith("~")}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    out = tmp_path_factory.mktemp("sdist")
    build(ROOT, out, "sdist")
    [made] = out.iterdir()
    with tarfile.open(made) as packed:
        packed.extractall(out, filter="data")
    return out / OURS


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the sdist alone, as installers make it where there is none."""
    out = tmp_path_factory.mktemp("wheel")
    build(sdist, out, "wheel")
    [made] = out.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else; what it depends on comes from this environment."""
    place = tmp_path_factory.mktemp("installed")
    asked = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", place, wheel]
    run([sys.executable, "-m", "pip", *asked], place)
    return place


def test_the_wheel_holds_the_package_with_its_weights_and_data_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"iterref-{iterref.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 30e6
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if not name.endswith("~")}
        [metadata] = [name for name in names if name.endswith("/METADATA")]
        told = Parser().parsestr(packed.read(metadata).decode("utf-8"))
    inside = {name for name in names if not name.startswith(f"{OURS}.dist-info/")}
    assert inside == sources(ROOT) and "iterref/py.typed" in inside
    for kind, least in {".safetensors": 5, ".py": 100, "tokenizer.json": 4, ".jsonl": 1, ".js": 1, ".css": 1}.items():
        assert sum(name.endswith(kind) for name in inside) >= least
    assert {f"{OURS}.dist-info/licenses/{name}" for name in ("LICENSE", "WEIGHTS.md")} <= names
    assert told["Version"] == iterref.__version__ and told["License-Expression"] == "Apache-2.0"
    assert any(name.startswith("torch") for name in told.get_all("Requires-Dist", []))


def test_the_sdist_holds_what_tests_and_builds_need_and_no_outputs(sdist: Path) -> None:
    top = {path.name for path in sdist.iterdir()}
    assert {"iterref", "tests", "examples", "benchmarks", "docs", "README.md", "CHANGELOG.md", "LICENSE"} <= top
    files = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    outputs = ("benchmarks/results/", "out/", "dist/", ".venv/", ".git/", ".hypothesis/")
    assert not [name for name in files if name.startswith(outputs) or "__pycache__" in name]
    assert {"pyproject.toml", "tests/house/test_package.py", "benchmarks/models/tiny_books.py"} <= files


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    command = installed / "bin" / "iterref"
    version = run([command, "--version"], tmp_path, PYTHONPATH=str(installed))
    assert version.split() == ["iterref,", "version", iterref.__version__]
    told = json.loads(run([command, "ls", "--json"], tmp_path, PYTHONPATH=str(installed)))
    assert "iterref" in told["samplers"]


USE = """
from pathlib import Path
import iterref
assert iterref.__file__.startswith({home!r}), iterref.__file__
result = iterref.generate(
    "tiny-news", ["a fire destroyed a mill , police said ."], budget=8, max_rows=8,
    reward=iterref.OwnDrafts(n=2, steps=2), temperature=0.5,
)
result.save_html("run.html")
books = iterref.load("tiny-books")
from iterref.demo import sentences
home = Path(iterref.__file__).parent / "models" / "weights" / "tiny-books"
home.rename(home.with_name("away"))
try:
    iterref.load("tiny-books")
    raise SystemExit("weights that are not there were found")  # the control
except FileNotFoundError:
    home.with_name("away").rename(home)
print(result.texts[0], books.decode(books.encode(['once upon a time']))[0], len(sentences()))
"""


def test_the_installed_package_finds_its_weights_and_data(installed: Path, tmp_path: Path) -> None:
    said = run([sys.executable, "-c", USE.format(home=str(installed))], tmp_path, PYTHONPATH=str(installed))
    assert said.split()[-1].isdigit() and len(said.split()) > 3
    assert (tmp_path / "run.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
