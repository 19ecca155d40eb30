"""Reward files are imported like modules, and whatever is wrong with one is a sentence."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from iterref.cli.reading import read_reward
from iterref.engine.manifest import reward_told
from iterref.rewards.from_file import function_from_file, split_file

HELPER = "def size(text):\n    return float(len(text))\n"
SOURCE = """
from dataclasses import dataclass, field
from beside_it import size

@dataclass
class Options:
    factor: float = 2.0
    names: "list[str]" = field(default_factory=list)

OPTIONS = Options()

def judge(completions):
    return [OPTIONS.factor * size(text) for text in completions]

class Scorer:
    def __call__(self, completions):
        return judge(completions)

scorer = Scorer()
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Writes a file, and leaves no module and no path behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def written(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
        return file

    yield written
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_data_classes_neighbours_pickles_and_processes(write: Callable[[str, str], Path]) -> None:
    write("beside_it.py", HELPER)
    file = write("mine_of_a_test.py", SOURCE)
    for name in ("judge", "scorer"):
        reward = read_reward(f"{file}:{name}", {})
        assert reward(["abc", ""]) == [6.0, 0.0]
        assert pickle.loads(pickle.dumps(reward))(["abc"]) == [6.0]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(read_reward(f"{file}:judge", {}), ["abc"]).result() == [6.0]


def test_a_file_of_a_package_imports_its_neighbours_relatively_and_they_are_hashed(
    write: Callable[[str, str], Path],
) -> None:
    """Before, it was refused, and a module of `from . import` was no part of the code that a run is known by."""
    for name in ("judges_of_a_test/__init__.py", "judges_of_a_test/inner/__init__.py"):
        write(name, "")
    write("judges_of_a_test/shared.py", "SCALE = 2.0\n")
    write("judges_of_a_test/inner/near.py", "PLUS = 1.0\n")
    source = "from . import near\nfrom ..shared import SCALE\nfrom judges_of_a_test.inner.near import PLUS\n"
    source += "def judge(completions):\n    return [SCALE * len(text) + near.PLUS for text in completions]\n"
    file = write("judges_of_a_test/inner/mine_of_a_package.py", source)
    judge = read_reward(f"{file}:judge", {})
    assert judge(["abc"]) == [7.0] and pickle.loads(pickle.dumps(judge))(["abc"]) == [7.0]
    told = reward_told(f"{file}:judge")
    for name, text in (("shared.py", "SCALE = 3.0\n"), ("inner/near.py", "PLUS = 9\n")):
        write(f"judges_of_a_test/{name}", text)
        changed = reward_told(f"{file}:judge")
        assert changed != told
        told = changed


def test_a_package_s_own_code_is_run_for_relative_imports_alone(write: Callable[[str, str], Path]) -> None:
    write("broken_of_a_test/__init__.py", "raise RuntimeError('not yet')\n")
    body = "def judge(completions):\n    return [1.0]\n"
    assert function_from_file(write("broken_of_a_test/alone.py", body), "judge")([""]) == [1.0]
    with pytest.raises(ValueError, match=r"cannot be run \(RuntimeError: not yet\)"):
        function_from_file(write("broken_of_a_test/near.py", "from . import alone\n" + body), "judge")
    write("json/__init__.py", "")
    with pytest.raises(ValueError, match="another package is called json: rename one"):
        function_from_file(write("json/mine.py", "from . import other\n" + body), "judge")


def test_a_file_is_run_once_and_anew_when_it_has_changed(write: Callable[[str, str], Path]) -> None:
    file = write("changing.py", "def f(completions):\n    return [1.0]\n")
    first = function_from_file(file, "f")
    assert function_from_file(file, "f") is first
    write("changing.py", "def f(completions):\n    return [1.0 + 1.0]\n")
    assert function_from_file(file, "f")([""]) == [2.0]


def test_files_of_taken_names_are_read_and_take_nothing(write: Callable[[str, str], Path]) -> None:
    import json
    import random

    for name in ("json.py", "random.py", "two words.py", "numpy.py"):
        assert function_from_file(write(name, "def f(completions):\n    return [3.0]\n"), "f")([""]) == [3.0]
    assert sys.modules["json"] is json and sys.modules["random"] is random
    one = function_from_file(write("a/same.py", "def f(completions):\n    return [1.0]\n"), "f")
    other = function_from_file(write("b/same.py", "def f(completions):\n    return [2.0]\n"), "f")
    assert (one([""]), other([""])) == ([1.0], [2.0])


def test_a_file_gets_the_modules_beside_it_or_is_refused(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    body = "from own_helper import VALUE\n\ndef f(completions):\n    return [VALUE]\n"
    write("a/own_helper.py", "VALUE = 1.0\n")
    write("b/own_helper.py", "VALUE = 2.0\n")
    assert function_from_file(write("a/first.py", body), "f")([""]) == [1.0]
    with pytest.raises(ValueError, match=r"b/second.py imports .*b/own_helper.py, and the module own_helper is .*/a/o"):
        function_from_file(write("b/second.py", body), "f")
    (tmp_path / "a" / "own_link.py").symlink_to(tmp_path / "b" / "own_helper.py")
    linked = body.replace("own_helper", "own_link")
    for name in ("a/linked.py", "a/again.py"):
        assert function_from_file(write(name, linked), "f")([""]) == [2.0]
    write("c/tqdm.py", "VALUE = 3.0\n")
    with pytest.raises(ValueError, match=r"third.py imports .*c/tqdm.py, and the module tqdm is .*: rename one"):
        function_from_file(write("c/third.py", body.replace("own_helper", "tqdm")), "f")
    write("c/datasets/notes.txt", "a folder of data takes no name")
    assert function_from_file(write("c/fourth.py", "import datasets\n" + HELPER), "size")("abc") == 3.0


def test_a_module_beside_a_file_is_run_anew_when_it_has_changed(write: Callable[[str, str], Path]) -> None:
    write("far_of_a_test.py", "VALUE = 1.0\n")
    write("near_of_a_test.py", "from far_of_a_test import VALUE\n")
    file = write("mine_of_a_test.py", "from near_of_a_test import VALUE\n\ndef f(completions):\n    return [VALUE]\n")
    other = write("other_of_a_test.py", file.read_text())
    first = function_from_file(file, "f")
    near = sys.modules["near_of_a_test"]
    assert function_from_file(other, "f")([""]) == [1.0] and sys.modules["near_of_a_test"] is near
    write("far_of_a_test.py", "VALUE = 2.25\n")
    assert first([""]) == [1.0] and function_from_file(file, "f")([""]) == [2.25]
    assert function_from_file(other, "f")([""]) == [2.25]


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(
    write: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which bytecode knows its source, where the process keeps any."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code = "from quick_of_a_test import VALUE\n\ndef f(completions):\n    return [VALUE, 1.0]\n"
    for at, value in enumerate(("1.0", "2.0")):
        files = write("quick_of_a_test.py", f"VALUE = {value}\n"), write("edited.py", code.replace("1.0", value))
        for file in files:
            os.utime(file, ns=(at, 10**18 + at))
        assert function_from_file(files[1], "f")([""]) == [float(value)] * 2
    assert not list(tmp_path.rglob("*.pyc")) and not sys.dont_write_bytecode


@pytest.mark.parametrize(
    ("text", "file", "name"),
    [
        ("mine.py:good", "mine.py", "good"),
        (r"C:\rewards\mine.py:good", r"C:\rewards\mine.py", "good"),
        ("/a:b/mine.py:good", "/a:b/mine.py", "good"),
        ("mine.py", "mine.py", ""),
        ("a.py/mine.py:good", "a.py/mine.py", "good"),
    ],
)
def test_a_path_may_hold_a_colon(text: str, file: str, name: str) -> None:
    assert split_file(text) == (Path(file), name)


def test_other_names_are_no_files() -> None:
    assert split_file("classifier:C:\\models\\judge:positive") is None and split_file("rouge") is None


def test_a_file_with_a_colon_in_its_path_is_read_and_hashed(write: Callable[[str, str], Path]) -> None:
    file = write("a:b/mine_too.py", "def f(completions):\n    return [1.0]\n")
    assert read_reward(f"{file}:f", {})([""]) == [1.0]
    assert len(reward_told(f"{file}:f")["code"]) == 32


@pytest.mark.parametrize(
    ("source", "name", "sentence"),
    [
        ("x = 1", "f", "has no function 'f': give the reward as FILE.py:NAME"),
        ("def good(c):\n    return c", "goood", "has no function 'goood': .*, of good"),
        ("def good(c):\n    return c", "", "no function of it is named: .*, of good"),
        ("class A:\n    pass", "A", "A in .* is a class: write reward = A"),
        ("1 +", "f", r"cannot be run \(SyntaxError"),
        ("import not_there_at_all", "f", r"cannot be run \(ModuleNotFoundError"),
        ("raise SystemExit(3)", "f", r"cannot be run \(SystemExit: 3\)"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_sentence(
    write: Callable[[str, str], Path], source: str, name: str, sentence: str
) -> None:
    file = write("wrong_of_a_test.py", source)
    with pytest.raises(ValueError, match=sentence):
        function_from_file(file, name)
    with pytest.raises(ValueError, match="there is no file"):
        function_from_file(file.with_name("nowhere.py"), name)
