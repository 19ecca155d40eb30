"""Tests of how often a move makes the host wait for a device, by the operations that do, counted on a CPU."""

from __future__ import annotations

from functools import cache

import torch

from benchmarks.shapes import Case
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.waits import Waits

MOVES = 6


@cache
def waits(moves: int, watch: tuple[int, ...] = ()) -> int:
    method = sampler_from_string(f"iterref:steps=1,moves={moves},tries=16,decisions=1,span=1.0+0.5,spacing=0,early=0")
    problem = Case("random-2").problem(4)
    sample(method, problem)  # the plan of levels is made once, on the host
    with Waits() as count:
        sample(method, problem, watch=watch)
    return count.seen.total()


def test_a_move_waits_for_the_device_no_more_than_it_has_to():
    """17 a move, 2 of them on numbers of the reward that are on the host already; 22 before they were counted."""
    assert 10 < (waits(MOVES) - waits(0)) / MOVES <= 17.5


def test_watching_waits_for_nothing():
    """States and proposals of watched rows stay where they are until the run has ended."""
    assert waits(MOVES, (0, 2)) == waits(MOVES)


def test_what_waits_is_counted():
    given = torch.ones(3)
    with Waits() as count:
        bool(given.any())
        given[given > 0]
        given.repeat_interleave(torch.tensor([1, 2, 3]))
        given.where(given > 0, 2.0)  # no wait
    assert count.seen.total() >= 3 and "aten::where" not in count.seen
