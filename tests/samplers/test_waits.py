"""Tests of how often a move makes the host wait for a device, by the operations that do, counted on a CPU."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from benchmarks.shapes import Case
from iterref import arrays
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.waits import Waits

MOVES = 6
DEFAULT, PLAIN, ONE = "", ",dependence=1", ",decisions=1,span=1.0+0.5,spacing=0"


@cache
def waits(moves: int, options: str, watch: tuple[int, ...] = ()) -> int:
    method = sampler_from_string(f"iterref:steps=1,moves={moves},tries=16,early=0{options}")
    problem = Case("random-2").problem(4)
    sample(method, problem)  # the plan of levels is made once, on the host
    with pytest.MonkeyPatch.context() as patch, Waits() as count:
        patch.setattr(arrays, "HOST", "nowhere")  # the formulas as a device computes them
        count.watch(patch)
        sample(method, problem, watch=watch)
    return count.seen.total()


@pytest.mark.parametrize(("options", "most"), [(PLAIN, 30.7), (ONE, 9.5), (DEFAULT, 32)])
def test_a_move_waits_for_the_device_no_more_than_it_has_to(options, most):
    """A default move, of eight decisions: 31, of which 8 are on numbers of the reward that are on the host already;
    with one decision and no spacing 9.5, one of them of that kind. One more asks what dependence was measured."""
    assert 9 < (waits(MOVES, options) - waits(0, options)) / MOVES <= most


def test_watching_waits_for_nothing():
    """States and proposals of watched rows stay where they are until the run has ended."""
    assert waits(MOVES, DEFAULT, (0, 2)) == waits(MOVES, DEFAULT)


def test_what_waits_is_counted():
    given = torch.ones(3)
    with Waits() as count:
        bool(given.any())
        given[given > 0]
        given.repeat_interleave(torch.tensor([1, 2, 3]))
        given.where(given > 0, 2.0)  # no wait
    assert count.seen.total() >= 3 and "aten::where" not in count.seen
