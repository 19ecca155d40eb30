"""The kernel as published: a pool of proposals, tried one after the other by Metropolis' rule.

    y_n ~ T(x, .), n = 1 .. N;   in uniform random order, take the first with  u_n < exp((r(y_n) - r(x)) / alpha)

Kept to reproduce Lee et al. (2025), arXiv:2511.05562. **Biased for N > 1**: testing a rejected pool again makes the
acceptance of a state depend on how many rivals it had, which detailed balance forbids. `docs/correctness.md` derives
the law that it is stationary for, and measures how far off that is. With N = 1 it is Metropolis' rule, and exact.
Cost: N denoiser rows (times h) and N reward rows.
"""

from __future__ import annotations

from dataclasses import replace

from iterref import mtm
from iterref.budget import Cost
from iterref.kernels.base import Info, Move, State
from iterref.kernels.decision import Decision
from iterref.kernels.independent import tries
from iterref.kernels.shared import cost as shared_cost
from iterref.kernels.shared import shared
from iterref.particles import adopt, pick
from iterref.problem import Problem
from iterref.random import Rng


def published(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """One move of B chains."""
    if move.redraw or state.x_0 is None:
        return shared(problem, state, move, rng)
    state = state.scored(problem)
    assert state.x_0 is not None and state.reward is not None
    # The tries are independent and identically distributed, so the order they were made in is a uniform random one.
    y_t, y_0, reward = tries(problem, state.x_t, move, move.tries, rng.fork("forward"))
    verdict = mtm.metropolis_first(((reward - state.reward) / move.alpha).T, rng.fork("test"))
    x_0 = adopt(verdict.accepted, pick(y_0, verdict.choice), state.x_0)
    x_t = adopt(verdict.accepted, pick(y_t, verdict.choice), state.x_t)
    kept = adopt(verdict.accepted, pick(reward, verdict.choice), state.reward)
    decision = Decision(y_0, reward, verdict.choice, verdict.accepted, in_turn=True)
    info = Info(verdict.accepted.double(), verdict.stuck, (x_0 != state.x_0).sum(1), decisions=(decision,))
    return replace(state, x_t=x_t, x_0=x_0, reward=kept), info


def cost(move: Move) -> Cost:
    """What one move takes a sample."""
    if move.redraw:
        return shared_cost(move)
    return Cost(move.tries * len(move.times), move.tries, len(move.times))
