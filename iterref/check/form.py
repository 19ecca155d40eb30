"""Form: what can be judged with any tokens at all, by comparing a denoiser's answers with each other.

Shape, normalisation, packed order, rows that do not feel each other, impossible tokens, certainty where nothing is
masked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from iterref.check.probe import EARLY, LATE, Finding, Probe, apart


def shape(probe: Probe) -> Finding:
    """One row of log-probabilities an open position, and no NaN."""
    _, where, found = probe.at(EARLY)
    wanted, undefined = (int(where.sum()), probe.denoiser.noise.vocab), bool(found.isnan().any())
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
    alone = probe.denoiser(x_t[:1].clone(), times[:1], where[:1], probe.rows[:1])
    turned = probe.denoiser(x_t.flip(0), times, where.flip(0), probe.rows.flip(0))
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


FORM: tuple[Callable[[Probe], Finding], ...] = (
    inputs, normalised, packing, rows, mask, forbidden, carry_over, time, leave_one_out,
)  # fmt: skip
