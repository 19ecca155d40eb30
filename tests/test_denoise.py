"""Denoisers: the adapters against laws computed by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from iterref.denoise import Tempered, carry_over, from_leave_one_out
from iterref.models.table import Table
from iterref.noise import Noise, absorbing
from tests.worlds import random_table

torch.set_num_threads(1)
EXACT = 1e-12


def test_carry_over_keeps_what_is_revealed():
    x_t = torch.tensor([[0, 3, 2], [3, 3, 1]])
    where = torch.tensor([[True, True, False], [True, False, True]])
    raw = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = raw.clone()
    log_p = carry_over(raw, x_t, where, mask=3)
    assert torch.equal(raw, before)  # the caller's tensor is its own
    assert torch.equal(log_p[0].exp(), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    assert torch.equal(log_p[3].exp(), torch.tensor([0.0, 1, 0, 0], dtype=torch.float64))
    assert torch.equal(log_p[1], torch.cat([raw[1, :3].log_softmax(0), torch.tensor([-torch.inf])]))
    assert torch.allclose(log_p.exp().sum(1), torch.ones(4, dtype=torch.float64), atol=EXACT)


def test_carry_over_makes_a_table_of_its_own_predictions():
    """On an exact model, whose posteriors are right already, the adapter changes nothing."""
    table = random_table("absorbing", 3, 2, 5, coupling=1)
    x_t = table.noisy_states()
    where = torch.ones_like(x_t, dtype=torch.bool)
    exact = table(x_t, torch.full((len(x_t),), 0.5), where, torch.zeros(len(x_t), dtype=torch.long))
    assert torch.allclose(carry_over(exact, x_t, where, mask=2).exp(), exact.exp(), atol=EXACT)


def leave_one_out(table: Table, x_t: Tensor, t: float) -> Tensor:
    """p(x_0^i = v | x_t^{-i}) for one noisy row (L,), summed state by state, (L, V)."""
    like = table.noise.likelihood(x_t[None], torch.tensor([t]))[0]
    law = torch.zeros(table.length, table.tokens, dtype=torch.float64)
    for state in product(range(table.tokens), repeat=table.length):
        p = float(table.log_prob(torch.tensor(state)).exp())
        for i in range(table.length):
            others = [float(like[j, state[j]]) for j in range(table.length) if j != i]
            law[i, state[i]] += p * float(torch.tensor(others, dtype=torch.float64).prod())
    return law / law.sum(1, keepdim=True)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("t", [0.2, 0.7, 1.0])
def test_leave_one_out_predictions_become_posteriors(t, skewed):
    """Brute-force leave-one-out laws of a correlated table, turned into its posteriors by Bayes."""
    table = random_table("uniform", 3, 2, 7, coupling=1)
    if skewed:
        table = Table(table.log_p.view(2, 2, 2), Noise(torch.tensor([0.8, 0.2])))
    x_t = table.noisy_states()
    where = torch.ones_like(x_t, dtype=torch.bool)
    where[0, 1] = False
    times = torch.full((len(x_t),), t)
    raw = torch.stack([leave_one_out(table, row, t) for row in x_t])[where].log()
    exact = table(x_t, times, where, torch.zeros(len(x_t), dtype=torch.long))
    assert torch.allclose(from_leave_one_out(raw, x_t, times, where, table.noise), exact, atol=EXACT, rtol=0)
    if t < 1:  # negative control: predictions that have not seen their own token are no posteriors
        assert float((raw.exp() - exact.exp()).abs().max()) > 0.05


def test_leave_one_out_at_both_ends_of_time():
    table = random_table("uniform", 2, 3, 1, coupling=1)
    x = torch.tensor([[0, 2], [1, 1]])
    where = torch.ones_like(x, dtype=torch.bool)
    raw = table.leave_one_out(x, where, torch.zeros(2, dtype=torch.long))
    certain = from_leave_one_out(raw, x, torch.zeros(2), where, table.noise)
    assert torch.equal(certain.argmax(1), x.flatten()) and torch.equal(certain.amax(1), torch.zeros(4).double())
    assert torch.allclose(from_leave_one_out(raw, x, torch.ones(2), where, table.noise), raw, atol=EXACT)
    single = from_leave_one_out(raw.float(), x, torch.full((2,), 0.5), where, table.noise)
    assert single.dtype == torch.float32  # a network's own precision is kept


def test_tempered():
    table = random_table("absorbing", 2, 3, 2, coupling=1)
    x_t, rows = table.noisy_states(), torch.zeros(16, dtype=torch.long)
    t, where = torch.full((16,), 0.5), table.noisy_states() == 3
    plain = table(x_t, t, where, rows)
    assert torch.allclose(Tempered(table, 1.0)(x_t, t, where, rows), plain, atol=EXACT)
    cold = Tempered(table, 0.5)(x_t, t, where, rows).exp()
    squared = plain.exp() ** 2
    assert torch.allclose(cold, squared / squared.sum(1, keepdim=True), atol=EXACT)
    assert Tempered(table, 0.5).noise is table.noise
    assert float(Tempered(table, 1e-3)(x_t, t, where, rows).exp().amax(1).min()) > 0.99


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_must_be_positive_and_finite(temperature):
    with pytest.raises(ValueError, match="positive and finite"):
        Tempered(random_table("absorbing", 1, 2, 2, coupling=1), temperature)


def test_carry_over_takes_float32():
    log_p = carry_over(torch.zeros(2, 3), torch.tensor([[2, 0]]), torch.ones(1, 2, dtype=torch.bool), absorbing(3).mask)
    assert log_p.dtype == torch.float32 and torch.allclose(log_p[0].exp(), torch.tensor([0.5, 0.5, 0.0]))
