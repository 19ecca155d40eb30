"""The public names and signatures are those that are listed, and the list notices a change."""

from __future__ import annotations

from dataclasses import dataclass

import iterref
from tests.support import public_api
from tests.support.public_api import imported, members, signature


def test_the_public_names_and_signatures_are_those_that_are_listed() -> None:
    listed, found = public_api.LIST.read_text(encoding="utf-8").splitlines(), public_api.lines()
    gone, new = sorted(set(listed) - set(found)), sorted(set(found) - set(listed))
    told = "\n".join([*(f"- {line}" for line in gone), *(f"+ {line}" for line in new)])
    how = "python -m tests.support.public_api > tests/support/public_api.txt"
    assert listed == found, f"{told}\nif this is meant: {how}"


def test_the_list_has_all_of_the_package_and_its_rooms() -> None:
    listed = {line.partition("(")[0] for line in public_api.LIST.read_text(encoding="utf-8").splitlines()}
    assert {f"iterref.{name}" for name in iterref.__all__} <= listed
    assert {"iterref", "iterref.rewards", "iterref.editing", "iterref.check"} <= set(public_api.rooms())
    assert {"iterref.Result.to_jsonl", "iterref.rewards.Classifier", "iterref.editing.Editing.vary"} <= listed


def test_names_are_what_all_says_and_no_more() -> None:
    assert iterref.__all__ == sorted(iterref.__all__) == sorted(iterref.homes)
    assert all(getattr(iterref, name).__module__.startswith("iterref") for name in iterref.__all__)


def test_options_of_the_one_line_calls_are_named() -> None:
    """Beside the model and the texts, everything is given by name."""
    for call, given in ((iterref.generate, 2), (iterref.refine, 2), (iterref.infill, 2), (iterref.edit, 2)):
        assert signature(call).split(", ")[given] == "*"


def test_a_change_of_a_signature_is_a_change_of_its_line() -> None:
    def one(x: int, *, seed: int = 0) -> str:
        return ""

    def other(x: int, seed: int = 0) -> str:
        return ""

    assert signature(one) == "(x: int, *, seed: int = 0) -> str" != signature(other)

    @dataclass
    class Options:
        steps: int = 4

        def run(self, *texts: str, **more: int) -> None: ...

    Options.__module__ = "iterref.options"
    assert signature(Options) == "(steps: int = 4)"
    assert list(members(Options)) == [".run(self, *texts: str, **more: int) -> None"]


def test_what_documents_import_is_found() -> None:
    code = "from iterref.rewards import Rouge as R\niterref.load('x').decode\nimport torch\niterref.trace.Trace()"
    assert imported(code) == {("iterref.rewards", "Rouge"), ("iterref", "load"), ("iterref.trace", "Trace")}
