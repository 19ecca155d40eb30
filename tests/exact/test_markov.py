"""The chain against the table of all its sequences, its tilted law, its draws, and its bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from iterref.models.markov import Markov, PairReward, TiltedMarkov, world
from iterref.models.table import Table
from iterref.noise import Noise, absorbing, uniform
from iterref.random import Rng

NOISES = {
    "absorbing": absorbing(4),
    "uniform": uniform(3),
    "skewed": Noise(torch.tensor([0.25, 0.5, 0.25])),
}


def chain(seed: int, length: int, noise: Noise, steps: bool = False, holes: bool = False) -> Markov:
    numbers = np.random.default_rng(seed)
    log_start = torch.from_numpy(numbers.standard_normal(3))
    shape = (length - 1, 3, 3) if steps else (3, 3)
    log_transition = torch.from_numpy(2 * numbers.standard_normal(shape))
    if holes:
        log_transition[..., 0, 1] = -torch.inf
    return Markov(log_start, log_transition, length, noise)


def table_of(model: Markov) -> Table:
    states = torch.cartesian_prod(*[torch.arange(model.tokens)] * model.length).view(-1, model.length)
    return Table(model.log_prob(states).view((model.tokens,) * model.length), model.noise)


def noisy(seed: int, rows: int, model: Markov) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, model.noise.vocab, (rows, model.length)))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(NOISES)),
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.floats(0.02, 1.0),
    st.booleans(),
    st.booleans(),
)
def test_denoiser_is_the_tables(name, seed, length, t, steps, holes):
    model = chain(seed, length, NOISES[name], steps, holes and name != "absorbing")
    x_t, time = noisy(seed, 3, model), torch.tensor([t, t / 2, t / 3], dtype=torch.float64)
    where = torch.from_numpy(np.random.default_rng(seed).random((3, length)) < 0.6)
    got = model(x_t, time, where, torch.arange(3)).exp()
    want = table_of(model)(x_t, time, where, torch.arange(3)).exp()
    assert got.shape == (int(where.sum()), model.noise.vocab)
    assert torch.allclose(got, want, atol=1e-10, rtol=1e-10)


def test_denoiser_reads_the_time_under_uniform_noise_alone():
    for name, free in (("absorbing", True), ("uniform", False), ("skewed", False)):
        model = chain(0, 4, NOISES[name])
        x_t, where = noisy(0, 5, model), torch.ones(5, 4, dtype=torch.bool)
        early, late = (model(x_t, torch.full((5,), t), where, torch.arange(5)) for t in (0.3, 0.9))
        assert torch.equal(early, late) == free == model.time_independent


@pytest.mark.parametrize("name", sorted(NOISES))
def test_rest_of_the_law_is_the_tables(name):
    model = chain(3, 4, NOISES[name], steps=True)
    table = table_of(model)
    p = table.log_p.exp()
    states = table.states()
    assert torch.allclose(p.sum(), torch.tensor(1.0, dtype=torch.float64))
    where = torch.rand(81, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    rows = torch.arange(81)
    assert torch.allclose(
        model.leave_one_out(states, where, rows).exp(), table.leave_one_out(states, where, rows).exp(), atol=1e-12
    )
    joint = p.view(3, 3, 3, 3)
    for i, pair in enumerate(model.pair_marginals()):
        others = tuple(axis for axis in range(4) if axis not in (i, i + 1))
        assert torch.allclose(pair, joint.sum(others))
    reward = PairReward(torch.arange(9).view(3, 3))
    assert np.isclose(model.mean(reward), float((p * reward(states, rows)).sum()))
    assert np.isclose(model.mean_log_prob(), float((p * table.log_p).sum()) / 4)
    other = chain(4, 4, NOISES[name])
    assert np.isclose(model.mean_log_prob(other), float((p * other.log_prob(states)).sum()) / 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.1, 5.0), st.booleans(), st.booleans())
def test_tilted_chain_is_the_tilted_table(seed, length, alpha, steps, holes):
    model = chain(seed, length, uniform(3), steps, holes)
    reward = PairReward(torch.from_numpy(np.random.default_rng(seed + 1).standard_normal((3, 3))))
    tilted = model.tilted(reward, alpha)
    table = table_of(model)
    states = table.states()
    values = reward(states, torch.zeros(len(states)))
    want = table.tilted(values, alpha).exp()
    assert torch.allclose(tilted.log_prob(states).exp(), want, atol=1e-12)
    assert np.isclose(tilted.mean_reward(), float((want * values).sum()), atol=1e-10)
    assert np.isclose(tilted.log_normaliser, float(torch.logsumexp(table.log_p + values / alpha, 0)))
    finite = torch.where(want > 0, want * table.log_p, 0.0)
    assert np.isclose(tilted.mean_log_prob(model), float(finite.sum()) / length)
    # Control: tilting each step by itself, without looking ahead, is another law.
    greedy = Markov(model.log_start, model.log_transition + reward.values / alpha, length, uniform(3))
    if length > 1 and alpha < 1:
        assert not torch.allclose(greedy.log_prob(states).exp(), want, atol=1e-6)


def fits(tokens: Tensor, table: Table, law: Tensor) -> bool:
    likely = law > 2e-3
    seen = torch.bincount(table.index(tokens), minlength=len(law))[likely].double().numpy()
    expected = law[likely].numpy()
    return bool(chisquare(seen, expected / expected.sum() * seen.sum()).pvalue > 1e-4)


@pytest.mark.parametrize("name", sorted(NOISES))
def test_joint_draws_follow_the_posterior(name):
    model = chain(5, 4, NOISES[name])
    table = table_of(model)
    x_t, time = torch.tensor([[2, 3, 3, 3], [3, 3, 1, 3]]) % model.noise.vocab, torch.tensor([0.8, 0.6])
    drawn = model.joint(x_t, time, Rng.seeded(0, 2), 30_000)
    assert drawn.shape == (30_000, 2, 4)
    assert torch.equal(drawn[:50, 1:], model.joint(x_t[1:], time[1:], Rng.seeded(0, torch.tensor([1])), 50))
    where = torch.ones(2, 4, dtype=torch.bool)
    alone = Rng.seeded(1, 2).categorical(model(x_t, time, where, torch.arange(2)), where, 30_000).view(30_000, 2, 4)
    posterior = table.log_posterior(x_t, time).exp()
    for r in range(2):
        assert fits(drawn[:, r], table, posterior[r])
        assert not fits(alone[:, r], table, posterior[r])


def test_samples_follow_the_chain():
    model = chain(6, 4, uniform(3), steps=True)
    table = table_of(model)
    tilted = model.tilted(PairReward(torch.eye(3)), 0.5)
    rng = Rng.seeded(2, 40_000)
    assert fits(model.sample(rng), table, table.log_p.exp())
    assert fits(tilted.sample(rng), table, table_of(tilted).log_p.exp())
    assert not fits(model.sample(rng), table, table_of(tilted).log_p.exp())
    assert torch.equal(model.sample(rng.take(torch.tensor([7, 3]))), model.sample(rng)[[7, 3]])


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_rows_are_the_same_bits_in_every_batch(noise):
    model, reward, tilted = world(noise=noise)
    x_0 = tilted.sample(Rng.seeded(0, 512))
    t = torch.linspace(0.02, 0.98, 512, dtype=torch.float64)
    x_t = model.noise.corrupt(x_0, torch.ones(512, 1), model.noise.a(t)[:, None], Rng.seeded(1, 512))
    where = torch.rand(512, 24, generator=torch.Generator().manual_seed(0)) < 0.4
    rows = torch.arange(512)

    def outputs(of: Tensor) -> list[Tensor]:
        full = torch.full((len(of), 24, model.noise.vocab), torch.nan, dtype=torch.float64)
        single = full.clone()
        full[where[of]] = model(x_t[of], t[of], where[of], rows[of])
        single[where[of]] = model.leave_one_out(x_0[of], where[of], rows[of])
        return [full, single, reward(x_0[of], rows[of]), tilted.log_prob(x_0[of])]

    whole = outputs(rows)
    for size in (1, 3, 64, 511):
        for start in (0, 1, 448):
            of = torch.arange(start, start + size) % 512
            for some, all_rows in zip(outputs(of), whole, strict=True):
                assert torch.equal(some.nan_to_num(7.0), all_rows[of].nan_to_num(7.0))


def test_a_long_chain_neither_vanishes_nor_blows_up():
    model = Markov(torch.zeros(3), 3 * torch.eye(3), 2000, uniform(3))
    x_t, where = noisy(0, 2, model), torch.ones(2, 2000, dtype=torch.bool)
    log_p0 = model(x_t, torch.tensor([1e-6, 0.999]), where, torch.arange(2)).view(2, 2000, 3)
    assert torch.allclose(log_p0.exp().sum(-1), torch.ones(2, 2000, dtype=torch.float64))
    assert (log_p0[0].argmax(-1) == x_t[0]).all() and (log_p0[1].exp() - 1 / 3).abs().max() < 0.05


def test_world():
    model, reward, tilted = world()
    assert isinstance(tilted, TiltedMarkov) and model.noise.vocab == 9 and model.length == 24
    assert 3 < model.mean(reward) < 4.5 and 11 < tilted.mean_reward() < 13.5
    other, _, _ = world(noise="uniform")
    assert torch.equal(other.log_transition, model.log_transition) and other.noise.vocab == 8
    drawn = tilted.sample(Rng.seeded(0, 20_000))
    values = reward(drawn, torch.arange(20_000))
    assert abs(float(values.mean()) - tilted.mean_reward()) < 5 * float(values.std()) / 20_000**0.5
    assert abs(float(model.log_prob(drawn).mean()) / 24 - tilted.mean_log_prob(model)) < 0.01
    with pytest.raises(ValueError, match="unknown noise"):
        world(noise="gaussian")


def test_errors_say_where():
    model = chain(0, 3, absorbing(4), holes=True)
    where, t, rows = torch.ones(2, 3, dtype=torch.bool), torch.tensor([0.5, 0.5]), torch.arange(2)
    with pytest.raises(ValueError, match="x_t row 1 is impossible"):
        model(torch.tensor([[3, 3, 3], [0, 1, 3]]), t, where, rows)
    with pytest.raises(ValueError, match="x_t has 2 positions"):
        model(torch.tensor([[3, 3], [3, 3]]), t, where, rows)
    with pytest.raises(ValueError, match="row 1 holds a token outside the 3 clean ones"):
        model.leave_one_out(torch.tensor([[0, 0, 0], [0, 3, 0]]), where, rows)
    with pytest.raises(ValueError, match="do not make a chain"):
        Markov(torch.zeros(3), torch.zeros(4, 4), 3, absorbing(4))
    with pytest.raises(ValueError, match="log_transition row 1"):
        steps = torch.zeros(3, 3)
        steps[1] = -torch.inf
        Markov(torch.zeros(3), steps, 3, absorbing(4))
    with pytest.raises(ValueError, match="alpha > 0"):
        model.tilted(PairReward(torch.eye(3)), 0.0)
    with pytest.raises(ValueError, match="finite matrix"):
        PairReward(torch.full((3, 3), torch.inf))
    with pytest.raises(ValueError, match="row 0 holds a token"):
        PairReward(torch.eye(3))(torch.tensor([[0, 3]]), rows[:1])
