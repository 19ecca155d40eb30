"""The log-likelihood of finished texts, against worlds that know it."""

from __future__ import annotations

import pytest
import torch

from iterref.denoiser import Wrapped
from iterref.drafts import no_reward
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.likelihood import TIE, fluency, interleaved, log_likelihood, typicality
from iterref.noise import uniform
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from tests.support.block_chain import InBlocks
from tests.support.worlds import random_table


def texts(length: int = 12, rows: int = 6):
    model = world(length, 5, 3, "absorbing")[0]
    x = model.sample(Rng.seeded(0, rows))
    return model, x, Run(Problem(model, no_reward, x, torch.ones_like(x, dtype=torch.bool)))


def test_with_a_group_a_position_it_is_the_chain_rule():
    model, x, run = texts()
    for offset in (0, 5):
        assert torch.allclose(log_likelihood(run, x, 12, offset), model.log_prob(x).double(), atol=1e-9)
    assert run.meter.asked_nfe == 2 * 12 * len(x)


def test_fewer_groups_leave_out_what_is_drawn_apart():
    """Interleaved groups of a Markov chain: two see each other's neighbours, one sees nothing."""
    model, x, run = texts(rows=200)
    exact = model.log_prob(x).double()
    error = {k: float((log_likelihood(run, x, k) - exact).abs().mean()) for k in (1, 2, 4, 8)}
    assert error[1] > error[2] > error[4] > error[8]
    assert error[1] > 0.5  # negative control: marginals alone are far off
    assert error[4] < 0.25 * error[1]


def test_frozen_positions_are_given_and_do_not_count():
    model, x, _ = texts(rows=3)
    free = torch.zeros_like(x, dtype=torch.bool)
    free[:, 4:6] = True
    found = log_likelihood(Run(Problem(model, no_reward, x, free)), x, 2)
    every = [x.clone() for _ in range(25)]
    for k, other in enumerate(every):
        other[:, 4], other[:, 5] = k // 5, k % 5
    total = torch.stack([model.log_prob(other).double() for other in every]).logsumexp(0)
    assert torch.allclose(found, model.log_prob(x).double() - total, atol=1e-9)


def test_without_a_mask_it_is_the_pseudo_likelihood():
    table = Table(random_table("uniform", 3, 3, 2, coupling=1.0).log_p.view(3, 3, 3), uniform(3))
    x = table.states()
    run = Run(Problem(table, no_reward, x))
    joint = table.log_prob(x).double()
    expected = torch.zeros(len(x), dtype=torch.float64)
    for i in range(3):
        same = [(x == row).sum(1) - (x[:, i] == row[i]).long() == 2 for row in x]
        expected += joint - torch.stack([joint[where].logsumexp(0) for where in same])
    assert torch.allclose(log_likelihood(run, x), expected, atol=1e-9)
    assert run.meter.asked_nfe == len(x)


def test_the_model_s_own_texts_are_typical_and_others_are_not():
    model, x, run = texts(rows=400)
    own = typicality(run, x, 12)
    assert abs(float(own.mean())) < 4 * float(own.std()) / 400**0.5
    shuffled = x[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    assert float(typicality(run, shuffled, 12).mean()) < -3


def test_what_is_above_the_typical_does_not_count_but_for_ties():
    _, x, run = texts(rows=60)
    typical, log_p = typicality(run, x, 4), log_likelihood(run, x, 4)
    assert bool((typical > 0).any()) and bool((typical < 0).any())
    assert torch.allclose(fluency(run, x, 4), torch.where(typical < 0, typical, 0.0) + TIE * log_p)


def test_texts_are_judged_portion_by_portion_and_probabilities_do():
    """Equal texts share their evaluations; nothing depends on how many are asked at once, or on logarithms."""
    model, x, _ = texts()
    x = x[torch.tensor([0, 1, 0, 2, 3, 1])]
    whole = [of(Run(Problem(model, no_reward, x)), x, 4) for of in (log_likelihood, typicality)]
    sized, run = Run(Problem(model, no_reward, x, max_rows=2)), Run(Problem(Probable(model), no_reward, x))
    assert torch.equal(log_likelihood(sized, x, 4), whole[0]) and torch.equal(typicality(sized, x, 4), whole[1])
    assert torch.allclose(log_likelihood(run, x, 4), whole[0]) and torch.allclose(typicality(run, x, 4), whole[1])


class Probable(Wrapped):
    """A denoiser that gives probabilities."""

    def __call__(self, x_t, t, where, rows):
        raise AssertionError("whoever asks for logarithms takes a pass over all tokens more")

    def probabilities(self, x_t, t, where, rows):
        return self.denoiser(x_t, t, where, rows).exp()

    def __init__(self, denoiser):
        super().__init__(denoiser)
        self.has_probabilities = True


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
def test_every_group_has_a_turn(n):
    assert sorted(interleaved(n)) == list(range(n))
    assert interleaved(4) == (0, 2, 1, 3) and interleaved(8)[4] == 1


def in_blocks(model: InBlocks):
    x = torch.randint(0, 3, (5, 8), generator=torch.Generator().manual_seed(1))
    exact = model.known(x).gather(-1, x[..., None])[..., 0].sum(1)
    free, prompts = torch.ones_like(x, dtype=torch.bool), torch.zeros(len(x), dtype=torch.long)
    return x, exact, Run(Problem(model, no_reward, x, free, prompts=prompts))


@pytest.mark.parametrize(("offset", "blocks"), [(0, 4), (1, 5)])
@pytest.mark.parametrize("evaluations", [1, 2, 8])
def test_blocks_are_judged_behind_finished_ones(offset, blocks, evaluations):
    model = InBlocks(3, 2, offset)
    x, exact, run = in_blocks(model)
    assert torch.allclose(log_likelihood(run, x, evaluations), exact, atol=1e-9)
    assert run.meter.asked_nfe == blocks * min(evaluations, 2) * len(x)
    model.block_length = 0  # negative control: without its blocks it is asked for guesses
    assert not torch.allclose(log_likelihood(in_blocks(model)[2], x, evaluations), exact, atol=0.1)


@pytest.mark.parametrize(("evaluations", "asked"), [(3, 3), (4, 4), (7, 4), (8, 8)])
def test_blocks_share_the_evaluations_of_a_search(evaluations, asked):
    model = InBlocks(3, 2)
    x, exact, run = in_blocks(model)
    found = typicality(run, x, evaluations)
    assert run.meter.asked_nfe == asked * len(x)
    if evaluations > 3:  # with fewer than blocks some are judged together
        entropy = -(model.known(x)[..., :3].exp() * model.known(x)[..., :3]).sum((1, 2))
        assert torch.allclose(found, exact + entropy, atol=1e-9)
