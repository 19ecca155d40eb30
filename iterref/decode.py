"""Base decoders: one step of plain sampling from a noise level to a cleaner one, in a given unmasking order.

    x_0 ~ p(. | x_t),   x_u ~ q(x_u | x_t, x_0)         order "random": the reverse process itself (ancestral)
    x_0 ~ p(. | x_t),   reveal the surest k tokens      order "confidence": as LLaDA and MaskGIT decode

Confidence is the probability of the token that was drawn; k brings the share of open positions to 1 - a_u. That
order samples another law than the reverse process (a sharper one): `trajectory` is exact for it all the same.

Chang et al. (2022), arXiv:2202.04200; Nie et al. (2025), arXiv:2502.09992.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterref.problem import Problem
from iterref.random import Rng

ORDERS = ("random", "confidence")


@dataclass(frozen=True)
class Decoder:
    """How plain sampling unmasks. Raises `ValueError` for an unknown order or a bound or block that is negative."""

    order: str = "random"
    block: int = 0
    bound: float = 0.1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.block < 0 or self.bound < 0:
            raise ValueError(f"block and bound must not be negative, got {self.block} and {self.bound}")


REVERSE = Decoder()


def grid(steps: int) -> tuple[float, ...]:
    """The times 1 = t_0 > ... > t_steps = 0, evenly spaced; 0 steps are the finished text alone."""
    if not steps:
        return (0.0,)
    return tuple((steps - i) / steps for i in range(steps + 1))


def advance(problem: Problem, x_t: Tensor, t: float, u: float, decoder: Decoder, rows: Tensor, rng: Rng) -> Tensor:
    """One step from t to u < t for (R, L) states of (R,) rows -> x_u (R, L).

    Which masks fall in a step of the random order, and how many in one by confidence, does not depend on what they
    hide; so that is settled first, and the denoiser is asked for these positions alone, and not at all for a row that
    reveals nothing. Raises `ValueError` for an order that the noise has no meaning for.
    """
    where = hidden(problem, x_t, t, rows)
    if problem.noise.mask is not None and decoder.order == "random":
        revealed = _falling(problem, where, t, u, rng)
        return problem.guess(x_t, t, revealed, rows, 1, rng.fork("draw"))[0][0]
    if problem.noise.mask is not None:
        where = where & (_count(problem, where, u, rows) > 0)[:, None]
    guesses, sure = problem.guess(x_t, t, where, rows, 1, rng.fork("draw"))
    return reveal(problem, x_t, guesses[0], sure[0], t, u, decoder, rows, rng)


def hidden(problem: Problem, x_t: Tensor, t: float, rows: Tensor) -> Tensor:
    """Where a full guess at (R, L) states must draw, (R, L) bool."""
    times = torch.full((len(rows),), t, dtype=torch.float64, device=x_t.device)
    return problem.noise.undetermined(x_t, times) & problem.opened[rows]


def reveal(
    problem: Problem,
    x_t: Tensor,
    x_0: Tensor,
    sure: Tensor,
    t: float,
    u: float,
    decoder: Decoder,
    rows: Tensor,
    rng: Rng,
) -> Tensor:
    """The second half of `advance`: x_u from a full guess x_0 at x_t, and how sure it is (both from `Problem.guess`).

    For methods that look at the guesses of an evaluation first, and then go on from the same evaluation.
    """
    if problem.noise.mask is None:
        if decoder.order != "random":
            raise ValueError(
                f"order {decoder.order!r} needs absorbing noise, where a mask shows the open tokens: use order='random'"
            )
        a_t, a_u = float(problem.noise.a(t)), float(problem.noise.a(u))
        return x_0 if u == 0 else problem.forth(x_t, x_0, a_t, a_u, rows, rng.fork("forth"))
    where = hidden(problem, x_t, t, rows)
    if decoder.order == "random":
        return torch.where(_falling(problem, where, t, u, rng), x_0, x_t)
    count = _count(problem, where, u, rows)
    rank = torch.where(where, sure, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return torch.where(where & (rank < count[:, None]), x_0, x_t)


def _falling(problem: Problem, where: Tensor, t: float, u: float, rng: Rng) -> Tensor:
    """The masks that fall between t and u in random order, among (R, L) `where`."""
    if u == 0:
        return where
    a_t, a_u = float(problem.noise.a(t)), float(problem.noise.a(u))
    falls = torch.full(where.shape, (a_u - a_t) / (1 - a_t), dtype=torch.float64, device=where.device)
    return where & rng.fork("reveal").bernoulli(torch.where(where, falls, 0.0))


def _count(problem: Problem, where: Tensor, u: float, rows: Tensor) -> Tensor:
    """How many masks of (R, L) `where` a step to u reveals, so that a share 1 - a_u of the open positions is left."""
    left = (problem.opened[rows].sum(1) * (1 - float(problem.noise.a(u)))).round().long()
    return (where.sum(1) - left).clamp_min(0)
