"""Strings of samplers: what a method prints is what builds it, and what cannot be read is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.registry import get, names
from iterref.samplers.base import KERNELS, Sampler, plan_of
from iterref.samplers.iterref import IterRef
from iterref.samplers.strings import sampler_from_string
from iterref.strings import read_value

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
def refinements(draw) -> IterRef:
    steps, kernel = draw(positive), draw(st.sampled_from(sorted(KERNELS)))
    span = share | st.integers(1, steps)
    objective = draw(st.sampled_from(["sample", "maximise"]))
    guided = draw(st.booleans())
    decodes = kernel == "trajectory" or not guided and kernel != "published"
    return IterRef(
        steps=steps,
        moves=draw(st.integers(0, 12)),
        tries=draw(positive),
        blocks=draw(st.integers(0, 12)) if kernel == "shared" else 0,
        span=draw(span | st.lists(span, min_size=2, max_size=3).map(tuple)),
        spacing=draw(st.integers(0, 9)),
        early=draw(st.floats(0, 1)),
        late=draw(st.floats(0, 1)),
        guided=guided,
        kernel=kernel,
        balance=draw(st.floats(0, 1)),
        order=draw(st.sampled_from(["random", "confidence"])) if decodes else "random",
        objective=objective,
        anneal=draw(share) if objective == "maximise" else 1.0,
    )


@settings(max_examples=25, deadline=None)
@given(refinements())
def test_a_method_is_read_back_from_what_it_prints(method):
    again = sampler_from_string(str(method))
    assert again == method and repr(again) == repr(method)  # the kinds of numbers too: span=1 is not span=1.0


def test_options_are_read():
    method = sampler_from_string("iterref: tries=4, span=0.1+2+1.0 ,guided=false,kernel=trajectory,late=0.5")
    assert isinstance(method, IterRef)
    assert (method.tries, method.span, method.guided, method.kernel) == (4, (0.1, 2, 1.0), False, "trajectory")
    assert str(method) == "trajectory:tries=4,span=0.1+0.5+1.0,reward_draft=False"
    assert sampler_from_string("best_of_n:n=3,order=confidence") == get("best_of_n")(n=3, order="confidence")
    assert sampler_from_string("iterref:reward_draft=1") == sampler_from_string("iterref:reward_draft=TRUE") == IterRef()


@pytest.mark.parametrize(
    "text, words",
    [
        ("iteref", "unknown method 'iteref': did you mean 'iterref'"),
        ("base", "unknown method 'base'"),
        ("", "unknown method ''"),
        ("best-of-n:n=2", "did you mean 'best_of_n'"),
        ("iterref:trys=4", "unknown option 'trys': did you mean 'tries'"),
        ("iterref:name=x", "unknown option 'name'"),
        ("iterref:tries", "'tries' is no option: write option=value"),
        ("iterref:tries=two", "iterref:tries needs a whole number, got 'two'"),
        ("iterref:tries=2.5", "needs a whole number"),
        ("iterref:tries=2+3", "iterref:tries takes one value"),
        ("iterref:tries=2,moves=3,tries=4", "iterref: tries is given twice"),
        ("iterref:tries=2,moves", "'tries=2,moves' is no option: write option=value"),
        ("iterref", "iterref:late needs a number"),
        ("iterref", "iterref:late needs a number"),
        ("iterref", "iterref:late takes one value"),
        ("iterref:reward_draft=maybe", "iterref:guided is true or false"),
        ("iterref:tries=0", "iterref: tries must be at least 1, got 0"),
        ("iterref:moves=-1", "moves must be at least 0"),
        ("iterref:span=0.0", "span"),
        ("iterref:span_steps=9", "number of grid steps in 1..4, got 9"),
        ("iterref:span=0.1+1.5", "span"),
        ("iterref", "early, late and balance must lie in"),
        ("iterref", "kernel must be one of shared, independent, trajectory, published, got 'share'"),
        ("iterref:order=best", "order must be one of random, left, confidence"),
        ("iterref:objective=win", "objective must be one of sample, maximise"),
        ("iterref:anneal=0.5", "only objective=maximise may lower alpha"),
        ("published:decisions=2", "blocks > 1 needs kernel=shared"),
        ("iterref:decisions=2,denoise_steps=2", "blocks > 1 needs"),
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
        ("rouge2", Literal["rouge1", "rougeL"], "must be one of rouge1, rougeL, got 'rouge2': say 'rouge"),
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


def test_one_step_and_everything_are_differentplan_ofs():
    """span=1 and span=1.0 are equal numbers; the plan that is remembered for one must not serve the other."""
    one, all_of_it = (plan_of(IterRef(steps=4, moves=1, span=span))[-1] for span in (1, 1.0))
    assert (one.s, all_of_it.s) == (0.25, 1.0)


@settings(max_examples=25, deadline=None)
@given(refinements())
def test_aplan_of_holds_its_moves_at_the_times_it_may(method):
    plan = plan_of(method)
    moves = [move for move in plan if not move.redraw]
    if method.kernel == "trajectory":
        assert len(plan) == 1 + method.moves
        assert all(0 <= move.start < method.steps for move in plan)
    else:
        drafts = len(plan) - len(moves)
        assert len(moves) == method.moves and drafts == method.steps if method.guided else drafts <= method.steps
        assert all(move.t <= method.late and move.s > move.t and move.a_s < move.a_t for move in moves)
        assert sum(move.t > 0 for move in moves) in (0, round(method.early * method.moves))
        assert [move.t for move in plan] == sorted((move.t for move in plan), reverse=True)
    alphas = [move.alpha for move in (plan[1:] if method.kernel == "trajectory" else moves)]
    assert alphas == sorted(alphas, reverse=True)
    if len(alphas) > 1:
        assert alphas[0] == 1 and alphas[-1] == pytest.approx(method.anneal)
