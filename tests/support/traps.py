"""Wrong rules that look right, each built from the production parts, for the tests of traps and the table of biases."""

from __future__ import annotations

from dataclasses import replace

from iterref.kernels.independent import tries
from torch import Tensor

from iterref import mtm
from iterref.moves.renoise import open_positions, reopen
from iterref.particles import adopt, pick
from iterref.problem import Problem
from iterref.random import Rng
from iterref.samplers.base import Info, Move, State

ALPHA = 0.5


def excursion(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[Tensor, Tensor]:
    """N candidates of the shared kernel on clean text, with their rewards: (N, B, L), (N, B)."""
    opened = reopen(problem, state.x_t, move, problem.rows, rng)
    where = open_positions(problem, opened.x_s, move.s, problem.rows)
    x_0 = problem.draw(problem.predict(opened.x_s, move.s, where, problem.rows), where, opened.x_s, move.tries, rng)
    reward = problem.score(x_0.flatten(0, 1), problem.rows.repeat(move.tries), final=True)
    return x_0, reward.view(move.tries, -1)


def moved(state: State, accepted: Tensor, x: Tensor, reward: Tensor) -> tuple[State, Info]:
    assert state.x_0 is not None and state.reward is not None
    new = adopt(accepted, x, state.x_0)
    return replace(state, x_t=new, x_0=new, reward=adopt(accepted, reward, state.reward)), Info()


def softmax_then_reward_only(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """A weighted choice, accepted by the ratio of the two rewards: no reference set, so it tilts twice."""
    y_t, y_0, reward = tries(problem, state.x_t, move, move.tries, rng)
    assert state.reward is not None
    choice = mtm.propose(reward.T / ALPHA, rng).choice
    r_y = pick(reward, choice)
    accepted = rng.bernoulli(((r_y - state.reward) / ALPHA).clamp_max(0).exp())
    return moved(state, accepted, pick(y_0, choice), r_y)


def greedy_choice(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """The best candidate, accepted by the ratio of the two rewards."""
    x_0, reward = excursion(problem, state, move, rng)
    assert state.reward is not None
    choice = reward.argmax(0)
    r_y = pick(reward, choice)
    accepted = rng.bernoulli(((r_y - state.reward) / ALPHA).clamp_max(0).exp())
    return moved(state, accepted, pick(x_0, choice), r_y)


def until_first_acceptance(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """Repeats Metropolis' test and counts the first acceptance as one iteration: rejections no longer weigh."""
    assert state.reward is not None
    x_0, reward = excursion(problem, state, replace(move, tries=1), rng)
    chosen, r_chosen = x_0[0], reward[0]
    accepted = rng.bernoulli(((r_chosen - state.reward) / ALPHA).clamp_max(0).exp())
    for _ in range(2):
        x_0, reward = excursion(problem, state, replace(move, tries=1), rng)
        again = rng.bernoulli(((reward[0] - state.reward) / ALPHA).clamp_max(0).exp()) & ~accepted
        chosen, r_chosen = adopt(again, x_0[0], chosen), adopt(again, reward[0], r_chosen)
        accepted = accepted | again
    return moved(state, accepted, chosen, r_chosen)
