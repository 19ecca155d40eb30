"""Resampling: n ancestors from N weighted particles, so that particle i has n W_i children in the mean.

    multinomial   n independent choices
    residual      floor(n W_i) children for certain, the rest by multinomial choice of what is left
    stratified    u_k uniform in [k, k + 1) / n, one each;   systematic   one u for all: u_k = (k + u) / n
                  ancestor k = min {i : W_1 + ... + W_i > u_k}

All of them are unbiased; systematic and residual add the least noise. (R, N) log-weights in, (R, n) ancestors out, as
many as there are particles unless a number is given; a row without a positive weight is treated as if all were equal.

Douc, Cappe, Moulines (2005), arXiv:cs/0507025; Chopin and Papaspiliopoulos (2020), chapter 9.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from iterref.random import Rng


class Scheme(Protocol):
    """A way to resample: (R, N) log-weights, random stream, number -> (R, n) ancestors."""

    def __call__(self, log_w: Tensor, rng: Rng, n: int | None = None) -> Tensor: ...


def multinomial(log_w: Tensor, rng: Rng, n: int | None = None) -> Tensor:
    """Independent choices, (R, N) -> (R, n)."""
    return _choices(_usable(log_w), n or log_w.shape[1], rng)


def residual(log_w: Tensor, rng: Rng, n: int | None = None) -> Tensor:
    """The whole part of n W_i for certain, what is left at random, (R, N) -> (R, n)."""
    n, last = n or log_w.shape[1], log_w.shape[1] - 1
    share = n * _usable(log_w).softmax(1)
    whole = torch.floor(share + 1e-12 * n)  # three thirds are one, whatever their last bits say
    left = (share - whole).clamp_min(0.0)
    drawn = _choices(_usable(left.log()), n, rng)
    count = whole.sum(1, keepdim=True)
    slot = torch.arange(n, device=log_w.device).expand_as(drawn)
    certain = torch.searchsorted(whole.cumsum(1), slot.to(whole), right=True).clamp_max(last)
    return torch.where(slot < count, certain, drawn)


def stratified(log_w: Tensor, rng: Rng, n: int | None = None) -> Tensor:
    """One choice in each of n equal strata of the distribution function, (R, N) -> (R, n)."""
    n = n or log_w.shape[1]
    edge = _edges(log_w, n)
    low = torch.arange(n, device=log_w.device, dtype=torch.float64)[:, None]
    ends = (edge[:, None, :] - low).clamp(0, 1)  # (R, n, N): how much of each stratum is below every edge
    mass = torch.diff(ends, dim=2, prepend=torch.zeros_like(ends[..., :1]))
    strata = torch.ones(len(log_w), n, dtype=torch.bool, device=log_w.device)
    return rng.categorical(mass.flatten(0, 1).log(), strata)[0].view(-1, n)


def systematic(log_w: Tensor, rng: Rng, n: int | None = None) -> Tensor:
    """One uniform number for all choices, (R, N) -> (R, n).

    The ancestors are the same for all u between two neighbouring fractional parts of the edges n (W_1 + ... + W_i); so
    it is the piece that is drawn, from at most N + 1 of them."""
    n, last = n or log_w.shape[1], log_w.shape[1] - 1
    edge = _edges(log_w, n)
    ends = torch.cat([edge.frac().sort(1).values, torch.ones_like(edge[:, :1])], 1)
    length = torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1]))
    piece = rng.choose(length.log())[:, None]
    middle = ends.gather(1, piece) - length.gather(1, piece) / 2
    at = middle + torch.arange(n, device=log_w.device, dtype=torch.float64)
    return torch.searchsorted(edge, at, right=True).clamp_max(last)


SCHEMES: dict[str, Scheme] = {
    "multinomial": multinomial,
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
}


def _usable(log_w: Tensor) -> Tensor:
    """Contiguous log-weights (a sum's last bits depend on strides), equal ones where no weight is positive."""
    none = torch.isneginf(log_w).all(1, keepdim=True)
    return torch.where(none, 0.0, log_w).contiguous()


def _edges(log_w: Tensor, n: int) -> Tensor:
    """n times the distribution function, (R, N), from the last positive weight on exactly n."""
    edge = n * _usable(log_w).softmax(1).cumsum(1)
    return torch.where(edge >= edge[:, -1:], float(n), edge)


def _choices(log_w: Tensor, n: int, rng: Rng) -> Tensor:
    """`n` independent choices a row, (R, N) -> (R, n)."""
    one = torch.ones(len(log_w), 1, dtype=torch.bool, device=log_w.device)
    return rng.categorical(log_w, one, n).T.contiguous()
