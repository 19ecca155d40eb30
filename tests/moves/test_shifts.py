"""Shifts: layouts beside list surgery, the law of a shift, and where nothing moves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.constraint.automaton import Automaton
from iterref.constraint.canvas import Constraint
from iterref.demo import sentences
from iterref.exact.markov import Markov
from iterref.generation import generate
from iterref.moves.shifts import SHIFTS, moves_along, shifted, shortened
from iterref.noise import absorbing
from iterref.problem import Problem
from iterref.run import Run
from tests.support.bundled import tiny_news

FILL, TOKENS = 0, 5


def reward(tokens: Tensor, rows: Tensor) -> Tensor:
    """How often a piece differs from the one before it, and more for longer texts."""
    return ((tokens[:, 1:] != tokens[:, :-1]).sum(1) + 0.3 * (tokens != FILL).sum(1)).double()


def run_of(canvas: Tensor, free: Tensor, fill: int | None = FILL) -> Run:
    """A run over a world whose texts are filled up with token 0."""
    world = Markov(
        torch.zeros(TOKENS).double(), torch.zeros(TOKENS, TOKENS).double(), canvas.shape[1], absorbing(TOKENS + 1)
    )
    world.fill = fill
    return Run(Problem(world, reward, canvas, free, alpha=0.7))


@dataclass
class Chosen:
    """Stands in for the random stream: notes the weights, and takes outcome `take` in every row."""

    take: int
    weights: Tensor | None = None

    def choose(self, log_w: Any, log: bool) -> Any:
        assert not log
        w = torch.as_tensor(log_w)
        self.weights, chosen = w / w.sum(1, keepdim=True), torch.full((len(w),), self.take)
        return chosen if isinstance(log_w, Tensor) else chosen.numpy()


def surgery(text: list[int], begin: int, first: int, size: int, by: int) -> tuple[list[int], list[bool]] | None:
    """One row by lists: what the shift leaves, None where there is no such shift."""
    length = len(text)
    pieces = length
    while pieces > begin and text[pieces - 1] == FILL:
        pieces -= 1
    if by and (pieces == length or pieces + by > length or size + by < 1 or first + size + by > length):
        return None
    stretch = text[first : first + size]
    stretch = (stretch + stretch[-1:] * max(0, by))[: size + by]
    moved = (text[:first] + stretch + text[first + size :] + [FILL] * length)[:length]
    return moved, [first <= i < first + size + by for i in range(length)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_layouts_and_their_law_are_those_of_list_surgery(data):
    length, rows = data.draw(st.integers(4, 10)), 3
    texts, wrote, begins = [], torch.zeros(rows, length, dtype=torch.bool), []
    for row in range(rows):
        begin = data.draw(st.integers(0, length - 2))
        pieces = data.draw(st.integers(begin, length))
        drawn = st.lists(st.integers(1, TOKENS - 1), min_size=pieces, max_size=pieces)
        texts.append(data.draw(drawn) + [FILL] * (length - pieces))
        first = data.draw(st.integers(begin, length - 1))
        wrote[row, first : data.draw(st.integers(first + 1, length))] = True
        begins.append(begin)
    canvas = torch.tensor(texts)
    run = run_of(canvas, torch.arange(length) >= torch.tensor(begins)[:, None])
    alpha = torch.tensor([0.2, 0.7, 3.0]).double()
    for place, by in enumerate(SHIFTS):
        stream: Any = Chosen(place)
        moved, stretch = shifted(run, canvas, wrote, alpha, len(SHIFTS), stream)
        for row, text in enumerate(texts):
            first, size = int(wrote[row].int().argmax()), int(wrote[row].sum())
            every = [surgery(text, begins[row], first, size, d) for d in SHIFTS]
            expected = every[place]
            w = [
                0.0 if one is None
                else 2.0 ** -abs(d) * exp(float(reward(torch.tensor([one[0]]), row)[0]) / float(alpha[row]))
                for d, one in zip(SHIFTS, every, strict=True)
            ]  # fmt: skip
            assert stream.weights[row].tolist() == pytest.approx([x / sum(w) for x in w], abs=1e-12)
            if expected is not None:
                assert (moved[row].tolist(), stretch[row].tolist()) == expected, by


def test_nothing_moves_where_free_positions_lie_apart():
    canvas = torch.tensor([[1, 2, 3, 4, 0, 0]])
    wrote = torch.tensor([[False, True, False, True, False, False]])
    stream: Any = Chosen(0)
    moved, stretch = shifted(run_of(canvas, canvas != 3), canvas, wrote, torch.ones(1).double(), 9, stream)
    assert stream.weights[0, 0] == 1 and torch.equal(moved, canvas) and torch.equal(stretch, wrote)


def test_texts_without_filler_and_constrained_ones_do_not_move():
    canvas = torch.tensor([[1, 2, 0, 0]])
    assert moves_along(run_of(canvas, torch.ones_like(canvas) > 0))
    assert not moves_along(run_of(canvas, torch.ones_like(canvas) > 0, None))
    every = Automaton.of_steps(torch.zeros(1, TOKENS + 1, dtype=torch.long), torch.ones(1) > 0)
    begin = torch.where(torch.arange(4) == 0, every.starts[0], -1)[None]
    anything = Constraint(every, begin, canvas > -1)
    assert not moves_along(Run(replace(run_of(canvas, canvas > -1).problem, constraint=anything)))


def test_a_shorter_text_counts_for_its_share_and_a_longer_one_for_no_more():
    short, long = torch.tensor([[1, 2, 3, 0, 0, 0]]), torch.tensor([[1, 2, 3, 4, 1, 2]])
    run = run_of(short, short > -1)
    assert float(shortened(run, short, long)) == 0.5
    assert float(shortened(run, long, short)) == float(shortened(run, short, short)) == 1
    assert float(shortened(run_of(short, short > -1, None), short, long)) == 1


def test_moves_reach_a_length_that_stretches_of_one_size_do_not(monkeypatch):
    options = {"reward": lambda texts, **_: [-abs(len(text.split()) - 6.0) for text in texts], "seed": 0}
    documents, method = [row["document"] for row in sentences()[:12]], "beam:steps=6,moves=4,span=0.3"
    moving = generate(tiny_news(), documents, sampler=method, **options).rewards.mean()
    monkeypatch.setattr("iterref.samplers.beam.moves_along", lambda run: False)
    still = generate(tiny_news(), documents, sampler=method, **options).rewards.mean()
    assert moving > still + 0.2
