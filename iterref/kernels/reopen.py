"""Re-noising: which positions a move opens, by laws that never look at the tokens.

    independent   x_s ~ q(x_s | x_t), every position on its own
    spaced        a random set S of a given size, its positions at least `gap` apart; x_s is x_t with S made noise

Why spaced: the open tokens are drawn from a product of marginals. Where tokens that far apart are conditionally
independent given the rest, the product *is* the joint conditional, and the move is exactly reversible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iterref.kernels.base import Move, State
from iterref.problem import Problem, Time
from iterref.random import Rng


@dataclass(frozen=True)
class Opened:
    """A noisier state: `x_s` (R, L), the `sites` (R, L) whose noisy tokens are redrawn on the way back, and the share
    `a_s` of clean tokens among those sites (0 where all of them were made noise)."""

    x_s: Tensor
    sites: Tensor
    a_s: Time


def reopen(problem: Problem, x_t: Tensor, move: Move, rows: Tensor, rng: Rng) -> Opened:
    """Re-noises (R, L) states that belong to (R,) rows by the move's law.

    Spaced sets are for absorbing noise at any time; under other noise a noisy token does not show that it is noise,
    so a move above t = 0 re-noises independently there.
    """
    if move.redraw:
        return Opened(x_t, problem.opened[rows], move.a_s)
    if move.spacing and problem.noise.mask is not None:
        sites = spaced(problem.opened[rows], move.spacing, move.a_t - move.a_s, rng)
        return Opened(torch.where(sites, problem.noise.mask, x_t), sites, 0.0)
    x_s = problem.back(x_t, move.a_t, move.a_s, rows, rng)
    return Opened(x_s, problem.opened[rows], move.a_s)


def spaced(free: Tensor, gap: int, share: Time, rng: Rng) -> Tensor:
    """A random set of free positions at least `gap` apart, (R, L) bool -> (R, L) bool.

    Greedy in a uniform random order (random sequential adsorption), up to `share` of the row's free positions and at
    least one. The greedy choice is made for all rows at once: a position that comes first in its neighbourhood is in,
    its neighbours are out, and so on until none is undecided, which takes about log L rounds.
    """
    length = free.shape[1]
    rank = rng.order(length).to(torch.float32) + 1
    undecided, chosen = free, torch.zeros_like(free)
    while bool(undecided.any()):
        live = torch.where(undecided, rank, 0.0)
        first = undecided & (_around(live, gap) == live)
        chosen = chosen | first
        near = _around(first.float(), gap) > 0
        undecided = undecided & ~near
    count = (free.sum(1) * share).round().clamp_min(1)
    by_rank = torch.where(chosen, rank, 0.0).argsort(1, descending=True).argsort(1)
    return chosen & (by_rank < count[:, None])


def _around(values: Tensor, gap: int) -> Tensor:
    """The largest value within distance gap - 1 of every position, (R, L) -> (R, L)."""
    return F.max_pool1d(values[:, None], kernel_size=2 * gap - 1, stride=1, padding=gap - 1)[:, 0]


def partition(where: Tensor, blocks: int, rng: Rng) -> Tensor:
    """Parts 0 .. blocks - 1 of the True cells of (R, L), of equal size up to one, at random; -1 elsewhere."""
    order = torch.where(where, rng.order(where.shape[1]), where.shape[1])
    return torch.where(where, order.argsort(1).argsort(1) % blocks, -1)


def open_positions(problem: Problem, x_s: Tensor, s: Time, rows: Tensor) -> Tensor:
    """Where the clean token must be drawn at x_s, (R, L) bool."""
    times = torch.as_tensor(s, dtype=torch.float64, device=x_s.device).expand(len(rows))
    return problem.noise.undetermined(x_s, times) & problem.opened[rows]


def leaves_one_out(problem: Problem, state: State, move: Move) -> bool:
    """Whether the move redraws spaced sites of a clean text by their Gibbs conditionals, corrupting nothing.

    Those are one evaluation, so a move of several denoising steps re-noises and denoises instead.
    """
    gibbs = problem.noise.mask is None and problem.denoiser.has_leave_one_out and len(move.times) == 1
    return gibbs and move.spacing > 0 and move.t == 0 and state.x_0 is not None and not move.redraw
