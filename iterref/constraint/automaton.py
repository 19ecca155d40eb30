"""Automata that read tokens: which text may go on how, for a whole vocabulary at once.

    step    delta(q, v) = q' or none          a canvas is read token by token, from the state that its text begins in

Tokens that lead everywhere to the same states are one class: of 50,000 tokens a few hundred are different. Classes that
lead from q to q' together are an arc with a set of classes, and most states share their sets. State 0 is no text: it
reads nothing, and it is where a canvas begins and may end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

IDLE = 0  # the state outside of texts


@dataclass(frozen=True, eq=False)
class Arcs:
    """The arcs of S states, padded to K a state: where they lead, `to` (S, K) long, and the `sets` (S, K) of classes
    that they read; backwards, the states that they come `of` (S, K') and the sets `back` (S, K'). `member` (C, G + 1)
    float64 says which classes a set holds; the last set, that of padding, holds none."""

    to: Tensor
    sets: Tensor
    of: Tensor
    back: Tensor
    member: Tensor

    def to_device(self, device: torch.device) -> Arcs:
        return Arcs(*(part.to(device) for part in (self.to, self.sets, self.of, self.back, self.member)))


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over V tokens: their `classes` (V,) long in 0 .. C - 1, and C for tokens that lead
    nowhere; the next states `step` (S, C) long, -1 for none; the states `final` (S,) bool that a text may end in; and
    the states `starts` that a text may begin in. State 0 is `IDLE`.

    Raises `ValueError` for shapes that disagree, or a state 0 that reads."""

    classes: Tensor
    step: Tensor
    final: Tensor
    starts: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        states, classes = self.step.shape
        if self.final.shape != (states,) or int(self.classes.max()) > classes or int(self.classes.min()) < 0:
            raise ValueError(f"an automaton of {states} states and {classes} classes has final (S,) and classes (V,)")
        if int(self.step.amax()) >= states:
            raise ValueError(f"a step leads to a state that is none of the {states}")
        if bool((self.step[IDLE] >= 0).any()) or not bool(self.final[IDLE]):
            raise ValueError("state 0 is the one outside of texts: it reads nothing, and a canvas may end in it")

    @classmethod
    def of_steps(cls, steps: Tensor, final: Tensor, starts: tuple[int, ...] = (0,)) -> Automaton:
        """The automaton of a table of steps (S, V) long, -1 for none, with final states (S,): states move up by one to
        make room for state 0."""
        columns, classes = np.unique(np.asarray(steps), axis=1, return_inverse=True)
        return cls.of_columns(torch.from_numpy(classes.reshape(-1)), torch.from_numpy(columns), final, starts)

    @classmethod
    def of_columns(cls, classes: Tensor, columns: Tensor, final: Tensor, starts: tuple[int, ...]) -> Automaton:
        """As `of_steps`, of classes (V,) whose steps are columns (S, C); a column without a step is taken out."""
        alive = (columns >= 0).any(0)
        number = torch.where(alive, alive.cumsum(0) - 1, int(alive.sum()))
        step = torch.cat([torch.full_like(columns[:1], -1), torch.where(columns >= 0, columns + 1, -1)])[:, alive]
        final = torch.cat([torch.ones(1, dtype=torch.bool), final])
        return cls(number[classes], step.long(), final, tuple(start + 1 for start in starts))

    @property
    def size(self) -> tuple[int, int]:
        """States and classes."""
        return self.step.shape[0], self.step.shape[1]

    @cached_property
    def order(self) -> Tensor:
        """The tokens that lead anywhere, class by class, (K,) long."""
        return self.classes.argsort(stable=True)[: int((self.classes < self.size[1]).sum())]

    @cached_property
    def counts(self) -> Tensor:
        """How many tokens each class has, (C,) long."""
        return torch.bincount(self.classes, minlength=self.size[1] + 1)[:-1]

    @cached_property
    def arcs(self) -> Arcs:
        """The arcs, and the sets of classes that they read."""
        step, (states, classes) = self.step.cpu().numpy(), self.size
        known: dict[bytes, int] = {}
        forward: list[list[tuple[int, int]]] = [[] for _ in range(states)]
        backward: list[list[tuple[int, int]]] = [[] for _ in range(states)]
        for state, row in enumerate(step):
            for to in np.unique(row[row >= 0]).tolist():
                number = known.setdefault(np.packbits(row == to).tobytes(), len(known))
                forward[state].append((to, number))
                backward[to].append((state, number))
        packed = [np.unpackbits(np.frombuffer(key, np.uint8), count=classes) for key in known]
        member = np.array([*packed, np.zeros(classes)], dtype=np.float64).reshape(-1, classes).T
        made = [*_padded(forward, len(known)), *_padded(backward, len(known)), torch.from_numpy(member.copy())]
        return Arcs(*made).to_device(self.step.device)

    def to_device(self, device: torch.device) -> Automaton:
        """The same automaton elsewhere."""
        if self.step.device == device:
            return self
        return Automaton(self.classes.to(device), self.step.to(device), self.final.to(device), self.starts)

    def accepts(self, tokens: Tensor, begin: Tensor, read: Tensor) -> Tensor:
        """Whether canvases (R, L) are texts of the language, (R,) bool: `begin` (R, L) long is the state that a text
        begins in there, -1 elsewhere; `read` (R, L) bool are the positions that belong to texts."""
        states, classes = self.size
        step = torch.full((states + 1, classes + 1), states, dtype=torch.long, device=tokens.device)  # S is nowhere
        step[:-1, :-1] = torch.where(self.step >= 0, self.step, states)
        final = torch.cat([self.final, self.final.new_zeros(1)])
        state = torch.full_like(tokens[:, 0], IDLE)
        for i in range(tokens.shape[1]):
            state = torch.where(begin[:, i] >= 0, torch.where(final[state], begin[:, i], states), state)
            state = torch.where(read[:, i], step[state, self.classes[tokens[:, i]]], state)
        return final[state]


def _padded(arcs: list[list[tuple[int, int]]], nothing: int) -> tuple[Tensor, Tensor]:
    """Lists of (state, set) as two tables (S, K), padded with state 0 and the set `nothing`."""
    width = max(1, max(map(len, arcs)))
    table = torch.tensor([[*row, *[(IDLE, nothing)] * (width - len(row))] for row in arcs])
    return table[..., 0].contiguous(), table[..., 1].contiguous()
