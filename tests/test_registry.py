"""The registry: names come from files, and what a method prints is what builds it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import iterref.samplers
from iterref.exact.markov import world
from iterref.problem import Problem
from iterref.registry import get, names, sampler_from_string
from iterref.run import Run
from iterref.samplers.base import Sampler, State
from iterref.samplers.iterref import IterRef
from iterref.samplers.published import Published
from iterref.samplers.refining import Refine, plan
from iterref.samplers.trajectory import Trajectory

positive = st.integers(1, 12)
share = st.floats(1e-6, 1.0)
RUN = Run(Problem(*world(3, 2)[:2], torch.zeros(1, 3)))


def test_names_are_the_files():
    folder = Path(iterref.samplers.__path__[0])
    assert names() == sorted(
        file.stem for file in folder.glob("[a-z]*.py") if file.stem not in ("base", "refining", "spans")
    )
    assert {"ancestral", "best_of_n", "metropolis", "iterref"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_method_prints_compares_and_cannot_be_changed(name):
    method = get(name)()
    assert isinstance(method, Sampler) and method.name == name == str(method)
    assert sampler_from_string(name) == method and hash(sampler_from_string(f" {name} :")) == hash(method)
    assert sampler_from_string(method) is method
    with pytest.raises(FrozenInstanceError):
        method.steps = 3


@st.composite
def refinements(draw) -> Sampler:
    steps, name = draw(positive), draw(st.sampled_from(["iterref", "mtm", "trajectory", "published"]))
    objective = draw(st.sampled_from(["sample", "maximise"]))
    options = dict(steps=steps, moves=draw(st.integers(0, 12)), tries=draw(positive), objective=objective)
    if draw(st.booleans()):
        options["span"] = draw(share | st.lists(share, min_size=2, max_size=3).map(tuple))
    else:
        grid_steps = st.integers(1, steps)
        options["span_steps"] = draw(grid_steps | st.lists(grid_steps, min_size=2, max_size=3).map(tuple))
    if name in ("iterref", "mtm"):
        options["reward_draft"] = draw(st.booleans())
    if name != "trajectory":
        options |= dict(early=draw(st.floats(0, 1)), spacing=draw(st.integers(0, 9)))
    if name == "iterref":
        options["decisions"] = draw(st.integers(0, 12))
    if name == "mtm":
        options["balance"] = draw(st.floats(0, 1))
    if name == "trajectory" or not options.get("reward_draft", True):
        options["order"] = draw(st.sampled_from(["random", "confidence"]))
    if objective == "maximise" and name != "published":
        options["anneal"] = draw(share)
    return get(name)(**options)


@settings(max_examples=25, deadline=None)
@given(refinements())
def test_a_method_is_read_back_from_what_it_prints(method):
    again = sampler_from_string(str(method))
    assert again == method and repr(again) == repr(method)


def test_options_are_read():
    method = sampler_from_string("iterref: tries=4, span=0.1+0.5+1.0 ,reward_draft=false,early=0.5")
    assert isinstance(method, IterRef)
    assert (method.tries, method.span, method.reward_draft, method.early) == (4, (0.1, 0.5, 1.0), False, 0.5)
    assert str(method) == "iterref:span=0.1+0.5+1.0,tries=4,reward_draft=False,early=0.5"
    assert sampler_from_string("trajectory:span_steps=2+1").span_steps == (2, 1)
    assert sampler_from_string("best_of_n:n=3,order=confidence") == get("best_of_n")(n=3, order="confidence")
    assert (
        sampler_from_string("iterref:reward_draft=1") == sampler_from_string("iterref:reward_draft=TRUE") == IterRef()
    )


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
        ("iterref:early=soon", "iterref:early needs a number"),
        ("iterref:early=0.1+0.2", "iterref:early takes one value"),
        ("iterref:reward_draft=maybe", "iterref:reward_draft is true or false"),
        ("iterref:tries=0", "iterref: tries must be at least 1, got 0"),
        ("iterref:moves=-1", "moves must be at least 0"),
        ("iterref:span=0.0", "span"),
        ("iterref:span=9", "span is a share"),
        ("iterref:span_steps=9", "number of grid steps in 1..4, got 9"),
        ("iterref:span_steps=0.5", "needs a whole number"),
        ("iterref:span_steps=1,span=0.25", "are two answers"),
        ("iterref:span=0.1+1.5", "span"),
        ("iterref:early=2", "early is a share in"),
        ("mtm:balance=2", "balance is a share in"),
        ("iterref:order=best", "order must be one of random, left, confidence"),
        ("iterref:objective=win", "objective must be one of sample, maximise"),
        ("iterref:anneal=0.5", "only objective=maximise may lower alpha"),
        ("published:decisions=2", "unknown option 'decisions'"),
        ("iterref:decisions=2,denoise_steps=2", "decisions > 1 needs"),
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


def test_one_step_and_everything_are_different_plans():
    """A share of 1.0 is everything, and one grid step is one of four."""
    for options, a_s in ((dict(span_steps=1), 0.75), (dict(span=1.0), 0.0)):
        method = IterRef(steps=4, moves=1, early=0.0, **options)
        trip = method._excursion(RUN, State(4, 0.0, RUN.canvas), Refine(0.0, 0))
        assert trip.a_t == 1 and float(trip.a_s) == pytest.approx(a_s)


@settings(max_examples=25, deadline=None)
@given(refinements())
def test_a_plan_holds_its_moves_at_the_times_it_may(method):
    if isinstance(method, Trajectory):
        assert method.iterations == 1 + method.moves
        assert all(1 <= method.tail(index) <= method.steps for index in range(method.moves))
        return
    steps = plan(method, False)
    moves = [step for step in steps if isinstance(step, Refine)]
    drafts = len(steps) - len(moves)
    assert [move.move for move in moves] == list(range(method.moves)) and method.iterations == len(steps)
    assert drafts == method.steps if getattr(method, "reward_draft", True) else drafts <= method.steps
    for move in moves:
        trip = method._excursion(RUN, State(0, move.t, RUN.canvas), move)
        assert trip.a_s < trip.a_t and trip.times[0] > move.t
    assert sum(move.t > 0 for move in moves) in (0, round(method.early * method.moves))
    assert [step.t for step in steps] == sorted((step.t for step in steps), reverse=True)
    if not isinstance(method, Published):  # where a mask shows nothing, spaced moves wait for the finished text
        assert all(step.t == 0 for step in plan(method, True) if isinstance(step, Refine))
    alphas = [method._alpha(RUN, index) for index in range(method.moves)]
    assert alphas == sorted(alphas, reverse=True)
    if len(alphas) > 1:
        assert alphas[0] == 1 and alphas[-1] == pytest.approx(getattr(method, "anneal", 1.0))
