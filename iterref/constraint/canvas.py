"""Constraints of canvases: which texts may stand in them, and clean samples that are such texts.

    x_0 ~ prod_i p(x_0^i | x_t) [x_0 is a text of the language] / Z        drawn jointly, whatever is open

The distributions are the denoiser's, the tokens of all other positions are kept. Where float32 has rounded every text's
probability to 0, the tokens that lead anywhere are given `FLOOR` more, so that a draw is a text in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iterref.constraint.automaton import Automaton
from iterref.constraint.posterior import Posterior
from iterref.random import BLOCK, Rng

FLOOR = 1e-60
GRAIN = 2.0**30  # log-probabilities in the posterior are rounded to this, so that certain tokens are equally certain

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Constraint:
    """What B canvases of L positions may hold: an `automaton` that reads them, the states `begin` (B, L) long that a
    text begins in there (-1 elsewhere), and the positions `read` (B, L) bool that belong to texts. A text that begins
    must end before the next one begins, and before the canvas ends."""

    automaton: Automaton
    begin: Tensor
    read: Tensor

    def __len__(self) -> int:
        return len(self.begin)

    def take(self, rows: Tensor) -> Constraint:
        """That of some of the canvases, (R,) long."""
        return Constraint(self.automaton, self.begin[rows], self.read[rows])

    def to_device(self, device: torch.device) -> Constraint:
        return Constraint(self.automaton.to_device(device), self.begin.to(device), self.read.to(device))

    def accepts(self, tokens: Tensor) -> Tensor:
        """Whether finished canvases (R, L) are texts of the language, (R,) bool."""
        return self.automaton.accepts(tokens, self.begin, self.read)

    def expect(self, canvas: Tensor, free: Tensor, allowed: Tensor) -> None:
        """Raises `ValueError`, naming the row, where the free positions (R, L) of canvases leave no text of the
        language, or belong to none; `allowed` (V,) bool are the tokens that may be written."""
        unread = (free & ~self.read).any(1).nonzero()
        if len(unread):
            raise ValueError(f"row {int(unread[0])}: a free position belongs to no text of the constraint: freeze it")
        lost = (~self.fits(canvas, free, allowed)).nonzero()
        if len(lost):
            row, how = int(lost[0]), "give a longer canvas (length=, max_new_tokens=), fewer kept or forbidden tokens"
            told = f"row {row}: no text of the constraint fits the {int(free[row].sum())} free positions of its canvas"
            raise ValueError(f"{told}: {how}, or another constraint")

    def fits(self, canvas: Tensor, free: Tensor, *allowed: Tensor, which: Tensor | int = 0) -> Tensor:
        """Whether some text of the language fits the free positions (R, L) of canvases, (R,) bool; of several sets of
        `allowed` tokens (V,) bool, `which` (R, L) long says the one of each position."""
        some = torch.zeros(len(allowed), self.automaton.size[1] + 1, dtype=torch.bool, device=free.device)
        for number, tokens in enumerate(allowed):
            some[number, self.automaton.classes[tokens]] = True
        each = torch.as_tensor(which, device=free.device).expand(free.shape)[free]
        mass = self.masses(canvas, free, torch.where(some[each, :-1], 0.0, -torch.inf).double())
        return ~Posterior(self.automaton, mass, self.begin, self.read, largest=True).log_z.isneginf()

    def masses(self, x: Tensor, where: Tensor, at: Tensor) -> Tensor:
        """The log-masses (R, L, C) of canvases: those of (M, C) `at` the open positions, and of the token elsewhere."""
        classes = self.automaton.size[1]
        mass = torch.nn.functional.one_hot(self.automaton.classes[x.clamp_min(0)], classes + 1)[..., :-1].double().log()
        mass[where] = at
        return mass


class Reading:
    """Distributions (M, V) at the open positions `where` (R, L) of canvases `x` (R, L), as a constraint of these rows
    reads them: log-probabilities or, with `log` False, probabilities. The tokens `allowed` (V,) bool may be given a
    floor."""

    def __init__(
        self, constraint: Constraint, p: Tensor, x: Tensor, where: Tensor, log: bool, allowed: Tensor | None = None
    ) -> None:
        self.constraint, self.automaton, self.x, self.where, self.log = constraint, constraint.automaton, x, where, log
        order = self.automaton.order  # from here on tokens are known by their places in it
        self.p, self.classes = p[:, order], self.automaton.classes[order]
        self.allowed = torch.zeros_like(order) if allowed is None else allowed[order].double()
        self.may_floor = allowed is not None
        self.floor = torch.zeros(len(p), 1, dtype=torch.float64, device=p.device)
        self.floored = False

    def posterior(self, largest: bool = False) -> Posterior:
        """The posterior, where needed with the floor."""
        made = self._posterior(largest)
        lost = made.log_z.isneginf() & self.where.any(1)
        if not (self.may_floor and bool(lost.any())):
            return made
        self.floor[lost[self.where.nonzero()[:, 0]]], self.floored = FLOOR, True
        return self._posterior(largest)

    def draw(self, rng: Rng, n: int, first: Tensor | int = 0, score: Score | None = None) -> tuple[Tensor, Tensor]:
        """`n` joint draws (n, M), and the `score` of every token (n, M) under its distribution in the posterior:
        its log-probability unless given."""
        posterior = self.posterior()
        if bool((lost := posterior.log_z.isneginf() & self.where.any(1)).any()):
            row = int(lost.nonzero()[0])
            raise ValueError(f"sequence {row}: no text of the constraint has what stands at the other positions")
        classes = posterior.draw(rng, self.where, n, first)
        ends, place = self.automaton.counts.cumsum(0), torch.empty_like(classes)
        begins, mass = ends - self.automaton.counts, posterior.log_mass[self.where].exp()
        cell, streams = self.where.nonzero(), rng.fork("token")
        for cells in self._blocks():
            inside = self._weights(cells).div_(mass[cells][:, self.classes].clamp_min_(1e-300))  # 1 in each class
            here = torch.zeros_like(self.where)
            here[tuple(cell[cells].T)] = True
            chosen = classes[:, cells]
            place[:, cells] = streams.within(inside.cumsum(1), begins[chosen], ends[chosen], here, first)
        return self.automaton.order[place], self._scored(posterior, place, score)

    def modes(self) -> Tensor:
        """The tokens (M,) of the likeliest text of every canvas."""
        classes, parts = self.posterior(largest=True).mode(self.where), []
        for cells in self._blocks():
            inside = self._weights(cells).masked_fill_(self.classes != classes[cells, None], -1.0)
            parts.append(self.automaton.order[inside.argmax(1)])
        return torch.cat(parts) if parts else classes

    def _blocks(self) -> tuple[Tensor, ...]:
        """The cells, as many at once as are worked on."""
        every = torch.arange(len(self.p), device=self.p.device)
        return every.split(max(1, BLOCK[self.p.is_cuda] // max(1, len(self.classes)))) if len(every) else ()

    def _posterior(self, largest: bool) -> Posterior:
        made, counts = [], self.automaton.counts
        for cells in self._blocks():
            lengths, kind = counts.expand(len(cells), -1).contiguous(), "max" if largest else "sum"
            made.append(torch.segment_reduce(self._weights(cells), kind, lengths=lengths, axis=1, unsafe=True).log())
        at = torch.cat(made) if made else self.floor.new_zeros(0, len(counts))
        masses = self.constraint.masses(self.x, self.where, at)
        return Posterior(self.automaton, masses, self.constraint.begin, self.constraint.read, largest)

    def _weights(self, cells: Tensor) -> Tensor:
        """The probabilities of the tokens at some cells, float64."""
        p = self.p[cells].double()
        p = p.exp_() if self.log else p
        return p.addcmul_(self.floor[cells], self.allowed) if self.floored else p

    def _scored(self, posterior: Posterior, place: Tensor, score: Score | None) -> Tensor:
        """The scores (n, M) of drawn tokens under their distributions in the posterior, rounded."""
        weights = posterior.log_weights[self.where]
        made = torch.empty(place.shape, dtype=torch.float64, device=place.device)
        for cells in self._blocks():
            drawn = place[:, cells]
            if score is None:  # the drawn tokens alone are looked at
                p = self.p[cells].gather(1, drawn.T).T.double()
                p = p.exp() if self.log else p
                p = p + self.floor[cells].T * self.allowed[drawn] if self.floored else p
                made[:, cells] = p.log() + weights[cells].gather(1, self.classes[drawn].T).T
            else:
                made[:, cells] = score(self._weights(cells).log_() + weights[cells][:, self.classes], drawn).double()
        return (made * GRAIN).round() / GRAIN
