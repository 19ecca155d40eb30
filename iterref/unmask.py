"""Unmasking: how sure a model is of each hidden token, and which of the hidden tokens a step shows.

    confidence    log-probability of the token that was drawn                                     (MaskGIT, LLaDA)
    margin        difference of the two highest probabilities                             (Kim et al. 2025; Dream)
    negentropy    minus the entropy H_i of the law                                                         (Dream)
    bounded       the largest k with  H_1 + ... + H_k - max H <= bound, H in rising order             (EB-Sampler)

What drawing k tokens apart costs is KL(joint || product of marginals) = sum H - H(joint) <= sum H - max H.

Scores take laws (M, V) and draws (n, M) from them and give (n, M), the surest highest. They see one law at a time and
add in one order, so that a row's choice is the same bits in every batch.

Chang et al. (2022), arXiv:2202.04200; Kim et al. (2025), arXiv:2502.06768; Ye et al. (2025), arXiv:2508.15487;
Ben-Hamu et al. (2025), arXiv:2505.24857.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iterref.random import BLOCK

# The exponential of this is 0, and so is its product with it.
NOTHING = -1000.0

Score = Callable[[Tensor, Tensor], Tensor]


def confidence(log_p: Tensor, drawn: Tensor) -> Tensor:
    """The log-probability of the token that was drawn, in the laws' own precision."""
    return log_p.gather(1, drawn.T).T


def margin(log_p: Tensor, drawn: Tensor) -> Tensor:
    """The difference of the two highest probabilities, float64."""
    first, second = log_p.topk(2, dim=1).values.double().exp().unbind(1)
    return (first - second).expand(drawn.shape)


def negentropy(log_p: Tensor, drawn: Tensor) -> Tensor:
    """Minus the entropy in nats, float64."""
    step = max(1, BLOCK[log_p.is_cuda] // log_p.shape[1])
    parts = []
    for part in log_p.split(step):
        part = part.to(torch.float64, copy=True, memory_format=torch.contiguous_format).clamp_(min=NOTHING)
        # A running sum adds in one order, whatever else is in the batch; `Tensor.sum` may pick one by the shape.
        parts.append(part.exp().mul_(part).cumsum_(1)[:, -1].clone())
    return torch.cat(parts).expand(drawn.shape)


SCORES: dict[str, Score] = {
    "confidence": confidence,
    "margin": margin,
    "entropy": negentropy,
    "bounded": negentropy,
}


def blocks(free: Tensor, size: int) -> Tensor:
    """The block that each of the free positions (R, L) belongs to, `size` of them a block from the left; 0 without."""
    return (free.cumsum(1) - 1) // size if size else torch.zeros_like(free, dtype=torch.long)


def foremost(where: Tensor, block: Tensor) -> Tensor:
    """Those of (R, L) `where` that lie in the row's first block (R, L) with any."""
    block = torch.where(where, block, where.shape[1])
    return where & (block == block.amin(1, keepdim=True))


def reached(where: Tensor, block: Tensor, count: Tensor) -> Tensor:
    """Those of (R, L) `where` in the blocks (R, L) that the first `count` (R,) of them lie in."""
    first = where & (where.cumsum(1) <= count[:, None])
    return where & (block <= torch.where(first, block, -1).amax(1, keepdim=True))


def surest(where: Tensor, sure: Tensor, block: Tensor, count: Tensor) -> Tensor:
    """The `count` (R,) of (R, L) `where` with the highest scores (R, L), ties from the left, block (R, L) by block."""
    block = torch.where(where, block, where.shape[1])
    order = sure.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, block.gather(1, order).argsort(dim=1, stable=True))  # keeps the order within a block
    return where & (order.argsort(dim=1) < count[:, None])


def bounded(where: Tensor, entropy: Tensor, bound: float) -> Tensor:
    """The longest run of (R, L) `where` by rising entropy (R, L) whose sum less its largest is within the bound.

    At least one, where there is any.
    """
    value, position = torch.where(where, entropy, torch.inf).sort(dim=1, stable=True)
    before = torch.cat([torch.zeros_like(value[:, :1]), value.cumsum(1)[:, :-1]], 1)  # a run's last is its largest
    return where & torch.zeros_like(where).scatter(1, position, before <= bound)
