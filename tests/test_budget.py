"""Budgets: what is counted, and that a fitted method spends a budget without overspending it."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.budget import Cost, Meter, budget_of, fit, most
from iterref.registry import names, parse
from iterref.samplers.base import Sampler

METHODS = [
    *names(),
    "ancestral:order=confidence",
    "best_of_n:steps=3",
    "metropolis:steps=2",
    "iterref:steps=3,guided=False",
    "iterref:steps=4,late=1,guided=False",
    "iterref:steps=0",
    "metropolis:steps=0",
    "iterref:steps=3,blocks=3",
    "iterref:steps=3,blocks=2,guided=False,late=0.7",
    "iterref:steps=3,denoise_steps=3,tries=2",
    "iterref:steps=3,kernel=independent,tries=1",
    "iterref:steps=3,kernel=independent,tries=3,denoise_steps=2",
    "iterref:steps=3,kernel=published,tries=1",
    "iterref:steps=3,kernel=published,tries=4,late=1",
    "iterref:steps=6,kernel=trajectory,tries=1,span=1",
    "iterref:steps=6,kernel=trajectory,tries=2,span=6+1",
    "iterref:steps=6,kernel=trajectory,tries=2,span=1+0.5+6",
]
rows = st.sampled_from([1, 2, 3, 8, 56, 256]) | st.floats(0.5, 300)
budgets = st.tuples(rows, st.just(inf) | st.just(0) | rows) | st.tuples(st.just(inf), rows)


def more(sampler: Sampler) -> Sampler:
    """The method that spends one unit more of what `fit` may spend: a move, a sample or a grid step."""
    known = {f.name for f in fields(sampler)}
    option = next(name for name in ("moves", "n", "steps") if name in known)
    least = {"tries": 1} if may_buy_tries(sampler) else {}
    return replace(sampler, **{option: getattr(sampler, option) + 1}, **least)


def may_buy_tries(sampler: Sampler) -> bool:
    """Whether candidates cost reward rows alone, so that `fit` sets their number too."""
    return getattr(sampler, "kernel", "") == "shared" and sampler.denoise_steps == 1


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(METHODS), budgets)
def test_a_fitted_method_fits_and_leaves_no_room(text, budget):
    sampler, limit = parse(text), Cost(*budget)
    try:
        fitted = fit(sampler, limit)
    except ValueError as error:
        least = {"moves": 0, "n": 1, "steps": 1 if text.startswith("ancestral") else getattr(sampler, "steps", 1)}
        if may_buy_tries(sampler) and limit.reward < inf:
            least["tries"] = 1
        smallest = replace(sampler, **{f.name: least[f.name] for f in fields(sampler) if f.name in least})
        assert not smallest.cost().within(limit)
        assert f"is too small for one run of {sampler.name}, which takes at least" in str(error)
        return
    assert type(fitted) is type(sampler)
    assert fitted.cost().within(limit)
    if text.startswith("ancestral") and limit.denoiser == inf:
        assert fitted == sampler  # a finer grid is the only use it has for rows
        return
    assert not more(fitted).cost().within(limit)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([text for text in METHODS if text.startswith("iterref")]), rows, rows)
def test_refinement_leaves_room_for_no_further_candidate(text, denoiser, reward):
    sampler, limit = parse(text), Cost(denoiser, reward)
    try:
        fitted = fit(sampler, limit)
    except ValueError:
        return
    assert not more(fitted).cost().within(limit)
    if may_buy_tries(fitted) and (fitted.moves or fitted.guided and fitted.steps):
        assert not replace(fitted, tries=fitted.tries + 1).cost().within(limit)
    else:
        assert fitted.tries == sampler.tries


def test_the_design_budgets():
    """(56, 896) for the shared kernel: 8 drafts and 48 moves of 16 candidates."""
    fitted = fit(parse("iterref"), (56, 896))
    assert (fitted.moves, fitted.tries, fitted.cost()) == (48, 16, Cost(56, 896, 56))
    assert fit(parse("best_of_n"), 256).cost() == Cost(256, 32, 8)
    assert fit(parse("metropolis"), (56, 896)).cost() == Cost(56, 49, 56)


def test_several_spans_are_counted_each():
    """Tails of 6 and of 1 steps in turn: 6 for the first path, then 6 + 1 + 6 + 1, and the next would be 6 more."""
    fitted = fit(parse("iterref:steps=6,kernel=trajectory,tries=1,span=6+1"), 25)
    assert fitted.moves == 4 and fitted.cost().denoiser == 20


@pytest.mark.parametrize(
    "value, budget",
    [(5, Cost(5, inf)), (2.5, Cost(2.5, inf)), ((4, 9), Cost(4, 9)), (Cost(1, 0), Cost(1, 0))],
)
def test_what_a_budget_may_be(value, budget):
    assert budget_of(value) == budget


@pytest.mark.parametrize("value", [0, -3, float("nan"), (5, -1), (5, float("nan")), (0, 4)])
def test_a_budget_must_be_positive(value):
    with pytest.raises(ValueError, match="positive number of denoiser rows"):
        budget_of(value)


@pytest.mark.parametrize("value", [inf, (inf, inf)])
def test_a_budget_must_bound_something(value):
    with pytest.raises(ValueError, match="without limits"):
        fit(parse("iterref"), value)


@pytest.mark.parametrize("name", names())
def test_a_budget_too_small_for_one_run_says_what_one_takes(name):
    with pytest.raises(ValueError, match=f"too small for one run of {name}, which takes at least"):
        fit(parse(name), (0.5, 0.5))


@given(st.integers(0, 40), st.integers(0, 5), st.floats(0, 50))
def test_most_is_the_largest_that_fits(edge, least, limit):
    answer = most(lambda n: n <= edge, least, limit)
    assert answer == max([n for n in range(least, int(limit) + 1) if n <= edge], default=least)


def test_costs_add_and_scale():
    assert Cost(1, 2, 3) + Cost(4, 5, 6) == Cost(5, 7, 9)
    assert Cost(1, 2, 3) * 2 == Cost(2, 4, 6)
    assert Cost(3, 4, 100).within(Cost(3, 4)) and not Cost(3, 5).within(Cost(3, 4)) and not Cost(4).within(Cost(3))


def test_a_meter_counts_a_sample():
    meter = Meter(asked_denoiser=12, asked_reward=6, made_denoiser=9, made_reward=3, depth=4)
    assert meter.asked(3) == Cost(4, 2, 4) and meter.made(3) == Cost(3, 1, 4)
