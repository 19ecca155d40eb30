"""Value-guided backtracking, enumerated: the walk's stationary distribution, and what it visits of the leaves.

visits of the leaf x_0  proportional to  P_decoder(path) exp(r(x_0) / alpha)        whatever the values in between
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iterref.decoding import Decoder
from iterref.exact.table import Table
from iterref.noise import Schedule, absorbing
from iterref.problem import Problem
from iterref.random import Rng
from iterref.rewards import Composable, with_partial
from iterref.run import Run
from iterref.samplers.vgb import VGB, Walk
from tests.support.oracle import Enumerator, enumerate_outcomes, stationary, total_variation
from tests.support.paths import base_paths, run_of, tilted
from tests.support.worlds import random_reward, random_table

ALPHA, LENGTH, STEPS = 0.7, 2, 2


def value(tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
    """Wrong on purpose: it prefers what the reward need not prefer."""
    return 0.8 * ((tokens[:, 0] == 1) & ~masked[:, 0]) - 0.5 * masked[:, 1]


def flat(state: Walk) -> Tensor:
    """What the next step looks at: the depth, the path down to it with its values, the child that was left."""
    below = torch.arange(STEPS + 1) > state.depth[:, None]
    path, worth = state.path.masked_fill(below[..., None], -9), state.worth.masked_fill(below, -9.0)
    kid = state.kid.masked_fill(~state.held[:, None], -9)
    kid_worth = state.kid_worth.masked_fill(~state.held, -9.0)
    return torch.cat([state.depth[:, None], path.flatten(1), worth, kid, kid_worth[:, None]], 1).double()


def unflat(rows: Tensor) -> Walk:
    at = 1 + (STEPS + 1) * LENGTH
    depth, path, worth = (
        rows[:, 0].long(),
        rows[:, 1:at].long().view(-1, STEPS + 1, LENGTH),
        rows[:, at : at + STEPS + 1],
    )
    kid, kid_worth = rows[:, at + STEPS + 1 : -1].long(), rows[:, -1]
    none = torch.zeros(len(rows), dtype=torch.long)
    return Walk(
        STEPS, 0.0, path[:, 0], depth, path, worth, kid, kid_worth, kid_worth > -9, path[:, 0], none.double(), none
    )


def walked(table: Table, reward: Composable, method: VGB) -> tuple[Tensor, Tensor]:
    """All states that the walk comes to (S, *), and its transition matrix (S, S)."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        state, _ = method.step(run_of(table, reward, ALPHA, len(start)), unflat(known[start]), rng)
        assert isinstance(state, Walk)
        return flat(state)

    run = run_of(table, reward, ALPHA, 1)
    known = flat(begun(run))
    while True:
        start, probability, result = enumerate_outcomes(outcome, len(known))
        found = torch.cat([known, result[probability > 0]]).unique(dim=0)
        if len(found) == len(known):
            break
        known = found
    index = (result[:, None] == known[None]).all(2).long().argmax(1)
    matrix = torch.zeros(len(known), len(known), dtype=torch.float64)
    return known, matrix.index_put_((start, index), probability, accumulate=True)


def begun(run: Run) -> Walk:
    """The walk at the root."""
    x = run.canvas * 0 + run.noise.mask
    none, zero = run.rows * 0, run.rows.double() * 0
    path = x[:, None].repeat(1, STEPS + 1, 1)
    return Walk(STEPS, 0.0, x, none, path, zero[:, None].repeat(1, STEPS + 1), x, zero, none > 0, x, zero, none)


def leaves(table: Table, states: Tensor, law: Tensor) -> Tensor:
    """The distribution of the leaves that are visited, (S,): a walk that holds a child at the last level has been."""
    walk = unflat(states)
    been = walk.held & (walk.depth == STEPS - 1)
    visits = torch.zeros(len(table.states()), dtype=torch.float64)
    visits.index_add_(0, table.index(walk.kid[been]), law[been])
    return visits / visits.sum()


def expected(table: Table, reward: Composable, decoder: Decoder) -> Tensor:
    paths, prior = base_paths(table, reward, STEPS, decoder)
    law = tilted(paths, prior, reward, ALPHA)
    return torch.zeros(len(table.states()), dtype=torch.float64).index_add_(0, table.index(paths[:, -1]), law)


@pytest.mark.parametrize("candidates", [2, 3])
@pytest.mark.parametrize("order", ["left", "confidence"])
def test_the_leaves_have_the_tilted_distribution(order, candidates):
    """Two correlated tokens, one a step, and a value that is wrong."""
    table = random_table("absorbing", LENGTH, 2, 3, coupling=1.5)
    reward = with_partial(random_reward(LENGTH, 2, 3), value)
    method = VGB(steps=STEPS, order=order, candidates=candidates, value="partial")
    states, matrix = walked(table, reward, method)
    found = leaves(table, states, stationary(matrix))
    assert total_variation(found, expected(table, reward, Decoder(order))) < 1e-9


def test_the_leaves_have_it_where_clean_samples_are_the_values_and_texts_are_forbidden():
    table, reward = random_table("absorbing", LENGTH, 2, 3, coupling=1.5), random_reward(LENGTH, 2, 5, forbid=True)
    assert bool(reward.values.isneginf().any())
    states, matrix = walked(table, reward, VGB(steps=STEPS, order="left", candidates=2))
    found = leaves(table, states, stationary(matrix))
    assert total_variation(found, expected(table, reward, Decoder("left"))) < 1e-9


@pytest.mark.parametrize("order, block", [("random", 0), ("bounded", 1)])
def test_the_leaves_have_it_under_another_schedule_and_block_by_block(order, block):
    given = random_table("absorbing", LENGTH, 2, 3, coupling=1.5)
    table = Table(given.log_p.view(2, 2), absorbing(3, schedule=Schedule("cosine")))
    reward = random_reward(LENGTH, 2, 5)
    states, matrix = walked(table, reward, VGB(steps=STEPS, order=order, block_length=block, candidates=2))
    found = leaves(table, states, stationary(matrix))
    assert total_variation(found, expected(table, reward, Decoder(order, block))) < 1e-9


def test_a_forbidden_leaf_is_no_visit():
    """What the first way down is stuck with gives way to the first allowed leaf."""
    table = Table(torch.tensor([0.05, 0.95]).log(), absorbing(3))
    rare = random_reward(1, 2, 1)
    rare.values[1] = -torch.inf
    method, rng = VGB(steps=1, moves=9, candidates=2), Rng.seeded(1, 400)
    run = Run(Problem(table, rare, torch.zeros(400, 1), alpha=ALPHA))
    state, allowed = method.init(run, rng), torch.zeros(400, dtype=torch.bool)
    for k in range(method.iterations):
        state, _ = method.step(run, state, rng.fork(k))
        assert isinstance(state, Walk)
        allowed |= state.kid_worth.isfinite()
        assert torch.equal(state.reward.isfinite(), allowed)
    assert 150 < int(allowed.sum()) < 350


class Forgetful(VGB):
    """Negative control: after a way back all children are drawn anew."""

    def _children(self, run, state, rng):
        return super()._children(run, replace(state, held=state.held & False), rng)


def test_a_walk_that_forgets_where_it_came_from_is_off():
    table = random_table("absorbing", LENGTH, 2, 3, coupling=1.5)
    reward = with_partial(random_reward(LENGTH, 2, 3), value)
    states, matrix = walked(table, reward, Forgetful(steps=STEPS, order="left", candidates=2, value="partial"))
    found = leaves(table, states, stationary(matrix))
    assert total_variation(found, expected(table, reward, Decoder("left"))) > 1e-3
