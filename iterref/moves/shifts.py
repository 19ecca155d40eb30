"""Shifts: a stretch that is written anew gets more or fewer positions than it had, and what follows moves along.

    text        a a a b b b c c . _ _ _          the stretch b, the end ., filler _
    shift -1    a a a ? ? c c . _ _ _ _
    shift +2    a a a ? ? ? ? ? c c . _          as far as there is filler

A row's shift is drawn with  P(d) ~ 2^-|d| exp(r(x^d) / alpha),  where x^d has the stretch's own tokens in it, the first
of them or the last one repeated: a reward call each, and no evaluation. It proposes, and J decides.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from iterref.mtm import select
from iterref.random import Rng
from iterref.run import Run

SHIFTS = (0, -1, 1, -2, 2, -3, 3, -4, 4)  # positions that a stretch gains


def moves_along(run: Run) -> bool:
    """Whether texts may grow and shrink: they end before their canvas, and no constraint says where."""
    return run.denoiser.fill is not None and run.problem.constraint is None


def shortened(run: Run, text: Tensor, other: Tensor) -> Tensor:
    """How long texts (R, L) are beside others, filler left out, as a share of at most 1, (R,) float64; 1 where texts
    keep their size. What a text lacks in fluency adds up over its tokens, so that cutting any text would make it
    better. A shorter one has to be better a token, too."""
    if not moves_along(run):
        return torch.ones(len(text), dtype=torch.float64, device=text.device)
    long, short = (((x != run.denoiser.fill) & run.free).sum(1).clamp_min(1) for x in (other, text))
    return (short / long.double()).clamp_max(1)


def shifted(run: Run, text: Tensor, wrote: Tensor, alpha: Tensor, tried: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """Texts (R, L) of which a stretch `wrote` (R, L) is to be written anew -> the same with what follows moved by a
    shift, one of the first `tried`, and the stretches that are to be written now. Nothing moves in a row whose free
    positions are not side by side, or hold no filler at their end."""
    by = torch.tensor(SHIFTS[:tried], device=text.device)[:, None]
    layouts, stretches, possible = _layouts(run, text, wrote, by)
    log_w = run.reward_of(layouts, final=False) / alpha - log(2) * by.abs().double()
    chosen = select(log_w.masked_fill(~possible, -torch.inf).T.contiguous(), rng).choice
    row = torch.arange(len(text), device=text.device)
    return layouts[chosen, row], torch.where((chosen == 0)[:, None], wrote, stretches[chosen, row])


def _layouts(run: Run, text: Tensor, wrote: Tensor, by: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of shifts `by` (D, 1): texts and their stretches (D, R, L), and which of them a row can have, (D, R) bool."""
    place, free, fill = torch.arange(text.shape[1], device=text.device), run.free, run.denoiser.fill
    assert fill is not None
    begin, count = free.int().argmax(1), free.sum(1)
    end = (free * (place + 1)).amax(1)  # behind the last free position
    over = (free & (text != fill)).mul(place + 1).amax(1)  # behind the last that holds no filler
    a, last = wrote.int().argmax(1), (wrote * place).amax(1)
    b = last + 1 + by
    source = torch.where(place < b[..., None], place.minimum(last[:, None]), place - by[..., None])
    moved = text.expand(len(by), -1, -1).gather(2, source.clamp(0, len(place) - 1))
    moved = torch.where(source < end[:, None], moved, fill)
    inside = (free & (place >= a[:, None])).expand_as(moved)
    room = (b > a) & (b <= end) & (over + by <= end) & (over < end) & (end - begin == count)
    return torch.where(inside, moved, text), inside & (place < b[..., None]), room | (by == 0)
