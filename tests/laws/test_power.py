"""Power sampling and self-rewarding SMC, enumerated: both aim at the decoder's distribution raised to a power.

P_decoder(path) p(path)^(a - 1)   with   p(path) = prod of the probabilities of what the steps settle
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.decoding import Decoder, grid
from iterref.exact.table import Table
from iterref.noise import uniform
from iterref.rewards.base import Reward
from iterref.samplers.power import Likely, Power
from iterref.samplers.self_rewarding import SelfRewarding
from tests.support.oracle import (
    Enumerator,
    balance_error,
    enumerate_outcomes,
    law_matrix,
    stationarity_error,
    total_variation,
)
from tests.support.paths import base_paths, run_of
from tests.support.worlds import TableReward, random_reward, random_table

ALPHA, LENGTH, STEPS, A = 1.0, 2, 2, 1.7
ORDERS = ["random", "left", "confidence"]


def world(kind: str = "absorbing", seed: int = 5) -> tuple[Table, TableReward]:
    """Two correlated tokens; under uniform noise by a schedule that is not linear."""
    table, reward = random_table(kind, LENGTH, 2, seed, coupling=0.8), random_reward(LENGTH, 2, seed)
    return (table if kind == "absorbing" else Table(table.log_p.view(2, 2), uniform(2, "cosine"))), reward


def open_at(table: Table, x_t: Tensor, t: float) -> Tensor:
    """Where states (P, L) at time t leave the clean token open: at masks, or everywhere before the end."""
    return x_t == table.noise.mask if table.noise.mask is not None else torch.full_like(x_t, t > 0).bool()


def log_settled(table: Table, reward: Reward, paths: Tensor) -> Tensor:
    """The log-probabilities (P, K) of what each step of paths (P, K + 1, L) settles, from the model's own answers."""
    run, times, steps = run_of(table, reward, ALPHA, len(paths)), grid(STEPS), []
    for k in range(STEPS):
        x_t, x_u = paths[:, k], paths[:, k + 1]
        where = open_at(table, x_t, times[k])
        settled = where & ~open_at(table, x_u, times[k + 1])
        cells = torch.zeros(x_t.shape, dtype=torch.float64)
        log_p = run.predict(x_t, times[k], where)
        cells[where] = log_p.gather(1, x_u[where].clamp_max(log_p.shape[1] - 1)[:, None])[:, 0].double()
        steps.append(torch.where(settled, cells, 0.0).sum(1))
    return torch.stack(steps, 1)


def log_weights(table: Table, reward: Reward, paths: Tensor, order: str, exponent: float = A) -> Tensor:
    """What the method keeps of each step (P, K): log p^a / q of what it settled, by the definition of q."""
    settled = log_settled(table, reward, paths)
    if order == "confidence" or table.noise.mask is None:
        return (exponent - 1) * settled  # q = p
    run, times, steps = run_of(table, reward, ALPHA, len(paths)), grid(STEPS), []
    for k in range(STEPS):
        where = open_at(table, paths[:, k], times[k])
        cells = torch.zeros(where.shape, dtype=torch.float64)
        cells[where] = (exponent * run.predict(paths[:, k], times[k], where)).logsumexp(1)
        steps.append(torch.where(where & ~open_at(table, paths[:, k + 1], times[k + 1]), cells, 0.0).sum(1))
    return torch.stack(steps, 1)


def method(order: str, tries: int = 2, start: int = 0, exponent: float = A, of: type[Power] = Power) -> Power:
    return of(steps=STEPS, order=order, tries=tries, span_steps=STEPS - start, exponent=exponent)


def matrix_of(table: Table, reward: TableReward, power: Power, paths: Tensor) -> Tensor:
    log_w = log_weights(table, reward, paths, power.order, power.exponent)

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run, path = run_of(table, reward, ALPHA, len(start)), paths[start]
        x = path[:, -1]
        new, _ = power.step(run, Likely(1, 0.0, x, x, reward(x, run.rows), path, log_w[start]), rng)
        assert isinstance(new, Likely)
        made = log_weights(table, reward, new.path, power.order, power.exponent)
        assert torch.allclose(new.log_w, made)  # what travels is what it was
        return new.path

    return law_matrix(*enumerate_outcomes(outcome, len(paths)), paths)


def target(table: Table, reward: TableReward, order: str, exponent: float = A) -> tuple[Tensor, Tensor]:
    """All paths of the decoder, and their distribution raised to the power and tilted."""
    paths, prior = base_paths(table, reward, STEPS, Decoder(order))
    r = reward(paths[:, -1], torch.zeros(len(paths)))
    return paths, (prior.log() + (exponent - 1) * log_settled(table, reward, paths).sum(1) + r / ALPHA).softmax(0)


@pytest.mark.parametrize("order, kind", [*((order, "absorbing") for order in ORDERS), ("random", "uniform")])
@pytest.mark.parametrize("start", [0, 1])
def test_a_move_keeps_the_power_of_the_decoder_that_is_run(order, kind, start):
    table, reward = world(kind)
    paths, law = target(table, reward, order)
    tries = 1 if kind == "uniform" else 2
    matrix = matrix_of(table, reward, method(order, tries, start), paths)
    assert stationarity_error(law, matrix) < 1e-10 and balance_error(law, matrix) < 1e-10


@pytest.mark.parametrize("order", ["random", "left"])
def test_one_token_at_a_time_is_the_power_of_the_model(order):
    """Two correlated tokens: the texts alone have p(x)^a exp(r / alpha), for paths that show one token a step."""
    table, reward = world()
    paths, law = target(table, reward, order)
    single = (paths[:, 1] == table.noise.mask).sum(1) == 1
    law = torch.where(single, law, 0.0) / law[single].sum()
    texts = torch.zeros(4, dtype=torch.float64).index_add_(0, table.index(paths[:, -1]), law)
    log_p, r = table.log_p.flatten(), reward(table.states(), torch.zeros(4))
    assert total_variation(texts, (A * log_p + r / ALPHA).softmax(0)) < 1e-10
    assert total_variation(texts, (log_p + r / ALPHA).softmax(0)) > 1e-2
    assert (
        total_variation(texts, (table.log_p.flatten() + reward(table.states(), torch.zeros(4)) / ALPHA).softmax(0))
        > 1e-2
    )


class Untold(Power):
    """Negative control: what tails are drawn by is forgotten, as if sharpened ones needed no weight."""

    def _log_weight(self, reward: Tensor, marks: list[Tensor], alpha: float) -> Tensor:
        return reward / alpha


def test_a_wrong_power_is_detected():
    table, reward = world()
    paths, law = target(table, reward, "left")
    assert stationarity_error(law, matrix_of(table, reward, method("left", of=Untold), paths)) > 1e-3
    assert stationarity_error(law, matrix_of(table, reward, method("left", exponent=1.0), paths)) > 1e-3


def measure(smc: SelfRewarding, table: Table, reward: TableReward) -> Tensor:
    """E[Z^ 1(the drawn particle is s)] of every text s, (S,)."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = run_of(table, reward, ALPHA, len(start))
        state = smc.init(run, rng)
        for _ in range(smc.iterations):
            state, _ = smc.step(run, state, rng)
        return torch.cat([state.x_t, state.particles.log_constant().exp()[:, None]], 1)

    _, probability, result = enumerate_outcomes(outcome, 1)
    index = table.index(result[:, :-1].long())
    return torch.zeros(4, dtype=torch.float64).index_add_(0, index, probability * result[:, -1])


@pytest.mark.parametrize("threshold", [0.0, 1.0])
@pytest.mark.parametrize("order, kind", [("left", "absorbing"), ("confidence", "absorbing"), ("random", "uniform")])
def test_self_rewarding_particles_are_unbiased_for_the_power(order, kind, threshold):
    table, reward = world(kind)
    smc = SelfRewarding(steps=STEPS, order=order, particles=2, exponent=A, threshold=threshold)
    paths, prior = base_paths(table, reward, STEPS, Decoder(order))
    weighted = prior * ((A - 1) * log_settled(table, reward, paths).sum(1)).exp()
    law = torch.zeros(4, dtype=torch.float64).index_add_(0, table.index(paths[:, -1]), weighted)
    found = measure(smc, table, reward)
    assert float((found - law).abs().max()) < 1e-10
    model = (A * table.log_p.flatten()).exp()
    assert (float((found - model).abs().max()) < 1e-10) == (order == "left")


def test_orders_whose_confidence_is_another_are_refused():
    for build in (Power, SelfRewarding):
        with pytest.raises(ValueError, match="order=margin keeps no log-probabilities"):
            build(order="margin")
    with pytest.raises(ValueError, match="exponent must be positive"):
        Power(exponent=0.0)
