"""Markov: a chain over tokens with its exact denoiser at any length, and the world where every answer is known.

    p(x) = p_0(x^0) prod_i T_i(x^i-1, x^i)
    p(x_0^i = v | x_t) proportional to f_i(v) b_i(v)                             (forward-backward smoothing)
      f_i(v) = q(x_t^i | v) sum_u f_i-1(u) T_i(u, v),   b_i(u) = sum_v T_i+1(u, v) q(x_t^i+1 | v) b_i+1(v)
    r(x) = sum_i values(x^i-1, x^i)   =>   pi(x) proportional to p(x) exp(r(x) / alpha) is again a chain:
      T*_i(u, v) = T_i(u, v) exp(values(u, v) / alpha) h_i(v) / h_i-1(u),   h the backward sums of the numerator

Everything is float64 and elementwise, with sums in a fixed order, so a row's numbers are the same bits in every batch.
A chain with one matrix for all steps has a quicker denoiser under absorbing noise (`iterref.exact.markov_posterior`).

Rabiner (1989), "A tutorial on hidden Markov models", sections III A-B; backward sampling: Carter and Kohn (1994).
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.exact.markov_posterior import Bridge
from iterref.exact.pair_reward import PairReward, random_reward
from iterref.exact.table import add_up, clean_tokens, evidence, expect_clean, normalised, packed
from iterref.noise import Noise, absorbing, uniform
from iterref.random import Rng

# Forward-backward works on so many rows at once that K^2 of their numbers fit a cache; results do not depend on it.
BLOCK = 2**18


class Markov(Denoiser):
    """A Markov chain over sequences of `length` clean tokens, and the denoiser that knows it. `log_start` (K,) and
    `log_transition`, (K, K) for all steps or (length - 1, K, K) for each, hold log-weights that need not be normalised.
    K is `noise.vocab`, less one with absorbing noise, whose mask must be the last token. Raises `ValueError` for a
    wrong shape, a NaN or +inf, or a token from which no step is possible."""

    uses_prompts = False

    def __init__(self, log_start: Tensor, log_transition: Tensor, length: int, noise: Noise) -> None:
        tokens = clean_tokens(noise)
        self._homogeneous = log_transition.dim() == 2
        if self._homogeneous:
            log_transition = log_transition.expand(max(length - 1, 0), -1, -1)
        if length < 1 or log_start.shape != (tokens,) or log_transition.shape != (length - 1, tokens, tokens):
            shapes = f"log_start {tuple(log_start.shape)} and log_transition {tuple(log_transition.shape)}"
            raise ValueError(f"{shapes} do not make a chain of length {length} over {tokens} clean tokens")
        self.noise, self.length, self.tokens = noise, length, tokens
        self.time_independent = noise.mask is not None
        self.log_start = normalised(log_start.double()[None], "log_start")[0]
        steps = log_transition.double().reshape(-1, tokens)
        self.log_transition = normalised(steps, "log_transition").view(length - 1, tokens, tokens)
        self._transition = self.log_transition.exp()

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `Table.__call__`."""
        if self._bridge is None:
            return packed(self._smoothed(x_t, t, where), self.noise)
        self._expect_length(x_t)
        return packed(self._bridge(x_t, where), self.noise)

    def joint(self, x_t: Tensor, t: Tensor, rng: Rng, n: int = 1) -> Tensor:
        """As `Table.joint`: filters forward, then draws from the last position to the first."""
        log_belief = self._forward(self._evidence(x_t, t)).log().transpose(1, 2).repeat(1, n, 1)
        streams = rng.repeat(n)
        tokens = torch.empty(self.length, len(streams), dtype=torch.int64)
        for i in range(self.length - 1, -1, -1):
            log_w = log_belief[i]
            if i < self.length - 1:
                log_w = log_w + self.log_transition[i].T[tokens[i + 1]]
            tokens[i] = streams.fork("joint", i).choose(log_w)
        return tokens.T.reshape(n, len(x_t), self.length)

    def sample(self, rng: Rng) -> Tensor:
        """A draw a row from the chain, (R, L) long."""
        tokens = [rng.fork("sample", 0).choose(self.log_start.expand(len(rng), -1))]
        for i, step in enumerate(self.log_transition, start=1):
            tokens.append(rng.fork("sample", i).choose(step[tokens[-1]]))
        return torch.stack(tokens, dim=1)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """log p(x) of clean sequences `(*, L)` -> `(*)` float64. Raises `ValueError` for a token out of range."""
        expect_clean(tokens, self.tokens, self.length)
        steps = self.log_transition[torch.arange(self.length - 1), tokens[..., :-1], tokens[..., 1:]]
        return add_up(torch.cat([self.log_start[tokens[..., :1]], steps], dim=-1), -1)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `Table.leave_one_out`."""
        expect_clean(x, self.tokens, self.length)
        row, i = where.nonzero(as_tuple=True)
        flat = self.log_start.new_zeros(1, self.tokens, self.tokens)
        arriving = torch.cat([self.log_start.expand_as(flat), self.log_transition])
        leaving = torch.cat([self.log_transition.transpose(1, 2), flat])
        before, after = x[row, (i - 1).clamp_min(0)], x[row, (i + 1).clamp_max(self.length - 1)]
        log_w = arriving[i, before] + leaving[i, after]
        return packed(normalised(log_w, "the leave-one-out conditional of packed"), self.noise)

    def marginals(self) -> Tensor:
        """The distribution of every position, (L, K) float64."""
        marginals = [self.log_start.exp()]
        for step in self._transition:
            marginals.append(marginals[-1] @ step)
        return torch.stack(marginals)

    def pair_marginals(self) -> Tensor:
        """The distribution of every pair of neighbours, (L - 1, K, K) float64."""
        return self.marginals()[:-1, :, None] * self._transition

    def mean(self, reward: PairReward) -> float:
        """The exact mean of a pair reward over the chain."""
        return float((self.pair_marginals() * reward.values.double()).sum())

    def mean_log_prob(self, of: Markov | None = None) -> float:
        """The exact mean log-probability a token, in nats, that chain `of` (itself unless given) gives to this one's
        sequences; -inf where this one makes what `of` excludes."""
        of = self if of is None else of
        start, pairs = self.marginals()[0], self.pair_marginals()
        first = torch.where(start > 0, start * of.log_start, 0.0).sum()
        return float((first + torch.where(pairs > 0, pairs * of.log_transition, 0.0).sum()) / self.length)

    def tilted(self, reward: PairReward, alpha: float) -> TiltedMarkov:
        """The chain pi(x) proportional to p(x) exp(r(x) / alpha), under the same noise. Raises `ValueError` unless
        alpha > 0 and the reward is over this chain's tokens."""
        if not alpha > 0 or reward.values.shape != (self.tokens, self.tokens):
            raise ValueError(f"tilting needs alpha > 0 and values for {self.tokens} tokens, got alpha = {alpha}")
        return TiltedMarkov(self, reward, alpha)

    @cached_property
    def _bridge(self) -> Bridge | None:
        if self.noise.mask is None or not self._homogeneous or not Bridge.fits(self.tokens, self.length):
            return None
        return Bridge(self._transition[0] if self.length > 1 else torch.eye(self.tokens).double(), self.marginals())

    def _smoothed(self, x_t: Tensor, t: Tensor, where: Tensor) -> Tensor:
        """The same posteriors by forward-backward, for any noise and any chain, (M, K)."""
        size, found = max(1, BLOCK // self.tokens**2), []
        for first in range(0, max(len(x_t), 1), size):  # rows that fit a cache
            seen = self._evidence(x_t[first : first + size], t[first : first + size])
            belief = self._forward(seen, first)
            ahead = torch.ones_like(seen[0])
            for i in range(self.length - 2, -1, -1):
                ahead = _scaled(_carried(self._transition[i].T, seen[i + 1] * ahead))
                belief[i] *= ahead
            both = belief.permute(2, 0, 1)[where[first : first + size]]
            found.append(both.log() - add_up(both, -1).log()[:, None])
        return torch.cat(found)

    def _evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(L, K, R): rows last, where long contiguous runs are quickest."""
        self._expect_length(x_t)
        return evidence(self.noise, x_t, t).permute(1, 2, 0).contiguous()

    def _forward(self, seen: Tensor, first: int = 0) -> Tensor:
        """p(x_0^i | x_t^0 ... x_t^i) up to a factor, (L, K, R) -> (L, K, R); errors count rows from `first` on."""
        belief = torch.empty_like(seen)
        belief[0] = _scaled(self.log_start.exp()[:, None] * seen[0])
        for i in range(1, self.length):
            belief[i] = _scaled(_carried(self._transition[i - 1], belief[i - 1]) * seen[i])
        # Nothing after a dead end brings a row back to life, so the last position tells of all.
        dead = (belief[-1].amax(dim=0) == 0).nonzero()
        if len(dead):
            row = first + int(dead[0, 0])
            raise ValueError(f"x_t row {row} is impossible under this chain: check its revealed tokens")
        return belief

    def _expect_length(self, x_t: Tensor) -> None:
        if x_t.shape[1] != self.length:
            raise ValueError(f"x_t has {x_t.shape[1]} positions: this chain has {self.length}")


class TiltedMarkov(Markov):
    """The chain `base` tilted by a pair reward, pi(x) = p(x) exp(r(x) / alpha - `log_normaliser`)."""

    def __init__(self, base: Markov, reward: PairReward, alpha: float) -> None:
        log_h = torch.zeros(base.tokens, dtype=torch.float64)
        steps = []
        for step in base.log_transition.flip(0):
            steps.append(step + reward.values.double() / alpha + log_h)
            log_h = torch.logsumexp(steps[-1], dim=1)
        log_transition = torch.stack(steps[::-1]) if steps else base.log_transition
        super().__init__(base.log_start + log_h, log_transition, base.length, base.noise)
        self.base, self.reward, self.alpha = base, reward, alpha
        self.log_normaliser = float(torch.logsumexp(base.log_start + log_h, dim=0))

    def mean_reward(self) -> float:
        return self.mean(self.reward)


def world(
    length: int = 24, vocab: int = 8, seed: int = 1, noise: Literal["absorbing", "uniform"] = "absorbing",
    alpha: float = 0.5, reward: Literal["pairs", "smooth", "rough", "rare"] = "pairs",
) -> tuple[Markov, PairReward, TiltedMarkov]:  # fmt: skip
    """A random chain over `vocab` clean tokens, a reward, and their tilted distribution, all exact.

    The start distribution is softmax(z), the rows of the transition matrix are softmax(1.5 z) with z standard normal;
    what the kinds of `reward` are says `iterref.exact.pair_reward`. Raises `ValueError` for an unknown noise or reward.
    """
    if noise not in ("absorbing", "uniform"):
        raise ValueError(f"unknown noise {noise!r}: choose absorbing or uniform")
    process = absorbing(vocab + 1) if noise == "absorbing" else uniform(vocab)
    generator = torch.Generator().manual_seed(seed)
    log_start = torch.randn(vocab, generator=generator).double()
    log_transition = 1.5 * torch.randn(vocab, vocab, generator=generator).double()
    values = random_reward(reward, log_transition, generator)
    model = Markov(log_start, log_transition, length, process)
    return model, values, model.tilted(values, alpha)


def _carried(step: Tensor, belief: Tensor) -> Tensor:
    """sum_u step[u, v] belief[u] of (K, K) and (K, R) -> (K, R), as `add_up` would, half of it in place. It is where a
    smoother's time goes, and it is bound by memory: a matrix product would be quicker, but its last bits depend on the
    number of rows."""
    size = len(step)
    half = size // 2
    total = step[: size - half, :, None] * belief[: size - half, None]
    total[:half] += step[size - half :, :, None] * belief[size - half :, None]
    size -= half
    while size > 1:
        half = size // 2
        total[:half] += total[size - half : size]
        size -= half
    return total[0]


def _scaled(x: Tensor) -> Tensor:
    """(K, R) with every column's largest entry made 1, so that long products neither vanish nor blow up."""
    return x / x.amax(dim=0).clamp_min(torch.finfo(x.dtype).tiny)
