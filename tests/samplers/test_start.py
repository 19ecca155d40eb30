"""Refining finished texts in place of a draft: the law, the cost, and what is refused."""

from __future__ import annotations

import pytest
import torch

from iterref import Cost, Problem, estimate, sample
from iterref.exact.markov import world
from iterref.samplers.strings import sampler_from_string

ROWS = 6


def small(kind: str = "absorbing") -> tuple[Problem, torch.Tensor]:
    """The exact world at a small size, and unguided texts to start from."""
    model, reward, _ = world(length=8, vocab=4, noise=kind)
    problem = Problem(model, reward, torch.zeros(ROWS, 8, dtype=torch.long), alpha=0.3)
    return problem, sample(sampler_from_string("ancestral:steps=8"), problem, seed=1).tokens


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("method", ["iterref:moves=10,tries=4,decisions=2", "metropolis:moves=10"])
def test_texts_are_refined_and_the_draft_is_not_paid(kind, method):
    problem, texts = small(kind)
    result = sample(sampler_from_string(method), problem, start=texts, seed=3)
    before = problem.reward(texts, problem.rows)
    assert float(result.rewards.mean()) > float(before.mean())
    assert result.asked == result.sampler.cost()
    assert result.asked.nfe == 10  # moves alone
    assert bool((result.best.reward >= before).all())  # the start itself was seen
    assert torch.equal(result.rewards, problem.reward(result.tokens, problem.rows))


@pytest.mark.parametrize("method", ["iterref:moves=10", "metropolis:moves=10"])
def test_a_chain_goes_on_under_other_seeds_and_comes_to_rest_under_its_own(method):
    """The same numbers make the same moves, which have been decided."""
    problem, texts = small()

    def moved(seeds: list[int]) -> float:
        x = texts
        for seed in seeds:
            before, x = x, sample(sampler_from_string(method), problem, start=x, seed=seed).tokens
        return float((x != before).double().mean())

    assert moved([3, 3, 3, 3]) < 0.05 < 0.1 < moved([3, 4, 5, 6])


def test_no_moves_give_the_texts_back():
    problem, texts = small()
    result = sample(sampler_from_string("iterref:moves=0"), problem, start=texts)
    assert torch.equal(result.tokens, texts)
    assert result.asked == Cost(0, 1, 0)
    assert estimate("iterref:moves=0", problem, start=texts).cost == result.asked


def test_a_budget_buys_moves_alone():
    problem, texts = small()
    result = sample(sampler_from_string("iterref:tries=2"), problem, start=texts, budget=20)
    assert result.asked.nfe == 20
    assert "steps=0" in str(result.sampler)


@pytest.mark.parametrize(
    "method, words",
    [
        ("iterref:denoise_steps=2", r"at least 3 NFE \+ 3 reward calls"),
        ("mtm", r"at least 3 NFE \+ 4"),
        ("published", r"at least 2 NFE \+ 3"),
        ("tempering", r"at least 3 NFE \+ 51"),
        ("select_refine", r"at least 5 NFE \+ 2"),
        ("beam", r"at least 13 NFE \+ 154"),
    ],
)
def test_a_budget_that_buys_no_move_is_refused(method, words):
    """It would give the texts back, and nothing would tell."""
    problem, texts = small()
    for make in (sample, estimate):
        with pytest.raises(ValueError, match=f"too small for one run of .*, which takes {words}"):
            make(method, problem, start=texts, budget=1)


def test_frozen_positions_are_held():
    problem, texts = small()
    free = torch.ones_like(texts, dtype=torch.bool)
    free[:, 2:5] = False
    held = Problem(problem.denoiser, problem.reward, texts, free, alpha=0.3)
    result = sample(sampler_from_string("iterref:moves=10"), held, start=texts, seed=2)
    assert torch.equal(result.tokens[:, 2:5], texts[:, 2:5])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x: x[:, :-1], "shape"),
        (lambda x: x.index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(4)), "row 2, position 3: token 4"),
        (lambda x: x.index_put((torch.tensor(1), torch.tensor(0)), torch.tensor(99)), "row 1, position 0: token 99"),
    ],
)
def test_unfinished_or_foreign_texts_are_refused(spoil, message):
    problem, texts = small()
    with pytest.raises(ValueError, match=message):
        sample(sampler_from_string("iterref"), problem, start=spoil(texts))


def test_methods_without_moves_on_finished_texts_say_so():
    problem, texts = small()
    for method in ("ancestral", "best_of_n"):
        with pytest.raises(ValueError, match="cannot start from given texts"):
            sample(sampler_from_string(method), problem, start=texts)
    with pytest.raises(ValueError, match="trajectory cannot start from given texts"):
        sample(sampler_from_string("trajectory"), problem, start=texts)
    with pytest.raises(ValueError, match="give texts to start from"):
        sample(sampler_from_string("iterref:steps=0"), problem)
