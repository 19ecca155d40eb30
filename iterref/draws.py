"""Draws: clean samples from one evaluation, some of them at once and the others when it is known whose are wanted.

    x_0^nj ~ p(. | x_t^n),  j = 0 .. J - 1      the j-th draw of a sequence is the same, whenever it is made

Where particles are chosen by what a few draws say, each of N chosen ones needs draws of its own: N in all, and not N of
every particle. So distributions are held until the choice is made, if they fit; if not, all that may be wanted are
drawn at once, which then costs little beside the network that made so many numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from iterref.constraint.canvas import Constraint, Reading
from iterref.decoding import Confidence, confidence
from iterref.evaluation import rearranged
from iterref.random import Rng, Undrawable

# How many numbers are held until it is known whose draws are wanted, on a CPU and on a GPU.
HELD = (2**25, 2**30)


class Draws:
    """Draws at the open positions `where` (R, L) of states `x_t` (R, L) by streams of R rows.

    `samples` (now, R, L) are the first draws, `x_t` outside `where`; `sure` (now, R, L) float64 says how confident
    `score` is of each token, 0 outside, where there is one to say so; `modes` (R, L) are the likeliest tokens, on
    request. Up to `later` further draws can be asked for (`of`). Under a `constraint` of the R sequences a draw of one
    is joint, and a text of the language; the tokens `allowed` (V,) may be written where the distributions have rounded
    them away."""

    def __init__(
        self, x_t: Tensor, where: Tensor, rng: Rng, score: Confidence | None, now: int, later: int = 0,
        constraint: Constraint | None = None, allowed: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.x_t, self.where, self.rng, self.score, self.now, self.later = x_t, where, rng, score, now, later
        self.constraint, self.allowed = constraint, allowed
        self.modes, self._held, self._logs = x_t, list[tuple[Tensor, Tensor]](), False
        self._first = self._blank(x_t, now)
        self.samples, self.sure = self._first[0], self._first[-1]
        self._further: list[Tensor] | None = None

    def fill(self, found: Iterable[tuple[Tensor, Tensor]], logs: bool, modes: bool = False) -> None:
        """Makes the first draws from distributions (M, V), or their `logs`, of portions of the sequences, (k, U), the
        same a column. Raises `Undrawable`, whose cell is a sequence, where nothing can be drawn."""
        self._logs, count = logs, self.now
        self.modes = self.x_t.clone() if modes else self.x_t
        cells = int(self.where.sum()) if self.later else 0
        for i, p in found:
            if self.later and cells * p.shape[1] <= HELD[p.is_cuda]:
                self._held.append((i, p))
            elif self.later and self._further is None:
                self._further, count = self._blank(self.x_t, self.later), self.now + self.later
            self._portion(i, p, count, modes)
            del p  # before the next portion is asked for

    def _portion(self, i: Tensor, p: Tensor, count: int, modes: bool) -> None:
        """`count` draws, and on request the modes, of the sequences i (k, U) of one portion."""
        copies, whole, i = len(i), i.shape == (1, len(self.where)), i.flatten()
        if self.constraint is not None and copies > 1:  # which is another for every sequence
            p = p.repeat(copies, 1)
        row, position = (self.where if whole else self.where[i]).nonzero(as_tuple=True)
        at = row if whole else i[row], position
        if modes:
            reading = self._reading(p, i)
            self.modes[at] = likeliest(p).repeat(copies) if reading is None else reading.modes()
        if not count:
            return
        for into, made in zip(self._first, drawn := self._drawn(p, at, i, count), strict=True):
            into[:, at[0], at[1]] = made[: self.now]
        if self._further is not None:
            for into, made in zip(self._further, drawn, strict=True):
                into[:, at[0], at[1]] = made[self.now :]

    def of(self, sequences: Tensor, n: int, first: Tensor | int = 0) -> list[Tensor]:
        """`n` of the later draws of some sequences, (K,) long, from number `first` on, one for all or (K,) long:
        tokens (n, K, L) and how sure they are, (n, K, L)."""
        number = torch.as_tensor(first, device=sequences.device).expand(len(sequences))
        x, where = self.x_t[sequences], self.where[sequences]
        made = self._blank(x, n)
        if self._further is not None:
            each = number + torch.arange(n, device=number.device)[:, None]
            return [further[each, sequences] for further in self._further]
        place = torch.full((len(self.x_t),), -1, device=x.device)
        for rows, p in self._held:  # portion by portion: nothing is copied but what is drawn from
            place.fill_(-1)[rows] = torch.arange(rows.shape[1], device=rows.device)
            live = (where.any(1) & (place[sequences] >= 0)).nonzero()[:, 0]
            if not len(live):
                continue
            wanted = rearranged(p, self.where[rows[0]].sum(1), place[sequences[live]])
            here = where[live].nonzero(as_tuple=True)
            row = live[here[0]]
            drawn = self._drawn(wanted, (sequences[row], here[1]), sequences[live], n, number[live] + self.now, here[0])
            for into, each in zip(made, drawn, strict=True):
                into[:, row, here[1]] = each
        return made

    def _drawn(
        self, p: Tensor, at: tuple[Tensor, Tensor], sequences: Tensor, n: int, first: Tensor | int = 0,
        of: Tensor | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Draws (n, M) of sequences (K,) at cells (M,), by sequence and position, from distributions (M / k, V) as for
        `drawn_at`, and how sure they are, if asked; `first` is a number, or (K,), and the cells are `of` these."""
        reading = self._reading(p, sequences)
        if reading is not None:
            score = None if self.score is confidence else self.score
            joint = reading.draw(self.rng.take(sequences), n, first, score)
            return joint if self.score else joint[:1]
        try:
            own = first[of] if isinstance(first, Tensor) and of is not None else first
            drawn = self.rng.drawn_at(p, *at, n, self._logs, own)
        except Undrawable as error:
            error.cell = int(at[0][error.cell])
            raise
        if self.score is None:
            return (drawn,)
        value = self.score(p, drawn.view(-1, len(p)), self._logs)
        return drawn, value.double().reshape(drawn.shape)

    def _reading(self, p: Tensor, sequences: Tensor) -> Reading | None:
        """Distributions (M, V) of sequences (K,) as the constraint reads them, None without one."""
        if self.constraint is None:
            return None
        x, where = self.x_t[sequences], self.where[sequences]
        return Reading(self.constraint.take(sequences), p, x, where, self._logs, self.allowed)

    def _blank(self, x: Tensor, n: int) -> list[Tensor]:
        """`n` copies of states (R, L), and where there is a score, nothing said of them."""
        copies = x.expand(n, *x.shape).clone()
        return [copies] if self.score is None else [copies, torch.zeros_like(copies, dtype=torch.float64)]


def likeliest(p: Tensor) -> Tensor:
    """The first most probable tokens of distributions (M, V), (M,) long: on a host by numpy, which is quicker."""
    plain = not p.is_cuda and p.dtype in (torch.float32, torch.float64)
    return torch.from_numpy(p.numpy().argmax(1)) if plain else p.argmax(1)
