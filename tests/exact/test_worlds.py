"""The worlds' rewards, the quick denoiser against forward-backward and against the table, and the measures."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.measures import Yardstick, distance, shares
from iterref.exact import markov_posterior
from iterref.exact.markov import Markov, world
from iterref.exact.markov_posterior import Bridge
from iterref.exact.pair_reward import KINDS, random_reward
from iterref.exact.table import packed
from iterref.noise import absorbing
from iterref.random import Rng


def chain(seed: int, length: int, tokens: int, holes: bool = False, spread: float = 2.0) -> Markov:
    numbers = np.random.default_rng(seed)
    log_transition = torch.from_numpy(spread * numbers.standard_normal((tokens, tokens)))
    if holes:
        log_transition[0, 1:] = -torch.inf
    return Markov(torch.from_numpy(numbers.standard_normal(tokens)), log_transition, length, absorbing(tokens + 1))


def slow(model: Markov, x_t: Tensor, where: Tensor) -> Tensor:
    return packed(model._smoothed(x_t, torch.full((len(x_t),), 0.5), where), model.noise)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6), st.floats(0, 1), st.booleans(), st.booleans())
def test_the_bridge_is_forward_backward(seed, length, tokens, hidden, holes, drawn):
    """Texts of the chain and, where it makes all of them, any other; revealed, open and asked cells at random."""
    model, numbers = chain(seed, length, tokens, holes), np.random.default_rng(seed + 1)
    x_0 = torch.from_numpy(numbers.integers(0, tokens, (5, length)))
    if drawn or holes:
        x_0 = model.sample(Rng.seeded(seed, 5))
    x_t = torch.where(torch.from_numpy(numbers.random((5, length))) < hidden, tokens, x_0)
    where = torch.from_numpy(numbers.random((5, length)) < 0.7)
    got, want = model(x_t, torch.ones(5), where, torch.arange(5)), slow(model, x_t, where)
    assert got.shape == want.shape == (int(where.sum()), tokens + 1)
    assert torch.allclose(got.exp(), want.exp(), atol=1e-12, rtol=1e-12)
    assert bool((got[:, tokens] == -torch.inf).all())
    certain = got[(x_t < tokens)[where]]
    assert torch.equal(certain.amax(1), torch.zeros(len(certain), dtype=torch.float64))  # to the last bit


def test_the_bridge_looks_both_ways():
    """Negative control: with one neighbour alone, or at another distance, it is another law."""
    model = chain(1, 6, 3)
    x_t, where = torch.tensor([[0, 3, 3, 1, 3, 3]]), torch.tensor([[0, 1, 1, 0, 1, 1]]).bool()
    got = model(x_t, torch.ones(1), where, torch.arange(1))
    for other in ([0, 3, 3, 3, 3, 3], [3, 3, 3, 1, 3, 3], [0, 3, 1, 3, 3, 3]):
        changed = model(torch.tensor([other]), torch.ones(1), where, torch.arange(1))
        assert float((changed.exp() - got.exp()).abs().max()) > 0.01


def test_rows_of_the_bridge_are_the_same_bits_in_every_batch():
    model, _, tilted = world(100, 64)
    x_0 = tilted.sample(Rng.seeded(0, 40))
    hidden = torch.rand(40, 100, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 40)[:, None]
    x_t, rows = torch.where(hidden, 64, x_0), torch.arange(40)
    whole = torch.full((40, 100, 65), torch.nan, dtype=torch.float64)
    whole[hidden] = model(x_t, torch.ones(40), hidden, rows)
    for of in ([0], [39], [7, 30, 2], list(range(13, 40))):
        part = model(x_t[of], torch.ones(len(of)), hidden[of], rows[of])
        assert torch.equal(part, whole[of][hidden[of]])


def test_blocks_of_rows_change_no_bit(monkeypatch):
    model, _, _ = world(12, 5, noise="uniform")
    x_t, where = model.sample(Rng.seeded(3, 50)), torch.ones(50, 12, dtype=torch.bool)
    t = torch.linspace(0.1, 0.9, 50, dtype=torch.float64)
    whole = model(x_t, t, where, torch.arange(50))
    monkeypatch.setattr("iterref.exact.markov.BLOCK", 7 * 25)
    assert torch.equal(model(x_t, t, where, torch.arange(50)), whole)


def test_impossible_rows_are_named_whatever_is_asked(monkeypatch):
    """A token that follows nothing, between revealed neighbours far apart, first in the text, and out of range."""
    never = -torch.inf
    rigid = Markov(torch.tensor([0.0, never]), torch.tensor([[never, 0.0], [0.0, never]]), 5, absorbing(3))
    good, bad = [2, 1, 2, 2, 0], [2, 1, 2, 2, 1]
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    for wrong in (bad, [1, 2, 2, 2, 2], [0, 0, 2, 2, 2]):
        for limit in (markov_posterior.LARGEST, 0):  # forward-backward says the same
            monkeypatch.setattr("iterref.exact.markov_posterior.LARGEST", limit)
            rigid.__dict__.pop("_bridge", None)
            with pytest.raises(ValueError, match="x_t row 2 is impossible under this chain"):
                rigid(torch.tensor([good, [2] * 5, wrong]), torch.ones(3), nothing, torch.arange(3))
            assert (rigid._bridge is None) == (limit == 0)
    with pytest.raises(ValueError, match="outside 0 to 2"):
        Bridge(torch.eye(2).double(), torch.ones(3, 2).double())(torch.tensor([[0, 3, 1]]), nothing[:1, :3])


def test_only_a_homogeneous_masked_chain_has_a_bridge():
    model, _, tilted = world()
    assert model._bridge is not None and tilted._bridge is None
    assert world(noise="uniform")[0]._bridge is None
    assert Bridge.fits(64, 100) and not Bridge.fits(1024, 128)


@pytest.mark.parametrize("vocab, reward", list(product((2, 8, 64), KINDS)))
def test_every_kind_of_reward_is_worth_tilting_towards(vocab, reward):
    means = []
    for alpha in (1.0, 0.5, 0.25):
        model, values, tilted = world(24, vocab, 1, "absorbing", alpha, reward)
        means.append(tilted.mean_reward())
    low, spread = model.mean(values), float(values.values.max() - values.values.min())
    assert low < means[0] < means[1] < means[2] <= 23 * float(values.values.max())
    assert means[2] - low > spread  # at least one pair's worth
    again = world(24, vocab, 1, "uniform", 0.5, reward)[1]
    assert torch.equal(again.values, values.values)


def test_what_the_kinds_are():
    model, pairs, tilted = world()
    assert abs(model.mean(pairs) - 3.633) < 5e-4 and abs(tilted.mean_reward() - 12.889) < 5e-4  # as it always was
    assert sorted(pairs.values.sum(0).tolist()) == [1.0] * 8
    step = model.log_transition[0]
    made = {kind: random_reward(kind, step, torch.Generator().manual_seed(3)).values for kind in KINDS}
    for kind in ("smooth", "rough"):
        assert abs(float(made[kind].mean())) < 1e-12 and abs(float(made[kind].std(correction=0)) - 0.5) < 1e-12
    # neighbours on the ring agree under a smooth reward, and do not under a rough one
    around = {kind: float((made[kind] - made[kind].roll(1, 0)).std()) for kind in ("smooth", "rough")}
    wide = random_reward("smooth", torch.zeros(64, 64), torch.Generator().manual_seed(3)).values
    assert float((wide - wide.roll(1, 0)).abs().max()) < 0.35 and around["rough"] > 0.5
    rare = made["rare"]
    assert int((rare > 0).sum()) == 2
    for u, v in (rare > 0).nonzero().tolist():
        assert float(step[u].exp().min()) == float(step[u, v].exp())
        assert abs(float(rare[u, v]) / 0.5 + float(step[u, v])) < 1e-12
    with pytest.raises(ValueError, match="unknown kind of reward 'odd': choose pairs, smooth, rough or rare"):
        world(reward="odd")


def test_measures_are_what_they_say():
    tokens = torch.tensor([[0, 1, 1], [0, 1, 0], [1, 1, 1], [0, 1, 1]])
    law = shares(tokens, 2)
    assert law.tolist() == [[0.75, 0.25], [0.0, 1.0], [0.25, 0.75]]
    assert distance(law, torch.full_like(law, 0.5)) == pytest.approx((0.25 + 0.5 + 0.25) / 3)
    model, _, tilted = world(3, 2)
    found = Yardstick(model, tilted).measure(tokens)
    pairs = torch.zeros(2, 2, 2, dtype=torch.float64)
    for i, row in product(range(2), tokens.tolist()):
        pairs[i, row[i], row[i + 1]] += 0.25
    exact = tilted.pair_marginals()
    assert found["tv_single"] == pytest.approx(float((law - tilted.marginals()).abs().sum() / 6))
    assert found["tv_pair"] == pytest.approx(float((pairs - exact).abs().sum() / 4))
    assert found["tv_pooled"] == pytest.approx(float((pairs.mean(0) - exact.mean(0)).abs().sum() / 2))
    assert found["distinct"] == 0.75
    assert found["entropy"] == pytest.approx(2 * (0.75 * log(4 / 3) + 0.25 * log(4)) / 3)


def test_distances_of_exact_draws_are_their_floor_and_their_spread_is_known():
    """The floor is the mean over sets of draws; the standard error of a distance, from one set, is their spread."""
    model, _, tilted = world(24, 8)
    yardstick = Yardstick(model, tilted)
    sets = [yardstick.measure(part) for part in tilted.sample(Rng.seeded(9, 60 * 128)).split(128)]
    floor = yardstick.floor(128)
    for name in ("tv_single", "tv_pair", "tv_pooled"):
        values = np.array([one[name] for one in sets])
        assert abs(values.mean() - floor[name]) < 0.12 * floor[name]
        error = np.mean([one[f"{name}_sd"] for one in sets]) / 128**0.5
        assert 0.6 < error / values.std(ddof=1) < 2.5, name
    far = yardstick.measure(model.sample(Rng.seeded(9, 128)))  # negative control: the untilted chain
    assert far["tv_pair"] > floor["tv_pair"] + 10 * far["tv_pair_sd"] / 128**0.5
    wider = yardstick.floor(512)
    assert all(wider[name] < 0.7 * floor[name] for name in ("tv_single", "tv_pair", "tv_pooled"))
