"""The trajectory kernel: exact for the sampler that is really run, with no reversibility assumption.

    path x_1, ..., x_0 of the base sampler; a grid index k that does not look at the path; N new tails from x_k;
    choose and accept by `mtm.metropolised` among the recorded tail and the new ones

It leaves P_sampler(path) exp(r(x_0) / alpha) invariant: given x_k, the recorded tail and the new ones are exchangeable
draws of the sampler's own conditional law, whatever its unmasking order, temperature or parallelism (iterated
conditional importance resampling on paths; Andrieu, Lee, Vihola 2018, arXiv:1312.6432).
Cost: N denoiser rows a redrawn step, and N reward rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from iterref import mtm
from iterref.budget import Cost
from iterref.decode import advance, grid
from iterref.kernels.base import Info, Move, State
from iterref.kernels.decision import Decision
from iterref.particles import adopt, pick
from iterref.problem import Problem
from iterref.random import Rng


def trajectory(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """One move of B chains; the first one runs the base sampler from noise and records its path."""
    n, batch = move.tries, len(problem.canvas)
    head = state.x_t[None] if state.path is None else state.path[: move.start + 1]
    tails = _tails(problem, head[-1], move, n, rng.fork("tails"))
    rows = problem.rows.repeat(n)
    x_0 = tails[-1]
    reward = problem.score(x_0, rows, final=True).view(n, batch)
    tails, x_0 = tails.unflatten(1, (n, batch)), x_0.view(n, batch, -1)
    if state.path is None:
        verdict = mtm.select((reward / move.alpha).T, rng.fork("decide"))
        old_path, old_0, now = torch.zeros_like(pick_path(tails, verdict.choice)), pick(x_0, verdict.choice), reward[0]
    else:
        assert state.x_0 is not None and state.reward is not None
        verdict = mtm.metropolised(state.reward / move.alpha, (reward / move.alpha).T, rng.fork("decide"))
        old_path, old_0, now = state.path[move.start + 1 :], state.x_0, state.reward
    tail = torch.where(verdict.accepted[None, :, None], pick_path(tails, verdict.choice), old_path)
    new_0 = adopt(verdict.accepted, pick(x_0, verdict.choice), old_0)
    kept = adopt(verdict.accepted, pick(reward, verdict.choice), now)
    changed = None if state.path is None else (new_0 != old_0).sum(1)  # a first guess changes nothing
    decision = Decision(x_0, reward, verdict.choice, verdict.accepted)
    info = Info(verdict.accepted.double(), verdict.stuck, changed, decisions=(decision,))
    path = torch.cat([head, tail])
    return replace(state, t=0.0, x_t=new_0, x_0=new_0, reward=kept, path=path), info


def pick_path(tails: Tensor, choice: Tensor) -> Tensor:
    """The chosen tail of every row: (K, N, B, L), (B,) -> (K, B, L)."""
    return tails[:, choice, torch.arange(len(choice), device=tails.device)]


def _tails(problem: Problem, x: Tensor, move: Move, n: int, rng: Rng) -> Tensor:
    """N tails of the base sampler from grid index `start` to the end, (B, L) -> (K, N * B, L)."""
    streams, rows, x = rng.repeat(n), problem.rows.repeat(n), x.repeat(n, 1)
    states = []
    times = grid(len(move.times) - 1)
    for k in range(move.start, len(times) - 1):
        x = advance(problem, x, times[k], times[k + 1], move.decoder, rows, streams.fork(k))
        states.append(x)
    return torch.stack(states)


def cost(move: Move) -> Cost:
    """What one move takes a sample."""
    depth = len(move.times) - 1 - move.start
    return Cost(depth * move.tries, move.tries, depth)
