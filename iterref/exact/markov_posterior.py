"""Bridge: the posterior of a homogeneous Markov chain under absorbing noise, from the nearest revealed tokens alone.

    p(x_0^i = v | x_t) proportional to T^d(x^l, v) T^e(v, x^r),     l = i - d, r = i + e the nearest revealed positions

Where nothing is revealed before i, the first factor is the chain's distribution at i; where nothing is behind it, the
second is one. So two rows of the powers of T are multiplied: O(V) an open position, instead of O(V^2) by smoothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.exact.table import add_up

# The powers T^0 ... T^L-1, twice, hold no more numbers than this: 1 GiB.
LARGEST = 2**27


class Bridge:
    """The powers of a transition matrix (K, K) and the law of every position, `marginals` (L, K); the mask is token K.
    Rows are scaled by their largest entry, so that products of two do not vanish."""

    def __init__(self, transition: Tensor, marginals: Tensor) -> None:
        self.length, self.tokens = marginals.shape
        powers = [torch.eye(self.tokens, dtype=transition.dtype)]
        for _ in range(1, self.length):
            powers.append(powers[-1] @ transition)
        from_left = torch.stack(powers)
        # rows d * K + u: from token u, d steps before; then one row a position, for nothing revealed before it
        self._arriving = _scaled(torch.cat([from_left.flatten(0, 1), marginals]))
        # rows e * K + u: to token u, e steps behind; then one row of ones
        to_right = from_left.transpose(1, 2).flatten(0, 1)
        self._leaving = _scaled(torch.cat([to_right, torch.ones_like(marginals[:1])]))
        self._has_gaps = not bool((self._arriving[self.tokens :] > 0).all())

    @staticmethod
    def fits(tokens: int, length: int) -> bool:
        """Whether the powers are few enough to be kept."""
        return 2 * length * tokens**2 <= LARGEST

    def __call__(self, x_t: Tensor, where: Tensor) -> Tensor:
        """log p(x_0^i | x_t) of the True cells, (R, L) long, (R, L) bool -> (M, K) float64. Raises `ValueError` for a
        token out of range, or where no sequence has the revealed tokens of a row."""
        if bool(((x_t < 0) | (x_t > self.tokens)).any()):
            raise ValueError(f"x_t holds a token outside 0 to {self.tokens}, the mask: check its tokens")
        position = torch.arange(self.length)
        seen = x_t < self.tokens
        left = torch.where(seen, position, -1).cummax(1).values
        right = torch.where(seen, position, self.length).flip(1).cummin(1).values.flip(1)
        if self._has_gaps:
            self._expect_possible(x_t, left)
        row, i = where.nonzero(as_tuple=True)
        after = right[row, i]
        token = x_t[row, after.clamp_max(self.length - 1)]
        leaving = torch.where(after < self.length, (after - i) * self.tokens + token, len(self._leaving) - 1)
        both = self._arriving[self._before(x_t, row, i, left[row, i])].mul_(self._leaving[leaving])
        total = add_up(both, -1).log()[:, None]
        return both.log_().sub_(total)

    def _before(self, x_t: Tensor, row: Tensor, i: Tensor, left: Tensor) -> Tensor:
        """Which row of `_arriving` belongs to cells (row, i) whose nearest revealed position is `left`, -1 for none."""
        given = (i - left) * self.tokens + x_t[row, left.clamp_min(0)]
        return torch.where(left >= 0, given, self.length * self.tokens + i)

    def _expect_possible(self, x_t: Tensor, left: Tensor) -> None:
        """A row is possible if every revealed token can follow the one that was revealed before it."""
        previous = torch.cat([torch.full_like(left[:, :1], -1), left[:, :-1]], 1)
        row, i = (x_t < self.tokens).nonzero(as_tuple=True)
        step = self._arriving[self._before(x_t, row, i, previous[row, i]), x_t[row, i]]
        dead = row[step == 0]
        if len(dead):
            raise ValueError(f"x_t row {int(dead[0])} is impossible under this chain: check its revealed tokens")


def _scaled(rows: Tensor) -> Tensor:
    """Every row's largest entry made 1; a row of zeros, which no possible state asks for, stays."""
    return rows / rows.amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
