"""Auto: what a budget buys, which arm a row follows, and what is returned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.budget import Budget, fit_budget
from iterref.exact.markov import world
from iterref.noise import absorbing, uniform
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers import Auto, IterRef
from iterref.samplers.auto import Racing
from iterref.samplers.race import arms
from iterref.sampling import sample

BUDGETS = [
    *(Budget(nfe=nfe) for nfe in (1, 7, 33, 64, 97, 300)), Budget(nfe=64, reward_calls=64),
    Budget(nfe=20, reward_calls=5), Budget(total=40), Budget(total=300, price=0.1), Budget(reward_calls=500),
    Budget(nfe=50, depth=30),
]  # fmt: skip


def reward(tokens: Tensor, rows: Tensor) -> Tensor:
    return (tokens == 1).sum(1).double() + 2.0 * (tokens[:, 1:] == tokens[:, :-1]).sum(1)


def problem_of(noise: str = "absorbing", rows: int = 8) -> Problem:
    canvas = torch.zeros(rows, 9, dtype=torch.long)
    return Problem(world(9, 5, 2, noise)[0], reward, canvas, finds_alpha=True)


def ended(nfe: int, rows: int) -> tuple[Auto, Racing, Run]:
    """The method within a budget, and its last state."""
    method, run, rng = fit_budget(Auto(), nfe), Run(problem_of(rows=rows)), Rng.seeded(0, rows)
    state = method.init(run, rng)
    for index in range(method.iterations):
        state, _ = method.step(run, state, rng.fork(index))
    assert isinstance(state, Racing)
    return method, state, run


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_every_budget_is_kept(noise, budget):
    result = sample(Auto(), problem_of(noise), budget=budget)
    assert budget.allows(result.sampler.cost()) and budget.allows(result.asked)
    assert torch.equal(result.rewards, reward(result.tokens, torch.arange(8)))


def test_more_budget_lets_more_arms_race():
    assert [len(ended(nfe, 1)[1].states) for nfe in (16, 28, 64, 128)] == [1, 2, 3, 3]


def test_without_a_mask_the_beam_writes_the_whole_text_and_no_order_is_raced():
    method = fit_budget(Auto(), 128)
    unmasked = method.suited(uniform(5))
    assert method.suited(absorbing(5)) is method and str(unmasked) == str(method)
    result = sample(method, problem_of("uniform", 40))
    assert set(result.chosen or ()) == {"beam", "iterref"} and result.sampler == method
    racing = arms(unmasked.limit, 0.5, 12, unmasked.span, 0.1, masked=False, block=0, surest=0, shifting=False)
    assert racing[0].whole.span == (1.0,) and racing[0].whole.moves


def test_the_moves_begin_at_the_best_text_so_far(monkeypatch):
    begun: list[Tensor] = []
    resume = IterRef.resume
    monkeypatch.setattr(IterRef, "resume", lambda self, run, tokens: begun.append(tokens) or resume(self, run, tokens))
    method, run, rng = fit_budget(Auto(), 64), Run(problem_of()), Rng.seeded(0, 8)
    state = method.init(run, rng)
    for index in range(method.iterations):
        before = state
        state, _ = method.step(run, state, rng.fork(index))
        if begun:
            break
    assert torch.equal(begun[0], before.text)
    texts = torch.stack([part.clean()[0] for part in before.states])
    assert bool((texts == before.text).all(-1).any(0).all())


def test_rows_follow_arms_of_their_own_and_the_best_of_all_is_returned():
    method, state, run = ended(128, 40)
    assert len(state.leader.unique()) > 1  # no arm is best everywhere
    value = state.reward / state.alpha + state.fluent
    assert bool((value >= state.lead - 1e-9).all())
    assert torch.equal(method.output(run, state).tokens, state.text)


def test_a_price_needs_a_total():
    with pytest.raises(ValueError, match="say total="):
        Auto(price=0.5)


@pytest.mark.parametrize("budget", [Budget(total=30), Budget(nfe=20, reward_calls=10)], ids=str)
def test_where_reward_calls_are_as_dear_as_evaluations_the_surest_tokens_decide(budget):
    alone = arms(budget, 0.5, 12, 0.3, 0.1, masked=True, block=0, surest=0, shifting=False)
    assert [arm.whole.name for arm in alone] == ["trajectory"]
    cheap = arms(Budget(nfe=20, reward_calls=400), 0.5, 12, 0.3, 0.1, masked=True, block=0, surest=0, shifting=False)
    assert [arm.whole.name for arm in cheap] == ["beam"]


def test_a_decoding_that_no_other_races_against_is_longer_and_none_is_guided_by_one_guess():
    found = {
        total: arms(Budget(total=total), 0.5, 12, 0.3, 0.1, masked=True, block=0, surest=0, shifting=False)
        for total in (16, 32, 64, 128, 1024)
    }
    told = {total: [(arm.first.name, arm.first.steps) for arm in racing] for total, racing in found.items()}
    assert told[16] == [("trajectory", 15)] and told[32] == told[64] == [("trajectory", 24)]
    assert told[128] == told[1024] == [("trajectory", 24), ("iterref", 0)]
    alone = arms(Budget(nfe=20, reward_calls=400), 0.5, 12, 0.3, 0.1, masked=True, block=0, surest=0, shifting=False)
    assert alone[0].first.steps == 20
