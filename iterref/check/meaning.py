"""Meaning: what real texts tell of a denoiser's laws, by prediction.

    E log p(x_0^i | x_t)  >=  E log g(x_0^i | x_t)      for every other law g of the same x_t (Gibbs' inequality)

So the laws as an adapter states them must predict hidden tokens at least as well as the same laws read in another
convention: a position further, at time 1 - t, without or with the token's own evidence once more. A reading that does
better, by more than three standard errors over the texts, is the better reading.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch

from iterref.check.probe import TIMES, Finding, Probe, better


def prediction(probe: Probe) -> Finding:
    """Hidden tokens are predicted better than by guessing, and no worse if less is hidden. With a wrong mask id or
    vocabulary they are not."""
    found = []
    for t in TIMES:
        x_t, where = probe.noisy(t)
        found.append(probe.predicted(probe.law(x_t, t, where), where))
    early, late = (float(one.mean()) for one in found)
    chance = -log(probe.denoiser.noise.vocab)
    sentence = f"true tokens have {early:.2f} nats at t = {TIMES[0]}, {late:.2f} at {TIMES[1]}, guessing {chance:.2f}"
    good = min(early, late) > chance and not better(found[1], found[0])
    return Finding("prediction", good, sentence + ("" if good else ": check the mask id, the tokenizer, the weights"))


def shift(probe: Probe) -> Finding:
    """The law at a position is that of its own token, not of a neighbour's."""
    x_t, where = probe.noisy(TIMES[1])
    law, length = probe.law(x_t, TIMES[1], where), where.shape[1]
    row, position = where.nonzero(as_tuple=True)
    inner = (position > 0) & (position < length - 1)
    kept = torch.zeros_like(where)
    kept[row[inner], position[inner]] = True
    if not bool(kept.any(1).all()):
        return Finding("shift", None, "needs open positions inside of every text: give longer texts")
    read = {d: law[inner].gather(1, probe.texts[row, (position + d).clamp(0, length - 1)][inner][:, None])[:, 0]
            for d in (-1, 0, 1)}  # fmt: skip
    own = probe.mean(read[0], kept)
    for d, which in ((-1, "previous"), (1, "next")):
        gain = better(probe.mean(read[d], kept), own)
        if gain:
            return Finding("shift", False, f"laws predict the {which} position's token better, by {gain:.2f} nats")
    return Finding("shift", True, "no neighbour's token is predicted better than a position's own")


def direction(probe: Probe) -> Finding:
    """Time 0 is clean: laws at t predict better than those at 1 - t, as a whole or in what the network alone adds."""
    noise, gains = probe.denoiser.noise, []
    for t in TIMES:
        x_t, where = probe.noisy(t)
        law, mirror = probe.law(x_t, t, where), probe.law(x_t, 1 - t, where)
        readings = [mirror]
        if noise.mask is None:  # the network's time alone: the evidence of the token itself is that of t again
            evidence = [noise.likelihood(x_t, probe.times(u))[where].log() for u in (t, 1 - t)]
            readings.append(torch.log_softmax(mirror.double() + evidence[0] - evidence[1], -1))
        own = probe.predicted(law, where)
        gains += [(better(probe.predicted(reading, where), own), t) for reading in readings]
    gain, t = max(gains)
    if gain:
        sentence = f"at t = {t} the laws of time {1 - t} predict better, by {gain:.2f} nats: time runs backwards"
        return Finding("direction", False, sentence)
    return Finding("direction", True, "laws predict best at their own time, 0 clean and 1 noise")


def posterior(probe: Probe) -> Finding:
    """The law at a noisy token is the posterior: not the leave-one-out law, nor the evidence counted twice."""
    noise = probe.denoiser.noise
    if noise.mask is not None:
        return Finding("posterior", None, "under absorbing noise posterior and leave-one-out law are the same")
    for t in TIMES:
        x_t, where = probe.noisy(t)
        law, evidence = probe.law(x_t, t, where).double(), noise.likelihood(x_t, probe.times(t))[where].log()
        own = probe.predicted(law, where)
        once = better(probe.predicted(torch.log_softmax(law + evidence, -1), where), own)
        if once:
            advice = f"laws predict better by {once:.2f} nats once multiplied by q(x_t | x_0): they leave the token out"
            return Finding("posterior", False, f"{advice}, so apply from_leave_one_out")
        twice = better(probe.predicted(torch.log_softmax(law - evidence, -1), where), own)
        if twice:
            advice = f"laws predict better by {twice:.2f} nats once divided by q(x_t | x_0): it is in them twice"
            return Finding("posterior", False, f"{advice}, so do not apply from_leave_one_out")
    return Finding("posterior", True, "laws predict best as posteriors: no token is left out, none is counted twice")


MEANING: tuple[Callable[[Probe], Finding], ...] = (prediction, shift, direction, posterior)
