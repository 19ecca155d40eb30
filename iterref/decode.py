"""Base decoders: one step of plain sampling from a noise level to a cleaner one, in a given unmasking order.

    x_0 ~ p(. | x_t),   x_u ~ q(x_u | x_t, x_0)         order "random": the reverse process itself (ancestral)
    x_0 ~ p(. | x_t),   reveal the surest k tokens      order "confidence": as LLaDA and MaskGIT decode

Confidence is the probability of the token that was drawn; k brings the share of open positions to 1 - a_u. That
order samples another law than the reverse process (a sharper one): `trajectory` is exact for it all the same.

Chang et al. (2022), arXiv:2202.04200; Nie et al. (2025), arXiv:2502.09992.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.problem import Problem
from iterref.random import Rng

ORDERS = ("random", "confidence")


def grid(steps: int) -> tuple[float, ...]:
    """The times 1 = t_0 > ... > t_steps = 0, evenly spaced; 0 steps are the finished text alone."""
    if not steps:
        return (0.0,)
    return tuple((steps - i) / steps for i in range(steps + 1))


def advance(problem: Problem, x_t: Tensor, t: float, u: float, order: str, rows: Tensor, rng: Rng) -> Tensor:
    """One step from t to u < t for (R, L) states of (R,) rows -> x_u (R, L).

    Which masks fall in a step of the random order, and how many in one by confidence, does not depend on what they
    hide; so that is settled first, and the denoiser is asked for these positions alone, and not at all for a row that
    reveals nothing. Raises `ValueError` for an order that the noise has no meaning for.
    """
    times = torch.full((len(rows),), t, dtype=torch.float64, device=x_t.device)
    where = problem.noise.undetermined(x_t, times) & problem.opened[rows]
    a_t, a_u = float(problem.noise.a(t)), float(problem.noise.a(u))
    if problem.noise.mask is None:
        if order != "random":
            raise ValueError(
                f"order {order!r} needs absorbing noise, where a mask shows the open tokens: use order='random'"
            )
        x_0 = problem.guess(x_t, t, where, rows, 1, rng.fork("draw"))[0][0]
        return x_0 if u == 0 else problem.forth(x_t, x_0, a_t, a_u, rows, rng.fork("forth"))
    if order == "random":
        falls = torch.full(x_t.shape, (a_u - a_t) / (1 - a_t), dtype=torch.float64, device=x_t.device)
        revealed = where if u == 0 else where & rng.fork("reveal").bernoulli(torch.where(where, falls, 0.0))
        return problem.guess(x_t, t, revealed, rows, 1, rng.fork("draw"))[0][0]
    left = (problem.opened[rows].sum(1) * (1 - a_u)).round().long()
    count = (where.sum(1) - left).clamp_min(0)
    where = where & (count > 0)[:, None]
    guesses, log_p = problem.guess(x_t, t, where, rows, 1, rng.fork("draw"))
    rank = torch.where(where, log_p[0], -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return torch.where(where & (rank < count[:, None]), guesses[0], x_t)
