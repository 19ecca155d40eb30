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
        """The same elsewhere."""
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
        some = torch.zeros(self.automaton.size[1] + 1, dtype=torch.bool, device=free.device)
        some[self.automaton.classes[allowed]] = True
        nothing = torch.where(some[:-1], 0.0, -torch.inf).double()
        mass = self.masses(canvas, free, nothing.expand(int(free.sum()), -1))
        lost = Posterior(self.automaton, mass, self.begin, self.read, largest=True).log_z.isneginf().nonzero()
        if len(lost):
            row = int(lost[0])
            raise ValueError(
                f"row {row}: no text of the constraint fits the {int(free[row].sum())} free positions of its canvas: "
                "give a longer canvas (length=, max_new_tokens=), fewer kept or forbidden tokens, or another constraint"
            )

    def masses(self, x: Tensor, where: Tensor, at: Tensor) -> Tensor:
        """The log-masses (R, L, C) of canvases: those of (M, C) `at` the open positions, and of the token elsewhere."""
        classes = self.automaton.size[1]
        mass = torch.nn.functional.one_hot(self.automaton.classes[x.clamp_min(0)], classes + 1)[..., :-1].double().log()
        mass[where] = at
        return mass


class Reading:
    """Distributions (M, V) at the open positions `where` (R, L) of canvases `x` (R, L), as a constraint of these rows
    reads them; the tokens `allowed` (V,) bool may be given a floor."""

    def __init__(
        self, constraint: Constraint, p: Tensor, x: Tensor, where: Tensor, log: bool, allowed: Tensor | None = None
    ) -> None:
        self.constraint, self.automaton, self.x, self.where, self.log = constraint, constraint.automaton, x, where, log
        self.p, self.allowed = p, allowed
        self.floor = torch.zeros(len(p), 1, dtype=torch.float64, device=p.device)

    def posterior(self, largest: bool = False) -> Posterior:
        """The posterior, where needed with the floor."""
        made = self._posterior(largest)
        lost = made.log_z.isneginf() & self.where.any(1)
        if self.allowed is None or not bool(lost.any()):
            return made
        self.floor[lost[self.where.nonzero()[:, 0]]] = FLOOR
        return self._posterior(largest)

    def draw(self, rng: Rng, n: int, first: Tensor | int, score: Score) -> tuple[Tensor, Tensor]:
        """`n` joint draws (n, M), and the `score` of every token (n, M) under its distribution in the posterior."""
        posterior = self.posterior()
        classes = posterior.draw(rng, self.where, n, first)
        ends = self.automaton.counts.cumsum(0)
        begins = ends - self.automaton.counts
        tokens = torch.empty_like(classes)
        row, streams = self.where.nonzero()[:, 0], rng.fork("token")
        weights, mass = self.automaton.classes[self.automaton.order], posterior.log_mass[self.where].exp()
        for cells in torch.arange(len(row), device=row.device).split(self._step):
            inside = self._weights(cells) / mass[cells][:, weights].clamp_min(1e-300)  # each class sums to one
            chosen, here = classes[:, cells], torch.zeros_like(self.where)
            here[tuple(self.where.nonzero()[cells].T)] = True
            at = streams.within(inside.cumsum(1), begins[chosen], ends[chosen], here, first)
            tokens[:, cells] = self.automaton.order[at]
        return tokens, self._scored(posterior, tokens, score)

    def modes(self) -> Tensor:
        """The tokens (M,) of the likeliest text of every canvas."""
        classes = self.posterior(largest=True).mode(self.where)
        of, parts = self.automaton.classes[self.automaton.order], []
        for cells in torch.arange(len(classes), device=classes.device).split(self._step):
            inside = self._weights(cells).masked_fill_(of != classes[cells, None], -1.0)
            parts.append(self.automaton.order[inside.argmax(1)])
        return torch.cat(parts) if parts else classes

    @property
    def _step(self) -> int:
        """How many cells are worked on at once."""
        return max(1, BLOCK[self.p.is_cuda] // max(1, len(self.automaton.order)))

    def _posterior(self, largest: bool) -> Posterior:
        made, counts = [], self.automaton.counts
        for cells in torch.arange(len(self.p), device=self.p.device).split(self._step):
            lengths = counts.expand(len(cells), -1).contiguous()
            kind = "max" if largest else "sum"
            made.append(torch.segment_reduce(self._weights(cells), kind, lengths=lengths, axis=1, unsafe=True).log())
        at = torch.cat(made) if made else torch.zeros(0, self.automaton.size[1], dtype=torch.float64)
        masses = self.constraint.masses(self.x, self.where, at.to(self.p.device))
        return Posterior(self.automaton, masses, self.constraint.begin, self.constraint.read, largest)

    def _weights(self, cells: Tensor) -> Tensor:
        """The probabilities of the tokens that lead anywhere at some cells, class by class, float64."""
        order = self.automaton.order
        p = self.p[cells][:, order].double()
        p = p.exp_() if self.log else p
        return p if self.allowed is None else p + self.floor[cells] * self.allowed[order]

    def _scored(self, posterior: Posterior, tokens: Tensor, score: Score) -> Tensor:
        """The scores (n, M) of drawn tokens under the distributions in the posterior, rounded."""
        weights = posterior.log_weights[self.where]
        nowhere = torch.full_like(weights[:, :1], -torch.inf)
        weights = torch.cat([weights, nowhere], 1)
        size = max(1, BLOCK[self.p.is_cuda] // self.p.shape[1])
        parts = []
        for cells in torch.arange(len(self.p), device=self.p.device).split(size):
            log_p = self.p[cells].double() if self.log else self.p[cells].double().log()
            if self.allowed is not None:
                log_p = torch.logaddexp(log_p, (self.floor[cells] * self.allowed).log())
            log_p = log_p + weights[cells][:, self.automaton.classes]
            parts.append(score(log_p, tokens[:, cells]).double())
        made = torch.cat(parts, 1) if parts else torch.zeros_like(tokens, dtype=torch.float64)
        return (made * GRAIN).round() / GRAIN
