"""The base decoders: the exact law of a few steps, how many tokens each order reveals, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.decode import Decoder, advance, grid
from iterref.models.markov import world
from iterref.models.table import Table
from iterref.noise import absorbing
from iterref.problem import Problem
from iterref.random import Rng
from tests.oracle import Enumerator, enumerate_outcomes, law_matrix, total_variation
from tests.worlds import random_reward, random_table

torch.set_num_threads(1)


def sampled(table: Table, steps: int, order: str = "random", free: Tensor | None = None) -> Tensor:
    """The exact law over clean states of `steps` steps of the decoder."""
    times, reward = grid(steps), random_reward(table.length, table.tokens, 1)

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        canvas = torch.zeros(len(start), table.length, dtype=torch.long)
        opened = None if free is None else free.expand(len(start), -1)
        problem = Problem(table, reward, canvas, opened).begin()
        x = problem.prior(rng)
        for t, u in zip(times, times[1:], strict=False):
            x = advance(problem, x, t, u, Decoder(order), problem.rows, rng)
        return x

    return law_matrix(*enumerate_outcomes(run, 1), table.states())[0]


def product_of_marginals(table: Table) -> Tensor:
    p = table.log_p.exp().view((table.tokens,) * table.length)
    law = torch.ones_like(p)
    for i in range(table.length):
        others = [j for j in range(table.length) if j != i]
        law = law * p.sum(others, keepdim=True)
    return law.flatten()


def test_grid():
    assert grid(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert grid(10)[7] == 0.3 and grid(1) == (1.0, 0.0)  # the nearest number to 3/10: `late=0.3` means this time too


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_two_tokens_meet_in_a_step_once_in_so_many(steps):
    """Two masked tokens are revealed in the same of T steps with probability 1/T, and then from the product of their
    marginals; else one after the other, which is exact. So the error falls as 1/T, and T = L is not exact yet."""
    table = random_table("absorbing", 2, 2, 5, coupling=1.5)
    p, product = table.log_p.exp(), product_of_marginals(table)
    law = sampled(table, steps)
    assert torch.allclose(law, product / steps + p * (1 - 1 / steps), atol=1e-12, rtol=0)
    assert total_variation(law, p) > 1e-4


def test_more_steps_are_nearer_to_the_model_under_uniform_noise():
    table = random_table("uniform", 2, 2, 5, coupling=1.5)
    errors = [total_variation(sampled(table, steps), table.log_p.exp()) for steps in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2] > 1e-4


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_a_factorised_law_needs_one_step(kind):
    table = random_table(kind, 2, 3, 5, coupling=0)
    for steps in (1, 2):
        assert torch.allclose(sampled(table, steps), table.log_p.exp(), atol=1e-12, rtol=0)


def test_one_free_token_is_its_conditional():
    """With the rest frozen, one step draws from p(x^i | the rest)."""
    table = random_table("absorbing", 3, 2, 5, coupling=1.5)
    p = table.log_p.exp().view(2, 2, 2)
    law = sampled(table, 2, free=torch.tensor([[False, True, False]])).view(2, 2, 2)
    assert torch.allclose(law[0, :, 0], p[0, :, 0] / p[0, :, 0].sum(), atol=1e-12, rtol=0)


def test_the_order_by_confidence_samples_a_sharper_law():
    table = random_table("absorbing", 2, 2, 5, coupling=1.5)
    law, p = sampled(table, 2, "confidence"), table.log_p.exp()
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert total_variation(law, p) > 1e-2 and float((law * law.log()).sum()) > float((p * p.log()).sum())


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 12])
def test_confidence_reveals_its_share_of_each_row(steps):
    """After the step to u, round(free (1 - a_u)) positions are masked, in rows of different sizes alike."""
    model, reward, _ = world(8, 3)
    free = torch.arange(8) < torch.tensor([8, 5, 1, 0])[:, None]
    problem = Problem(model, reward, torch.zeros(4, 8), free).begin()
    rng, times = Rng.seeded(2, 4), grid(steps)
    x = problem.prior(rng)
    for k in range(steps):
        before = x
        x = advance(problem, x, times[k], times[k + 1], Decoder("confidence"), problem.rows, rng.fork(k))
        left = (x == problem.noise.mask).sum(1)
        assert left.tolist() == [round(int(n) * times[k + 1]) for n in free.sum(1)]
        seen = before != problem.noise.mask
        assert torch.equal(x[seen], before[seen])
    assert torch.equal(x[~free], problem.canvas[~free])


def test_confidence_takes_the_surest_tokens():
    """A law that is certain of its last position reveals that one first."""
    log_p = torch.zeros(3, 2, 2, 2, dtype=torch.float64)[0]
    log_p[..., 1] -= 8  # the last token is nearly always 0
    problem = Problem(Table(log_p, absorbing(3)), random_reward(3, 2, 1), torch.zeros(30, 3)).begin()
    rng = Rng.seeded(1, 30)
    x = advance(problem, problem.prior(rng), 1.0, 2 / 3, Decoder("confidence"), problem.rows, rng)
    assert bool(((x != 2).long().argmax(1) == 2).float().mean() > 0.9)


def test_confidence_needs_a_mask():
    model, reward, _ = world(4, 3, noise="uniform")
    problem = Problem(model, reward, torch.zeros(1, 4)).begin()
    with pytest.raises(ValueError, match="needs absorbing noise.*use order='random'"):
        x, rng = torch.zeros(1, 4, dtype=torch.long), Rng.seeded(0, 1)
        advance(problem, x, 1.0, 0.5, Decoder("confidence"), problem.rows, rng)
