"""Potentials: how the reward of early samples is spent along a path, so that the whole path is weighed right.

    v_k = log mean_g exp(r(x_0^g) / alpha),  x_0^g ~ p(. | x_t) at the k-th scored time: the value of x_t
    difference   log G_k = v_k - v_(k-1),  v_0 = 0
    max          log G_k = max(v_1, ..., v_k)
    sum          log G_k = v_1 + ... + v_k
    the last     log G   = r(x_0) / alpha - (log G_1 + ... + log G_K)

The product of all potentials along any path is exp(r(x_0) / alpha), so resampling by them leaves the distribution of
the whole path alone and only decides which ones are followed up. "difference" keeps the weights those of the current
value (particles ~ p(x_t) exp(v_k)); the other two spend the same value at every time and take it back at the end.

A clean sample that the reward forbids (-inf) is no reason to give up its particle, which may go on to an allowed text:
where all of them are forbidden the time adds nothing to the value. Only the finished text's -inf kills.

Singhal et al. (2025), arXiv:2501.06848, section 3.2, with lambda = 1 / alpha.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from torch import Tensor


def value_of(log_v: Tensor) -> Tensor:
    """The log of the mean weight of G samples, log-weights `(G, *)` -> `(*)` float64; -inf where all of them are."""
    return log_v.movedim(0, -1).contiguous().logsumexp(-1) - log(len(log_v))


def difference(values: Tensor) -> Tensor:
    """`(K, *)` -> `(K, *)`: what every time adds to the value before it."""
    k = torch.arange(len(values), device=values.device).view(-1, *[1] * (values.dim() - 1))
    known = torch.where(values.isneginf(), -1, k).cummax(0).values  # the latest time with an allowed clean sample
    held = torch.where(known < 0, 0.0, values.gather(0, known.clamp_min(0)))
    return torch.diff(held, dim=0, prepend=torch.zeros_like(held[:1]))


def maximum(values: Tensor) -> Tensor:
    """`(K, *)` -> `(K, *)`: the largest value so far."""
    largest = values.cummax(0).values
    return torch.where(largest.isneginf(), 0.0, largest)


def total(values: Tensor) -> Tensor:
    """`(K, *)` -> `(K, *)`: the sum of the values so far."""
    return torch.where(values.isneginf(), 0.0, values).cumsum(0)


POTENTIALS: dict[str, Callable[[Tensor], Tensor]] = {"difference": difference, "max": maximum, "sum": total}


def spent(log_g: Tensor) -> Tensor:
    """The sum over times `(K, *)` -> `(*)`, in one order whatever the batch."""
    return log_g.cumsum(0)[-1] if len(log_g) else torch.zeros(log_g.shape[1:], dtype=log_g.dtype, device=log_g.device)


def due(step: int, every: int) -> bool:
    """Whether samples are scored at a grid step: at every `every`-th one after the first.

    Pure noise is left out: it knows nothing of the text to come, so choosing among it is noise too."""
    return step > 0 and step % every == 0


def times_due(steps: int, every: int) -> int:
    """How many of the grid steps 0 .. steps - 1 are `due`."""
    return max(steps - 1, 0) // every
