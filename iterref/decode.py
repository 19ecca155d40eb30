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


def advance(
    problem: Problem, x_t: Tensor, t: float, u: float, order: str, rows: Tensor, rng: Rng
) -> tuple[Tensor, Tensor]:
    """One step from t to u < t for (R, L) states of (R,) rows -> x_u (R, L) and the guess x_0 (R, L).

    Raises `ValueError` for an order that the noise has no meaning for: only a mask shows which tokens are open.
    """
    times = torch.full((len(rows),), t, dtype=torch.float64, device=x_t.device)
    where = problem.noise.undetermined(x_t, times) & problem.opened[rows]
    guesses, log_p = problem.guess(x_t, t, where, rows, 1, rng.fork("draw"))
    x_0 = guesses[0]
    if u == 0:
        return x_0, x_0
    a_t, a_u = float(problem.noise.a(t)), float(problem.noise.a(u))
    if order == "random":
        return problem.forth(x_t, x_0, a_t, a_u, rows, rng.fork("forth")), x_0
    if problem.noise.mask is None:
        raise ValueError(
            f"order {order!r} needs absorbing noise, where a mask shows the open tokens: use order='random'"
        )
    sure = torch.where(where, log_p[0], -torch.inf)
    left = (problem.opened[rows].sum(1) * (1 - a_u)).round().long()
    reveal = (where.sum(1) - left).clamp_min(0)
    rank = sure.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return torch.where(where & (rank < reveal[:, None]), x_0, x_t), x_0
