"""Budgets: what is counted, and that a fitted method spends a budget without overspending it."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.budget import Budget, Cost, Meter, budget_of, fit_budget, most
from iterref.registry import names
from iterref.samplers.base import Sampler
from iterref.samplers.iterref import IterRef
from iterref.samplers.strings import sampler_from_string

METHODS = [
    *(name for name in names() if name != "auto"),  # whose options are the bounds themselves
    "ancestral:order=confidence",
    "best_of_n:steps=3",
    "metropolis:steps=2",
    "iterref:steps=3,reward_draft=False",
    "iterref:steps=4,early=0.5,reward_draft=False",
    "iterref:steps=0",
    "metropolis:steps=0",
    "iterref:steps=3,decisions=3",
    "iterref:steps=3,decisions=2,reward_draft=False,early=0.5",
    "iterref:steps=3,denoise_steps=3,tries=2",
    "mtm:steps=3,tries=1",
    "mtm:steps=3,tries=3,denoise_steps=2",
    "published:steps=3,tries=1",
    "published:steps=3,tries=4,early=1",
    "trajectory:steps=6,tries=1,span_steps=1",
    "trajectory:steps=6,tries=2,span_steps=6+1",
    "trajectory:steps=6,tries=2,span=0.2+0.5+1.0",
]
REFINING = [text for text in METHODS if text.startswith(("iterref", "mtm", "published", "trajectory"))]
rows = st.sampled_from([1, 2, 3, 8, 56, 256]) | st.floats(0.5, 300)
budgets = st.tuples(rows, st.just(inf) | st.just(0) | rows) | st.tuples(st.just(inf), rows)


def more(sampler: Sampler) -> Sampler:
    """The method that spends one unit more of what `fit_budget` may spend: a move, a sample or a grid step."""
    least = {"tries": 1} if may_buy_tries(sampler) else {}
    return replace(sampler, **{sampler.knob: getattr(sampler, sampler.knob) + 1}, **least)


def may_buy_tries(sampler: Sampler) -> bool:
    """Whether candidates cost reward calls alone, so that `fit_budget` sets their number too."""
    return isinstance(sampler, IterRef) and sampler.denoise_steps == 1


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(METHODS), budgets)
def test_a_fitted_method_fits_and_leaves_no_room(text, budget):
    sampler, limit = sampler_from_string(text), Budget(*budget)
    try:
        fitted = fit_budget(sampler, limit)
    except ValueError as error:
        least = {sampler.knob: sampler.least}
        if may_buy_tries(sampler) and limit.reward_calls < inf:
            least["tries"] = 1
        smallest = replace(sampler, **least)
        if not smallest.iterations:  # without a draft, too, that would do nothing
            smallest = replace(smallest, **{sampler.knob: 1})
        assert not limit.allows(smallest.cost())
        assert f"is too small for one run of {sampler.name}, which takes at least" in str(error)
        return
    assert type(fitted) is type(sampler)
    assert limit.allows(fitted.cost())
    if sampler.cost().reward_calls == more(sampler).cost().reward_calls and limit.nfe == inf:
        assert fitted == sampler  # the bound does not touch the one use that it has for evaluations
        return
    assert not limit.allows(more(fitted).cost())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(REFINING), rows, rows)
def test_refinement_leaves_room_for_no_further_candidate(text, nfe, reward_calls):
    sampler, limit = sampler_from_string(text), Budget(nfe, reward_calls)
    try:
        fitted = fit_budget(sampler, limit)
    except ValueError:
        return
    assert not limit.allows(more(fitted).cost())
    if may_buy_tries(fitted) and (fitted.moves or fitted.reward_draft and fitted.steps):
        assert not limit.allows(replace(fitted, tries=fitted.tries + 1).cost())
    else:
        assert fitted.tries == sampler.tries


def test_the_design_budgets():
    """(56, 896) for the shared kernel: 8 drafts and 48 moves of 16 candidates, in one decision or in eight."""
    fitted = fit_budget(sampler_from_string("iterref:steps=8,decisions=1"), (56, 896))
    assert (fitted.moves, fitted.tries, fitted.cost()) == (48, 16, Cost(56, 896, 56))
    fitted = fit_budget(sampler_from_string("iterref:steps=8"), (56, 896))
    assert (fitted.moves, fitted.decisions, fitted.tries, fitted.cost()) == (48, 8, 2, Cost(56, 896, 56))
    assert fit_budget(sampler_from_string("best_of_n"), 256).cost() == Cost(256, 32, 8)
    assert fit_budget(sampler_from_string("metropolis"), (56, 896)).cost() == Cost(56, 49, 56)


def test_scarce_rewards_buy_fewer_decisions():
    """As many decisions a move as reward calls go with an NFE; a draft never takes more than half of them."""
    assert (
        fit_budget(sampler_from_string("iterref"), (64, 256)).decisions == 4
        and fit_budget(sampler_from_string("iterref"), (64, 70)).decisions == 1
    )
    assert fit_budget(sampler_from_string("iterref"), Budget(total=512)).decisions == 8
    assert (
        fit_budget(sampler_from_string("iterref"), Budget(total=64)).decisions == 4
    )  # 4 draft steps of 1 + 8 calls would be more than half
    dear, cheap = (fit_budget(sampler_from_string("iterref"), Budget(total=512, price=price)) for price in (20.0, 0.1))
    assert (dear.decisions, dear.tries) == (1, 1) and (cheap.decisions, cheap.tries) == (8, 10)


def test_a_bound_on_depth_buys_chains():
    fitted = fit_budget(sampler_from_string("iterref:steps=4,tries=2"), Budget(nfe=64, depth=12))
    assert (fitted.moves, fitted.chains) == (8, 5) and fitted.cost().depth == 12
    assert fit_budget(sampler_from_string("iterref"), Budget(nfe=64, depth=100)).chains == 1


def test_several_spans_are_counted_each():
    """Tails of 6 and of 1 steps in turn: 6 for the first path, then 6 + 1 + 6 + 1, and the next would be 6 more."""
    fitted = fit_budget(sampler_from_string("trajectory:steps=6,tries=1,span_steps=6+1"), 25)
    assert fitted.moves == 4 and fitted.cost().nfe == 20


@pytest.mark.parametrize(
    "value, budget",
    [(5, Budget(5)), (2.5, Budget(2.5)), ((4, 9), Budget(4, 9)), (Budget(total=7), Budget(total=7))],
)
def test_what_a_budget_may_be(value, budget):
    assert budget_of(value) == budget


@pytest.mark.parametrize(
    "budget, told", [(Budget(nfe=2), "nfe 2, of which 4"), (Budget(10, total=4), "total 4, of which 5")]
)
def test_what_is_spent_before_a_method_leaves_some(budget, told):
    with pytest.raises(ValueError, match=f"a budget needs a positive NFE.*{told} are spent before.*raise it"):
        budget.less(Cost(4, 1))
    assert Budget(nfe=5, reward_calls=1).less(Cost(4, 2)) == Budget(nfe=1, reward_calls=0)


@pytest.mark.parametrize("value", [0, -3, float("nan"), (5, -1), (5, float("nan")), (0, 4)])
def test_a_budget_must_be_positive(value):
    with pytest.raises(ValueError, match="a budget needs a positive NFE"):
        budget_of(value)


@pytest.mark.parametrize("value", [inf, (inf, inf)])
def test_a_budget_must_bound_something(value):
    with pytest.raises(ValueError, match="without limits"):
        fit_budget(sampler_from_string("iterref"), value)


@pytest.mark.parametrize("name", names())
def test_a_budget_too_small_for_one_run_says_what_one_takes(name):
    with pytest.raises(ValueError, match=f"too small for one run of {name}, which takes at least"):
        fit_budget(sampler_from_string(name), (0.5, 0.5))


@given(st.integers(0, 40), st.integers(0, 5), st.floats(0, 50))
def test_most_is_the_largest_that_fits(edge, least, limit):
    answer = most(lambda n: n <= edge, least, limit)
    assert answer == max([n for n in range(least, int(limit) + 1) if n <= edge], default=least)


def test_costs_add_and_scale():
    assert Cost(1, 2, 3) + Cost(4, 5, 6) == Cost(5, 7, 9)
    assert Cost(1, 2, 3) * 2 == Cost(2, 4, 6)


def test_a_budget_bounds_each_kind_of_call_their_sum_and_the_depth():
    assert Budget(3, 4).allows(Cost(3, 4, 100)) and not Budget(3, 4).allows(Cost(3, 5))
    assert not Budget(3).allows(Cost(4)) and Budget(3).allows(Cost(3, 10**6))
    assert Budget(total=10, price=0.5).allows(Cost(4, 12)) and not Budget(total=10, price=0.5).allows(Cost(4, 13))
    assert Budget(9, depth=2).allows(Cost(9, 0, 2)) and not Budget(9, depth=2).allows(Cost(9, 0, 3))
    assert Budget(10, 20, total=40, price=0.5).less(Cost(4, 10)) == Budget(6, 10, total=31, price=0.5)
    assert Budget(10, 20, total=40, price=0.5).per(2) == Budget(5, 20, total=20, price=0.25)


def test_a_meter_counts_a_sample():
    meter = Meter(asked_nfe=12, asked_reward_calls=6, made_nfe=9, made_reward_calls=3, depth=4)
    assert meter.asked(3) == Cost(4, 2, 4) and meter.made(3) == Cost(3, 1, 4)
