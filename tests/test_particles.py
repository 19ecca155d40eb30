"""Particles: weights, estimates, and what resampling does to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.particles import Particles, adopt, pick
from iterref.resample import systematic
from tests.support.oracle import Enumerator, enumerate_outcomes

INF = float("inf")


def particles(n: int = 3, batch: int = 4, length: int = 2, seed: int = 0) -> Particles:
    """Random ones, every field filled, each particle's fields made of its own number."""
    generator = torch.Generator().manual_seed(seed)
    name = torch.arange(n * batch).view(n, batch)
    return Particles(
        name[..., None].expand(-1, -1, length),
        torch.randn(n, batch, generator=generator, dtype=torch.float64),
        torch.randn(batch, generator=generator, dtype=torch.float64),
        -name[..., None].expand(-1, -1, length),
        name.double(),
        torch.stack([name.double(), 10.0 * name]),
    )


def of_weights(*log_w: float) -> Particles:
    column = torch.tensor(log_w, dtype=torch.float64)[:, None]
    return replace(Particles.equal(torch.zeros(len(log_w), 1, 1)), log_w=column)


def test_equal_particles():
    equal = Particles.equal(torch.zeros(5, 2, 3))
    assert equal.n == 5 and equal.ess().tolist() == [5.0, 5.0] and equal.log_constant().tolist() == [0.0, 0.0]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(-300, 300))
@settings(max_examples=50, deadline=None)
def test_the_effective_number_and_the_constant_are_their_formulas(values, shift):
    """Whatever the common factor of the weights, which exp alone could not hold."""
    w = torch.tensor(values, dtype=torch.float64).exp()
    some = of_weights(*(value + shift for value in values))
    assert float(some.ess()) == pytest.approx(float(w.sum() ** 2 / w.square().sum()))
    assert float(some.log_constant()) == pytest.approx(float(w.mean().log()) + shift, abs=1e-9)


def test_rows_without_any_weight():
    none = of_weights(-INF, -INF)
    assert float(none.ess()) == 0 and float(none.log_constant()) == -INF
    taken = none.take(torch.tensor([[1], [1]])).weighed(torch.ones(2, 1))
    assert float(taken.log_constant()) == -INF and taken.log_w.flatten().tolist() == [1.0, 1.0]  # lost, but no NaN
    assert float(of_weights(-INF, 0.0).ess()) == 1


def test_resampling_moves_all_fields_together():
    some = particles()
    ancestors = torch.tensor([[2, 1, 0, 0], [2, 2, 2, 0], [1, 0, 0, 0]])
    taken = some.take(ancestors)
    name = ancestors * 4 + torch.arange(4)
    for field, value in (("x_t", name[..., None].expand(3, 4, 2)), ("x_0", -name[..., None].expand(3, 4, 2))):
        assert torch.equal(getattr(taken, field), value)
    assert torch.equal(taken.reward, name.double()) and torch.equal(taken.values, torch.stack([name, 10 * name]))
    assert torch.equal(taken.log_w, torch.zeros(3, 4, dtype=torch.float64))
    assert torch.equal(taken.log_z, some.log_constant()) and torch.equal(taken.log_constant(), some.log_constant())


def test_only_the_rows_that_say_so_are_resampled():
    some, ancestors = particles(), torch.zeros(3, 4, dtype=torch.long)
    rows = torch.tensor([True, False, True, False])
    taken, whole = some.take(ancestors, rows), some.take(ancestors)
    for field in ("x_t", "x_0", "reward", "values", "log_w"):
        mine, theirs, old = getattr(taken, field), getattr(whole, field), getattr(some, field)
        axis = 2 if field == "values" else 1
        assert torch.equal(mine.movedim(axis, 0)[rows], theirs.movedim(axis, 0)[rows])
        assert torch.equal(mine.movedim(axis, 0)[~rows], old.movedim(axis, 0)[~rows])
    assert torch.equal(taken.log_z[~rows], some.log_z[~rows])
    assert torch.allclose(taken.log_constant(), some.log_constant())


def test_the_number_may_change():
    some = particles()
    fewer = some.take(torch.tensor([[0, 1, 2, 0]]))
    assert fewer.n == 1 and torch.allclose(fewer.log_constant(), some.log_constant())
    assert some.take(torch.zeros(7, 4, dtype=torch.long)).n == 7


def test_an_order_keeps_the_weights():
    some = particles()
    index = torch.tensor([[1, 0, 2, 2], [0, 1, 1, 0], [2, 2, 0, 1]])
    moved = some.order(index)
    assert torch.equal(moved.log_w, some.log_w.gather(0, index)) and torch.equal(moved.log_z, some.log_z)
    assert torch.equal(moved.reward, some.reward.gather(0, index)) and torch.equal(moved.x_t, -moved.x_0)
    assert torch.allclose(moved.log_constant(), some.log_constant())


def test_a_weighted_mean_survives_resampling_in_the_mean():
    """E[Z^ sum_n W_n f(x^n)] over all outcomes of a scheme is what it was before; greedy parents are seen."""
    some = particles(batch=1)
    f = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)

    def estimate(of: Particles) -> Tensor:
        return of.log_constant().exp() * (of.by_row.softmax(1) * f[of.x_t[..., 0].T]).sum(1)

    def error(scheme: object) -> float:
        def run(start: Tensor, rng: Enumerator) -> Tensor:
            index = torch.zeros(3, len(start), dtype=torch.long)
            rows = Particles(
                some.x_t.repeat(1, len(start), 1), some.log_w.repeat(1, len(start)), some.log_z.repeat(len(start)),
            ).order(torch.arange(3)[:, None] + index)  # fmt: skip
            return estimate(rows.take(scheme(rows.by_row, rng).T))[:, None]

        _, probability, result = enumerate_outcomes(run, 1)
        return float((probability @ result - estimate(some)).abs())

    assert error(systematic) < 1e-12
    assert error(lambda log_w, rng: log_w.argmax(1)[:, None].expand(-1, 3)) > 1e-2


@pytest.mark.parametrize("batch", [1, 3, 8, 37])
def test_estimates_are_the_same_bits_in_every_batch(batch):
    """A row's effective number decides whether it is resampled: it may not depend on the other rows."""
    whole = particles(n=29, batch=64, seed=4)
    part = Particles(whole.x_t[:, :batch], whole.log_w[:, :batch], whole.log_z[:batch])
    assert torch.equal(part.ess(), whole.ess()[:batch])
    assert torch.equal(part.log_constant(), whole.log_constant()[:batch])


def test_picking_and_adopting():
    candidates = torch.arange(24).view(3, 4, 2)
    assert pick(candidates, torch.tensor([2, 0, 1, 0])).tolist() == [[16, 17], [2, 3], [12, 13], [6, 7]]
    assert torch.equal(pick(candidates, torch.zeros(5, 4, dtype=torch.long)), candidates[:1].expand(5, 4, 2))
    accepted = torch.tensor([True, False])
    assert adopt(accepted, torch.ones(2, 3), torch.zeros(2, 3)).sum(1).tolist() == [3, 0]
    assert adopt(accepted, torch.ones(2), torch.zeros(2)).tolist() == [1, 0]
