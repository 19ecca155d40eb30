"""Lengths: how many tokens an answer has, and answers of at least so many.

    p(x_0^i = v | x_t) = 0     for v that ends or fills a text, at the first K free positions i, normalised again

A model that was trained to fill canvases with its end writes short answers where many positions are open at once. With
`min_new_tokens` no end stands before position K, and what stands there is chosen by the model among all other tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.denoiser import Denoiser, Wrapped
from iterref.models.base import TextModel
from iterref.problem import Problem


class NoEarlyEnd(Wrapped):
    """A denoiser that never writes one of the `ends` (K,) at the `early` positions (B, L) bool of its prompts."""

    def __init__(self, denoiser: Denoiser, ends: Tensor, early: Tensor) -> None:
        super().__init__(denoiser)
        self.ends, self.early = ends, early
        self.uses_prompts = denoiser.uses_prompts or not bool((early == early[:1]).all())

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._without(self.denoiser(x_t, t, where, rows), where, rows)

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        p, early = self.denoiser.probabilities(x_t, t, where, rows), self.early[rows][where]
        p = p.masked_fill(self._ruled_out(early, p), 0.0)
        return torch.where(early[:, None], p / p.sum(1, keepdim=True), p)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._without(self.denoiser.leave_one_out(x, where, rows), where, rows)

    def _without(self, log_p: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        early = self.early[rows][where]
        log_p = log_p.masked_fill(self._ruled_out(early, log_p), -torch.inf)
        return torch.where(early[:, None], log_p - log_p.logsumexp(1, keepdim=True), log_p)

    def _ruled_out(self, early: Tensor, p: Tensor) -> Tensor:
        """(M, V) bool."""
        ends = torch.zeros(p.shape[1], dtype=torch.bool, device=p.device)
        ends[self.ends] = True
        return early[:, None] & ends


def blank_canvas(model: TextModel) -> Tensor | None:
    """The canvas of the empty text (L,), which shows what ends and fills one; None where the model does not read it."""
    try:
        return model.encode([""])[0] if hasattr(model, "encode") else None
    except (ValueError, NotImplementedError):
        return None


def ends_of(model: TextModel) -> Tensor:
    """The tokens (K,) that end or fill a text, as a model says and its empty canvas shows."""
    blank = blank_canvas(model)
    found = {*getattr(model, "ends", ()), *([] if blank is None else blank.tolist())} - {model.noise.mask}
    return torch.tensor(sorted(found), dtype=torch.long)


def at_least(denoiser: Denoiser, free: Tensor, model: TextModel, min_new_tokens: int) -> Denoiser:
    """The denoiser of texts with at least so many tokens at the free positions (B, L). Raises `ValueError` where a text
    has not so many positions, naming the prompt, and for a model that knows no end."""
    if not min_new_tokens:
        return denoiser
    room, ends = free.sum(1), ends_of(model).to(free.device)
    if min_new_tokens < 0:
        raise ValueError(f"min_new_tokens={min_new_tokens} is less than none: pass the fewest tokens of an answer")
    if getattr(model, "fixed_length", False) or not len(ends):
        told = "min_new_tokens= is for models that end their texts"
        raise ValueError(f"{told}, and this one fills all positions: leave it out")
    if bool((room < min_new_tokens).any()):
        row = int((room < min_new_tokens).nonzero()[0])
        told = f"prompt {row} has {int(room[row])} positions for its answer and min_new_tokens={min_new_tokens}"
        raise ValueError(f"{told}: ask for fewer, or for more positions (max_new_tokens=, or length= of load)")
    return NoEarlyEnd(denoiser, ends, free & (free.cumsum(1) <= min_new_tokens))


def expect_long(problem: Problem, held: Denoiser, min_new_tokens: int) -> None:
    """Raises `ValueError`, naming the prompt, where a problem's constraint has no text that its denoiser `held` may
    write: one of at least so many tokens."""
    if problem.constraint is None or not isinstance(held, NoEarlyEnd):
        return
    later = problem.allowed
    early, which = later.index_fill(0, held.ends, False), held.early.long()
    lost = (~problem.constraint.fits(problem.canvas, problem.may_change, later, early, which=which)).nonzero()
    if len(lost):
        told = f"prompt {int(lost[0])}: no text of the constraint has min_new_tokens={min_new_tokens} tokens"
        raise ValueError(f"{told} in these positions: ask for fewer, or for another constraint")


def lengths_of(tokens: Tensor, free: Tensor, ends: Tensor) -> Tensor:
    """How many tokens the answers in canvases (B, L) have, (B,) long: free positions in front of the first end."""
    return before_end(tokens, free, ends).sum(1)


def before_end(tokens: Tensor, free: Tensor, ends: Tensor) -> Tensor:
    """The free positions (B, L) bool in front of the first end."""
    over = torch.isin(tokens, ends.to(tokens.device)) & free
    return free & (over.cumsum(1) == 0)


def in_front(model: TextModel, tokens: Tensor, free: Tensor) -> Tensor:
    """The free positions (B, L) bool in front of the end of every text: a model that knows no end writes no others."""
    return before_end(tokens, free, torch.tensor(list(model.ends), dtype=torch.long))
