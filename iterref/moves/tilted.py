"""The tilted order: which tokens of a guess the reward hangs on, so that they can be revealed first.

    carried_i = r(x_0) - r(x_0 with token i changed)
    score_i   = log p(x_0^i | x_t) + carried_i / alpha          the token's confidence under p exp(r / alpha)

A changed token is that of most other guesses from the same evaluation, or of another guess where that is the same: it
costs a reward call and no evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.decoding import extent, foremost, surest
from iterref.moves.lookahead import Ahead, scored
from iterref.run import Run

FORBIDS = 1e6  # what a token carries without which the text is forbidden, in units of the reward


def carried(run: Run, ahead: Ahead, which: tuple[Tensor, Tensor], reward: Tensor, probes: int) -> Tensor:
    """What tokens of chosen guesses carry of their rewards (W, R), 0 where they were not probed -> (W, R, L). `which`
    are the numbers and the particles (W, R) of the guesses in a look `ahead`; probed are the `probes` least sure tokens
    that other guesses write otherwise."""
    row = torch.arange(ahead.draws.shape[2], device=reward.device)
    x_0, sure = ahead.draws[(*which, row)], ahead.sure[(*which, row)]
    if not probes:
        return torch.zeros_like(sure)
    usual = ahead.draws.mode(0).values[which[1], row]
    another = ahead.draws[(which[0] + 1) % len(ahead.draws), which[1], row]
    other = torch.where(usual != x_0, usual, another)
    where = torch.where(other != x_0, sure, torch.inf).argsort(dim=-1, stable=True)
    where = where[..., torch.arange(probes, device=where.device) % where.shape[-1]]  # as many as are declared, always
    changed, place = x_0.expand(probes, *x_0.shape).clone(), where.movedim(-1, 0)[..., None]
    changed.scatter_(-1, place, other.expand_as(changed).gather(-1, place))
    lost = reward - scored(run, changed, final=False)
    lost = lost.nan_to_num(nan=0.0, posinf=FORBIDS, neginf=-FORBIDS)
    if run.problem.constraint is not None:  # what is no text says nothing about the reward
        lost = torch.where(run.texts(changed), lost, 0.0)
    return torch.zeros_like(sure).scatter(-1, where, lost.movedim(0, -1))


def held(
    run: Run, x_t: Tensor, t: float, wrote: Tensor, sure: Tensor, score: Tensor, steps: int, left: int, least: float,
    block: Tensor,
) -> Tensor:
    """Which tokens of guesses (R, L) the next state of `steps`, `left` of them to go, holds among those that are
    `wrote` (R, L): in the order of their `score`, block by block. As many as leave an even share for every step to
    come; those whose probability is above `least` anyway, by `sure` and by score, are held besides and do not count.
    Where the noise has no mask all are drawn anew in every step, and an even share more of them is held."""
    if run.noise.mask is None:
        count = wrote.sum(1) - wrote.sum(1) * (left - 1) // steps
        return surest(wrote, score, block, count) | ~wrote
    where = run.undetermined(x_t, t)
    easy = foremost(where, block) & (torch.minimum(score, sure).exp() > least)
    hard = where & ~easy
    count = -(-hard.sum(1) // left)
    if run.denoiser.block_length:  # behind masks the network only guesses: a block at a time, and a step for each
        head = foremost(where, block).sum(1) - easy.sum(1)
        first, last = extent(block, where)
        count = torch.where(last - first + 1 >= left, head, count.minimum(head))
    return easy | ~where | surest(hard, score, block, count)


def deviation(reward: Tensor) -> Tensor:
    """The standard deviation of each row's rewards (G, R) that are not -inf, 0 where it is rounding -> (R,)."""
    known = ~reward.isneginf()
    count = known.sum(0).clamp_min(1)
    mean = torch.where(known, reward, 0.0).cumsum(0)[-1] / count
    found = (torch.where(known, reward - mean, 0.0).square().cumsum(0)[-1] / count).sqrt()
    return torch.where(found > 1e-9 * mean.abs(), found, 0.0)


def highest(value: Tensor, n: int) -> Tensor:
    """The places of the `n` highest of (N, R) values, (n, R); equal values are one guess drawn twice, and come last."""
    order = value.argsort(dim=0, descending=True, stable=True)
    ranked = value.gather(0, order)
    again = torch.cat([torch.zeros_like(ranked[:1], dtype=torch.bool), ranked[1:] == ranked[:-1]])
    return order.gather(0, again.to(torch.int8).argsort(dim=0, stable=True))[:n]
