"""Guidance: denoisers made of denoisers, at another temperature or from a conditional and an unconditional one.

    Tempered                  log p(x_0^i | x_t) / temperature, normalised
    ClassifierFreeGuidance    scale log p(x_0^i | x_t, y) + (1 - scale) log p(x_0^i | x_t), normalised
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterref.denoiser import Denoiser, Wrapped, write_as

# Stands for the logarithm of zero under a negative power: below all that a network says, and far from overflow.
LEAST = -1e4
COLDEST = 1e-30  # below it log-probabilities of float32, divided by it, are all infinite


def untempered(denoiser: Denoiser) -> Denoiser:
    """The model itself, of one that was sharpened or smoothed."""
    return denoiser.denoiser if isinstance(denoiser, Tempered) else denoiser


class Tempered(Wrapped):
    """A denoiser at another temperature: log-probabilities divided by it and normalised again.

    Temperature 1 is the model itself; below 1 it is surer of itself. The tempered denoiser *is* then the model
    p(x_0) that every method samples from. Raises `ValueError` unless the temperature is finite and `COLDEST` or more.

    Moves that open one token at a time have p(x_0)^(1 / temperature) as their model, since its Gibbs conditionals are
    the tempered ones; drafts, which reveal tokens under masks, sample a distribution of their own."""

    def __init__(self, denoiser: Denoiser, temperature: float) -> None:
        if not COLDEST <= temperature < float("inf"):
            told = f"the temperature must be positive and finite, got {temperature}"
            raise ValueError(f"{told}: pass {COLDEST:g} or more, at which the likeliest token is certain")
        super().__init__(denoiser)
        self.temperature, self.has_probabilities = temperature, True

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.log_softmax(self.denoiser(x_t, t, where, rows) / self.temperature, -1)

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.softmax(self.denoiser(x_t, t, where, rows) / self.temperature, -1)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.log_softmax(self.denoiser.leave_one_out(x, where, rows) / self.temperature, -1)


@dataclass
class ClassifierFreeGuidance(Denoiser):
    """Classifier-free guidance: two denoisers made one (D-CFG; Schiff et al. 2025, arXiv:2412.10193).

        log p^scale(x_0^i | x_t) = scale log p(x_0^i | x_t, y) + (1 - scale) log p(x_0^i | x_t) + constant

    `conditional` knows the prompt, `unconditional` does not; both undo the same noise. Scale 0 and 1 are the two models
    themselves, above 1 is what guidance is used for. A sequence takes two network `passes` then, and costs count both.
    Its leave-one-out conditionals are the same mixture, where both have them.

    A token that a model with a positive share rules out stays impossible, and what is revealed stays revealed. One that
    the unconditional model alone rules out takes all the mass at a scale above 1, as in the limit of a small
    probability. Raises `ValueError` unless the scale is finite and not negative and the noises are the same.

    **What is mixed.** Schiff et al. mix the distributions of a step, p(x_u | x_t): `transition` is their formula. Under
    absorbing noise it gives a revealed token the mixture above, and differs in when that happens: a mask falls with
    probability f Z / (1 - f + f Z) in place of f = (a_u - a_t) / (1 - a_t), where Z = sum_v p(v | x_t, y)^scale p(v |
    x_t)^(1 - scale), which is at least 1 for a scale above 1: too early. Their code keeps f, as steps by this denoiser
    do, so that both are the same (on unmasking too early: Rojas et al. 2025, arXiv:2507.08965).

    Under uniform noise let l be the leave-one-out conditional and m = a_t l + (1 - a_t) / V, a noisy token's. A small
    step goes from x to v in proportion to m(v) / m(x), theirs to (m_y(v) / m_y(x))^scale (m(v) / m(x))^(1 - scale): it
    adds the noise, then mixes. This one mixes l, then adds the noise, since q(x_t | x_0) is in both posteriors and its
    powers add up to one. The two agree in a step to t = 0, and nearly where a_t is near one.

    **What is sampled.** The mixture need not be the posterior of any p(x_0); drafts sample a distribution of their own.
    Moves that open one token at a time have p(x_0 | y)^scale p(x_0)^(1 - scale), normalised, as their model: its Gibbs
    conditionals are exactly the mixed ones."""

    conditional: Denoiser
    unconditional: Denoiser
    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"the guidance scale must be finite and not negative, got {self.scale}")
        one, other = self.conditional.noise, self.unconditional.noise
        if one is not other and not (torch.equal(one.pi, other.pi) and one.schedule == other.schedule):
            raise ValueError(f"guidance needs two denoisers of the same noise, got {one} and {other}")
        self.noise, used = one, self._used
        self.passes = sum(denoiser.passes for denoiser in used)
        self.time_independent = all(denoiser.time_independent for denoiser in used)
        self.uses_prompts = any(denoiser.uses_prompts for denoiser in used)
        self.has_leave_one_out = all(denoiser.has_leave_one_out for denoiser in used)
        write_as(self, self.conditional)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._mixed([denoiser(x_t, t, where, rows) for denoiser in self._used])

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._mixed([denoiser.leave_one_out(x, where, rows) for denoiser in self._used])

    def transition(self, x_t: Tensor, t: float, u: float, where: Tensor, rows: Tensor) -> Tensor:
        """log p^scale(x_u^i | x_t) of a step from t to u < t by the paper's formula, (R, L), (R, L) bool -> (M, V)."""
        times = torch.full((len(x_t),), t, dtype=torch.float64, device=x_t.device)
        a_t, a_u = self.noise.a(t), self.noise.a(u)
        steps = [denoiser(x_t, times, where, rows) for denoiser in self._used]
        return self._mixed([self.noise.reverse(log_p, x_t[where], a_t, a_u) for log_p in steps])

    @property
    def _used(self) -> tuple[Denoiser, ...]:
        """The denoisers that have a share."""
        if self.scale in (0, 1):
            return (self.conditional if self.scale else self.unconditional,)
        return self.conditional, self.unconditional

    def _mixed(self, log_ps: list[Tensor]) -> Tensor:
        """The mixture (M, V) of one distribution for each denoiser that is used."""
        if len(log_ps) == 1:
            return log_ps[0]
        given, free = log_ps
        if self.scale > 1:  # a negative power of zero: the least probability that there is stands for it
            free = free.clamp_min(LEAST)
        mixed = self.scale * given + (1 - self.scale) * free
        impossible = given.isneginf() | free.isneginf()  # whatever power of it is so small that it rounds to none
        return torch.log_softmax(mixed.masked_fill_(impossible, -torch.inf), -1)
