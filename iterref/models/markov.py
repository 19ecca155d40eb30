"""Markov: a chain over tokens with its exact denoiser at any length, and the world where every answer is known.

    p(x) = p_0(x^0) prod_i T_i(x^i-1, x^i)
    p(x_0^i = v | x_t) proportional to f_i(v) b_i(v)                             (forward-backward smoothing)
      f_i(v) = q(x_t^i | v) sum_u f_i-1(u) T_i(u, v),   b_i(u) = sum_v T_i+1(u, v) q(x_t^i+1 | v) b_i+1(v)
    r(x) = sum_i values(x^i-1, x^i)   =>   pi(x) proportional to p(x) exp(r(x) / alpha) is again a chain:
      T*_i(u, v) = T_i(u, v) exp(values(u, v) / alpha) h_i(v) / h_i-1(u),   h the backward sums of the numerator

Everything is float64 and elementwise, with sums in a fixed order, so a row's numbers are the same bits in every batch.

Rabiner (1989), "A tutorial on hidden Markov models", sections III A-B; backward sampling: Carter and Kohn (1994).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from iterref.models.table import add_up, clean_tokens, evidence, expect_clean, normalised, packed
from iterref.noise import Noise, absorbing, uniform
from iterref.random import Rng


@dataclass(frozen=True, eq=False)
class PairReward:
    """A reward of neighbouring tokens, r(x) = sum_i values[x^i-1, x^i], with finite `values` (K, K)."""

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or not bool(self.values.isfinite().all()):
            raise ValueError(f"values must be a finite matrix, one entry a pair, got shape {tuple(self.values.shape)}")

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64; every prompt has the same reward, so `rows` plays no part."""
        expect_clean(tokens, len(self.values), tokens.shape[-1])
        if tokens.shape[-1] < 2:
            return torch.zeros(tokens.shape[:-1], dtype=torch.float64)
        return add_up(self.values.double()[tokens[..., :-1], tokens[..., 1:]], -1)


class Markov:
    """A Markov chain over sequences of `length` clean tokens, and the denoiser that knows it.

    `log_start` (K,) and `log_transition`, (K, K) for all steps or (length - 1, K, K) for each, hold log-weights that
    need not be normalised. K is `noise.vocab`, less one with absorbing noise, whose mask must be the last token.
    Raises `ValueError` for a wrong shape, a NaN or +inf, or a token from which no step is possible.
    """

    def __init__(self, log_start: Tensor, log_transition: Tensor, length: int, noise: Noise) -> None:
        tokens = clean_tokens(noise)
        if log_transition.dim() == 2:
            log_transition = log_transition.expand(max(length - 1, 0), -1, -1)
        if length < 1 or log_start.shape != (tokens,) or log_transition.shape != (length - 1, tokens, tokens):
            shapes = f"log_start {tuple(log_start.shape)} and log_transition {tuple(log_transition.shape)}"
            raise ValueError(f"{shapes} do not make a chain of length {length} over {tokens} clean tokens")
        self.noise, self.length, self.tokens = noise, length, tokens
        self.time_free = noise.mask is not None
        self.log_start = normalised(log_start.double()[None], "log_start")[0]
        steps = log_transition.double().reshape(-1, tokens)
        self.log_transition = normalised(steps, "log_transition").view(length - 1, tokens, tokens)
        self._transition = self.log_transition.exp()

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """log p(x_0^i | x_t) of the True cells, (R, L), (R,), (R, L) bool, (R,) -> (M, V) float64.

        One chain serves every prompt, so `rows` plays no part. Raises `ValueError` where no clean text can have
        become a row of x_t.
        """
        seen = self._evidence(x_t, t)
        belief = self._forward(seen)
        ahead = torch.ones_like(seen[0])
        for i in range(self.length - 2, -1, -1):
            ahead = _scaled(add_up(self._transition[i].T[:, :, None] * (seen[i + 1] * ahead)[:, None], dim=0))
            belief[i] *= ahead
        both = belief.permute(2, 0, 1)[where]
        return packed(both.log() - add_up(both, -1).log()[:, None], self.noise)

    def joint(self, x_t: Tensor, t: Tensor, rng: Rng, n: int = 1) -> Tensor:
        """`n` draws a row of whole sequences x_0 ~ p(x_0 | x_t), (R, L), (R,) -> (n, R, L) long.

        Filters forward, then draws from the last position to the first.
        """
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
        """log p(x) of clean sequences (*, L) -> (*) float64. Raises `ValueError` for a token out of range."""
        expect_clean(tokens, self.tokens, self.length)
        steps = self.log_transition[torch.arange(self.length - 1), tokens[..., :-1], tokens[..., 1:]]
        return add_up(torch.cat([self.log_start[tokens[..., :1]], steps], dim=-1), -1)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """log p(x^i = v | x^-i) of the True cells of clean sequences, (R, L), (R, L) bool, (R,) -> (M, V) float64.

        Raises `ValueError` for a noisy token, or where the rest of a row is impossible.
        """
        expect_clean(x, self.tokens, self.length)
        row, i = where.nonzero(as_tuple=True)
        flat = self.log_start.new_zeros(1, self.tokens, self.tokens)
        arriving = torch.cat([self.log_start.expand_as(flat), self.log_transition])
        leaving = torch.cat([self.log_transition.transpose(1, 2), flat])
        before, after = x[row, (i - 1).clamp_min(0)], x[row, (i + 1).clamp_max(self.length - 1)]
        log_w = arriving[i, before] + leaving[i, after]
        return packed(normalised(log_w, "the leave-one-out law of packed"), self.noise)

    def marginals(self) -> Tensor:
        """The law of every position, (L, K) float64."""
        laws = [self.log_start.exp()]
        for step in self._transition:
            laws.append(laws[-1] @ step)
        return torch.stack(laws)

    def pair_marginals(self) -> Tensor:
        """The law of every pair of neighbours, (L - 1, K, K) float64."""
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

    def _evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(L, K, R): rows last, where long contiguous runs are quickest."""
        if x_t.shape[1] != self.length:
            raise ValueError(f"x_t has {x_t.shape[1]} positions: this chain has {self.length}")
        return evidence(self.noise, x_t, t).permute(1, 2, 0).contiguous()

    def _forward(self, seen: Tensor) -> Tensor:
        """p(x_0^i | x_t^0 ... x_t^i) up to a factor, (L, K, R) -> (L, K, R)."""
        belief = torch.empty_like(seen)
        belief[0] = _scaled(self.log_start.exp()[:, None] * seen[0])
        for i in range(1, self.length):
            ahead = add_up(self._transition[i - 1][:, :, None] * belief[i - 1][:, None], dim=0)
            belief[i] = _scaled(ahead * seen[i])
        # Nothing after a dead end brings a row back to life, so the last position tells of all.
        dead = (belief[-1].amax(dim=0) == 0).nonzero()
        if len(dead):
            raise ValueError(f"x_t row {int(dead[0, 0])} is impossible under this chain: check its revealed tokens")
        return belief


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
        """The exact mean reward under the tilted law."""
        return self.mean(self.reward)


def world(
    length: int = 24,
    vocab: int = 8,
    seed: int = 1,
    noise: Literal["absorbing", "uniform"] = "absorbing",
    alpha: float = 0.5,
) -> tuple[Markov, PairReward, TiltedMarkov]:
    """A random chain over `vocab` clean tokens, a reward, and their tilted law, all exact.

    The start law is softmax(z), the rows of the transition matrix are softmax(1.5 z) with z standard normal, and the
    reward counts the neighbours (v, perm(v)) of a random permutation. Raises `ValueError` for an unknown noise.
    """
    if noise not in ("absorbing", "uniform"):
        raise ValueError(f"unknown noise {noise!r}: choose absorbing or uniform")
    process = absorbing(vocab + 1) if noise == "absorbing" else uniform(vocab)
    generator = torch.Generator().manual_seed(seed)
    log_start = torch.randn(vocab, generator=generator).double()
    log_transition = 1.5 * torch.randn(vocab, vocab, generator=generator).double()
    reward = PairReward(torch.eye(vocab, dtype=torch.float64)[torch.randperm(vocab, generator=generator)])
    model = Markov(log_start, log_transition, length, process)
    return model, reward, model.tilted(reward, alpha)


def _scaled(x: Tensor) -> Tensor:
    """(K, R) with every column's largest entry made 1, so that long products neither vanish nor blow up."""
    return x / x.amax(dim=0).clamp_min(torch.finfo(x.dtype).tiny)
