"""The independent kernel: multiple-try Metropolis as in the textbook, every try with its own noisy state.

    y_n ~ T(x, .), n = 1 .. N:  x_s^n ~ q(x_s | x_t), x_0^n ~ p(. | x_s^n), x_t^n ~ q(x_t | x_s^n, x_0^n)
    propose y with probability proportional to  w(y|x) = exp(((1 - g) r(y) - g r(x)) / alpha)
    x*_m ~ T(y, .), m = 1 .. N - 1, x*_N = x;  accept with  min(1, sum_n w(y_n|x) / sum_m w(x*_m|y))

g = 0 weighs by reward, g = 1/2 is locally balanced, g = 1 is the paper's lambda, where the reference set cancels and
the step is single-try Metropolis-Hastings. T is reversible for p(x_0) q(x_t | x_0) under the same conditions as the
shared kernel's draw, and the factor of w that is left over is exactly exp((r(y) - r(x)) / alpha), for every g.
Cost: 2N - 1 denoiser rows (times h) and 2N - 1 reward rows.

Liu, Liang, Wong (2000); Pandolfi, Bartolucci, Friel (2010); Gagnon, Maire, Zanella (2022), arXiv:2211.11613;
Lee et al. (2025), arXiv:2511.05562.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from iterref import mtm
from iterref.budget import Cost
from iterref.kernels.base import Info, Move, State, several
from iterref.kernels.decision import Decision
from iterref.kernels.reopen import open_positions, reopen
from iterref.kernels.shared import cost as shared_cost
from iterref.kernels.shared import shared
from iterref.particles import adopt, pick
from iterref.problem import Problem, Time
from iterref.random import Rng


def independent(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """One move of B chains. A move that stays at its noise level has one noisy state anyway: the shared kernel's."""
    if move.redraw or state.x_0 is None:
        return shared(problem, state, move, rng)
    state = state.scored(problem)
    assert state.x_0 is not None and state.reward is not None
    g, n = move.balance, move.tries
    y_t, y_0, reward = tries(problem, state.x_t, move, n, rng.fork("forward"))
    log_forward = _tilt(reward, g, move.alpha).T
    verdict = mtm.propose(log_forward, rng.fork("propose"))
    tried, y_t, y_0 = y_0, pick(y_t, verdict.choice), pick(y_0, verdict.choice)
    r_y = pick(reward, verdict.choice)
    log_backward = _tilt(state.reward, g, move.alpha)[:, None]
    if n > 1:
        _, _, r_reference = tries(problem, y_t, move, n - 1, rng.fork("reference"))
        log_backward = torch.cat([_tilt(r_reference, g, move.alpha).T, log_backward], 1)
    gain = (r_y - state.reward) * g / move.alpha if g else torch.zeros_like(r_y)
    gain = torch.where(torch.isneginf(state.reward) & ~torch.isneginf(r_y), torch.inf, gain)
    accepted = mtm.multiple_try(log_forward, log_backward, gain, rng.fork("accept")) & verdict.accepted
    x_0 = adopt(accepted, y_0, state.x_0)
    decision = Decision(tried, reward, verdict.choice, accepted)
    info = Info(accepted.double(), verdict.stuck, (x_0 != state.x_0).sum(1), decisions=(decision,))
    return replace(state, x_t=adopt(accepted, y_t, state.x_t), x_0=x_0, reward=adopt(accepted, r_y, state.reward)), info


def tries(problem: Problem, x_t: Tensor, move: Move, n: int, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
    """N independent excursions from (B, L) states -> x_t (N, B, L), x_0 (N, B, L), rewards (N, B)."""
    batch, length = x_t.shape
    streams, rows = rng.repeat(n), problem.rows.repeat(n)
    x = x_t.repeat(n, 1)
    wide = replace(move, s=several(move.s, n), a_s=several(move.a_s, n))
    opened = reopen(problem, x, wide, rows, streams.fork("reopen"))
    x_s, steps, x_0 = opened.x_s, len(move.times), x
    shares = [opened.a_s + (move.a_t - opened.a_s) * k / steps for k in range(steps + 1)]
    for k in range(steps):
        now = several(move.times[k], n)
        where = open_positions(problem, x_s, now, rows)
        x_0 = problem.guess(x_s, now, where, rows, 1, streams.fork("draw", k))[0][0]
        if k < steps - 1 or move.t > 0:
            nearer = problem.forth(x_s, x_0, shares[k], shares[k + 1], rows, streams.fork("forth", k))
            x_s = torch.where(opened.sites, nearer, x_s)
    reward = problem.score(x_0, rows, final=move.t == 0).view(n, batch)
    y_t = x_0 if move.t == 0 else x_s
    return y_t.view(n, batch, length), x_0.view(n, batch, length), reward


def _tilt(reward: Tensor, g: float, alpha: Time) -> Tensor:
    """The part of log w that differs between candidates: (1 - g) r / alpha, zero for g = 1 whatever r is."""
    return reward * (1 - g) / alpha if g < 1 else torch.zeros_like(reward)


def cost(move: Move) -> Cost:
    """What one move takes a sample."""
    if move.redraw:
        return shared_cost(move)
    rows = 2 * move.tries - 1
    return Cost(rows * len(move.times), rows, len(move.times) * (2 if move.tries > 1 else 1))
