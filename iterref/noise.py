"""Noise: how clean tokens are corrupted, one closed form for absorbing and uniform noise.

    q(x_t | x_0) = a_t [x_t = x_0] + (1 - a_t) pi(x_t),      t in [0, 1], 0 clean, 1 noise

`pi` is a point mass on the mask token (absorbing), 1/V everywhere (uniform), or any other distribution; nothing below
branches on which. With c = a_s / a_t for s > t, the reverse distribution of x_t given x_s and x_0 is a mixture of
three:

    x_t = x_0       with weight  a_t (c [x_0 = x_s] + (1 - c) pi(x_s))
    x_t = x_s       with weight  (1 - a_t) c pi(x_s)
    x_t ~ pi        with weight  (1 - a_t) (1 - c) pi(x_s)

Austin et al. (2021), arXiv:2107.03006; Sahoo et al. (2024), arXiv:2406.07524; Schiff et al. (2025), arXiv:2412.10193.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, pi
from typing import Literal

import torch
from torch import Tensor

from iterref.random import Rng

ScheduleName = Literal["linear", "cosine", "log-linear", "geometric"]
SCHEDULES: tuple[str, ...] = ("linear", "cosine", "log-linear", "geometric")


@dataclass(frozen=True)
class Schedule:
    """The probability `a_t` that a token is still the clean one, falling from 1 at t = 0.

    linear      a_t = 1 - t
    cosine      a_t = 1 - cos((1 - t) pi / 2) = 1 - sin(t pi / 2)        (Shi et al. 2024, arXiv:2406.04329)
    log-linear  a_t = 1 - (1 - low) t                                    (Lou et al. 2024, arXiv:2310.16834)
    geometric   a_t = exp(-(low^(1-t) high^t - low))                     (Lou et al. 2024, shifted so that a_0 = 1)

    `low` and `high` are the ends of the noise level for the last two and are ignored by the first two. Raises
    `ValueError` for an unknown name or ends that are not 0 < low < high (log-linear: 0 <= low < 1)."""

    name: ScheduleName = "linear"
    low: float = 1e-3
    high: float = 20.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.name!r}: choose one of {', '.join(SCHEDULES)}")
        if self.name == "log-linear" and not 0 <= self.low < 1:
            raise ValueError(f"the log-linear schedule needs 0 <= low < 1, got {self.low}")
        if self.name == "geometric" and not 0 < self.low < self.high:
            raise ValueError(f"the geometric schedule needs 0 < low < high, got {self.low} and {self.high}")

    def a(self, t: Tensor) -> Tensor:
        """`a_t` of times `(*)` in [0, 1] -> `(*)` float64."""
        t = t.double()
        if self.name == "linear":
            return 1 - t
        if self.name == "cosine":
            return 1 - torch.sin(t * (pi / 2))  # the cosine of pi / 2 is rounded, and no token would ever be settled
        if self.name == "log-linear":
            return 1 - (1 - self.low) * t
        level = torch.exp((1 - t) * log(self.low) + t * log(self.high))
        return torch.exp(torch.where(t > 0, self.low - level, 0.0))  # 1 at t = 0, to the last bit

    def time(self, a_t: Tensor) -> Tensor:
        """The time at which a token is clean with probability a_t: the inverse of `a`, `(*)` -> `(*)` in [0, 1]."""
        a_t = a_t.double()
        if self.name == "linear":
            t = 1 - a_t
        elif self.name == "cosine":
            t = 1 - torch.acos((1 - a_t).clamp(-1, 1)) * (2 / pi)
        elif self.name == "log-linear":
            t = (1 - a_t) / (1 - self.low)
        else:
            level = self.low - torch.log(a_t.clamp_min(exp(-2 * self.high)))
            t = (torch.log(level) - log(self.low)) / (log(self.high) - log(self.low))
        return t.clamp(0, 1)


class Noise:
    """A noise process: the distribution `pi` that corrupted tokens follow, and the schedule of their share.

    `pi` is (V,) float64 and sums to one. `mask` is the token that `pi` is a point mass on, or None; it never
    stands in a clean text. Build one with `absorbing` or `uniform`, or give any `pi` of your own.

    Raises `ValueError` where `pi` is no probability vector."""

    def __init__(self, pi: Tensor, schedule: Schedule | None = None) -> None:
        pi = torch.as_tensor(pi, dtype=torch.float64)
        if pi.dim() != 1 or len(pi) < 2 or not bool(torch.isfinite(pi).all()) or bool((pi < 0).any()):
            raise ValueError("pi must be a vector of at least two probabilities, one a token")
        total = float(pi.sum())
        if abs(total - 1) > 1e-5:
            raise ValueError(f"pi must sum to one, it sums to {total:.6g}")
        self.pi = pi if abs(total - 1) < 1e-12 else pi / total  # float32 probabilities are off by their rounding
        self.schedule = schedule or Schedule()
        self.vocab = len(pi)
        self.mask = int(pi.argmax()) if float(pi.max()) == 1.0 else None

    def __repr__(self) -> str:
        p = "pi" if self.mask is None else f"mask={self.mask}"
        return f"Noise(vocab={self.vocab}, {p}, schedule={self.schedule.name!r})"

    def a(self, t: Tensor | float) -> Tensor:
        """`a_t` of times `(*)` -> `(*)` float64."""
        return self.schedule.a(torch.as_tensor(t, dtype=torch.float64))

    def prior(self, length: int, rng: Rng) -> Tensor:
        """Pure noise, x_1 ~ pi at every position, (R, length)."""
        return self._fresh(torch.ones(len(rng.rows), length, dtype=torch.bool, device=rng.rows.device), rng)

    def corrupt(self, x_t: Tensor, a_t: Tensor, a_s: Tensor, rng: Rng) -> Tensor:
        """x_s ~ q(x_s | x_t) for s noisier than t, (R, L) -> (R, L); `a_t`, `a_s` broadcast to (R, L)."""
        kept = _ratio(a_s, a_t).to(x_t.device).expand(x_t.shape)
        renew = rng.fork("renew").bernoulli(1 - kept)
        return torch.where(renew, self._fresh(renew, rng.fork("fresh")), x_t)

    def bridge(self, x_s: Tensor, x_0: Tensor, a_s: Tensor, a_t: Tensor, rng: Rng) -> Tensor:
        """x_t ~ q(x_t | x_s, x_0) for t cleaner than s, (R, L), (R, L) -> (R, L).

        The three-way mixture at the top of this file (Austin et al. 2021, eq. 3). Where x_s cannot come from x_0
        the distribution is empty and x_0 is returned."""
        a_t, c = a_t.to(x_s.device), _ratio(a_s, a_t).to(x_s.device)
        pi_s = self.pi.to(x_s.device)[x_s]
        clean = a_t * (c * (x_0 == x_s) + (1 - c) * pi_s)
        noisy = (1 - a_t) * pi_s
        total = clean + noisy
        is_clean = rng.fork("clean").bernoulli(torch.where(total > 0, clean / total.clamp_min(1e-300), 1.0))
        if self.mask is not None:  # a noisy token is the mask whether it stays or is drawn afresh: no draw is owed
            return torch.where(is_clean, x_0, x_s)
        stays = rng.fork("stays").bernoulli(c.expand(x_s.shape))
        fresh = ~is_clean & ~stays
        return torch.where(fresh, self._fresh(fresh, rng.fork("fresh")), torch.where(is_clean, x_0, x_s))

    def likelihood(self, x_t: Tensor, t: Tensor) -> Tensor:
        """q(x_t^i | x_0^i = v) of every token v, (R, L), (R,) -> (R, L, V) float64."""
        a_t = self.a(t).to(x_t.device)[:, None, None]
        pi_t = self.pi.to(x_t.device)[x_t][..., None]
        same = torch.nn.functional.one_hot(x_t, self.vocab).double()
        return a_t * same + (1 - a_t) * pi_t

    def reverse(self, log_p0: Tensor, x_s: Tensor, a_s: Tensor, a_t: Tensor) -> Tensor:
        """log p(x_t^i | x_s) = log sum_v p(x_0^i = v | x_s) q(x_t^i | x_s^i, v), packed: (M, V), (M,) -> (M, V).

        The distribution that `bridge` draws from when x_0 is drawn from `log_p0`, in closed form."""
        p0, c = log_p0.double().exp(), _ratio(a_s, a_t)
        pi, pi_s = self.pi.to(p0.device), self.pi.to(p0.device)[x_s][:, None]
        same = torch.nn.functional.one_hot(x_s, self.vocab).double()
        evidence = a_s * same + (1 - a_s) * pi_s  # q(x_s | x_0 = v)
        share = torch.where(evidence > 0, p0 / evidence.clamp_min(1e-300), 0.0)
        step = c * same + (1 - c) * pi_s  # q(x_s | x_t = v)
        return torch.log(step * (a_t * share + (1 - a_t) * pi * share.sum(-1, keepdim=True)))

    def undetermined(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Where the clean token is not known from x_t itself, (R, L), (R,) -> (R, L) bool."""
        if self.mask is not None:
            return x_t == self.mask
        return (self.a(t) < 1).to(x_t.device)[:, None].expand(x_t.shape)

    def _fresh(self, where: Tensor, rng: Rng) -> Tensor:
        """Draws of pi at the True cells of (R, L), the rest unspecified."""
        if self.mask is not None:
            return torch.full(where.shape, self.mask, dtype=torch.long, device=where.device)
        drawn = torch.zeros(where.shape, dtype=torch.long, device=where.device)
        drawn[where] = rng.categorical(torch.log(self.pi).to(where.device)[None], where)[0]
        return drawn


def absorbing(vocab: int, mask: int | None = None, schedule: Schedule | ScheduleName = "linear") -> Noise:
    """Absorbing (masked) noise over `vocab` tokens, `mask` among them (the last one unless given)."""
    mask = vocab - 1 if mask is None else mask
    if not 0 <= mask < vocab:
        raise ValueError(f"the mask id {mask} lies outside the vocabulary of {vocab} tokens")
    pi = torch.zeros(vocab, dtype=torch.float64)
    pi[mask] = 1.0
    return Noise(pi, Schedule(schedule) if isinstance(schedule, str) else schedule)


def uniform(vocab: int, schedule: Schedule | ScheduleName = "linear") -> Noise:
    """Uniform noise: a corrupted token is any of the `vocab` tokens with equal probability."""
    pi = torch.full((vocab,), 1 / vocab, dtype=torch.float64)
    return Noise(pi, Schedule(schedule) if isinstance(schedule, str) else schedule)


def _ratio(a_s: Tensor, a_t: Tensor) -> Tensor:
    """a_s / a_t, the probability that a token survives from t to s; 1 where both are zero (s = t = 1)."""
    return torch.where(a_t > 0, a_s / a_t.clamp_min(1e-300), 1.0)
