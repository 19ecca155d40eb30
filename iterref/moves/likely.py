"""Steps of plain decoding with the log-likelihood of what they settle.

    x_u from x_t by the decoder;     log p = sum of log p(x_u^i | x_t) over the positions i that are open at t, not at u

This is the log-probability of a step's tokens given which positions are settled. Summed over a path that settles one
token at a time it is the model's own log p(x_0). Under noise without a mask the last step settles all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.decoding import Confidence, Decoder, confidence
from iterref.random import Rng
from iterref.run import Run

# Orders in which a draw comes with its log-probability.
LIKELY = ("random", "left", "confidence")


def expect_likely(name: str, order: str) -> None:
    """Raises `ValueError` for an order whose confidence is not the log-probability of the drawn token."""
    if order not in LIKELY:
        raise ValueError(f"{name}: order={order} keeps no log-probabilities: use one of {', '.join(LIKELY)}")


def likely_step(
    run: Run, decoder: Decoder, x_t: Tensor, t: float, u: float, rng: Rng, score: Confidence = confidence
) -> tuple[Tensor, Tensor]:
    """One step from t to u < t, (R, L) -> x_u (R, L) and the sum of `score` over what it settles, (R,) float64."""
    where = run.undetermined(x_t, t)
    x_0, log_p = run.draw(x_t, t, where, 1, rng.fork("draw"), score)
    x_u = decoder.reveal(run, x_t, x_0[0], log_p[0], t, u, rng)
    settled = where & ~run.undetermined(x_u, u)
    return x_u, torch.where(settled, log_p[0], 0.0).cumsum(1)[:, -1]  # a running sum, the same bits in every batch
