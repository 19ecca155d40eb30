"""Strings of samplers: what a method prints is what builds it, and what cannot be read is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.registry import get, names
from iterref.samplers.base import Sampler
from iterref.samplers.iterref import IterRef, RewardGuided
from iterref.samplers.refining import Redraw, Refine, Refining, plan
from iterref.samplers.strings import sampler_from_string
from iterref.strings import read_value

ONE = SimpleNamespace(alpha=1.0)  # a run of temperature 1
positive = st.integers(1, 12)
share = st.floats(1e-6, 1.0)


@pytest.mark.parametrize("name", names())
def test_every_method_prints_compares_and_cannot_be_changed(name):
    method = get(name)()
    assert isinstance(method, Sampler) and method.name == name == str(method)
    assert sampler_from_string(name) == method and hash(sampler_from_string(f" {name} :")) == hash(method)
    assert sampler_from_string(method) is method
    with pytest.raises(FrozenInstanceError):
        method.steps = 3


@st.composite
def refinements(draw) -> Refining:
    """Any of the methods that draft and refine, with any options that it takes."""
    kind, steps = get(draw(st.sampled_from(["iterref", "mtm", "published", "metropolis"]))), draw(positive)
    objective = draw(st.sampled_from(["sample", "maximise"]))
    decodes = draw(st.booleans()) and kind.name != "published"  # a plain draft, in some order
    options = {
        "steps": steps,
        "moves": draw(st.integers(0, 12)),
        "tries": draw(positive),
        "decisions": draw(st.integers(0, 12)),
        "spacing": draw(st.integers(0, 9)),
        "early": draw(st.floats(0, 1)),
        "reward_draft": not decodes,
        "balance": draw(st.floats(0, 1)),
        "order": draw(st.sampled_from(["random", "confidence"])) if decodes else "random",
        "objective": objective,
        "anneal": draw(share) if objective == "maximise" else 1.0,
    }
    several = draw(st.lists(share, min_size=1, max_size=3) | st.lists(st.integers(1, steps), min_size=1, max_size=3))
    name = "span" if isinstance(several[0], float) else "span_steps"
    options[name] = several[0] if len(several) == 1 else tuple(several)
    return kind(**{name: value for name, value in options.items() if name in kind.__dataclass_fields__})


@settings(max_examples=20, deadline=None)
@given(refinements())
def test_a_method_is_read_back_from_what_it_prints(method):
    again = sampler_from_string(str(method))
    assert again == method and repr(again) == repr(method)  # the kinds of numbers too


def test_options_are_read():
    method = sampler_from_string("iterref: tries=4, span=0.1+1.0 ,reward_draft=false,early=0.5")
    assert method == IterRef(tries=4, span=(0.1, 1.0), reward_draft=False, early=0.5)
    assert str(method) == "iterref:span=0.1+1.0,tries=4,reward_draft=False,early=0.5"
    assert sampler_from_string("best_of_n:n=3,order=confidence") == get("best_of_n")(n=3, order="confidence")
    assert all(sampler_from_string(f"iterref:reward_draft={word}") == IterRef() for word in ("1", "TRUE"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("iteref", "unknown sampler 'iteref': did you mean 'iterref'"),
        ("base", "unknown sampler 'base'"),
        ("", "unknown sampler ''"),
        ("best-of-n:n=2", "did you mean 'best_of_n'"),
        ("iterref:trys=4", "unknown option 'trys': did you mean 'tries'"),
        ("iterref:name=x", "unknown option 'name'"),
        ("iterref:tries", "'tries' is no option: write option=value"),
        ("iterref:tries=two", "iterref:tries needs a whole number, got 'two'"),
        ("iterref:tries=2.5", "needs a whole number"),
        ("iterref:tries=2+3", "iterref:tries takes one value"),
        ("iterref:tries=2,moves=3,tries=4", "iterref: tries is given twice"),
        ("iterref:tries=2,moves", "'tries=2,moves' is no option: write option=value"),
        ("iterref:early=soon", "iterref:early needs a number"),
        ("iterref:early=nan", "iterref:early needs a number"),
        ("iterref:early=0.1+0.2", "iterref:early takes one value"),
        ("iterref:reward_draft=maybe", "iterref:reward_draft is true or false"),
        ("iterref:tries=0", "iterref: tries must be at least 1, got 0"),
        ("iterref:moves=-1", "moves must be at least 0"),
        ("iterref:span=0.0", "span"),
        ("iterref:span_steps=9", "number of grid steps in 1..4, got 9"),
        ("iterref:span=0.1+1.5", "span"),
        ("iterref:span=0.5+0.25,span_steps=1", "two answers: give one of them"),
        ("iterref:early=2", "early is a share in"),
        ("mtm:balance=-1", "balance is a share in"),
        ("iterref:kernel=share", "unknown option 'kernel'"),
        ("iterref:order=best", "order must be one of random, left, confidence"),
        ("iterref:objective=win", "objective must be one of sample, maximise"),
        ("iterref:anneal=0.5", "only objective=maximise may lower alpha"),
        ("published:decisions=2", "published: unknown option 'decisions'"),
        ("iterref:decisions=2,denoise_steps=2", "decisions > 1 needs denoise_steps=1"),
        ("ancestral:order=best", "ancestral: order must be one of"),
        ("ancestral:steps=0", "ancestral: steps must be at least 1"),
        ("best_of_n:n=0", "best_of_n: n must be at least 1"),
        ("best_of_n:order=best", "best_of_n: order must be one of"),
        ("metropolis:steps=-1", "metropolis: steps must be at least 0"),
        ("metropolis:moves=-2", "metropolis: moves must be at least 0"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(text, words):
    with pytest.raises(ValueError, match=words):
        sampler_from_string(text)


@pytest.mark.parametrize(
    "written, hint, value",
    [
        ("1", float, 1.0),
        ("1", int, 1),
        ("1", float | tuple[float, ...], 1.0),
        ("0.5+1", float | tuple[float, ...], (0.5, 1.0)),
        ("2+1", int | tuple[int, ...], (2, 1)),
        ("a", Sequence[str], ("a",)),
        ("a+b", Sequence[str], ("a", "b")),
        ("a+b", str | Sequence[str] | None, "a+b"),
        ("none", int | None, None),
        ("3", str | int | None, 3),
        ("positive", str | int | None, "positive"),
        ("5+none", tuple[int | None, int | None], (5, None)),
        ("rouge1", Literal["rouge1", "rougeL"], "rouge1"),
        ("folder:x", Any, "folder:x"),
    ],
)
def test_a_value_is_what_the_type_says_and_not_what_it_looks_like(written, hint, value):
    found = read_value("x:y", written, hint)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "written, hint, words",
    [
        ("1.0", int, "x:y needs a whole number"),
        ("rouge2", Literal["rouge1", "rougeL"], "must be one of rouge1, rougeL, got 'rouge2': did you mean 'rouge"),
        ("f", Callable[..., float], "cannot be written in a string: build the object in Python"),
        ("yes", bool, "x:y is true or false"),
        ("9" * 30, int, "x:y is at most 1048576"),
    ],
)
def test_a_value_of_another_type_is_refused(written, hint, words):
    with pytest.raises(ValueError, match=words):
        read_value("x:y", written, hint)


def test_a_sampler_is_a_string_or_an_object():
    with pytest.raises(TypeError, match="the sampler is a dict: pass a sampler or its name"):
        sampler_from_string({"tries": 2})


def test_a_share_is_one_however_it_is_written():
    """No option hangs on the type of a literal: span=1 is all of the free positions, and grid steps are span_steps."""
    assert plan(IterRef(span=1), False) == plan(IterRef(span=1.0), False)
    assert str(IterRef(span=1)) == str(IterRef(span=1.0)) == "iterref:span=1.0" != str(IterRef(span_steps=1))


@settings(max_examples=20, deadline=None)
@given(refinements())
def test_a_plan_holds_its_moves_at_the_times_it_may(method):
    found = plan(method, False)
    moves, times = [step for step in found if isinstance(step, Refine)], [step.t for step in found]
    assert [move.move for move in moves] == list(range(method.moves)) and times == sorted(times, reverse=True)
    early, _ = method.slots()
    assert sum(move.t > 0 for move in moves) == early and all(move.t < 1 for move in moves)
    redrawn = [step.t for step in found if isinstance(step, Redraw)]
    if method.draft_kernel is not None:
        assert len(redrawn) == method.steps and 0 not in redrawn
    else:
        assert len(redrawn) == (1 if early and method.name != "published" else 0)
    if isinstance(method, RewardGuided) and method.moves > 1:
        alphas = [method._alpha(ONE, move.move) for move in moves]
        assert alphas == sorted(alphas, reverse=True)
        assert alphas[0] == 1 and alphas[-1] == pytest.approx(method.anneal)
