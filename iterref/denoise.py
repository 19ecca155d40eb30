"""Denoisers: what a model is to this library, and how raw network outputs become one.

    denoiser(x_t, t, where, rows)  =  log p(x_0^i | x_t)      at the positions i that `where` marks

One convention holds everywhere: true per-position posteriors, packed over the open positions only. Adapters of
checkpoints get there with the two functions below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from iterref.noise import Noise


class Denoiser(Protocol):
    """The model: tokens at a noise level in, per-position posteriors of the clean tokens out."""

    @property
    def noise(self) -> Noise:
        """The noise process that it undoes."""
        ...

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L) tokens, (R,) times, (R, L) bool, (R,) prompt indices -> (M, V) log p(x_0^i | x_t).

        M is the number of True cells of `where`, in row-major order; `rows` says which prompt each row belongs
        to, so that whatever was computed once for a prompt serves all its candidates.
        """
        ...


class LeaveOneOut(Protocol):
    """A denoiser that also knows the Gibbs conditionals of a clean text."""

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L) clean tokens, (R, L) bool, (R,) prompt indices -> (M, V) log p(x^i | x^{-i})."""
        ...


def carry_over(log_p: Tensor, x_t: Tensor, where: Tensor, mask: int) -> Tensor:
    """Posteriors of masked diffusion from predictions: a revealed token is certain, the mask is impossible.

    Packed (M, V) predictions, (R, L) tokens, (R, L) bool -> (M, V) normalised (Sahoo et al. 2024, section 3.2.3,
    arXiv:2406.07524). `log_p` needs no normalisation.
    """
    log_p = log_p.clone()
    log_p[:, mask] = -torch.inf
    log_p = torch.log_softmax(log_p, -1)
    seen = x_t[where]
    revealed = seen != mask
    certain = torch.full_like(log_p, -torch.inf).scatter_(1, seen[:, None], 0.0)
    return torch.where(revealed[:, None], certain, log_p)


def from_leave_one_out(log_p: Tensor, x_t: Tensor, t: Tensor, where: Tensor, noise: Noise) -> Tensor:
    """Posteriors from leave-one-out predictions p(x_0^i | x_t^{-i}), as UDLM and Duo make them.

    Bayes: p(x_0^i | x_t) is proportional to p(x_0^i | x_t^{-i}) q(x_t^i | x_0^i). Packed (M, V), (R, L), (R,),
    (R, L) bool -> (M, V) normalised.
    """
    seen = x_t[where]
    a_t = noise.a(t).to(x_t.device)[:, None].expand(x_t.shape)[where]
    pi_t = noise.pi.to(x_t.device)[seen]
    log_other = torch.log((1 - a_t) * pi_t).to(log_p.dtype)
    log_same = torch.log(a_t + (1 - a_t) * pi_t).to(log_p.dtype)
    log_q = log_other[:, None].expand(log_p.shape).scatter(1, seen[:, None], log_same[:, None])
    return torch.log_softmax(log_p + log_q, -1)


@dataclass(frozen=True)
class Tempered:
    """A denoiser at another temperature: log-probabilities divided by it and normalised again.

    Temperature 1 is the model itself; below 1 it is surer of itself. The tempered denoiser *is* then the model
    p(x_0) that every method samples from. Raises `ValueError` unless the temperature is positive and finite.
    """

    denoiser: Denoiser
    temperature: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"the temperature must be positive and finite, got {self.temperature}")

    @property
    def noise(self) -> Noise:
        """The noise of the denoiser within."""
        return self.denoiser.noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `Denoiser.__call__`, sharpened or flattened."""
        return torch.log_softmax(self.denoiser(x_t, t, where, rows) / self.temperature, -1)
