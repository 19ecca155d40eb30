"""Beam: tokens that carry the reward come first, the text stays likely, and nothing given is left for a worse one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iterref.decoding import Decoder
from iterref.exact.markov import world
from iterref.likelihood import fluency
from iterref.moves.lookahead import Ahead
from iterref.moves.tilted import carried, deviation, highest
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers import Ancestral, Auto, Beam, BestOfN
from iterref.samplers.base import Sampler
from iterref.sampling import sample

LENGTH, TOKENS, ROWS = 12, 6, 48


def reward(tokens: Tensor, rows: Tensor) -> Tensor:
    """A rule: two tokens that must stand somewhere, and how many of a third."""
    both = (tokens == 4).any(1).double() + (tokens == 5).any(1).double()
    return both - 0.5 * ((tokens == 3).sum(1) - 2).abs().double()


def problem_of(noise: str = "absorbing", of=reward, **options) -> Problem:
    canvas = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    return Problem(world(LENGTH, TOKENS, 1, noise)[0], of, canvas, finds_alpha=True, **options)


def likelihood(problem: Problem, tokens: Tensor) -> Tensor:
    return problem.denoiser.log_prob(tokens).double()


def test_what_carries_the_reward_is_found_by_changing_it():
    """Guesses that differ in places: only the token that the reward asks for carries anything."""
    problem = problem_of(of=lambda tokens, rows: (tokens == 5).any(1).double())
    run = Run(problem.only(torch.tensor([0])))
    draws = torch.zeros(4, 1, 1, LENGTH, dtype=torch.long)
    draws[0, 0, 0, 3], draws[0, 0, 0, 7], draws[1, 0, 0, 2] = 5, 2, 1
    sure = torch.full(draws.shape, -1.0, dtype=torch.float64)
    ahead, zero = Ahead(draws[0], draws, sure), torch.zeros(1, 1, dtype=torch.long)
    found = carried(run, ahead, (zero, zero), torch.ones(1, 1, dtype=torch.float64), LENGTH)
    assert found[0, 0].nonzero()[:, 0].tolist() == [3] and float(found[0, 0, 3]) == 1
    assert run.meter.asked_reward_calls == LENGTH
    assert not bool(carried(run, ahead, (zero, zero), torch.ones(1, 1, dtype=torch.float64), 0).any())


def test_the_highest_come_first_and_a_repeated_one_last():
    value = torch.tensor([[1.0], [3.0], [3.0], [2.0]], dtype=torch.float64)
    assert highest(value, 4)[:, 0].tolist() == [1, 3, 0, 2]


def test_the_spread_leaves_forbidden_texts_out():
    rewards = torch.tensor([[0.0, -torch.inf, 5.0], [2.0, 1.0, 5.0]], dtype=torch.float64)
    assert torch.allclose(deviation(rewards), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("method, nats", [(Beam(steps=8), 3.0), (Auto(nfe=64), 1.0)], ids=str)
def test_more_reward_than_best_of_n_at_little_likelihood(method: Sampler, nats: float):
    """At equal NFE, and with the order that writes the likeliest texts; a single draft pays more than a search."""
    problem = problem_of()
    nfe = method.cost().nfe
    rival = sample(BestOfN(steps=8, n=max(1, int(nfe // 8)), order="confidence"), problem)
    ours = sample(method, problem)
    gain = ours.rewards - rival.rewards
    assert float(gain.mean()) > 3 * float(gain.std()) / ROWS**0.5
    assert float((likelihood(problem, ours.tokens) - likelihood(problem, rival.tokens)).mean()) > -nats


def test_without_probes_the_reward_comes_too_late():
    """Negative control of the tilted order: the same beam in the order of confidence alone."""
    problem = problem_of()
    ours, blind = (sample(Beam(steps=8, probes=probes), problem).rewards for probes in (16, 0))
    gain = ours - blind
    assert float(gain.mean()) > 3 * float(gain.std()) / ROWS**0.5


def test_a_reward_of_zero_costs_no_likelihood():
    problem = problem_of(of=lambda tokens, rows: torch.zeros(len(tokens), dtype=torch.float64))
    plain = likelihood(problem, sample(Ancestral(steps=12, order="confidence"), problem).tokens)
    for method in (Beam(steps=12), Auto(nfe=96)):
        ours = likelihood(problem, sample(method, problem).tokens)
        assert float((ours - plain).mean()) > -3 * float((ours - plain).std()) / ROWS**0.5


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
@pytest.mark.parametrize("method", [Beam(moves=3), Auto(nfe=40)], ids=str)
def test_a_given_text_is_left_only_for_one_of_higher_value(noise, method):
    """J, alpha as the problem gives it; all by the method's own estimate."""
    problem = replace(problem_of(noise), finds_alpha=False, alpha=0.3)
    start = sample(Ancestral(steps=12), problem).tokens
    result = sample(method, problem, start=start)
    run = Run(problem)

    def value(tokens: Tensor) -> Tensor:
        return reward(tokens, run.rows) / 0.3 + fluency(run, tokens, 4)

    assert bool((value(result.tokens) >= value(start) - 1e-9).all())
    assert bool((result.tokens != start).any())


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
@pytest.mark.parametrize("method", [Beam(moves=3), Auto(nfe=40)], ids=str)
def test_a_given_text_is_not_left_for_one_that_is_forbidden_too(noise, method):
    problem = problem_of(noise, lambda tokens, rows: torch.full((len(tokens),), -torch.inf, dtype=torch.float64))
    start = sample(Ancestral(steps=12), problem).tokens
    assert torch.equal(sample(method, problem, start=start).tokens, start)
    assert bool(sample(method, problem).rewards.isneginf().all())  # a draft is a text all the same, as a run checks


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_only_the_written_stretch_changes(noise):
    problem = problem_of(noise)
    start = sample(Ancestral(steps=12), problem).tokens
    result = sample(Beam(moves=1, span=0.25), problem, start=start)
    place = (result.tokens != start).nonzero()
    assert len(place)
    for row in place[:, 0].unique():
        changed = place[place[:, 0] == row][:, 1]
        assert int(changed.max() - changed.min()) < 0.25 * LENGTH


def test_the_orders_of_confidence_are_log_probabilities():
    """What a beam adds up along its path relies on it."""
    log_p, drawn = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1]])
    assert float(Decoder("confidence").confidence(log_p, drawn)) == -2.0
