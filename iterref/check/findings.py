"""Findings: what can be judged of a denoiser, a function each.

Form is judged with any tokens at all, by comparing answers with each other. Meaning needs real texts:

    E log p(x_0^i | x_t)  >=  E log g(x_0^i | x_t)      for every other g of the same x_t (Gibbs' inequality)

So the posteriors as an adapter states them must predict masked tokens at least as well as the same numbers read in
another convention: a position further, at time 1 - t, without or with the token's own evidence once more. A reading
that does better, by more than three standard errors over the texts, is the better reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log

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


def shape(probe: Probe) -> Finding:
    """One row of log-probabilities an open position, and no NaN."""
    _, where, found = probe.at(EARLY)
    wanted = int(where.sum()), probe.denoiser.noise.vocab
    if not isinstance(found, Tensor):
        return Finding("shape", False, f"a {type(found).__name__}, which is no tensor")
    undefined = bool(found.isnan().any())
    good = found.shape == wanted and found.is_floating_point() and not undefined
    told = f"{tuple(found.shape)} {found.dtype}" + (" with NaN" if undefined else "")
    return Finding("shape", good, f"{told} for {wanted[0]} open positions and {wanted[1]} tokens")


def inputs(probe: Probe) -> Finding:
    """What it is given is its caller's."""
    given, where = probe.noisy(LATE)
    x_t, opened = given.clone(), where.clone()
    probe.denoiser(x_t, probe.times(LATE), opened, probe.rows)
    kept = torch.equal(x_t, given) and torch.equal(opened, where)
    return Finding("inputs", kept, "the tokens it was given are " + ("as before" if kept else "overwritten: copy them"))


def normalised(probe: Probe) -> Finding:
    """Every row is a distribution."""
    off = float((probe.at(LATE)[2].double().exp().sum(1) - 1).abs().max())
    return Finding("normalisation", off <= probe.tolerance, f"probabilities add up to one within {off:.1e}")


def packing(probe: Probe) -> Finding:
    """Some positions get the answer that they get where all are asked for."""
    x_t, where, found = probe.at(LATE)
    some = where & (torch.arange(where.numel(), device=where.device).view(where.shape) % 3 == 0)
    some |= where & (where.sum(1, keepdim=True) == 1)
    off = apart(found[some[where]], probe.asked(x_t, LATE, some))
    return Finding("packing", off <= probe.tolerance, f"a part of the positions gets the same answers within {off:.1e}")


def rows(probe: Probe) -> Finding:
    """A row's answer is its own: alone, in another order, beside other rows."""
    x_t, where, found = probe.at(LATE)
    times, size, last = probe.times(LATE), where.sum(1).tolist(), len(x_t) - 1
    alone = probe.denoiser(x_t[:1].clone(), times[:1], where[:1].clone(), probe.rows[:1])
    prompts = probe.rows.flip(0) if probe.denoiser.uses_prompts else probe.rows  # any, where they do not matter
    turned = probe.denoiser(x_t.flip(0), times, where.flip(0), prompts)
    changed = x_t.clone()
    changed[last] = x_t[0]
    beside = probe.asked(changed, LATE, where)
    first = found[: size[0]]
    off = max(apart(first, alone), apart(first, turned[-size[0] :]), apart(found[: -size[last]], beside[: -size[last]]))
    return Finding("rows", off <= probe.tolerance, f"a row alone and among others differs by {off:.1e} at the most")


def mask(probe: Probe) -> Finding:
    """The mask stands in no text and is never predicted."""
    token = probe.denoiser.noise.mask
    if token is None:
        return Finding("mask", None, "this noise has no mask")
    if bool((probe.texts == token).any()):
        return Finding("mask", False, f"token {token} is called the mask and stands in the texts: check the mask id")
    most = float(probe.at(LATE)[2][:, token].exp().max())
    return Finding("mask", most == 0, f"the mask, token {token}, has probability {most:.1e} at the most")


def forbidden(probe: Probe) -> Finding:
    """Tokens that must not be written have no probability."""
    if not len(probe.forbidden):
        return Finding("forbidden", None, "no forbidden tokens were named")
    most = float(probe.at(LATE)[2][:, probe.forbidden].exp().max())
    return Finding("forbidden", most == 0, f"forbidden tokens have probability {most:.1e} at the most")


def carry_over(probe: Probe) -> Finding:
    """What the noise has not touched is certain: a revealed token under absorbing noise, any token at t = 0."""
    masked = probe.denoiser.noise.mask is not None
    t, what = (EARLY, "a revealed token") if masked else (0.0, "a token at t = 0")
    x_t, opened = probe.noisy(t)
    where = probe.free & ~opened if masked else probe.free
    if not bool(where.any()):
        return Finding("carry-over", None, "no position was revealed: give longer texts")
    least = float(probe.asked(x_t, t, where).gather(1, x_t[where][:, None]).exp().min())
    good = least >= 1 - probe.tolerance
    return Finding("carry-over", good, f"{what} has probability {least:.6g} at the least" + ("" if good else ", not 1"))


def time(probe: Probe) -> Finding:
    """A time-independent denoiser answers alike at all times."""
    x_t, where, found = probe.at(LATE)
    off = apart(found, probe.asked(x_t, EARLY, where))
    if probe.denoiser.time_independent:
        return Finding("time", off == 0, f"it is time-independent, and answers at two times differ by {off:.1e}")
    return Finding("time", None, f"answers for one state at two times differ by {off:.1e}")


def leave_one_out(probe: Probe) -> Finding:
    """How far the Gibbs conditionals depend on the token that they are of. They should not; a network's do somewhat."""
    if not probe.denoiser.has_leave_one_out:
        return Finding("leave-one-out", None, "it has no Gibbs conditionals of a clean text")
    where = probe.first()
    other = torch.where(where, probe.texts.roll(1, 0), probe.texts)
    one, two = (probe.denoiser.leave_one_out(x, where, probe.rows).double().exp() for x in (probe.texts, other))
    moved = float((one - two).abs().sum(1).mean() / 2)
    sentence = f"the conditional of a token moves by {moved:.2g} in total variation with the token itself"
    return Finding("leave-one-out", None, sentence)


def prediction(probe: Probe) -> Finding:
    """Masked tokens are predicted better than by guessing (not with a wrong mask), and no worse if fewer are."""
    found = [probe.predicted(answer, where) for _, where, answer in map(probe.at, TIMES)]
    early, late = (float(one.mean()) for one in found)
    chance = -log(probe.denoiser.noise.vocab)
    sentence = f"true tokens have {early:.2f} nats at t = {EARLY}, {late:.2f} at {LATE}, guessing {chance:.2f}"
    good = min(early, late) > chance and not better(found[1], found[0])
    return Finding("prediction", good, sentence + ("" if good else ": check the mask id, the tokenizer, the weights"))


def shift(probe: Probe) -> Finding:
    """The answer at a position is that of its own token, not of a neighbour's."""
    _, where, answer = probe.at(LATE)
    row, position = where.nonzero(as_tuple=True)
    last = where.shape[1] - 1
    inner = (position > 0) & (position < last)
    kept = torch.zeros_like(where)
    kept[row[inner], position[inner]] = True
    if not bool(kept.any(1).all()):
        return Finding("shift", None, "needs open positions inside of every text: give longer texts")
    own, previous, following = (
        probe.mean(answer[inner].gather(1, probe.texts[row, (position + d).clamp(0, last)][inner][:, None])[:, 0], kept)
        for d in (0, -1, 1)
    )
    for which, reading in (("previous", previous), ("next", following)):
        gain = better(reading, own)
        if gain:
            return Finding("shift", False, f"the {which} position's token is predicted better, by {gain:.2f} nats")
    return Finding("shift", True, "no neighbour's token is predicted better than a position's own")


def direction(probe: Probe) -> Finding:
    """Time 0 is clean: answers at t predict better than those at 1 - t, as a whole or in what the network adds."""
    noise, gains = probe.denoiser.noise, []
    for t in TIMES:
        x_t, where, answer = probe.at(t)
        mirror = probe.asked(x_t, 1 - t, where)
        readings = [mirror]
        if noise.mask is None:  # the network's time alone: the evidence of the token itself is that of t again
            evidence = [noise.likelihood(x_t, probe.times(u))[where].log() for u in (t, 1 - t)]
            readings.append(torch.log_softmax(mirror.double() + evidence[0] - evidence[1], -1))
        own = probe.predicted(answer, where)
        gains += [(better(probe.predicted(reading, where), own), t) for reading in readings]
    gain, t = max(gains)
    if gain:
        sentence = f"at t = {t} the answers of time {1 - t} predict better, by {gain:.2f} nats: time runs backwards"
        return Finding("direction", False, sentence)
    return Finding("direction", True, "tokens are predicted best at their own time, 0 clean and 1 noise")


def posterior(probe: Probe) -> Finding:
    """The answer at a noisy token is the posterior: neither the leave-one-out prediction, nor its evidence twice."""
    noise = probe.denoiser.noise
    if noise.mask is not None:
        return Finding("posterior", None, "under absorbing noise the posterior is the leave-one-out prediction")
    for t in TIMES:
        x_t, where, answer = probe.at(t)
        evidence = noise.likelihood(x_t, probe.times(t))[where].log()
        own = probe.predicted(answer, where)
        for sign, wrong in (
            (1, "multiplied by q(x_t | x_0): they leave the token out, so apply from_leave_one_out"),
            (-1, "divided by q(x_t | x_0): it is in them twice, so do not apply from_leave_one_out"),
        ):
            reading = torch.log_softmax(answer.double() + sign * evidence, -1)
            gain = better(probe.predicted(reading, where), own)
            if gain:
                return Finding("posterior", False, f"answers predict better by {gain:.2f} nats once {wrong}")
    return Finding("posterior", True, "answers predict best as posteriors: no token is left out, none counted twice")


FORM: tuple[Callable[[Probe], Finding], ...] = (
    inputs, normalised, packing, rows, mask, forbidden, carry_over, time, leave_one_out,
)  # fmt: skip
MEANING: tuple[Callable[[Probe], Finding], ...] = (prediction, shift, direction, posterior)
