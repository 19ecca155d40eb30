"""Evaluation: which rows the denoiser is really asked for, and in what portions.

    question of row r  =  (tokens, open positions, prompt, time)        the time only where the denoiser looks at it

Equal questions of one call are asked once. A denoiser that takes no time is not asked again what it was asked in the
call before: a row that did not change has the same distribution at another time, and a rejected move leaves a text as
it was. What is asked is asked in portions that a call may hold; what comes back are the distributions of questions, in
portions too, with the sequences that asked them, so that no more than a portion's (M, V) is held at a time, besides
what `Known` remembers. """

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from iterref.arrays import arrays
from iterref.budget import Meter
from iterref.digests import cut, on_host, sums

# How many log-probabilities are remembered between calls at the most, on a CPU and on a GPU.
KEEP = (2**23, 2**28)

# Rows, (K,) long or all of them, and how many open positions they have.
Ask = Callable[[Tensor | slice, int], Tensor]


@dataclass(frozen=True)
class Question:
    """What is asked of R rows: `tokens` (R, L) long, `where` (R, L) bool, the prompts' `names` (R,) long, None where
    they do not matter, `times` (R,) float64, None likewise; `ask` gives the distributions (M, V) of some of the rows
    with M open positions."""

    tokens: Tensor
    where: Tensor
    names: Tensor | None
    times: Tensor | None
    ask: Ask

    def keys(self) -> tuple[list[bytes], list[int]]:
        """A digest of every row's question, and how many open positions the row has."""
        more = [] if self.names is None else [self.names]
        more += [] if self.times is None else [self.times.view(torch.int64)]
        xp, where = arrays(self.where)
        table = on_host(xp.cat((sums(self.tokens, self.where, *more), xp.count(where)[:, None]), 1))
        return cut(table[:, :2]), table[:, 2].tolist()


@dataclass
class Known:
    """The answers to the last call's questions, at most `room` numbers of them, KEEP unless given: their `places` by
    digest, how many distributions each has, and these, `p` (M, V)."""

    room: int | None = None
    places: dict[bytes, int] = field(default_factory=dict)
    cells: list[int] = field(default_factory=list)
    p: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def answers(self, keys: list[bytes]) -> Tensor:
        """The distributions (M, V) of known questions."""
        return chosen(self.p, self.cells, [self.places[key] for key in keys])

    def keep(self, keys: list[bytes], cells: list[int], p: list[Tensor]) -> None:
        """Remembers these answers and no others."""
        self.places, self.cells = {key: place for place, key in enumerate(keys)}, cells
        self.p = p[0] if len(p) == 1 else torch.cat(p) if p else torch.empty(0, 0)


def portions(question: Question, size: int, meter: Meter, known: Known | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The distributions p (M, V) of at most `size` questions U at a time, with the rows (k, U) that asked them: every
    row of a column has the column's distributions. All rows with something open are in one of them. Counts the rows as
    asked, and those that reach the denoiser as made."""
    (names, cells), asking = question.keys(), dict[bytes, list[int]]()
    for row, key in enumerate(names):
        if cells[row]:
            asking.setdefault(key, []).append(row)
    meter.asked_nfe += len(cells)
    meter.depth += 1
    if not asking:
        return
    held = {} if known is None else known.places
    old, new = [key for key in asking if key in held], [key for key in asking if key not in held]
    meter.made_nfe += len(new)
    room = 0 if known is None else KEEP[question.where.is_cuda] if known.room is None else known.room
    keys, counts, kept = list[bytes](), list[int](), list[Tensor]()
    for part in [which[at : at + size] for which in (old, new) for at in range(0, len(which), size)]:
        rows, device = [asking[key] for key in part], question.where.device
        first = [one[0] for one in rows]
        here = [cells[row] for row in first]
        if part[0] in held and known is not None:
            p = known.answers(part)
        else:
            p = question.ask(slice(None) if len(first) == len(cells) else torch.tensor(first, device=device), sum(here))
        room -= p.numel()
        if room >= 0:
            keys, counts, kept = keys + part, counts + here, [*kept, p]
        for k in sorted({len(one) for one in rows}):
            some = [at for at, one in enumerate(rows) if len(one) == k]
            yield torch.tensor([rows[at] for at in some], device=device).T, chosen(p, here, some)
        del p  # before the next portion is asked for
    if known is not None:
        known.keep(keys, counts, kept)


def chosen(p: Tensor, cells: list[int], places: list[int]) -> Tensor:
    """The packed distributions of some rows, by their places, from those of rows that have so many cells each."""
    if places == list(range(len(cells))):
        return p
    return rearranged(p, torch.tensor(cells, device=p.device), torch.tensor(places, device=p.device))


def rearranged(p: Tensor, cells: Tensor, places: Tensor) -> Tensor:
    """The packed distributions of some rows, (K,) places, from those of rows that have (U,) cells each."""
    ends = cells.cumsum(0)
    counts = cells[places]
    skipped = (ends[places] - counts) - (counts.cumsum(0) - counts)
    index = torch.arange(int(counts.sum()), device=p.device) + skipped.repeat_interleave(counts)
    return p[index]
