"""Probe: what the checks share: a denoiser, texts, and how to corrupt them, to ask for posteriors and to compare.

x_t ~ q(x_t | x_0) of the texts;   predicted = mean over a row's open positions of log p(x_0^i | x_t)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.random import Rng

TIMES = EARLY, LATE = 0.25, 0.75  # where posteriors are compared: neither end, and mirror images
MARGIN = 0.01  # nats a token that another reading must be better by
FLOOR = -100.0  # what is called impossible and happens costs so many nats


@dataclass(frozen=True)
class Finding:
    """What was checked, whether it holds (None: not judged), and one sentence."""

    name: str
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class Probe:
    """A denoiser, finished texts (R, L), their free positions, prompts' names `rows` (R,), forbidden tokens."""

    denoiser: Denoiser
    texts: Tensor
    free: Tensor
    rows: Tensor
    forbidden: Tensor
    seed: int
    tolerance: float
    known: dict[float, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def noisy(self, t: float) -> tuple[Tensor, Tensor]:
        """Texts corrupted to time t (R, L), and where they are open (R, L) bool; every row has an open position."""
        noise, rng = self.denoiser.noise, Rng.seeded(self.seed, len(self.texts), device=self.texts.device)
        one = torch.ones((), dtype=torch.float64)
        x_t = noise.corrupt(self.texts, one, noise.a(t), rng.fork("corrupt", int(1000 * t)))
        x_t = torch.where(self.free, x_t, self.texts)
        if noise.mask is not None:
            x_t = torch.where(self.first(), noise.mask, x_t)
        return x_t, noise.undetermined(x_t, self.times(t)) & self.free

    def first(self) -> Tensor:
        """The first free position of every row, (R, L) bool."""
        return torch.nn.functional.one_hot(self.free.int().argmax(1), self.texts.shape[1]).bool() & self.free

    def times(self, t: float) -> Tensor:
        """One time for every row, (R,) float64."""
        return torch.full((len(self.texts),), t, dtype=torch.float64, device=self.texts.device)

    def asked(self, x_t: Tensor, t: float, where: Tensor) -> Tensor:
        """The denoiser's answer (M, V) for all rows. It gets copies: overwriting them spoils one finding alone."""
        return self.denoiser(x_t.clone(), self.times(t), where.clone(), self.rows)

    def at(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Texts corrupted to time t, where they are open, and the answer for them (M, V), which is asked for once."""
        if t not in self.known:
            x_t, where = self.noisy(t)
            self.known[t] = x_t, where, self.asked(x_t, t, where)
        return self.known[t]

    def mean(self, log_p: Tensor, where: Tensor) -> Tensor:
        """The mean over its open positions of every row, (M,) -> (R,)."""
        total = torch.zeros(where.shape, dtype=torch.float64, device=where.device)
        total[where] = log_p.double().clamp_min(FLOOR)
        return total.sum(1) / where.sum(1)

    def predicted(self, log_p: Tensor, where: Tensor) -> Tensor:
        """The mean log-probability of every row's true tokens, (M, V) -> (R,)."""
        return self.mean(log_p.gather(1, self.texts[where][:, None])[:, 0], where)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two probabilities."""
    return float((one.double().exp() - other.double().exp()).abs().max())


def better(reading: Tensor, own: Tensor) -> float:
    """By how much a reading predicts better, (R,) against (R,); 0 unless surely, and by more than a trifle."""
    gain = reading - own
    mean, error = float(gain.mean()), float(gain.std() / len(gain) ** 0.5)
    return mean if mean > MARGIN and mean > 3 * error else 0.0
