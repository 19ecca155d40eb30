"""Denoisers: what a model is to this library, and how raw network outputs become one.

    denoiser(x_t, t, where, rows)  =  log p(x_0^i | x_t)      at the positions i that `where` marks

One convention holds everywhere: true per-position posteriors, packed over the open positions only. Adapters of
checkpoints get there with `carry_over`, `from_leave_one_out` and `from_score`; `Tempered` and `Guided` make denoisers
of denoisers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from iterref.noise import Noise

# Stands for the logarithm of zero under a negative power: below all that a network says, and far from overflow.
LEAST = -1e4
# A leave-one-out law: clean tokens, where, rows -> (M, V).
Conditionals = Callable[[Tensor, Tensor, Tensor], Tensor]


class Denoiser(Protocol):
    """The model: tokens at a noise level in, per-position posteriors of the clean tokens out.

    It may also say of itself, by attributes that are True, that it is `time_free` (t is not looked at) or `promptless`
    (rows are not), so that equal questions are asked once (`iterref.evaluation`), and how many network `passes` a row
    takes. With a method `probabilities`, which takes the same and gives p in place of log p, draws need no exponential.
    """

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
    return carry_over_(log_p.clone(), x_t, where, mask)


def carry_over_(logits: Tensor, x_t: Tensor, where: Tensor, mask: int, log: bool = True) -> Tensor:
    """`carry_over` of predictions that may be overwritten; the probabilities themselves unless `log`."""
    logits[:, mask] = -torch.inf
    law = torch.log_softmax(logits, -1) if log else torch.softmax(logits, -1)
    seen = x_t[where]
    revealed = (seen != mask).nonzero()[:, 0]
    law[revealed] = -torch.inf if log else 0.0
    law[revealed, seen[revealed]] = 0.0 if log else 1.0
    return law


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


def from_score(log_score: Tensor, x_t: Tensor, t: Tensor, where: Tensor, noise: Noise) -> Tensor:
    """Posteriors from log-scores log p_t(x_t with v at i) / p_t(x_t), as SEDD makes them (Lou et al. 2024).

    Packed (M, V), (R, L), (R,), (R, L) bool -> (M, V) normalised. Absorbing noise: at a masked position the scores of
    the tokens are their posterior up to a factor, so that a shift of all log-scores changes nothing. Other noise: the
    scores, with 1 for the token's own, are up to a factor the law a_t l + (1 - a_t) pi of a noisy token, l the
    leave-one-out law; this needs a_t > 0, and what an inexact score leaves below zero counts as zero.
    """
    if noise.mask is not None:
        return carry_over(log_score, x_t, where, noise.mask)
    noisy = torch.softmax(log_score.double().scatter(1, x_t[where][:, None], 0.0), -1)
    a_t = noise.a(t).to(x_t.device)[:, None].expand(x_t.shape)[where][:, None]
    clean = (noisy - (1 - a_t) * noise.pi.to(x_t.device)).clamp_min(0.0)
    return from_leave_one_out(clean.log(), x_t, t, where, noise)


@dataclass(frozen=True)
class Tempered:
    """A denoiser at another temperature: log-probabilities divided by it and normalised again.

    Temperature 1 is the model itself; below 1 it is surer of itself. The tempered denoiser *is* then the model
    p(x_0) that every method samples from. It has a `leave_one_out` law where the denoiser within has one. Raises
    `ValueError` unless the temperature is positive and finite.

    Moves that open one token at a time have p(x_0)^(1 / temperature) as their model, since its Gibbs conditionals are
    the tempered ones; drafts, which reveal tokens under masks, sample a law of their own.
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

    @property
    def passes(self) -> int:
        """Network passes of one row."""
        return passes(self.denoiser)

    @property
    def time_free(self) -> bool:
        """Whether the denoiser within takes no time."""
        return getattr(self.denoiser, "time_free", False)

    @property
    def promptless(self) -> bool:
        """Whether the denoiser within knows no prompts."""
        return getattr(self.denoiser, "promptless", False)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `Denoiser.__call__`, sharpened or flattened."""
        return self._tempered(self.denoiser(x_t, t, where, rows))

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """The exponential of `__call__`, (M, V), in one step."""
        return torch.softmax(self.denoiser(x_t, t, where, rows) / self.temperature, -1)

    def __getattr__(self, name: str) -> Conditionals:
        """`leave_one_out`, which is there for whoever looks only if the denoiser within has one."""
        if name != "leave_one_out":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        known: Conditionals = self.denoiser.leave_one_out  # type: ignore[attr-defined]
        return lambda x, where, rows: self._tempered(known(x, where, rows))

    def _tempered(self, log_p: Tensor) -> Tensor:
        return torch.log_softmax(log_p / self.temperature, -1)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance: two denoisers made one (D-CFG; Schiff et al. 2025, arXiv:2412.10193).

        log p^scale(x_0^i | x_t) = scale log p(x_0^i | x_t, y) + (1 - scale) log p(x_0^i | x_t) + constant

    `conditional` knows the prompt, `unconditional` does not; both undo the same noise. Scale 0 and 1 are the two models
    themselves, above 1 is what guidance is used for. A row takes two network `passes` then, and costs count both. It
    has a `leave_one_out` law, the same mixture, where both have one.

    A token that a model with a positive share rules out stays impossible, and what is revealed stays revealed. One that
    the unconditional model alone rules out takes all the mass at a scale above 1, as in the limit of a small
    probability. Raises `ValueError` unless the scale is finite and not negative and the noises are the same.

    **What is mixed.** Schiff et al. mix the laws of a step, p(x_u | x_t): `transition` is their formula. Under
    absorbing noise it gives a revealed token the law above, and differs in when that happens: a mask falls with
    probability f Z / (1 - f + f Z) in place of f = (a_u - a_t) / (1 - a_t), where Z = sum_v p(v | x_t, y)^scale p(v |
    x_t)^(1 - scale), which is at least 1 for a scale above 1: too early. Their code keeps f, as steps by this denoiser
    do, so that both are the same (on unmasking too early: Rojas et al. 2025, arXiv:2507.08965).

    Under uniform noise let l be the leave-one-out law and m = a_t l + (1 - a_t) / V, the law of a noisy token. A small
    step goes from x to v in proportion to m(v) / m(x), theirs to (m_y(v) / m_y(x))^scale (m(v) / m(x))^(1 - scale): it
    adds the noise, then mixes. This one mixes l, then adds the noise, since q(x_t | x_0) is in both posteriors and its
    powers add up to one. The two agree in a step to t = 0, and nearly where a_t is near one.

    **What is sampled.** The mixture need not be the posterior of any p(x_0), and drafts sample a law of their own.
    Moves that open one token at a time have p(x_0 | y)^scale p(x_0)^(1 - scale), normalised, as their model: its Gibbs
    conditionals are exactly the mixed ones.
    """

    conditional: Denoiser
    unconditional: Denoiser
    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"the guidance scale must be finite and not negative, got {self.scale}")
        one, other = self.conditional.noise, self.unconditional.noise
        if one is not other and not (torch.equal(one.pi, other.pi) and one.schedule == other.schedule):
            raise ValueError(f"guidance needs two denoisers of the same noise, got {one} and {other}")

    @property
    def noise(self) -> Noise:
        """The noise of both denoisers."""
        return self.conditional.noise

    @property
    def passes(self) -> int:
        """Network passes of one row: two, and one where the scale leaves one model out."""
        return sum(passes(denoiser) for denoiser in self._asked)

    @property
    def time_free(self) -> bool:
        """Whether no denoiser that is asked takes a time."""
        return all(getattr(denoiser, "time_free", False) for denoiser in self._asked)

    @property
    def promptless(self) -> bool:
        """Whether no denoiser that is asked knows prompts."""
        return all(getattr(denoiser, "promptless", False) for denoiser in self._asked)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `Denoiser.__call__`, mixed."""
        return self._mixed([denoiser(x_t, t, where, rows) for denoiser in self._asked])

    def transition(self, x_t: Tensor, t: float, u: float, where: Tensor, rows: Tensor) -> Tensor:
        """log p^scale(x_u^i | x_t) of a step from t to u < t by the paper's formula, (R, L), (R, L) bool -> (M, V)."""
        times = torch.full((len(x_t),), t, dtype=torch.float64, device=x_t.device)
        a_t, a_u = self.noise.a(t), self.noise.a(u)
        laws = [denoiser(x_t, times, where, rows) for denoiser in self._asked]
        return self._mixed([self.noise.reverse(law, x_t[where], a_t, a_u) for law in laws])

    def __getattr__(self, name: str) -> Conditionals:
        """`leave_one_out`, which is there for whoever looks only if the denoisers that are asked have one."""
        if name != "leave_one_out":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        known: list[Conditionals] = [denoiser.leave_one_out for denoiser in self._asked]  # type: ignore[attr-defined]
        return lambda x, where, rows: self._mixed([law(x, where, rows) for law in known])

    @property
    def _asked(self) -> tuple[Denoiser, ...]:
        """The denoisers that have a share."""
        if self.scale in (0, 1):
            return (self.conditional if self.scale else self.unconditional,)
        return self.conditional, self.unconditional

    def _mixed(self, laws: list[Tensor]) -> Tensor:
        """The mixture (M, V) of one law for each denoiser that was asked."""
        if len(laws) == 1:
            return laws[0]
        given, free = laws
        if self.scale > 1:  # a negative power of zero: the least probability that there is stands for it
            free = free.clamp_min(LEAST)
        mixed = self.scale * given + (1 - self.scale) * free
        impossible = given.isneginf() | free.isneginf()  # whatever power of it is so small that it rounds to none
        return torch.log_softmax(mixed.masked_fill_(impossible, -torch.inf), -1)


def passes(denoiser: Denoiser) -> int:
    """Network passes that one row of a denoiser takes: one, unless it says otherwise."""
    return getattr(denoiser, "passes", 1)
