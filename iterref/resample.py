"""Resampling: N ancestors from N weighted particles, so that particle n has N W_n children in the mean.

    multinomial   N independent choices
    residual      floor(N W_n) children for certain, the rest by multinomial choice of what is left
    stratified    u_k uniform in [k, k + 1) / N, one each;   systematic   one u for all: u_k = (k + u) / N
                  ancestor k = min {n : W_1 + ... + W_n > u_k}

All of them are unbiased; systematic and residual add the least noise. (R, N) log-weights in, (R, N) ancestors out; a
row without a positive weight is treated as if all were equal.

Douc, Cappe, Moulines (2005), arXiv:cs/0507025; Chopin and Papaspiliopoulos (2020), chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iterref.random import Rng


def multinomial(log_w: Tensor, rng: Rng) -> Tensor:
    """N independent choices, (R, N) -> (R, N)."""
    return _choices(_usable(log_w), log_w.shape[1], rng)


def residual(log_w: Tensor, rng: Rng) -> Tensor:
    """The whole part of N W_n for certain, what is left at random, (R, N) -> (R, N)."""
    n = log_w.shape[1]
    share = n * _usable(log_w).softmax(1)
    whole = torch.floor(share + 1e-12 * n)  # three thirds are one, whatever their last bits say
    left = (share - whole).clamp_min(0.0)
    drawn = _choices(_usable(left.log()), n, rng)
    count = whole.sum(1, keepdim=True)
    slot = torch.arange(n, device=log_w.device).expand_as(drawn)
    certain = torch.searchsorted(whole.cumsum(1), slot.to(whole), right=True).clamp_max(n - 1)
    return torch.where(slot < count, certain, drawn)


def stratified(log_w: Tensor, rng: Rng) -> Tensor:
    """One choice in each of N equal strata of the distribution function, (R, N) -> (R, N)."""
    n = log_w.shape[1]
    edge = _edges(log_w)
    low = torch.arange(n, device=log_w.device, dtype=torch.float64)[:, None]
    ends = (edge[:, None, :] - low).clamp(0, 1)  # (R, N, N): how far each stratum is below every edge
    mass = torch.diff(ends, dim=2, prepend=torch.zeros_like(ends[..., :1]))
    strata = torch.ones(len(log_w), n, dtype=torch.bool, device=log_w.device)
    return rng.categorical(mass.flatten(0, 1).log(), strata)[0].view(-1, n)


def systematic(log_w: Tensor, rng: Rng) -> Tensor:
    """One uniform number for all N choices, (R, N) -> (R, N).

    The ancestors are the same for all u between two neighbouring fractional parts of the edges N (W_1 + ... + W_n); so
    it is the piece that is drawn, from at most N + 1 of them.
    """
    n = log_w.shape[1]
    edge = _edges(log_w)
    ends = torch.cat([edge.frac().sort(1).values, torch.ones_like(edge[:, :1])], 1)
    length = torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1]))
    piece = rng.choose(length.log())[:, None]
    middle = ends.gather(1, piece) - length.gather(1, piece) / 2
    at = middle + torch.arange(n, device=log_w.device, dtype=torch.float64)
    return torch.searchsorted(edge, at, right=True).clamp_max(n - 1)


SCHEMES: dict[str, Callable[[Tensor, Rng], Tensor]] = {
    "multinomial": multinomial,
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
}


def _usable(log_w: Tensor) -> Tensor:
    """Contiguous log-weights (a sum's last bits depend on strides), equal ones where no weight is positive."""
    none = torch.isneginf(log_w).all(1, keepdim=True)
    return torch.where(none, 0.0, log_w).contiguous()


def _edges(log_w: Tensor) -> Tensor:
    """N times the distribution function, (R, N), its last entry exactly N."""
    n = log_w.shape[1]
    edge = n * _usable(log_w).softmax(1).cumsum(1)
    last = edge[:, -1:]
    return torch.where(edge >= last, float(n), edge)


def _choices(log_w: Tensor, n: int, rng: Rng) -> Tensor:
    """`n` independent choices a row, (R, N) -> (R, n)."""
    one = torch.ones(len(log_w), 1, dtype=torch.bool, device=log_w.device)
    return rng.categorical(log_w, one, n).T.contiguous()
