"""Evaluation: which rows the denoiser is really asked for, and in what portions.

    question of row r  =  (tokens, open positions, prompt, time)        the time only where the denoiser looks at it

Equal questions of one call are asked once. A denoiser that takes no time is not asked again what it was asked in the
call before: a row that did not change has the same distribution at another time, and a rejected move leaves a text as
it was. What is asked is asked in portions that a call may hold; what comes back are the distributions of questions, in
portions too, with the sequences that asked them, so that no more than a portion's (M, V) is held at a time, besides
what `Known` remembers. """

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from iterref.budget import Meter

# How many log-probabilities are remembered between calls at the most, on a CPU and on a GPU.
KEEP = (2**23, 2**28)


@dataclass(frozen=True)
class Question:
    """What is asked of R rows: `tokens` (R, L) long, `where` (R, L) bool, the prompts' `names` (R,) long, None where
    they do not matter, `times` (R,) float64, None likewise; `ask` gives the distributions (M, V) of some of the rows,
    (K,)."""

    tokens: Tensor
    where: Tensor
    names: Tensor | None
    times: Tensor | None
    ask: Callable[[Tensor], Tensor]

    def keys(self, rows: Tensor) -> Tensor:
        """A 64-bit digest of every row's question, (K,) long: a sum of products with odd random numbers."""
        length = self.tokens.shape[1]
        by = _multipliers(2 * length + 2, self.tokens.device)
        key = (self.tokens[rows] * by[:length]).sum(1) + (self.where[rows] * by[length : 2 * length]).sum(1)
        if self.names is not None:
            key += self.names[rows] * by[-2]
        if self.times is not None:
            key += self.times[rows].view(torch.int64) * by[-1]
        return key

    def equal(self, rows: Tensor, other: Question, others: Tensor) -> Tensor:
        """Whether rows (K,) ask what other rows (K,) of another question ask, (K,) bool."""
        same = (self.tokens[rows] == other.tokens[others]).all(1) & (self.where[rows] == other.where[others]).all(1)
        for mine, theirs in ((self.names, other.names), (self.times, other.times)):
            if mine is not None and theirs is not None:
                same &= mine[rows] == theirs[others]
        return same

    def distinct(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first row of every different question among rows (K,), ascending (U,) long; which of them each row asks,
        (K,) long in 0 .. U - 1; and the digests (U,)."""
        keys = self.keys(rows)
        if len(rows) == 1:
            return rows, torch.zeros_like(rows), keys
        unique, of = keys.unique(return_inverse=True)
        every = torch.arange(len(rows), device=rows.device)
        first = torch.full_like(unique, len(rows)).scatter_reduce(0, of, every, "amin")
        if len(unique) == len(rows) or not bool(self.equal(rows, self, rows[first[of]]).all()):  # or a collision
            return rows, every, keys
        first, order = first.sort()
        return rows[first], order.argsort()[of], keys[first]


@dataclass
class Known:
    """The answers to the last call's questions, at most `room` numbers of them, KEEP unless given."""

    room: int | None = None
    question: Question | None = None
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    p: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def find(self, question: Question, rows: Tensor, keys: Tensor) -> Tensor:
        """Where the answers to the questions of rows (K,) are held, (K,) long; -1 where they are not."""
        if self.question is None:
            return torch.full_like(rows, -1)
        ordered, order = self.keys.sort()
        place = order[torch.searchsorted(ordered, keys).clamp_max(len(ordered) - 1)]
        same = (self.keys[place] == keys) & question.equal(rows, self.question, self.rows[place])
        return torch.where(same, place, -1)

    def answers(self, places: Tensor) -> Tensor:
        """The distributions (M, V) of held rows, (K,) places."""
        assert self.question is not None
        return rearranged(self.p, self.question.where[self.rows].sum(1), places)

    def keep(self, question: Question, rows: list[Tensor], keys: list[Tensor], p: list[Tensor]) -> None:
        """Remembers these answers and no others."""
        if not rows:
            self.question = None
            return
        # without `ask`, which knows the problem that knows this: a circle would outlive the run, answers and all
        self.question, self.rows, self.keys = replace(question, ask=_unasked), torch.cat(rows), torch.cat(keys)
        self.p = p[0] if len(p) == 1 else torch.cat(p)


def portions(question: Question, size: int, meter: Meter, known: Known | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The distributions p (M, V) of at most `size` questions U at a time, with the rows (k, U) that asked them: every
    row of a column has the column's distributions. All rows with something open are in one of them. Counts the rows as
    asked, and those that reach the denoiser as made."""
    meter.asked_nfe += len(question.where)
    meter.depth += 1
    live = question.where.any(1).nonzero()[:, 0]
    if not len(live):
        return
    first, of, keys = question.distinct(live)
    held = torch.full_like(first, -1) if known is None else known.find(question, first, keys)
    ours, order = (held < 0).sort(stable=True)  # what is held, and then the others
    old, new = order.tensor_split([len(order) - int(ours.sum())])
    meter.made_nfe += len(new)
    room = 0 if known is None else KEEP[question.where.is_cuda] if known.room is None else known.room
    kept: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for which in (old, new):
        for u in which.split(size) if len(which) else ():
            p = known.answers(held[u]) if which is old and known is not None else question.ask(first[u])
            room -= p.numel()
            if room >= 0:
                for into, part in zip(kept, (first[u], keys[u], p), strict=True):
                    into.append(part)
            yield from _asked(question, live, of, first, u, p)
            del p  # before the next portion is asked for
    if known is not None:
        known.keep(question, *kept)


def _asked(
    question: Question, live: Tensor, of: Tensor, first: Tensor, u: Tensor, p: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The distributions of the questions u (U',), by the number of rows that ask them, with these rows."""
    if len(first) == len(live):
        yield first[u][None], p
        return
    rows = live[of.argsort(stable=True)]  # those of a question side by side
    counts = torch.zeros_like(first).index_add_(0, of, torch.ones_like(of))
    begin, cells = counts.cumsum(0) - counts, question.where[first[u]].sum(1)
    for k in counts[u].unique().tolist():
        these = (counts[u] == k).nonzero()[:, 0]
        place = begin[u[these]] + torch.arange(k, device=u.device)[:, None]
        yield rows[place], p if len(these) == len(u) else rearranged(p, cells, these)


def rearranged(p: Tensor, cells: Tensor, places: Tensor) -> Tensor:
    """The packed distributions of some rows, (K,) places, from those of rows that have (U,) cells each."""
    ends = cells.cumsum(0)
    counts = cells[places]
    skipped = (ends[places] - counts) - (counts.cumsum(0) - counts)
    index = torch.arange(int(counts.sum()), device=p.device) + skipped.repeat_interleave(counts)
    return p[index]


def _unasked(rows: Tensor) -> Tensor:
    """Stands for a denoiser where answers are already there."""
    raise RuntimeError("a question that was answered is not asked again")


@lru_cache(maxsize=64)
def _multipliers(n: int, device: torch.device) -> Tensor:
    """`n` odd numbers of 64 random bits, always the same."""
    bits = np.random.Generator(np.random.PCG64(0)).integers(-(2**63), 2**63, n, dtype=np.int64)
    return torch.from_numpy(bits | 1).to(device)
