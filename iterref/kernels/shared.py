"""The shared kernel: one noisy state and one denoiser evaluation serve all candidates of a move.

    x_s ~ q(x_s | x_t);   log p(. | x_s) once;   x_0^n ~ p(. | x_s), x_t^n ~ q(x_t | x_s, x_0^n), n = 1 .. N;
    w_n = exp(r(x_0^n) / alpha), and choose and accept by `mtm.metropolised` among them and the current state.

Given x_s, the current (x_t, x_0) and the candidates are exchangeable draws of the same law, so the move is reversible
for Pi_t wherever the drawn joint law is the true conditional: a factorised posterior, one open token, or spaced sites
that are conditionally independent. With `blocks` > 1 the open positions are split at random and the rule is applied to
each part in turn, the others held: the conditional given x_s is a product, so every part is a move of the same law,
and one evaluation carries `blocks` decisions. Cost: 1 denoiser row (1 + (h - 1) N with h denoising steps) and
`blocks` x N reward rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from iterref import mtm
from iterref.budget import Cost
from iterref.decode import advance
from iterref.kernels.base import Info, Move, State, several
from iterref.kernels.decision import Decision
from iterref.kernels.reopen import Opened, leaves_one_out, open_positions, partition, reopen, spaced
from iterref.particles import adopt, pick
from iterref.problem import Problem
from iterref.random import Rng


def shared(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """One move of B chains. The first guess of a chain is chosen among the candidates by weight alone."""
    if move.until is not None:
        return plain(problem, state, move, rng)
    if move.redraw and not move.guided:
        return redraw(problem, state, move, rng)
    state = state.scored(problem)
    if leaves_one_out(problem, state, move):
        where, x_t, x_0 = _gibbs(problem, state, move, rng)
    else:
        opened = reopen(problem, state.x_t, move, problem.rows, rng.fork("reopen"))
        where = open_positions(problem, opened.x_s, move.times[0], problem.rows)
        x_t, x_0 = denoise(problem, state, opened, where, move, rng.fork("denoise"))
    if state.x_0 is None:
        return _first(problem, state, x_0, move, rng)
    return _compete(problem, state, where, x_t, x_0, move, rng)


def plain(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """A step of the base decoder down to time `until`; a finished text is its own guess."""
    assert move.until is not None
    x_u = advance(problem, state.x_t, move.t, move.until, move.decoder, problem.rows, rng)
    return replace(state, t=move.until, x_t=x_u, x_0=None if move.until > 0 else x_u, reward=None), Info()


def redraw(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """A plain guess from the model, as unguided sampling draws it; its reward is asked for when somebody needs it."""
    where = open_positions(problem, state.x_t, move.t, problem.rows)
    x_0 = problem.guess(state.x_t, move.t, where, problem.rows, 1, rng.fork("draw"))[0][0]
    return replace(state, x_0=x_0, reward=None), Info()


def denoise(
    problem: Problem, state: State, opened: Opened, where: Tensor, move: Move, rng: Rng
) -> tuple[Tensor, Tensor]:
    """N candidates (x_t, x_0), each (N, B, L), drawn back from one x_s over the move's denoising steps."""
    n, (batch, length) = move.tries * (1 if state.x_0 is not None else move.blocks), opened.x_s.shape
    x_0, _ = problem.guess(opened.x_s, move.times[0], where, problem.rows, n, rng.fork("draw", 0))
    if move.redraw:
        return opened.x_s.expand(n, batch, length), x_0
    steps, streams, rows = len(move.times), rng.repeat(n), problem.rows.repeat(n)
    x, sites = opened.x_s.repeat(n, 1), opened.sites.repeat(n, 1)
    a_s = several(opened.a_s, n)
    shares = [a_s + (move.a_t - a_s) * k / steps for k in range(steps + 1)]
    for k in range(steps):
        if k:  # from the second step on, every candidate has a noisy state of its own
            now = several(move.times[k], n)
            open_k = open_positions(problem, x, now, rows)
            x_0 = problem.guess(x, now, open_k, rows, 1, streams.fork("draw", k))[0].view(n, batch, length)
        if k < steps - 1 or move.t > 0:  # at t = 0 the last guess is the state
            nearer = problem.forth(x, x_0.flatten(0, 1), shares[k], shares[k + 1], rows, streams.fork("forth", k))
            x = torch.where(sites, nearer, x)
    return x_0 if move.t == 0 else x.view(n, batch, length), x_0


def _first(problem: Problem, state: State, x_0: Tensor, move: Move, rng: Rng) -> tuple[State, Info]:
    """The first guess: importance resampling among the candidates."""
    reward = problem.score(x_0.flatten(0, 1), problem.rows.repeat(len(x_0)), final=move.t == 0).view(len(x_0), -1)
    verdict = mtm.select((reward / move.alpha).T, rng.fork("decide", 0))
    state = replace(state, x_0=pick(x_0, verdict.choice), reward=pick(reward, verdict.choice))
    decision = Decision(x_0, reward, verdict.choice, verdict.accepted)
    return state, Info(verdict.accepted.double(), verdict.stuck, decisions=(decision,))


def _compete(
    problem: Problem, state: State, where: Tensor, x_t: Tensor, x_0: Tensor, move: Move, rng: Rng
) -> tuple[State, Info]:
    """Chooses and accepts, block by block, among the current state and the candidates."""
    assert state.x_0 is not None and state.reward is not None
    n, rows = len(x_0), problem.rows.repeat(len(x_0))
    now_t, now_0, now = state.x_t, state.x_0, state.reward
    part = partition(where, move.blocks, rng.fork("blocks")) if move.blocks > 1 else None
    taken, stuck = torch.zeros_like(now), torch.ones_like(now, dtype=torch.bool)
    decisions = []
    for block in range(move.blocks):
        here = None if part is None else part == block
        new_t = x_t if here is None else torch.where(here, x_t, now_t)
        new_0 = x_0 if here is None else torch.where(here, x_0, now_0)
        reward = problem.score(new_0.flatten(0, 1), rows, final=move.t == 0).view(n, -1)
        verdict = mtm.metropolised(now / move.alpha, (reward / move.alpha).T, rng.fork("decide", block))
        decisions.append(Decision(x_0, reward, verdict.choice, verdict.accepted, here, now_0))
        now_t = adopt(verdict.accepted, pick(new_t, verdict.choice), now_t)
        now_0 = adopt(verdict.accepted, pick(new_0, verdict.choice), now_0)
        now = adopt(verdict.accepted, pick(reward, verdict.choice), now)
        taken, stuck = taken + verdict.accepted, stuck & verdict.stuck
    changed = (now_0 != state.x_0).sum(1)
    info = Info(taken / move.blocks, stuck, changed, decisions=tuple(decisions))
    return replace(state, x_t=now_t, x_0=now_0, reward=now), info


def _gibbs(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates at spaced sites of a clean text from its leave-one-out law; evaluations are kept while they hold."""
    assert state.x_0 is not None
    x, free = state.x_0, problem.opened
    where = spaced(free, move.spacing, move.a_t - move.a_s, rng.fork("sites"))
    asked = free if problem.keeps(free) else where  # all sites at once serve the moves until the text changes
    log_p = problem.conditionals(x, asked, problem.rows)[where[asked]]
    x_0 = problem.draw(log_p, where, x, move.tries, rng.fork("draw"))
    return where, x_0, x_0


def cost(move: Move) -> Cost:
    """What one move takes a sample (a plain step, or a redraw without guidance, asks for no reward)."""
    if move.until is not None:
        return Cost(1, 0, 1)
    if move.redraw:
        return Cost(1, move.tries * move.blocks if move.guided else 0, 1)
    steps = len(move.times)
    return Cost(1 + (steps - 1) * move.tries, move.tries * move.blocks, steps)
