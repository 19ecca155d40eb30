"""Evaluation: which rows the denoiser is really asked for, and in what portions.

    question of row r  =  (tokens, open positions, prompt, time)        the time only where the denoiser looks at it

Equal questions of one call are asked once, and a denoiser that takes no time is not asked again what it was asked in
the call before: a row that did not change has the same distribution at another time. What is asked is asked in portions
that a call may hold, so that no more than a portion's (M, V) is held at a time, besides what `Known` remembers.

Questions are equal where their digests of 128 bits are (`iterref.digests`): among the 32,768 of a large call two
different ones are taken for one with a probability below 2^-60. """

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterref.arrays import arrays
from iterref.budget import Meter
from iterref.digests import on_host, sums

# How many log-probabilities are remembered between calls at the most, on a CPU and on a GPU.
KEEP = (2**23, 2**28)

Whole = NDArray[np.int64]
# Rows, (K,) long or all of them, and how many open positions they have.
Ask = Callable[[Tensor | slice, int], Tensor]


def own(given: Tensor, i: Tensor | slice) -> Tensor:
    """Some rows of what a denoiser is given, in a copy, which it may write into."""
    return given[i] if isinstance(i, Tensor) else given.clone()


@dataclass(frozen=True)
class Question:
    """What is asked of R rows: `tokens` (R, L) long, `where` (R, L) bool, the prompts' `names` (R,) and `times` (R,)
    float64 where they matter, else None; `ask` gives the distributions (M, V) of some rows with M open positions."""

    tokens: Tensor
    where: Tensor
    names: Tensor | None
    times: Tensor | None
    ask: Ask

    def keys(self) -> tuple[Whole, Whole]:
        """The digests (R, 2) of all rows' questions, and how many open positions (R,) they have, arrays of the host."""
        more = [] if self.names is None else [self.names]
        more += [] if self.times is None else [self.times.view(torch.int64)]
        xp, where = arrays(self.where)
        table = on_host(xp.cat((sums(self.tokens, self.where, *more), xp.count(where)[:, None]), 1))
        return table[:, :2], table[:, 2]


@dataclass
class Known:
    """The answers to the last call's questions, at most `room` numbers of them, KEEP unless given: the questions'
    `keys` (U, 2) in order, the `places` (U,) of their answers, and the distributions `p` (M, V), `cells` (U,) each."""

    room: int | None = None
    keys: Whole = field(default_factory=lambda: np.empty((0, 2), np.int64))
    places: Whole = field(default_factory=lambda: np.empty(0, np.int64))
    cells: Whole = field(default_factory=lambda: np.empty(0, np.int64))
    p: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def find(self, keys: Whole) -> tuple[Whole, Whole, Whole]:
        """Which of some questions (K, 2) are known, which are not, and the places (K,) of the answers to the former."""
        if not len(self.keys):
            rows = np.arange(len(keys))
            return rows[:0], rows, rows
        at = np.minimum(self.keys[:, 0].searchsorted(keys[:, 0]), len(self.keys) - 1)
        found = np.logical_and.reduce(self.keys[at] == keys, 1)
        return found.nonzero()[0], (~found).nonzero()[0], self.places[at]

    def keep(self, keys: Whole, cells: Whole, p: list[Tensor]) -> None:
        """Remembers the answers to questions (U, 2) of so many cells (U,) each, and no others."""
        self.places = keys[:, 0].argsort()
        self.keys, self.cells = keys[self.places], cells
        self.p = p[0] if len(p) == 1 else torch.cat(p) if p else torch.empty(0, 0)


NOTHING = Known()


def portions(
    question: Question, most: Callable[[int], int], meter: Meter, known: Known | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The distributions p (M, V) of at most `most(cells)` questions U at a time, of so many open positions each at the
    most, with the rows (k, U) that asked them: every row of a column has the column's distributions. All rows with
    something open are in one of them. Counts the rows as asked, and those that reach the denoiser as made."""
    (keys, cells), device = question.keys(), question.where.device
    meter.asked_nfe += len(cells)
    meter.depth += 1
    asking = cells.nonzero()[0]
    if not len(asking):
        return
    order, begin, count = alike(keys[asking])
    order = asking[order]
    first = order[begin]
    keys, cells = keys[first], cells[first]
    size = most(int(cells.max()))
    old, new, places = (NOTHING if known is None else known).find(keys)
    meter.made_nfe += len(new)
    room = 0 if known is None else KEEP[question.where.is_cuda] if known.room is None else known.room
    kept, answers = list[Whole](), list[Tensor]()
    for part, held in [(w[at : at + size], w is old) for w in (old, new) for at in range(0, len(w), size)]:
        here = cells[part]
        if known is not None and held:
            p = chosen(known.p, known.cells, places[part])
        else:
            whole = len(part) == len(question.where)
            p = question.ask(slice(None) if whole else torch.from_numpy(first[part]).to(device), int(here.sum()))
        room -= p.numel()
        if room >= 0:
            kept.append(part)
            answers.append(p)
        times = count[part]
        for k in np.bincount(times).nonzero()[0]:
            some = (times == k).nonzero()[0]
            rows = order[begin[part[some]] + np.arange(k)[:, None]]
            yield torch.from_numpy(rows).to(device), chosen(p, here, some)
        del p  # before the next portion is asked for
    if known is not None:
        some = np.concatenate(kept) if kept else new[:0]
        known.keep(keys[some], cells[some], answers)


def alike(keys: Whole) -> tuple[Whole, Whole, Whole]:
    """Rows of digests (R, 2) by what they ask: their `order` (R,), in which those that ask the same are side by side,
    where every question of theirs begins in it (U,), in order of first appearance, and how many rows ask it (U,)."""
    order = keys[:, 0].argsort(kind="stable")
    if len(order) == 1:  # of a single prompt
        return order, order, np.ones(1, np.int64)
    here, new = keys[order], np.ones(len(keys) + 1, dtype=np.bool_)
    np.logical_or.reduce(here[1:] != here[:-1], 1, out=new[1:-1])
    ends = new.nonzero()[0]
    begin = ends[:-1]
    by_first = order[begin].argsort()
    return order, begin[by_first], (ends[1:] - begin)[by_first]


def chosen(p: Tensor, cells: Whole, places: Whole) -> Tensor:
    """As `rearranged`, by arrays of the host; a view where all rows are asked for in their order."""
    if len(places) == len(cells) and (places == np.arange(len(cells))).all():
        return p
    return rearranged(p, torch.from_numpy(cells).to(p.device), torch.from_numpy(places).to(p.device))


def rearranged(p: Tensor, cells: Tensor, places: Tensor) -> Tensor:
    """The packed distributions of some rows, (K,) places, from those of rows that have (U,) cells each."""
    ends = cells.cumsum(0)
    counts = cells[places]
    skipped = (ends[places] - counts) - (counts.cumsum(0) - counts)
    index = torch.arange(int(counts.sum()), device=p.device) + skipped.repeat_interleave(counts)
    return p[index]
