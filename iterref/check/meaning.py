"""Meaning: what real texts tell of a denoiser's posteriors, by prediction.

    E log p(x_0^i | x_t)  >=  E log g(x_0^i | x_t)      for every other g of the same x_t (Gibbs' inequality)

So the posteriors as an adapter states them must predict masked tokens at least as well as the same numbers read in
another convention: a position further, at time 1 - t, without or with the token's own evidence once more. A reading
that does better, by more than three standard errors over the texts, is the better reading.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch

from iterref.check.probe import EARLY, LATE, TIMES, Finding, Probe, better


def prediction(probe: Probe) -> Finding:
    """Masked tokens are predicted better than by guessing, and no worse if fewer are masked. With a wrong mask id or
    vocabulary they are not."""
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


MEANING: tuple[Callable[[Probe], Finding], ...] = (prediction, shift, direction, posterior)
