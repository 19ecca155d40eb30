"""Table: a distribution over short sequences, given state by state, with its exact denoiser.

    p(x_0 | x_t) = p(x_0) prod_i q(x_t^i | x_0^i) / p(x_t),        p(x_0^i = v | x_t) = sum over x_0 with x_0^i = v
    p(x_0^i = v | x_0^-i) = p(x_0 with v at i) / sum_u p(x_0 with u at i)
    pi(x_0) = p(x_0) exp(r(x_0) / alpha) / Z

All S = K^L states of K clean tokens are summed in float64: the reference that every sampler is held against. Sums run
in a fixed order, so a row's numbers are the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.noise import Noise
from iterref.random import Rng


class Table(Denoiser):
    """A distribution over K^L sequences of L clean tokens, and the denoiser that knows it. `log_joint` holds
    log-weights, (K,) * L, or a mapping from token tuples to log-weights in which absent states are impossible; they
    need not be normalised. K is `noise.vocab`, less one with absorbing noise, whose mask must be the last token. Raises
    `ValueError` for a wrong shape, a NaN or +inf, or a distribution without a possible state."""

    uses_prompts = False

    def __init__(self, log_joint: Tensor | Mapping[Sequence[int], float], noise: Noise) -> None:
        self.noise = noise
        self.tokens = clean_tokens(noise)
        self.time_independent = noise.mask is not None
        if isinstance(log_joint, Mapping):
            lengths = {len(state) for state in log_joint}
            if len(lengths) != 1 or any(not 0 <= token < self.tokens for state in log_joint for token in state):
                raise ValueError(f"a table needs states of one length, over the {self.tokens} clean tokens")
            full = torch.full((self.tokens,) * lengths.pop(), -torch.inf, dtype=torch.float64)
            for state, log_p in log_joint.items():
                full[tuple(state)] = log_p
            log_joint = full
        self.length = log_joint.dim()
        if self.length == 0 or set(log_joint.shape) != {self.tokens}:
            shape = tuple(log_joint.shape)
            raise ValueError(f"log_joint has shape {shape}: give one axis a position, of {self.tokens} tokens each")
        self.log_p = normalised(log_joint.double().reshape(1, -1), "the table")[0]
        self._stride = self.tokens ** torch.arange(self.length - 1, -1, -1)

    def states(self) -> Tensor:
        """All clean sequences, (S, L) long, the last position running fastest."""
        return _sequences(self.tokens, self.length)

    def noisy_states(self) -> Tensor:
        """All noisy sequences, (V^L, L) long, the last position running fastest."""
        return _sequences(self.noise.vocab, self.length)

    def index(self, tokens: Tensor) -> Tensor:
        """Where clean sequences `(*, L)` stand in `states`, `(*)` long. Raises `ValueError` for a wrong token."""
        expect_clean(tokens, self.tokens, self.length)
        return (tokens * self._stride).sum(-1)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """log p(x_0) of clean sequences `(*, L)` -> `(*)` float64."""
        return self.log_p[self.index(tokens)]

    def tilted(self, reward_values: Tensor, alpha: float) -> Tensor:
        """log pi over all states, (S,) float64, for their rewards (S,): pi proportional to p exp(r / alpha)."""
        return normalised((self.log_p + reward_values.double() / alpha)[None], "the tilted table")[0]

    def log_posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(x_0 | x_t) over all states, (R, L), (R,) -> (R, S) float64. Raises `ValueError` where no state can have
        become a row of x_t."""
        return normalised(self._log_with(evidence(self.noise, x_t, t)), "x_t")

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """log p(x_0^i | x_t) of the True cells, (R, L), (R,), (R, L) bool, (R,) -> (M, V) float64. One distribution
        serves every prompt, so `rows` plays no part. Raises `ValueError` as `log_posterior` does."""
        posterior = self.log_posterior(x_t, t).exp()
        split = (posterior.view(len(posterior), self.tokens**i, self.tokens, -1) for i in range(self.length))
        open_cells = torch.stack([add_up(add_up(part, dim=3), dim=1) for part in split], dim=1)[where]
        # Divided by its own sum, a revealed token has probability one to the last bit.
        return packed(open_cells.log() - add_up(open_cells, -1).log()[:, None], self.noise)

    def joint(self, x_t: Tensor, t: Tensor, rng: Rng, n: int = 1) -> Tensor:
        """`n` draws a row of whole sequences x_0 ~ p(x_0 | x_t), (R, L), (R,) -> (n, R, L) long."""
        one = torch.ones(len(x_t), 1, dtype=torch.bool)
        return self.states()[rng.categorical(self.log_posterior(x_t, t), one, n)]

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """log p(x^i = v | x^-i) of the True cells of clean sequences, (R, L), (R, L) bool, (R,) -> (M, V) float64.
        Raises `ValueError` for a noisy token, or where the rest of a row is impossible."""
        row, position = where.nonzero(as_tuple=True)
        stride = self._stride[position]
        without = self.index(x)[row] - x[row, position] * stride
        log_p = self.log_p[without[:, None] + torch.arange(self.tokens) * stride[:, None]]
        return packed(normalised(log_p, "the leave-one-out conditional of packed"), self.noise)

    def log_noisy(self, t: float) -> Tensor:
        """log p(x_t, x_0) of all noisy and all clean states at one time, (V^L, S) float64."""
        noisy = self.noisy_states()
        return self._log_with(self.noise.likelihood(noisy, torch.full((len(noisy),), t, dtype=torch.float64)))

    def log_marginal(self, t: float) -> Tensor:
        """log p(x_t) of all noisy states at one time, (V^L,) float64."""
        return torch.logsumexp(self.log_noisy(t), dim=1)

    def _log_with(self, seen: Tensor) -> Tensor:
        """log p(x_0) prod_i q_i(x_0^i) of all states, (R, S), for factors q (R, L, V)."""
        log_p, states = self.log_p.expand(len(seen), -1), self.states()
        for i, log_seen in enumerate(seen.log().unbind(1)):
            log_p = log_p + log_seen[:, states[:, i]]
        return log_p


def clean_tokens(noise: Noise) -> int:
    """How many tokens a clean text may hold: all, or all but the mask, which must be the last one."""
    if noise.mask is not None and noise.mask != noise.vocab - 1:
        raise ValueError(f"the mask is token {noise.mask}: an exact model needs it last, at {noise.vocab - 1}")
    return noise.vocab - (noise.mask is not None)


def expect_clean(tokens: Tensor, vocab: int, length: int) -> None:
    """Raises `ValueError` unless sequences `(*, L)` have this length and hold clean tokens alone."""
    if tokens.shape[-1] != length:
        raise ValueError(f"got sequences of {tokens.shape[-1]} tokens: this distribution is over {length}")
    if bool(((tokens < 0) | (tokens >= vocab)).any()):
        at = int(((tokens < 0) | (tokens >= vocab)).reshape(-1, length).any(1).nonzero()[0])
        raise ValueError(f"row {at} holds a token outside the {vocab} clean ones: pass a finished text")


def evidence(noise: Noise, x_t: Tensor, t: Tensor) -> Tensor:
    """q(x_t^i | x_0^i = v) of clean tokens v up to a factor a cell, (R, L), (R,) -> (R, L, K) float64. Under absorbing
    noise the factor makes it 0 or 1 and free of time, so that revealed tokens are good at t = 1 too."""
    if noise.mask is None:
        return noise.likelihood(x_t, t)
    one_hot = torch.nn.functional.one_hot(x_t, noise.vocab)[..., : noise.mask]
    return (one_hot + (x_t == noise.mask)[..., None]).double()


def add_up(x: Tensor, dim: int) -> Tensor:
    """The sum over one axis in a fixed order, halves upon halves, whatever the other axes are. `Tensor.sum` picks its
    order by shape and strides, so that a row's last bits could depend on the batch."""
    while (size := x.shape[dim]) > 1:
        half = size // 2
        pairs = x.narrow(dim, 0, half) + x.narrow(dim, size - half, half)
        x = torch.cat([pairs, x.narrow(dim, half, 1)], dim) if size % 2 else pairs
    return x.select(dim, 0)


def normalised(log_w: Tensor, name: str) -> Tensor:
    """log-probabilities (R, K) of log-weights (R, K). Raises `ValueError` that names a row without a distribution."""
    if log_w.numel() == 0:
        return log_w
    peak = log_w.amax(-1, keepdim=True)
    if not bool(peak.isfinite().all()):
        row = int((~peak.isfinite()).nonzero()[0, 0])
        raise ValueError(f"{name} row {row} has no possible state or a NaN or +inf: check its log-weights and tokens")
    return log_w - peak - add_up((log_w - peak).exp(), -1).log()[..., None]


def packed(log_p: Tensor, noise: Noise) -> Tensor:
    """log-distributions over clean tokens (M, K) -> over the vocabulary (M, V), where the mask is impossible."""
    return log_p if noise.mask is None else torch.nn.functional.pad(log_p, (0, 1), value=-torch.inf)


def _sequences(tokens: int, length: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(tokens)] * length).view(-1, length)
