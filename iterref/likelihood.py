"""The model's own log-likelihood of finished texts: what says whether a text with the reward is still a text.

    absorbing noise   log p(x)  ~  sum_k sum_(i in group k) log p(x^i | x^(groups before k)),    K evaluations
    other noise       sum_i log p(x^i | x^{-i}),  the pseudo-likelihood of leave-one-out conditionals, one evaluation

Groups are interleaved: positions K apart share one, and those halfway between come next, so that what is drawn apart is
far apart. With as many groups as positions the sum is the chain rule itself, and exact for a consistent model; with
fewer it leaves out how the tokens of a group depend on each other. Uria, Murray and Larochelle (2014), arXiv:1310.1757,
on orders; Besag (1975), The Statistician 24, on pseudo-likelihood.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from iterref.run import Run

EVALUATIONS = 8


def log_likelihood(run: Run, x: Tensor, evaluations: int = EVALUATIONS, offset: int = 0) -> Tensor:
    """log p of finished texts (R, L) at their free positions -> (R,) float64, in nats.

    `evaluations` K are the groups under absorbing noise, at most as many as are needed; `offset` says which position
    belongs to the first. Costs K evaluations a text, counted by the run's meter; under other noise one.
    """
    if run.noise.mask is None:
        return _summed(run.conditionals(x, run.free), x, run.free)
    place = (run.free.cumsum(1) - 1 + offset) % evaluations
    group = torch.tensor(interleaved(evaluations), device=x.device)[place].where(run.free, -1)
    count = run.free.sum(1).clamp_min(1)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for k in range(evaluations):
        here, hidden = group == k, group >= k
        t = run.noise.schedule.time(1 - hidden.sum(1).double() / count)
        log_p = run.predict(torch.where(hidden, run.noise.mask, x), t, here)
        total += _summed(log_p, x, here)
    return total


@lru_cache(maxsize=64)
def interleaved(n: int) -> tuple[int, ...]:
    """The turn of every residue 0 .. n - 1, so that each comes halfway between those before it: 0 2 1 3 for n = 4."""
    bits = max(n - 1, 1).bit_length()
    order = sorted(range(n), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return tuple(order.index(i) for i in range(n))


def _summed(log_p: Tensor, x: Tensor, where: Tensor) -> Tensor:
    """The log-probabilities (M, V) of the texts' own tokens, summed a text, (R,)."""
    own = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    own[where] = log_p.gather(1, x[where][:, None])[:, 0].double()
    return own.cumsum(1)[:, -1]  # in one order, whatever else is in the batch
