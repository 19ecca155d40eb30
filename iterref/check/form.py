"""Form: what can be judged with any tokens at all, by comparing a denoiser's answers with each other.

Shape, normalisation, packed order, rows that do not feel each other, impossible tokens, certainty where nothing is
hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from iterref.check.probe import TIMES, Finding, Probe, apart


def shape(probe: Probe) -> Finding:
    """One row of log-probabilities an open position, and no NaN."""
    x_t, where = probe.noisy(TIMES[0])
    law = probe.law(x_t, TIMES[0], where)
    wanted = (int(where.sum()), probe.denoiser.noise.vocab)
    good = law.shape == wanted and law.is_floating_point() and not bool(law.isnan().any())
    found = f"{tuple(law.shape)} {law.dtype}" + (" with NaN" if bool(law.isnan().any()) else "")
    return Finding("shape", good, f"{found} for {wanted[0]} open positions and {wanted[1]} tokens")


def inputs(probe: Probe) -> Finding:
    """What it is given is its caller's."""
    given, where = probe.noisy(TIMES[1])
    x_t, opened = given.clone(), where.clone()
    probe.denoiser(x_t, probe.times(TIMES[1]), opened, probe.rows)
    kept = torch.equal(x_t, given) and torch.equal(opened, where)
    return Finding("inputs", kept, "the tokens it was given are " + ("as before" if kept else "overwritten: copy them"))


def normalised(probe: Probe) -> Finding:
    """Every row is a law."""
    x_t, where = probe.noisy(TIMES[1])
    off = float((probe.law(x_t, TIMES[1], where).double().exp().sum(1) - 1).abs().max())
    return Finding("normalisation", off <= probe.tolerance, f"probabilities add up to one within {off:.1e}")


def packing(probe: Probe) -> Finding:
    """A law asked for at some positions is the one that is given when all are asked for."""
    x_t, where = probe.noisy(TIMES[1])
    some = where & (torch.arange(where.numel(), device=where.device).view(where.shape) % 3 == 0)
    some |= where & (where.sum(1, keepdim=True) == 1)
    full = probe.law(x_t, TIMES[1], where)[some[where]]
    off = apart(full, probe.law(x_t, TIMES[1], some))
    return Finding("packing", off <= probe.tolerance, f"a part of the positions gets the same laws within {off:.1e}")


def rows(probe: Probe) -> Finding:
    """A row's law is its own: alone, in another order, beside other rows."""
    x_t, where = probe.noisy(TIMES[1])
    times, full = probe.times(TIMES[1]), probe.law(x_t, TIMES[1], where)
    size, last = where.sum(1).tolist(), len(x_t) - 1
    alone = probe.denoiser(x_t[:1].clone(), times[:1], where[:1], probe.rows[:1])
    turned = probe.denoiser(x_t.flip(0), times, where.flip(0), probe.rows.flip(0))
    off = max(apart(full[: size[0]], alone), apart(full[: size[0]], turned[-size[0] :]))
    changed = x_t.clone()
    changed[last] = x_t[0]
    beside = probe.law(changed, TIMES[1], where)
    off = max(off, apart(full[: -size[last]], beside[: -size[last]]))
    return Finding("rows", off <= probe.tolerance, f"a row alone and among others gets the same laws within {off:.1e}")


def mask(probe: Probe) -> Finding:
    """The mask stands in no text and is never predicted."""
    mask = probe.denoiser.noise.mask
    if mask is None:
        return Finding("mask", None, "this noise has no mask")
    if bool((probe.texts == mask).any()):
        return Finding("mask", False, f"token {mask} is called the mask and stands in the texts: check the mask id")
    x_t, where = probe.noisy(TIMES[1])
    most = float(probe.law(x_t, TIMES[1], where)[:, mask].exp().max())
    return Finding("mask", most == 0, f"the mask, token {mask}, has probability {most:.1e} at the most")


def forbidden(probe: Probe) -> Finding:
    """Tokens that must not be written have no probability."""
    if not len(probe.forbidden):
        return Finding("forbidden", None, "no forbidden tokens were named")
    x_t, where = probe.noisy(TIMES[1])
    most = float(probe.law(x_t, TIMES[1], where)[:, probe.forbidden].exp().max())
    return Finding("forbidden", most == 0, f"forbidden tokens have probability {most:.1e} at the most")


def carry_over(probe: Probe) -> Finding:
    """What the noise has not touched is certain: a revealed token under absorbing noise, any token at t = 0."""
    masked = probe.denoiser.noise.mask is not None
    t = TIMES[0] if masked else 0.0
    x_t, opened = probe.noisy(t)
    where = probe.free & ~opened if masked else probe.free
    if not bool(where.any()):
        return Finding("carry-over", None, "no position was revealed: give longer texts")
    least = float(probe.law(x_t, t, where).gather(1, x_t[where][:, None]).exp().min())
    what = "a revealed token" if masked else "a token at t = 0"
    good = least >= 1 - probe.tolerance
    return Finding("carry-over", good, f"{what} has probability {least:.6g} at the least" + ("" if good else ", not 1"))


def time(probe: Probe) -> Finding:
    """A denoiser that says it is free of time answers alike at all times."""
    x_t, where = probe.noisy(TIMES[1])
    off = apart(probe.law(x_t, TIMES[1], where), probe.law(x_t, TIMES[0], where))
    if probe.denoiser.time_independent:
        return Finding("time", off == 0, f"it says that it is free of time, and laws at two times differ by {off:.1e}")
    return Finding("time", None, f"laws of one state at two times differ by {off:.1e}")


def leave_one_out(probe: Probe) -> Finding:
    """How far the Gibbs conditionals depend on the token that they are of. They should not; a network's do somewhat."""
    known = probe.denoiser.leave_one_out if probe.denoiser.has_leave_one_out else None
    if known is None:
        return Finding("leave-one-out", None, "it has no Gibbs conditionals of a clean text")
    where = torch.nn.functional.one_hot(probe.free.int().argmax(1), probe.texts.shape[1]).bool()
    other = torch.where(where, probe.texts.roll(1, 0), probe.texts)
    laws = [known(x, where, probe.rows).double().exp() for x in (probe.texts, other)]
    moved = float((laws[0] - laws[1]).abs().sum(1).mean() / 2)
    sentence = f"the conditional of a token moves by {moved:.2g} in total variation with the token itself"
    return Finding("leave-one-out", None, sentence)


FORM: tuple[Callable[[Probe], Finding], ...] = (
    inputs, normalised, packing, rows, mask, forbidden, carry_over, time, leave_one_out,
)  # fmt: skip
