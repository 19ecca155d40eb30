"""Which rewards a client may name: numbers alone as options, and none that runs code or asks addresses."""

from __future__ import annotations

import ast
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from iterref import registry
from iterref.rewards import Length
from iterref.serving.limits import Refused
from iterref.serving.offered import KEPT, Offered

# What runs programs, or reaches others, when a reward's file imports it.
REACHING = {"subprocess", "multiprocessing", "socket", "httpx2", "urllib", "requests", "http", "pty", "ctypes"}


def reaches(source: str, seen: tuple[str, ...] = ()) -> bool:
    """Whether a file reaches out, or imports one of the rewards' files that does."""
    tree = ast.parse(source)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if {name.split(".")[0] for name in names} & REACHING or calls & {"exec", "eval", "compile", "os.system"}:
        return True
    own = {name for name in names if name.startswith("iterref.rewards.") and name not in seen}
    return any(reaches(text, (*seen, *own)) for text in map(source_of, own) if text)


def source_of(module: str) -> str:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # a name within a module
        return ""
    return Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin is not None else ""


def test_every_reward_that_reaches_out_says_so() -> None:
    """A reward that is added later is found by this test, not by a client."""
    trusted = set()
    for name, entry in registry.entries("rewards").items():
        if reaches(source_of(entry.module)):
            trusted.add(name)
            assert entry.facts.get("TRUSTED") is True, f"rewards/{name}.py reaches out: say TRUSTED = True there"
    assert "served" in trusted and "length" not in trusted
    assert reaches("import subprocess") and reaches("exec('1')") and not reaches("import torch")  # the control
    assert reaches("from iterref.rewards.served import Served") and reaches("from iterref.rewards import served")


def test_names_and_numbers_are_offered() -> None:
    offered = Offered(["length:5"])
    for name in ("length", "length:3", "length:words=3", "consensus:n=4,steps=2", "consensus:kind=rouge1", "length:5"):
        offered.expect(name)
    for name in ("served:http://x", "served", "classifier:5", "mine.py:f", "http://x", "length:five", "length:depth=3",
                 "lengths", "", ":", "consensus:kind=/etc", "classifier:label=positive"):  # fmt: skip
        with pytest.raises(Refused) as told:
            offered.expect(name)
        assert told.value.status == 400 and told.value.param == "reward", name


def test_what_the_server_was_started_with_is_offered_word_for_word(tmp_path: Path) -> None:
    (tmp_path / "started_with.py").write_text("def f(completions): return [1.0] * len(completions)\n", encoding="utf-8")
    name = f"{tmp_path}/started_with.py:f"
    offered = Offered([name])
    offered.expect(name)
    assert offered.reward(name)(["a"]) == [1.0]
    for other in (f"{tmp_path}/./started_with.py:f", name + " ", name[:-2]):
        with pytest.raises(Refused):
            offered.expect(other)
    sys.path.remove(str(tmp_path))


def test_rewards_are_made_once_and_not_kept_without_end() -> None:
    offered = Offered(["length:5"])
    first = offered.reward("length:5")
    assert isinstance(first, Length) and offered.reward("length:2") is offered.reward("length:2")
    for words in range(10, 10 + 2 * KEPT):
        offered.reward(f"length:{words}")
    assert len(offered._made) <= KEPT + 1 and offered.reward("length:5") is first
    assert offered.reward("rouge", ["reference"]) is not offered.reward("rouge", ["summary"])
