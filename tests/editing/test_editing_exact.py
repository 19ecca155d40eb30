"""The laws of editing: the bound on the drift and the frozen tokens, enumerated; with what looks like it and is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iterref import Problem
from iterref.editing import Drift, Within
from iterref.exact.table import Table
from iterref.moves.shared import Shared
from iterref.random import Rng
from iterref.rewards.base import Reward
from iterref.run import Run
from iterref.samplers.base import Info, Paired
from tests.support.oracle import balance_error, enumerate_outcomes, law_matrix, stationarity_error, transition
from tests.support.worlds import moving, pair_states, random_reward, random_table, refine, target

EXACT = 1e-10
TOKENS, ALPHA = 2, 0.8
MOVE = moving(Shared(2, spacing=2), refine(0.0, 0.4), ALPHA)  # one site of two positions


def ball(reward: Reward, first: Tensor, bound: float, distance: str = "share") -> Reward:
    """A reward within a ball around one text (L,), whatever the row."""
    drift = Drift(first[None], torch.ones_like(first[None], dtype=torch.bool), distance)
    within = Within(reward, drift, bound)
    return lambda tokens, rows: within(tokens, torch.zeros(len(rows), dtype=torch.long))


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("distance", ["share", "edit"])
def test_the_bound_restricts_the_law_to_the_ball_exactly(kind, distance):
    table, reward = random_table(kind, 2, TOKENS, 3, 1.0), random_reward(2, TOKENS, 3)
    near, states = ball(reward, torch.tensor([0, 1]), 0.5, distance), pair_states(table, 0.0)
    law = target(table, near, ALPHA, 0.0, states)
    assert 0 < int((law == 0).sum()) < len(law)
    matrix = transition(table, near, ALPHA, MOVE, states)
    assert stationarity_error(law, matrix) < EXACT and balance_error(law, matrix) < EXACT
    assert float(matrix[law > 0][:, law == 0].max()) == 0  # no way out
    assert float(matrix[law == 0][:, law > 0].sum()) > 0  # and one back in


def test_no_bound_and_a_bound_around_the_current_text_are_other_laws():
    """Negative controls: the ball must stand around the first text."""
    table, reward = random_table("absorbing", 2, TOKENS, 3, 1.0), random_reward(2, TOKENS, 3)
    states = pair_states(table, 0.0)
    law = target(table, ball(reward, torch.tensor([0, 1]), 0.5), ALPHA, 0.0, states)

    def around_the_current(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
        drift = Drift(state.x_0, torch.ones_like(state.x_0, dtype=torch.bool))
        return MOVE(Run(replace(run.problem, reward=Within(run.problem.reward, drift, 0.5))), state, rng)

    for move in (MOVE, around_the_current):
        assert stationarity_error(law, transition(table, reward, ALPHA, move, states)) > 1e-2


def conditional(table: Table, reward: Reward, free: Tensor) -> Tensor:
    """The transition matrix (S, S) of one move with some positions (L,) frozen, over all texts."""
    states = table.states()

    def run(start: Tensor, rng: Rng) -> Tensor:
        x = states[start]
        run = Run(Problem(table, reward, x, free.expand(x.shape), alpha=ALPHA, remember=False))
        return MOVE(run, Paired(0, 0.0, x, x, run.reward_of(x, final=True)), rng)[0].x_0

    return law_matrix(*enumerate_outcomes(run, len(states)), states)


def test_frozen_tokens_leave_the_conditional_law():
    """Three positions, the middle one frozen: one law for each of its tokens; the marginal of the others is another."""
    table = random_table("absorbing", 3, TOKENS, 5, 1.0)
    states, rewards = table.states(), random_reward(3, TOKENS, 5)
    first = torch.tensor([0, 0, 1])
    near = ball(rewards, first, 0.67)  # the farthest text is out
    rows = torch.zeros(len(states), dtype=torch.long)
    matrix = conditional(table, near, torch.tensor([True, False, True]))
    weight = (table.log_prob(states) + near(states, rows) / ALPHA).exp()
    for token in range(TOKENS):
        here = states[:, 1] == token
        law = torch.where(here, weight, 0.0)
        assert stationarity_error(law / law.sum(), matrix) < EXACT
        assert float(matrix[here][:, ~here].max()) == 0
    both = weight.view(2, 2, 2).sum(1, keepdim=True).expand(2, 2, 2).flatten() * (states[:, 1] == 0)
    assert stationarity_error(both / both.sum(), matrix) > 1e-2
