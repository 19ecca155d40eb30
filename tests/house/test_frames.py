"""How much a reader has to hold: few calls from a request down to the rule that decides, small classes, short files."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import iterref
from iterref import mtm
from iterref.registry import get, names
from tests.support.letters import Letters, letters_a

PACKAGE = Path(iterref.__file__).parent
MOST_FRAMES, MOST_LINES, MOST_OPTIONS, MOST_LINES_A_FILE = 5, 150, 10, 350


def frames() -> list[str]:
    """The functions of the package on the stack, the innermost first, up to `generate`."""
    found, frame = [], sys._getframe()
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            found.append(frame.f_code.co_name)
            if found[-1] == "generate":
                return found
        frame = frame.f_back
    raise AssertionError(f"generate is not on the stack: {found}")


@pytest.mark.parametrize("method", ["iterref:steps=2,moves=2", "trajectory:steps=2,moves=2", "metropolis:moves=2"])
def test_few_calls_lie_between_a_request_and_the_rule_that_decides(method, monkeypatch):
    seen, right = [], mtm.metropolised

    def watched(log_w_current, log_w, rng):
        seen.append([right.__name__, *frames()])
        return right(log_w_current, log_w, rng)

    monkeypatch.setattr(mtm, "metropolised", watched)
    iterref.generate(Letters(), ["", ""], reward=letters_a, sampler=method)
    assert seen and max(map(len, seen)) <= MOST_FRAMES, seen[0]
    assert seen[0][0] == "metropolised" and seen[0][-1] == "generate"


@pytest.mark.parametrize("name", names())
def test_a_method_is_small(name):
    method = get(name)
    assert len(inspect.getsourcelines(method)[0]) <= MOST_LINES
    own = [f.name for f in fields(method) if f.name in inspect.get_annotations(method)]
    assert len(own) <= MOST_OPTIONS, own


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_is_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_A_FILE


def test_the_count_sees_a_detour():
    """Negative control: a call that goes the long way round has more frames."""

    def longer():
        namespace = {"frames": frames}
        for name in ("innermost", "generate"):  # two functions that claim to be of the package
            inner = "frames()" if name == "innermost" else "innermost()"
            exec(compile(f"def {name}():\n    return {inner}", str(PACKAGE / "mtm.py"), "exec"), namespace)
        return namespace["generate"]()

    assert longer() == ["innermost", "generate"]
