"""Particles: several weighted copies of every row, and the estimates that they make together.

    N particles with weights w_n:   Z^ = (running product of mean weights),   E[f] ~ sum_n w_n f(x^n) / sum_n w_n

Weights are kept in log space. Where particles are resampled by weight without bias, Z^ estimates E_p[exp(r(x_0) /
alpha)], the constant of the tilted distribution, without bias, and so does Z^ E[f] of f exp(r / alpha) (Del Moral 2004,
proposition 7.4.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor


@dataclass(frozen=True)
class Particles:
    """N copies of B rows: `x_t` (N, B, L), their samples `x_0` (N, B, L) with rewards `reward` (N, B) float64 where
    there are any, log-weights `log_w` (N, B) float64, and `log_z` (B,), the constant up to the last resampling.
    `values` (K, N, B) are the intermediate values along each one's path so far (`iterref.potentials`)."""

    x_t: Tensor
    log_w: Tensor
    log_z: Tensor
    x_0: Tensor | None = None
    reward: Tensor | None = None
    values: Tensor | None = None

    @classmethod
    def equal(cls, x_t: Tensor) -> Particles:
        """Particles (N, B, L) of equal weight."""
        log_w = torch.zeros(x_t.shape[:2], dtype=torch.float64, device=x_t.device)
        return cls(x_t, log_w, torch.zeros_like(log_w[0]))

    @property
    def n(self) -> int:
        return len(self.x_t)

    @property
    def rewards(self) -> Tensor:
        """The rewards (N, B). Raises `ValueError` where there are none yet."""
        if self.reward is None:
            raise ValueError("these particles have no rewards: only finished ones do")
        return self.reward

    @property
    def samples(self) -> Tensor:
        """The clean samples (N, B, L). Raises `ValueError` where there are none yet."""
        if self.x_0 is None:
            raise ValueError("these particles have no clean samples yet")
        return self.x_0

    @property
    def path_values(self) -> Tensor:
        """The values (K, N, B) along each path. Raises `ValueError` for particles that keep none."""
        if self.values is None:
            raise ValueError("these particles keep no values along their paths")
        return self.values

    @property
    def by_row(self) -> Tensor:
        """The log-weights of every row side by side, (B, N) contiguous: sums over them are then the same bits in every
        batch, and resampling and choosing take them so."""
        return self.log_w.T.contiguous()

    def log_constant(self) -> Tensor:
        """log Z^ (B,); NaN where the particles' method estimates none."""
        return self.log_z + self.by_row.logsumexp(1) - log(self.n)

    def without_constant(self) -> Particles:
        """The same particles, from whose weights Z^ cannot be told: those of chains, or of texts that were selected."""
        return replace(self, log_z=torch.full_like(self.log_z, torch.nan))

    def ess(self) -> Tensor:
        """The effective number of particles (sum w)^2 / sum w^2, (B,); 0 where every weight is zero."""
        log_w = self.by_row
        w = (log_w - log_w.amax(1, keepdim=True).clamp_min(-1e300)).exp()
        return w.sum(1).square() / w.square().sum(1).clamp_min(1e-300)

    def weighed(self, log_g: Tensor) -> Particles:
        """The same particles with their weights multiplied by exp(log_g), (N, B)."""
        return replace(self, log_w=self.log_w + log_g)

    def beside(self, others: Particles, rows: Tensor) -> Particles:
        """These particles in some rows, (B,) bool, and as many others in the rest."""
        made = dict[str, Tensor]()
        for name, new in vars(self).items():
            if new is not None and (old := getattr(others, name)) is not None:
                made[name] = torch.where(rows[:, None] if name in ("x_t", "x_0") else rows, new, old)
        return replace(self, **made)

    def order(self, index: Tensor) -> Particles:
        """Particle n becomes index[n, b] (n, B), weight and all."""
        of = Particles(pick(self.x_t, index), self.log_w.gather(0, index), self.log_z)
        if self.values is not None:
            of = replace(of, values=self.values.gather(1, index.expand(len(self.values), -1, -1)))
        if self.x_0 is not None:
            of = replace(of, x_0=pick(self.x_0, index))
        return of if self.reward is None else replace(of, reward=self.reward.gather(0, index))

    def take(self, ancestors: Tensor, rows: Tensor | None = None) -> Particles:
        """Resampled: particle n becomes ancestors[n, b] (n, B), and all weights start again at 1.

        Only where `rows` (B,) bool says so, if given; without, the number of particles may change. A row without a
        positive weight keeps its Z^ of zero for good."""
        log_z, own = self.log_constant(), torch.arange(self.n, device=ancestors.device)[:, None]
        if rows is None:
            return replace(self.order(ancestors), log_w=self.log_w.new_zeros(ancestors.shape), log_z=log_z)
        taken = self.order(torch.where(rows, ancestors, own))
        log_w, log_z = torch.where(rows, 0.0, self.log_w), torch.where(rows, log_z, self.log_z)
        return replace(taken, log_w=log_w, log_z=log_z)


def pick(candidates: Tensor, choice: Tensor) -> Tensor:
    """Candidate choice[b] of every row b: `(N, B, *)` and (B,) -> `(B, *)`; with a (K, B) choice, K of them."""
    return candidates[choice, torch.arange(candidates.shape[1], device=candidates.device)]


def adopt(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new `(B, *)` where accepted (B,), else the old."""
    return torch.where(accepted.view(-1, *[1] * (new.dim() - 1)), new, old)
