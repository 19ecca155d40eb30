"""The rules in log space, every outcome enumerated: N + 1 labelled slots, of which the chain holds one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref import arrays, mtm
from iterref.random import Rng
from tests.support.oracle import Enumerator, balance_error, enumerate_outcomes, stationarity_error

EXACT = 1e-12
INF = float("inf")
finite = st.floats(-4, 4)
weights = st.lists(finite, min_size=2, max_size=5)
some = settings(max_examples=30, deadline=None)


def log(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slots(log_w: Tensor, rule=mtm.metropolised) -> Tensor:
    """The transition matrix over slots (S, S): the state's slot is current, the others are the candidates."""
    size = len(log_w)
    others = torch.tensor([[j for j in range(size) if j != i] for i in range(size)])

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        verdict = rule(log_w[start], log_w[others[start]], rng)
        moved = others[start].gather(1, verdict.choice[:, None])[:, 0]
        return torch.where(verdict.accepted, moved, start)[:, None]

    start, probability, result = enumerate_outcomes(run, size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.index_put_((start, result[:, 0]), probability, accumulate=True)


def plain_isir(log_w_current: Tensor, log_w: Tensor, rng: Rng) -> mtm.Verdict:
    """Plain i-SIR: one of all by weight, the current among them."""
    choice = rng.choose(torch.cat([log_w_current[:, None], log_w], 1))
    return mtm.Verdict((choice - 1).clamp_min(0), choice > 0, torch.zeros_like(choice, dtype=torch.bool))


@some
@given(weights)
def test_metropolised_is_reversible(values):
    log_w = log(values)
    matrix, law = slots(log_w), log_w.softmax(0)
    assert torch.allclose(matrix.sum(1), torch.ones(len(values), dtype=torch.float64), atol=EXACT)
    assert max(balance_error(law, matrix), stationarity_error(law, matrix)) < EXACT


@some
@given(weights)
def test_metropolised_is_its_formula_and_dominates_plain_isir(values):
    """Off the diagonal it moves more than plain i-SIR does, everywhere: Peskun's order (Liu 1996)."""
    log_w = log(values)
    w, matrix, plain = log_w.softmax(0), slots(log_w), slots(log_w, plain_isir)
    size = len(values)
    for i in range(size):
        for j in range(size):
            if i != j:
                expected = float(w[j] / (1 - w[i]) * torch.minimum(w[0] * 0 + 1, (1 - w[i]) / (1 - w[j])))
                assert float(matrix[i, j]) == pytest.approx(expected, abs=1e-10)
    off = ~torch.eye(size, dtype=torch.bool)
    assert bool((matrix[off] >= plain[off] - EXACT).all())
    assert balance_error(w, plain) < EXACT


@some
@given(finite, finite)
def test_one_candidate_is_metropolis(now, new):
    matrix = slots(log([now, new]))
    assert float(matrix[0, 1]) == pytest.approx(min(1.0, float(log([new - now]).exp())), abs=EXACT)


def test_a_wrong_acceptance_is_detected():
    """Negative control: a choice by weight that is always accepted forgets what it came from."""

    def eager(log_w_current: Tensor, log_w: Tensor, rng: Rng) -> mtm.Verdict:
        return mtm.select(log_w, rng)

    log_w = log([0.3, -1.0, 1.2])
    assert stationarity_error(log_w.softmax(0), slots(log_w, eager)) > 0.05


def decide(current: float, candidates: list[float]) -> mtm.Verdict:
    many = 200
    rng = Rng.seeded(1, many)
    return mtm.metropolised(log([current]).repeat(many), log(candidates).repeat(many, 1), rng)


def test_zero_weights_are_never_taken_and_always_left():
    left = decide(-INF, [-INF, 0.4, -INF])
    assert bool(left.accepted.all()) and bool((left.choice == 1).all()) and not bool(left.stuck.any())
    single = decide(-INF, [-800.0])  # any positive weight beats none, however small
    assert bool(single.accepted.all())
    kept = decide(0.0, [-INF, 0.4, -INF])
    assert bool((kept.choice == 1).all()) and not bool(kept.stuck.any())


@pytest.mark.parametrize("current", [-INF, 0.0])
def test_a_row_without_a_positive_weight_stays_and_says_so(current):
    verdict = decide(current, [-INF, -INF])
    assert bool(verdict.stuck.all()) and not bool(verdict.accepted.any())
    assert bool((verdict.choice == 0).all())


@some
@given(st.lists(finite, min_size=3, max_size=4), st.integers(0, 3))
def test_zero_weights_keep_balance(values, zero):
    log_w = log(values + [0.2])
    log_w[zero % len(log_w)] = -INF
    assert balance_error(log_w.softmax(0), slots(log_w)) < EXACT


@some
@given(st.lists(finite, min_size=2, max_size=4), st.floats(-300, 300))
def test_only_ratios_of_weights_count(values, shift):
    assert torch.allclose(slots(log(values)), slots(log(values) + shift), atol=1e-9)


def test_select_draws_by_weight():
    log_w = log([0.0, 1.0, -INF])

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        verdict = mtm.select(log_w.expand(len(start), -1), rng)
        assert bool(verdict.accepted.all()) and not bool(verdict.stuck.any())
        return verdict.choice[:, None]

    _, probability, result = enumerate_outcomes(run, 1)
    law = torch.zeros(3, dtype=torch.float64).index_add_(0, result[:, 0], probability)
    assert torch.allclose(law, log_w.softmax(0), atol=EXACT)
    stuck = mtm.select(torch.full((4, 3), -INF), Rng.seeded(0, 4))
    assert bool(stuck.stuck.all()) and stuck.choice.tolist() == [0] * 4 and bool(stuck.accepted.all())
    first = mtm.propose(torch.full((4, 3), -INF), Rng.seeded(0, 4))
    assert bool(first.stuck.all()) and not bool(first.accepted.any())


def accept(forward: list[float], backward: list[float], gain: float) -> float:
    """The probability that `multiple_try` accepts."""

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        n = len(start)
        given = (log(forward).expand(n, -1), log(backward).expand(n, -1), log([gain]).expand(n))
        return mtm.multiple_try(*given, rng)[0].long()[:, None]

    _, probability, result = enumerate_outcomes(run, 1)
    return float((probability * result[:, 0]).sum())


@some
@given(st.lists(finite, min_size=1, max_size=3), st.lists(finite, min_size=1, max_size=3), finite)
def test_multiple_try_is_its_formula(forward, backward, gain):
    ratio = float((log([gain]) + log(forward).logsumexp(0) - log(backward).logsumexp(0)).exp())
    assert accept(forward, backward, gain) == pytest.approx(min(1.0, ratio), abs=1e-10)


def test_multiple_try_with_zero_weights():
    assert accept([0.0], [-INF], 0.0) == 1  # nothing speaks for staying
    assert accept([-INF], [0.0], 0.0) == 0  # nothing speaks for going
    assert accept([-INF], [-INF], 0.0) == 0
    assert accept([0.0], [0.0], INF) == 1  # out of a state of density zero
    assert accept([0.0], [0.0], -INF) == 0
    assert accept([0.0], [0.0], float("nan")) == 0  # from one forbidden state to another


def first_law(log_ratio: list[float]) -> Tensor:
    """The law over (candidates ..., stays) of `metropolis_first`."""
    size = len(log_ratio)

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        verdict = mtm.metropolis_first(log(log_ratio).expand(len(start), -1), rng)
        return torch.where(verdict.accepted, verdict.choice, size)[:, None]

    _, probability, result = enumerate_outcomes(run, 1)
    return torch.zeros(size + 1, dtype=torch.float64).index_add_(0, result[:, 0], probability)


@some
@given(st.lists(finite, min_size=1, max_size=4))
def test_metropolis_first_takes_the_first_that_passes(log_ratio):
    left, expected = 1.0, []
    for value in log_ratio:
        passes = min(1.0, float(log([value]).exp()))
        expected.append(left * passes)
        left *= 1 - passes
    assert torch.allclose(first_law(log_ratio), log([*expected, left]), atol=1e-10)


def test_metropolis_first_with_zero_weights():
    assert first_law([-INF, INF, 0.0]).tolist() == [0, 1, 0, 0]
    for ratio in (-INF, float("nan")):  # NaN: the current state is forbidden too
        verdict = mtm.metropolis_first(log([ratio, ratio]).expand(5, -1), Rng.seeded(0, 5))
        assert bool(verdict.stuck.all()) and not bool(verdict.accepted.any())


def test_what_is_no_weight_is_refused():
    good, rng = torch.zeros(2, 3, dtype=torch.float64), Rng.seeded(0, 2)
    for value in (INF, float("nan")):
        bad = good.clone()
        bad[1, 2] = value
        with pytest.raises(ValueError, match="row 1 has a log-weight"):
            mtm.metropolised(good[:, 0], bad, rng)
    with pytest.raises(ValueError, match="row 1 has a log-weight of nan"):
        mtm.metropolised(log([0.0, float("nan")]), good, rng)


def test_extreme_weights_overflow_nowhere():
    """A current state that outweighs all candidates beyond any number stays; one that weighs nothing goes."""
    rng = Rng.seeded(0, 2)
    for scale in (1e3, 1e99):
        verdict = mtm.metropolised(log([scale, -scale]), torch.zeros(2, 3, dtype=torch.float64), rng)
        assert verdict.accepted.tolist() == [False, True]
        verdict = mtm.metropolised(log([0.0, -INF]), log([[scale, -scale], [-scale, -INF]]), rng)
        assert verdict.accepted.tolist() == [True, True] and verdict.choice.tolist() == [0, 0]


def test_a_device_decides_as_the_host_does(monkeypatch):
    """The formulas by torch, as a device computes them, and by numpy."""
    generator = torch.Generator().manual_seed(4)
    log_w = torch.randn(500, 6, generator=generator, dtype=torch.float64) * 3
    log_w[::7] = -INF
    now, rng = torch.randn(500, generator=generator, dtype=torch.float64), Rng.seeded(6, 500)
    host = mtm.metropolised(now, log_w, rng)
    monkeypatch.setattr(arrays, "HOST", "nowhere")
    device = mtm.metropolised(now, log_w, rng)
    assert torch.equal(host.choice, device.choice) and torch.equal(host.accepted, device.accepted)
    assert torch.equal(host.stuck, device.stuck) and 50 < int(host.accepted.sum()) < 450


def test_a_row_is_decided_alike_in_every_batch():
    """Candidates arrive transposed from (N, B), whose strides depend on the batch: the decision must not."""
    many, n = 300, 37
    reward = torch.randn(n, many, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    now, rng = reward.mean(0) + 3, Rng.seeded(5, many)
    whole = mtm.metropolised(now, reward.T, rng)
    for row in range(0, many, 29):
        one = torch.tensor([row])
        alone = mtm.metropolised(now[one], reward[:, one].T, rng.take(one))
        assert int(alone.choice) == int(whole.choice[row]) and bool(alone.accepted) == bool(whole.accepted[row])
