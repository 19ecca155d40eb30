"""Resampling schemes, every outcome enumerated: unbiased all of them, and each with the spread that it promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.random import Rng
from iterref.resample import SCHEMES, multinomial, residual, stratified, systematic
from tests.support.oracle import Enumerator, enumerate_outcomes

EXACT, INF = 1e-12, float("inf")
weights = st.lists(st.floats(-5, 5) | st.just(-INF), min_size=1, max_size=4)
every = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
some = settings(max_examples=25, deadline=None)


def children(scheme: object, values: list[float], n: int) -> tuple[Tensor, Tensor]:
    """The probabilities (E,) of all outcomes and the children (E, N) that each particle has in them."""
    log_w = torch.tensor(values, dtype=torch.float64)

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        chosen = scheme(log_w.expand(len(start), -1), rng, n)
        assert chosen.shape == (len(start), n) and chosen.is_contiguous()
        return torch.nn.functional.one_hot(chosen, len(values)).sum(1).double()

    _, probability, count = enumerate_outcomes(run, 1)
    return probability, count


def law(values: list[float]) -> Tensor:
    log_w = torch.tensor(values, dtype=torch.float64)
    return (log_w if bool(log_w.isfinite().any()) else torch.zeros_like(log_w)).softmax(0)


@every
@some
@given(weights, st.integers(1, 3))
@example([0.0, 0.0, 0.0], 3)
@example([-INF, -INF], 2)
@example([-INF, 0.0, -INF], 2)
def test_the_mean_number_of_children_is_the_weight(scheme, values, n):
    """As many ancestors as particles, fewer or more; zero weights have none, and without any all are equal."""
    probability, count = children(scheme, values, n)
    assert float(probability.sum()) == pytest.approx(1, abs=EXACT)
    assert torch.allclose(probability @ count, n * law(values), atol=1e-10, rtol=0)
    if max(values) > -INF:
        assert bool((count[:, torch.tensor(values).isneginf()] == 0).all())


@some
@given(weights, st.integers(1, 3))
def test_systematic_and_residual_never_lose_a_whole_child(values, n):
    share = n * law(values)
    for scheme in (systematic, residual):
        _, count = children(scheme, values, n)
        assert bool((count >= (share - 1e-9).floor()).all())
    _, count = children(systematic, values, n)
    assert bool((count <= (share + 1e-9).ceil()).all())


@some
@given(weights, st.integers(1, 3))
def test_stratified_keeps_every_run_of_particles_near_its_weight(values, n):
    """The children of the first k particles are those of their weight, up to one at the edge."""
    _, count = children(stratified, values, n)
    below = n * law(values).cumsum(0)
    assert bool(((count.cumsum(1) - below).abs() <= 1 + 1e-9).all())


@some
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=4))
def test_all_schemes_spread_less_than_independent_choices(values):
    """The variance of the mean over particles of a monotone score; Douc, Cappe and Moulines (2005), theorem 1."""
    n = len(values)
    score = torch.arange(n, dtype=torch.float64)

    def variance(scheme: object) -> float:
        probability, count = children(scheme, values, n)
        mean = count @ score / n
        return float(probability @ mean.square() - (probability @ mean).square())

    largest = variance(multinomial)
    assert variance(residual) <= largest + 1e-12 and variance(stratified) <= largest + 1e-12


def test_equal_weights_leave_everyone_one_child():
    rng = Rng.seeded(3, 50)
    equal = torch.full((50, 7), 0.3, dtype=torch.float64)
    for scheme in (systematic, stratified, residual):
        assert torch.equal(scheme(equal, rng), torch.arange(7).expand(50, 7))
    assert not torch.equal(multinomial(equal, rng), torch.arange(7).expand(50, 7))


@every
def test_a_row_is_resampled_the_same_in_every_batch(scheme):
    """Bit for bit, from weights that lie side by side or transposed in memory."""
    log_w = 3 * torch.randn(9, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rng = Rng.seeded(5, 40)
    whole = scheme(log_w.T, rng)
    keep = torch.tensor([31, 0, 7])
    assert torch.equal(scheme(log_w.T[keep], rng.take(keep)), whole[keep])
    assert torch.equal(scheme(log_w.T.contiguous(), rng), whole)


@every
def test_what_is_drawn_follows_the_weights(scheme):
    """The production generator too: a thousand rows, children within five standard errors of their mean."""
    log_w = torch.tensor([0.0, -1.0, -INF, 0.7, -3.0], dtype=torch.float64)
    chosen = scheme(log_w.expand(4000, -1), Rng.seeded(11, 4000))
    count = torch.nn.functional.one_hot(chosen, 5).sum(1).double()
    share = 5 * log_w.softmax(0)
    error = (share * (1 - share / 5) / 4000).sqrt()
    assert bool(((count.mean(0) - share).abs() <= 5 * error).all())


def test_a_biased_scheme_is_detected():
    """Negative control: the best for everybody, and parents drawn from the ranks, are off by whole children."""

    def greedy(log_w: Tensor, rng: Rng, n: int) -> Tensor:
        return log_w.argmax(1)[:, None].expand(-1, n).contiguous()

    def floors(log_w: Tensor, rng: Rng, n: int) -> Tensor:
        share = n * log_w.softmax(1)
        edge = share.floor().cumsum(1)
        at = torch.arange(n, dtype=torch.float64).expand(len(log_w), n).contiguous()
        return torch.searchsorted(edge, at, right=True).clamp_max(log_w.shape[1] - 1)  # what is left goes to the last

    values = [0.0, -0.7, -1.5]
    for scheme in (greedy, floors):
        probability, count = children(scheme, values, 3)
        assert float((probability @ count - 3 * law(values)).abs().max()) > 0.1


@every
def test_a_weight_that_is_no_number_is_refused(scheme):
    with pytest.raises(ValueError, match="NaN"):
        scheme(torch.tensor([[0.0, float("nan")]], dtype=torch.float64), Rng.seeded(0, 1))
