"""Draws that wait: the same tokens whenever they are made, held or drawn at once, and the likeliest tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref import draws as module
from iterref.decoding import confidence, negentropy
from iterref.draws import Draws
from iterref.random import Rng

ROWS, LENGTH, VOCAB, NOW, LATER = 5, 6, 7, 2, 4


def made(logs: bool, now: int = NOW, later: int = LATER, modes: bool = True) -> tuple[Draws, Tensor, Tensor]:
    """Draws of sequences in two portions, one of them never open, with their distributions and open positions."""
    generator = torch.Generator().manual_seed(1)
    where = torch.rand(ROWS, LENGTH, generator=generator) < 0.5
    where[3] = False
    log_p = torch.randn(int(where.sum()), VOCAB, generator=generator).log_softmax(1)
    p = log_p if logs else log_p.exp()
    x, rng = torch.full((ROWS, LENGTH), VOCAB), Rng.seeded(3, ROWS).fork("draw")
    found = Draws(x, where, rng, confidence, now, later)
    cut = int(where[:2].sum())
    portions = [(torch.tensor([[2, 4]]), p[cut:]), (torch.tensor([[0, 1]]), p[:cut])]
    found.fill(portions, logs, modes)
    return found, p, where


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("room", [0, 2**20])
def test_a_later_draw_is_the_one_that_would_have_been_made_at_once(logs, room, monkeypatch):
    monkeypatch.setattr(module, "HELD", (room, room))
    found, p, where = made(logs)
    whole = made(logs, now=NOW + LATER, later=0)[0]
    assert torch.equal(found.samples, whole.samples[:NOW]) and torch.equal(found.sure, whole.sure[:NOW])
    assert torch.equal(whole.samples[:, where], Rng.seeded(3, ROWS).fork("draw").categorical(p, where, 6, log=logs))
    some = torch.tensor([4, 0, 3, 4, 1])
    tokens, sure = found.of(some, LATER)
    assert torch.equal(tokens, whole.samples[NOW:, some]) and torch.equal(sure, whole.sure[NOW:, some])
    number = torch.tensor([3, 0, 1, 2, 1])  # one draw each, of its own number
    tokens, sure = found.of(some, 1, number)
    assert torch.equal(tokens[0], whole.samples[NOW + number, some])
    assert torch.equal(sure[0], whole.sure[NOW + number, some])


@pytest.mark.parametrize("logs", [True, False])
def test_modes_are_the_likeliest_tokens(logs):
    found, p, where = made(logs, now=0)
    assert torch.equal(found.modes[where], p.argmax(1)) and bool((found.modes[~where] == VOCAB).all())
    assert found.samples.shape == (0, ROWS, LENGTH)


def test_nothing_open_leaves_the_state():
    x, where = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool)
    found = Draws(x, where, Rng.seeded(0, 2), negentropy, 0, 2)
    found.fill([], True)
    tokens, sure = found.of(torch.tensor([1, 1]), 2)
    assert torch.equal(tokens, x.expand(2, 2, 3)) and not bool(sure.any())


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_draws_from_a_number_on_are_a_part_of_all_draws(first):
    where = torch.rand(4, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    p = torch.rand(int(where.sum()), 9, generator=torch.Generator().manual_seed(3))
    rng = Rng.seeded(7, 4)
    whole = rng.categorical(p, where, 9, log=False)
    assert torch.equal(rng.categorical(p, where, 3, log=False, first=first), whole[first : first + 3])
    each = torch.tensor([0, 5, 2, first])
    row = where.nonzero()[:, 0]
    drawn = rng.categorical(p, where, 3, log=False, first=each)
    for k in range(3):
        assert torch.equal(drawn[k], whole[each[row] + k, torch.arange(len(row))])
