"""The posterior of a factorised distribution under a regular constraint, exactly: forward-backward over the automaton.

    P(x)         =  prod_i p_i(x_i) [x is a text of the language] / Z
    beta_i(q)    =  sum over arcs q -> q' of  p_i(arc) beta_(i+1)(q')        beta_L(q) = [q is final],  Z = beta_0(q_0)
    draw         q_(i+1) ~ p_i(arc) beta_(i+1)(q') / beta_i(q), then a class of the arc's, then a token of the class
    marginals    P(x_i = v)  =  p_i(v) sum over arcs that read v of  alpha_i(q) beta_(i+1)(q') / Z
    mode         the same recursion with the largest in place of the sum (Viterbi)

A draw is from the joint distribution. Reading from the left and leaving out the tokens that lead nowhere draws another
one, since it does not see what a token costs later on. Rabiner (1989), Proc. IEEE 77; Viterbi (1967).
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from iterref.constraint.automaton import IDLE, Automaton
from iterref.random import Rng

# How many terms of a sum over arcs are held at once; results do not depend on it.
TERMS = 2**23
MOST = 700.0  # of a logarithm whose exponential is finite


class Posterior:
    """R canvases of L positions under an `automaton`: log-masses (R, L, C) of its classes at every position, where
    texts `begin` (R, L) and which positions they `read` (R, L), as `Automaton.accepts` takes them. With `largest` the
    masses are those of a class's likeliest token, and sums are the largest terms."""

    def __init__(
        self, automaton: Automaton, log_mass: Tensor, begin: Tensor, read: Tensor, largest: bool = False
    ) -> None:
        self.automaton, self.arcs, self.log_mass = automaton, automaton.arcs, log_mass
        self.begin, self.read, self.largest = begin, read, largest
        self.of_set = self._of_set()  # (R, L, G + 1)
        rows, length, states = len(begin), begin.shape[1], automaton.size[0]
        final = torch.where(automaton.final, 0.0, -torch.inf).double()
        after = final.expand(rows, -1)
        self.log_beta = torch.empty(rows, length + 1, states, dtype=torch.float64, device=begin.device)
        self.log_beta[:, length] = after
        for i in reversed(range(length)):
            went = self._summed(self.of_set[:, i], self.arcs.sets, after, self.arcs.to)
            before = torch.where(read[:, i, None], went, after)
            fresh = final + before.gather(1, begin[:, i, None].clamp_min(0))
            after = torch.where(begin[:, i, None] >= 0, fresh, before)
            self.log_beta[:, i] = after

    @property
    def log_z(self) -> Tensor:
        """(R,) float64, the log-probability that a draw of the product is a text; -inf where no draw is."""
        return self.log_beta[:, 0, IDLE]

    def draw(self, rng: Rng, where: Tensor, n: int, first: Tensor | int = 0) -> Tensor:
        """`n` joint draws of the classes at `where` (R, L), (n, M) long, by the streams of R rows; draw j is the same
        for every n > j, and those from `first` on are as if the others had been made."""
        rows = torch.arange(len(where), device=where.device).repeat(n)
        number = torch.as_tensor(first, device=where.device).expand(len(where)).repeat(n)
        number = number + torch.arange(n, device=where.device).repeat_interleave(len(where))
        streams = rng.take(rows)
        steps, state = streams.fork("arc"), torch.full_like(rows, IDLE)
        sets = torch.zeros(len(rows), where.shape[1], dtype=torch.long, device=where.device)
        for i in range(where.shape[1]):
            state, to, by, weights = self._ahead(i, rows, state)
            here = torch.zeros_like(sets, dtype=torch.bool)
            here[:, i], arc = self.read[rows, i], torch.zeros_like(rows)
            if bool(here.any()):
                arc[here[:, i]] = steps.categorical(weights[here[:, i]], here, 1, first=number)[0]
            sets[:, i], state = _taken(by, arc), torch.where(here[:, i], _taken(to, arc), state)
        streams, chosen = streams.fork("class"), list[Tensor]()
        for row, place in zip(*self._cells(where.repeat(n, 1)), strict=True):
            here = torch.zeros_like(sets, dtype=torch.bool)
            here[row, place] = True
            log_p = self.log_mass[rows[row], place] + self.arcs.member.T[sets[row, place]].log()
            chosen.append(streams.categorical(log_p, here, 1, first=number)[0])
        return torch.cat(chosen).view(n, -1) if chosen else sets.new_zeros(n, 0)

    def mode(self, where: Tensor) -> Tensor:
        """The classes of the likeliest canvas at `where` (R, L), (M,) long; for a posterior of the `largest`."""
        rows = torch.arange(len(where), device=where.device)
        sets, state = torch.zeros_like(where, dtype=torch.long), torch.full_like(rows, IDLE)
        for i in range(where.shape[1]):
            state, to, by, weights = self._ahead(i, rows, state)
            arc = weights.argmax(1)
            sets[:, i], state = _taken(by, arc), torch.where(self.read[:, i], _taken(to, arc), state)
        return (self.log_mass[where] + self.arcs.member.T[sets[where]].log()).argmax(1)

    @cached_property
    def log_weights(self) -> Tensor:
        """(R, L, C) float64: what a class's probability is multiplied by in the posterior, in logarithms; 0 at
        positions that no text reads."""
        final = self.automaton.final
        alpha = torch.full_like(self.log_beta[:, 0], -torch.inf)
        alpha[:, IDLE] = 0.0
        weights = torch.zeros_like(self.log_mass)
        member, sets = self.arcs.member, self.arcs.sets.flatten()
        for i in range(self.begin.shape[1]):
            begins = self.begin[:, i, None]
            ended = _log_sum(torch.where(final, alpha, -torch.inf))[:, None]
            fresh = torch.full_like(alpha, -torch.inf).scatter(1, begins.clamp_min(0), ended)
            alpha = torch.where(begins >= 0, fresh, alpha)
            both = alpha[:, :, None] + self.log_beta[:, i + 1][:, self.arcs.to] - self.log_z[:, None, None]
            of_set = torch.zeros_like(self.of_set[:, 0]).index_add_(1, sets, both.clamp_max_(MOST).exp_().flatten(1))
            weights[:, i] = torch.where(self.read[:, i, None], (of_set @ member.T).log(), 0.0)
            went = self._summed(self.of_set[:, i], self.arcs.back, alpha, self.arcs.of)
            alpha = torch.where(self.read[:, i, None], went, alpha)
        return weights

    def _ahead(self, i: int, rows: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of walks (N,) in rows (N,) that come to position i in a state: the state from which it is read, and the arcs
        from there: where they lead, their sets and their log-weights, (N, K) each."""
        state = torch.where(self.begin[rows, i] >= 0, self.begin[rows, i], state)
        to, sets = self.arcs.to[state], self.arcs.sets[state]
        return state, to, sets, self.of_set[rows[:, None], i, sets] + self.log_beta[rows[:, None], i + 1, to]

    def _cells(self, where: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The rows and the positions of the True cells of (N, L), as many at a time as are worked on."""
        size = max(1, TERMS // self.log_mass.shape[2])
        row, place = where.nonzero(as_tuple=True)
        return (row.split(size), place.split(size)) if len(row) else ((), ())

    def _of_set(self) -> Tensor:
        """The log-mass of every set of classes, (R, L, G + 1)."""
        member = self.arcs.member
        if not self.largest:
            return (self.log_mass.exp() @ member).log()
        nothing = torch.full_like(self.log_mass[..., 0], -torch.inf)
        held = [self.log_mass[..., column.bool()] for column in member.T]
        return torch.stack([one.amax(-1) if one.shape[-1] else nothing for one in held], -1)

    def _summed(self, of_set: Tensor, sets: Tensor, beside: Tensor, states: Tensor) -> Tensor:
        """The sums over the arcs (S, K) of the masses of their sets (R, G + 1) times what stands beside (R, S)."""
        size = max(1, TERMS // sets.numel())
        parts = zip(of_set.split(size), beside.split(size), strict=True)
        terms = (mass[:, sets] + other[:, states] for mass, other in parts)
        return torch.cat([part.amax(-1) if self.largest else _log_sum(part) for part in terms])


def _log_sum(terms: Tensor) -> Tensor:
    """log sum exp over the last dimension, -inf for nothing but -inf. A running sum adds in one order, whatever else is
    in the batch."""
    most = terms.amax(-1, keepdim=True)
    most = most.where(most.isfinite(), 0.0)
    return (terms - most).exp_().cumsum(-1)[..., -1].log() + most[..., 0]


def _taken(table: Tensor, column: Tensor) -> Tensor:
    """One column (N,) of each row of a table (N, K)."""
    return table.gather(1, column[:, None])[:, 0]
