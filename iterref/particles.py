"""Particles: several weighted copies of every row, and the estimates that they make together.

    N particles with weights w_n:   Z^ = (running product of mean weights),   E[f] ~ sum_n w_n f(x^n) / sum_n w_n

Weights are kept in log space. Z^ estimates E_p[exp(r(x_0) / alpha)], the constant of the tilted law, without bias
(Del Moral 2004, proposition 7.4.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor


@dataclass(frozen=True)
class Particles:
    """N copies of B rows: `x_t` (N, B, L), their guesses `x_0` (N, B, L) with rewards `reward` (N, B) float64 where
    there are any, log-weights `log_w` (N, B) float64, and `log_z` (B,), the constant up to the last resampling."""

    x_t: Tensor
    log_w: Tensor
    log_z: Tensor
    x_0: Tensor | None = None
    reward: Tensor | None = None

    @classmethod
    def equal(cls, x_t: Tensor) -> Particles:
        """Particles (N, B, L) of equal weight."""
        log_w = torch.zeros(x_t.shape[:2], dtype=torch.float64, device=x_t.device)
        return cls(x_t, log_w, torch.zeros_like(log_w[0]))

    @property
    def n(self) -> int:
        """Particles a row."""
        return len(self.x_t)

    def log_constant(self) -> Tensor:
        """log Z^ (B,)."""
        return self.log_z + self.log_w.logsumexp(0) - log(self.n)

    def ess(self) -> Tensor:
        """The effective number of particles (sum w)^2 / sum w^2, (B,); 0 where every weight is zero."""
        log_w = self.log_w - self.log_w.amax(0).clamp_min(-1e300)
        w = log_w.exp()
        return w.sum(0).square() / w.square().sum(0).clamp_min(1e-300)

    def take(self, ancestors: Tensor, rows: Tensor) -> Particles:
        """Resampled where `rows` (B,) says so: particle n becomes ancestors[n, b], weights start again at 1.

        A row without a positive weight keeps its particles, and its Z^ of zero.
        """
        own = torch.arange(self.n, device=rows.device)[:, None].expand_as(ancestors)
        ancestors = torch.where(rows, ancestors, own)
        x_0 = None if self.x_0 is None else pick(self.x_0, ancestors)
        reward = None if self.reward is None else self.reward.gather(0, ancestors)
        log_z = torch.where(rows, self.log_constant(), self.log_z)
        log_w = torch.where(rows, 0.0, self.log_w)
        return replace(self, x_t=pick(self.x_t, ancestors), x_0=x_0, reward=reward, log_w=log_w, log_z=log_z)


def pick(candidates: Tensor, choice: Tensor) -> Tensor:
    """Candidate choice[b] of every row b: (N, B, *) and (B,) -> (B, *); with a (K, B) choice, K of them."""
    return candidates[choice, torch.arange(candidates.shape[1], device=candidates.device)]


def adopt(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new (B, *) where accepted (B,), else the old."""
    return torch.where(accepted.view(-1, *[1] * (new.dim() - 1)), new, old)
