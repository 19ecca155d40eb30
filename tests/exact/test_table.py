"""The table against sums written out state by state, and its draws against its law."""

from __future__ import annotations

from itertools import product
from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from iterref.models.table import Table
from iterref.noise import Noise, absorbing, uniform
from iterref.random import Rng

SKEWED = Noise(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))
NOISES = {"absorbing": absorbing(4), "uniform": uniform(3), "skewed": SKEWED}


def random_law(seed: int, length: int, holes: bool = False) -> Tensor:
    numbers = np.random.default_rng(seed)
    log_joint = torch.from_numpy(2 * numbers.standard_normal((3,) * length))
    if holes:
        log_joint[torch.from_numpy(numbers.random(log_joint.shape) < 0.3)] = -torch.inf
        log_joint[(0,) * length] = 0.0
    return log_joint


def by_hand(log_joint: Tensor, noise: Noise, x_t: list[int], a_t: float) -> dict[tuple[int, ...], float]:
    """p(x_0 | x_t) by the formulas of the noise, in plain Python."""
    weights = {}
    for state in product(range(3), repeat=len(x_t)):
        weight = exp(float(log_joint[state]))
        for seen, clean in zip(x_t, state, strict=True):
            weight *= a_t * (seen == clean) + (1 - a_t) * float(noise.pi[seen])
        weights[state] = weight
    total = sum(weights.values())
    return {state: weight / total for state, weight in weights.items()}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(NOISES)), st.integers(0, 10**6), st.integers(1, 4), st.floats(0.05, 0.95), st.booleans())
def test_denoiser_is_the_posterior(name, seed, length, t, holes):
    noise = NOISES[name]
    log_joint = random_law(seed, length, holes and name != "absorbing")
    table = Table(log_joint, noise)
    x_t = torch.from_numpy(np.random.default_rng(seed).integers(0, noise.vocab, (2, length)))
    time = torch.full((2,), t, dtype=torch.float64)
    got = table(x_t, time, torch.ones(2, length, dtype=torch.bool), torch.zeros(2, dtype=torch.long)).exp()
    joint = table.log_posterior(x_t, time).exp()
    assert got.shape == (2 * length, noise.vocab)
    for r in range(2):
        want = by_hand(log_joint, noise, x_t[r].tolist(), 1 - t)
        assert torch.allclose(joint[r], torch.tensor(list(want.values()), dtype=torch.float64), atol=1e-12)
        marginals = torch.zeros(length, noise.vocab, dtype=torch.float64)
        for state, weight in want.items():
            marginals[torch.arange(length), list(state)] += weight
        assert torch.allclose(got.view(2, length, -1)[r], marginals, atol=1e-12)


@pytest.mark.parametrize("name", sorted(NOISES))
def test_the_time_matters_unless_noise_is_absorbing(name):
    log_joint, x_t = random_law(0, 3), [0, 2, 1]
    got = Table(log_joint, NOISES[name]).log_posterior(torch.tensor([x_t]), torch.tensor([0.4]).double())[0].exp()
    for a_t, same in ((0.6, True), (0.7, name == "absorbing")):
        want = torch.tensor(list(by_hand(log_joint, NOISES[name], x_t, a_t).values()), dtype=torch.float64)
        assert torch.allclose(got, want, atol=1e-6) == same


@pytest.mark.parametrize("name", sorted(NOISES))
def test_noisy_law(name):
    noise = NOISES[name]
    table = Table(random_law(1, 3), noise)
    log_noisy = table.log_noisy(0.4)
    noisy = table.noisy_states()
    assert log_noisy.shape == (noise.vocab**3, 27)
    assert torch.allclose(log_noisy.logsumexp(0), table.log_p)
    assert torch.allclose(table.log_marginal(0.4).exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    time = torch.full((len(noisy),), 0.4, dtype=torch.float64)
    posterior = log_noisy - table.log_marginal(0.4)[:, None]
    assert torch.allclose(posterior.exp(), table.log_posterior(noisy, time).exp(), atol=1e-12)
    # At t = 0 nothing is noisy, at t = 1 nothing is known.
    at_start = table.log_marginal(0.0).exp().view((noise.vocab,) * 3)[:3, :3, :3]
    assert torch.allclose(at_start.flatten(), table.log_p.exp())
    assert torch.allclose(table.log_marginal(1.0).exp(), noise.pi[noisy].prod(1), atol=1e-12)


def test_revealed_tokens_are_good_at_every_time_under_absorbing_noise():
    table = Table(random_law(2, 3), absorbing(4))
    x_t, where = torch.tensor([[3, 1, 3]]), torch.ones(1, 3, dtype=torch.bool)
    early, late = (table(x_t, torch.tensor([t]), where, torch.zeros(1, dtype=torch.long)) for t in (0.0, 1.0))
    assert torch.equal(early, late) and table.time_independent
    assert early[1].exp().tolist() == [0, 1, 0, 0]
    assert (early[:, 3] == -torch.inf).all()
    assert not Table(random_law(2, 3), uniform(3)).time_independent


def test_leave_one_out_is_the_conditional():
    for noise in NOISES.values():
        table = Table(random_law(3, 3), noise)
        p = table.log_p.exp().view(3, 3, 3)
        x = table.states()
        where = torch.zeros(27, 3, dtype=torch.bool)
        where[:, [0, 2]] = True
        got = table.leave_one_out(x, where, torch.arange(27)).exp().view(27, 2, -1)
        for r, (a, b, c) in enumerate(x.tolist()):
            assert torch.allclose(got[r, 0, :3], p[:, b, c] / p[:, b, c].sum())
            assert torch.allclose(got[r, 1, :3], p[a, b, :] / p[a, b, :].sum())
        assert got.sum(-1).allclose(torch.ones(27, 2, dtype=torch.float64))


def test_tilted_and_log_prob():
    table = Table(random_law(4, 2), uniform(3))
    reward = torch.arange(9).double()
    target = table.log_p.exp() * (reward / 0.7).exp()
    assert torch.allclose(table.tilted(reward, 0.7).exp(), target / target.sum())
    assert torch.equal(table.log_prob(table.states()), table.log_p)
    assert torch.equal(table.index(table.states()), torch.arange(9))


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_joint_draws_follow_the_posterior(name):
    table = Table(random_law(5, 3), NOISES[name])
    x_t, time = torch.tensor([[2, 3, 3], [3, 3, 3]]) % table.noise.vocab, torch.tensor([0.7, 0.7])
    drawn = table.joint(x_t, time, Rng.seeded(0, 2), 40_000)
    assert drawn.shape == (40_000, 2, 3)
    assert torch.equal(drawn[:100], table.joint(x_t, time, Rng.seeded(0, 2), 100))
    posterior = table.log_posterior(x_t, time).exp()
    where = torch.ones(2, 3, dtype=torch.bool)
    log_p0 = table(x_t, time, where, torch.arange(2))
    alone = Rng.seeded(1, 2).categorical(log_p0, where, 40_000).view(40_000, 2, 3)
    for r in range(2):
        possible = posterior[r] > 1e-3
        for tokens, fits in ((drawn, True), (alone, False)):  # a product of marginals is another law
            seen = torch.bincount(table.index(tokens[:, r]), minlength=27)[possible].double().numpy()
            expected = posterior[r][possible].numpy()
            assert (chisquare(seen, expected / expected.sum() * seen.sum()).pvalue > 1e-4) == fits


@pytest.mark.parametrize("name", sorted(NOISES))
def test_rows_are_the_same_bits_in_every_batch(name):
    table = Table(random_law(6, 4), NOISES[name])
    x_t = torch.from_numpy(np.random.default_rng(0).integers(0, table.noise.vocab, (300, 4)))
    t = torch.linspace(0.01, 0.99, 300)
    where = torch.ones(300, 4, dtype=torch.bool)
    full = table(x_t, t, where, torch.arange(300)).view(300, 4, -1)
    for size in (1, 3, 64):
        for start in (0, 17, 200):
            part = slice(start, start + size)
            some = table(x_t[part], t[part], where[part], torch.arange(size)).view(size, 4, -1)
            assert torch.equal(some, full[part])


def test_mapping_and_errors():
    table = Table({(0, 1): 0.0, (2, 2): 1.0}, absorbing(4))
    assert table.length == 2 and int((table.log_p > -torch.inf).sum()) == 2
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    x_t, t, rows = torch.tensor([[1, 3]]), torch.tensor([0.5]), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="x_t row 0 has no possible state"):
        table(x_t, t, nothing, rows)
    assert table(torch.tensor([[0, 3]]), t, nothing, rows).shape == (0, 4)
    with pytest.raises(ValueError, match="packed row 0"):
        table.leave_one_out(torch.tensor([[1, 0]]), torch.tensor([[False, True]]), rows)
    with pytest.raises(ValueError, match="row 0 holds a token outside the 3 clean ones"):
        table.log_prob(x_t)
    with pytest.raises(ValueError, match="got sequences of 3 tokens"):
        table.log_prob(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="one axis a position"):
        Table(torch.zeros(3, 4), uniform(3))
    with pytest.raises(ValueError, match="the table row 0 has no possible state"):
        Table(torch.full((3, 3), -torch.inf), uniform(3))
    with pytest.raises(ValueError, match="states of one length"):
        Table({(0,): 0.0, (1, 2): 0.0}, uniform(3))
    with pytest.raises(ValueError, match="needs it last"):
        Table(torch.zeros(3, 3), absorbing(4, mask=0))
