"""Base decoders: one step of plain sampling from a noise level to a cleaner one, in a given unmasking order.

    x_0 ~ p(. | x_t),   x_u ~ q(x_u | x_t, x_0)     order "random": the reverse process itself (ancestral)
    x_0 ~ p(. | x_t),   x_u shows k of the hidden tokens of x_0, k to bring the share of open positions to 1 - a_u:
                        "left" to right, or the surest first by "confidence", "margin" or "entropy" (`iterref.unmask`)
    x_0 ~ p(. | x_t),   as many of least entropy as a bound allows: order "bounded" (EB-Sampler)

Under the bound a sure row is done early and is not evaluated again; the last step shows what is left. `block` tokens at
a time is LLaDA's semi-autoregressive decoding: free positions are cut into blocks from the left, and a later one opens
when the earlier ones are shown, or in the same step where k asks for more than is left of them ("bounded" never does).

Where one token is shown at a time, every order but "confidence" samples the model itself, since the choice does not
look at what was drawn. "confidence" samples a sharper law, and several tokens at once are drawn from a product of
marginals, in the random order too; `trajectory` is exact for each of them all the same.

Under other noise than absorbing nothing shows which tokens are open. "random" is the reverse process there too, and
"bounded" what DiffusionGemma does: draw everywhere, keep the tokens within the bound, put fresh noise elsewhere, and
decide anew in the next step. It suits a denoiser that reads the noise level off the tokens: a_u does not tell it.

Austin et al. (2021), arXiv:2107.03006; Nie et al. (2025), arXiv:2502.09992; Ben-Hamu et al. (2025), arXiv:2505.24857.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterref import unmask
from iterref.noise import Noise
from iterref.problem import Problem
from iterref.random import Rng

ORDERS = ("random", "left", *unmask.SCORES)
BLIND = ("random", "left")  # orders that do not look at the laws


@dataclass(frozen=True)
class Decoder:
    """How plain sampling unmasks. Raises `ValueError` for an unknown order or a bound or block that is negative."""

    order: str = "random"
    block: int = 0
    bound: float = 0.1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")
        if not (self.block >= 0 and self.bound >= 0):
            raise ValueError(f"block and bound must not be negative, got {self.block} and {self.bound}")

    @property
    def score(self) -> unmask.Score:
        """How early a token is shown, the highest first: what `Problem.guess` is to tell `reveal`."""
        return unmask.SCORES.get(self.order, unmask.confidence)

    def expect(self, noise: Noise) -> None:
        """Raises `ValueError` where these options have no meaning under a noise."""
        if noise.mask is None and (self.order not in ("random", "bounded") or self.block):
            blocks = f" with block={self.block}" if self.block else ""
            raise ValueError(
                f"order {self.order!r}{blocks} needs absorbing noise, where a mask shows the open tokens: use "
                "order='random' or 'bounded', and block=0"
            )


REVERSE = Decoder()


def grid(steps: int) -> tuple[float, ...]:
    """The times 1 = t_0 > ... > t_steps = 0, evenly spaced; 0 steps are the finished text alone."""
    if not steps:
        return (0.0,)
    return tuple((steps - i) / steps for i in range(steps + 1))


def advance(problem: Problem, x_t: Tensor, t: float, u: float, decoder: Decoder, rows: Tensor, rng: Rng) -> Tensor:
    """One step from t to u < t for (R, L) states of (R,) rows -> x_u (R, L).

    Where the choice of the masks that fall does not depend on what they hide, it is settled first, and the denoiser is
    asked for these positions alone; else for those that may fall, and not at all for a row that shows nothing. Raises
    `ValueError` for a decoder that the noise has no meaning for.
    """
    decoder.expect(problem.noise)
    where = hidden(problem, x_t, t, rows)
    masked = problem.noise.mask is not None
    if masked and decoder.order in BLIND:
        falls = _falling(problem, where, where.double(), t, u, decoder, rows, rng)
        return problem.guess(x_t, t, falls, rows, 1, rng.fork("draw"))[0][0]
    if masked:
        where = _within_reach(problem, where, u, decoder, rows)
    guesses, sure = problem.guess(x_t, t, where, rows, 1, rng.fork("draw"), decoder.score)
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
    """The second half of `advance`: x_u from a full guess x_0 at x_t, and how sure it is.

    Both are from `Problem.guess`, with the decoder's `score`. For methods that look at the guesses of an evaluation
    first, and then go on from the same evaluation.
    """
    decoder.expect(problem.noise)
    where = hidden(problem, x_t, t, rows)
    if problem.noise.mask is not None:
        return torch.where(_falling(problem, where, sure, t, u, decoder, rows, rng), x_0, x_t)
    if u == 0:
        return x_0
    if decoder.order == "bounded":
        kept = ~where | unmask.bounded(where, -sure, decoder.bound)
        return problem.noise.corrupt(x_0, torch.ones((), dtype=torch.float64), kept.double(), rng.fork("fresh"))
    a_t, a_u = float(problem.noise.a(t)), float(problem.noise.a(u))
    return problem.forth(x_t, x_0, a_t, a_u, rows, rng.fork("forth"))


def _falling(
    problem: Problem, where: Tensor, sure: Tensor, t: float, u: float, decoder: Decoder, rows: Tensor, rng: Rng
) -> Tensor:
    """The masks among (R, L) `where` that fall between t and u, for scores `sure` (R, L) of what they hide."""
    if u == 0:
        return where
    if decoder.order == "random" and not decoder.block:
        a_t, a_u = float(problem.noise.a(t)), float(problem.noise.a(u))
        falls = torch.full(where.shape, (a_u - a_t) / (1 - a_t), dtype=torch.float64, device=where.device)
        return where & rng.fork("reveal").bernoulli(torch.where(where, falls, 0.0))
    block = unmask.blocks(problem.opened[rows], decoder.block)
    if decoder.order == "bounded":
        return unmask.bounded(unmask.foremost(where, block), -sure, decoder.bound)
    if decoder.order == "random":
        sure = rng.fork("reveal").order(where.shape[1])
    elif decoder.order == "left":
        sure = torch.zeros_like(sure)
    return unmask.surest(where, sure, block, _count(problem, where, u, rows))


def _count(problem: Problem, where: Tensor, u: float, rows: Tensor) -> Tensor:
    """How many masks of (R, L) `where` a step to u reveals, so that a share 1 - a_u of the open positions is left."""
    left = (problem.opened[rows].sum(1) * (1 - float(problem.noise.a(u)))).round().long()
    return (where.sum(1) - left).clamp_min(0)


def _within_reach(problem: Problem, where: Tensor, u: float, decoder: Decoder, rows: Tensor) -> Tensor:
    """Those of (R, L) `where` that a step to u may reveal, whatever the laws say."""
    if u == 0:
        return where
    block = unmask.blocks(problem.opened[rows], decoder.block)
    if decoder.order == "bounded":
        return unmask.foremost(where, block)
    return unmask.reached(where, block, _count(problem, where, u, rows))
