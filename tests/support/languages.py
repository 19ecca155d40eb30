"""Small random languages with canvases, and their posteriors by enumeration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterref.constraint.automaton import Automaton
from iterref.constraint.canvas import Constraint


@dataclass(frozen=True, eq=False)
class Case:
    """A constraint of one canvas with distributions (M, V) at its open positions; all canvases, and which are texts."""

    constraint: Constraint
    canvas: Tensor
    where: Tensor
    log_p: Tensor
    states: Tensor
    valid: Tensor

    @property
    def length(self) -> int:
        return self.canvas.shape[1]

    @property
    def vocab(self) -> int:
        return self.log_p.shape[1]

    @property
    def product(self) -> Tensor:
        """The probabilities (V ** L,) of all canvases without the constraint."""
        p = torch.zeros(self.length, self.vocab, dtype=torch.float64)
        p[range(self.length), self.canvas[0]] = 1.0
        p[self.where[0]] = self.log_p.exp()
        return p[torch.arange(self.length), self.states].prod(1)

    @property
    def share(self) -> float:
        return float(self.product[self.valid].sum())


def joint(one: Case, any_text: bool = False) -> Tensor:
    """The posterior over all canvases; that without the constraint on request."""
    p = one.product if any_text else torch.where(one.valid, one.product, 0.0)
    return p / p.sum()


def random_automaton(seed: int, states: int, vocab: int) -> tuple[Automaton, Tensor, Tensor]:
    """An automaton with its own table of steps (S, V) and final states (S,): half of the steps lead nowhere, the last
    token ends a text, and stands behind the end."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, states - 1, (states, vocab), generator=generator)
    steps[torch.rand(steps.shape, generator=generator) < 0.5] = -1
    if seed % 2:  # tokens that are alike
        steps[:, 1] = steps[:, 0]
    final = torch.rand(states, generator=generator) < 0.5
    end = states - 1
    steps[:, -1] = torch.where(final, end, -1)
    steps[end] = -1
    steps[end, -1], final[end] = end, True
    return Automaton.of_steps(steps, final), steps, final


def case(seed: int, length: int = 0, vocab: int = 0) -> Case:
    """A random case that has a text: kept tokens, positions that nobody reads, one text or two."""
    generator = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    length, vocab = length or some(2, 5), vocab or some(2, 5)
    states = torch.cartesian_prod(*[torch.arange(vocab)] * length).view(-1, length)
    for attempt in range(1000):
        automaton, steps, final = random_automaton(1000 * seed + attempt, some(2, 5), vocab)
        read = torch.rand(1, length, generator=generator) < 0.8
        where = read & (torch.rand(1, length, generator=generator) < 0.7)
        begin = torch.full((1, length), -1)
        begin[0, some(0, length)] = automaton.starts[0]
        begin[0, int(read[0].int().argmax())] = automaton.starts[0]
        first = int((begin[0] >= 0).int().argmax())
        read[:, :first] = where[:, :first] = False
        log_p = (2 * torch.randn(int(where.sum()), vocab, generator=generator, dtype=torch.float64)).log_softmax(1)
        canvas = torch.randint(0, vocab, (1, length), generator=generator)
        valid = torch.tensor([_reads(x, begin[0].tolist(), read[0].tolist(), steps, final) for x in states.tolist()])
        made = Case(Constraint(automaton, begin, read), canvas, where, log_p, states, valid)
        if bool(where.any()) and made.share > 0:
            return made
    raise AssertionError("no case with a text was found")


def _reads(x: list[int], begin: list[int], read: list[bool], steps: Tensor, final: Tensor) -> bool:
    """Whether a canvas is made of texts, by a state of None outside of texts."""
    state: int | None = None
    for i, token in enumerate(x):
        if begin[i] >= 0:
            if state is not None and not final[state]:
                return False
            state = begin[i] - 1  # room for the state outside of texts
        if read[i]:
            state = int(steps[state, token])
            if state < 0:
                return False
    return state is None or bool(final[state])
