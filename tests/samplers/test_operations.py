"""Tests of how many operations a move makes outside the network, and a reward call: counts, which no machine changes.

They are bounds from above, measured, and the same in every process, since the network's weights are: whoever needs more
of them says why, and raises the bound.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.shapes import Case
from iterref import arrays
from iterref.denoiser import Wrapped
from iterref.run import Run
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.operations import Operations

# Measured: a default move with one prompt, one of its decisions, what eight prompts add, the move as a device is asked
# for it, and one that opens fewer positions because they depend on each other: spans of every row's own, and parts that
# come up again; a reward call whose texts are all new, half of them, none.
MOVE, DECISION, BATCH, DEVICE, THINNED, NEW, HALF, KNOWN = 56.875, 6.2, 12.625, 466.75, 106.25, 5, 5, 0
PLAIN = ",dependence=1"


class Uncounted(Wrapped):
    """A denoiser whose own operations are not counted."""

    def __init__(self, denoiser: Any, count: Operations) -> None:
        super().__init__(denoiser)
        self.count = count

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        with self.count.left_out():
            return self.denoiser(x_t, t, where, rows)

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        with self.count.left_out():
            return self.denoiser.probabilities(x_t, t, where, rows)


def counted(method: str, rows: int) -> int:
    problem, count = Case("random-2", 32, vocab=64).problem(rows), Operations()
    problem = replace(problem, denoiser=Uncounted(problem.denoiser, count))
    sampler = sampler_from_string(method)
    sample(sampler, problem)  # plans are made once
    with count:
        sample(sampler, problem)
    return count.seen.total()


@cache
def of_a_move(options: str, rows: int = 1) -> float:
    """Operations of one move more."""
    few, many = (counted(f"iterref:steps=1,early=0,tries=16,moves={moves}{options}", rows) for moves in (4, 20))
    return (many - few) / 16


def test_a_default_move_makes_few_operations():
    """Eight decisions and 16 tries, outside the network. It was 850 when every decision drew numbers of its own."""
    assert of_a_move(PLAIN) <= MOVE


def test_a_move_that_thins_out_makes_twice_as_many():
    assert of_a_move("") <= THINNED


def test_a_decision_makes_few_operations():
    """What one decision more costs."""
    assert (of_a_move(PLAIN) - of_a_move(PLAIN + ",decisions=4")) / 4 <= DECISION


def test_operations_do_not_grow_with_the_batch():
    assert of_a_move(PLAIN, 8) <= of_a_move(PLAIN) + BATCH  # equal sequences are looked for, and found nowhere


def test_a_device_is_asked_for_few_operations(monkeypatch: pytest.MonkeyPatch):
    """What numpy computes for a host is torch's there."""
    monkeypatch.setattr(arrays, "HOST", "nowhere")
    few, many = (counted(f"iterref:steps=1,early=0,tries=16,moves={moves}{PLAIN}", 1) for moves in (4, 20))
    assert (many - few) / 16 <= DEVICE


def test_a_reward_call_makes_few_operations():
    def free(tokens: Tensor, rows: Tensor) -> Tensor:
        with count.left_out():
            return (tokens == 7).sum(1).double()

    count = Operations()
    problem = replace(Case("random-2", 32, vocab=64).problem(2), reward=free)
    run, generator = Run(problem), torch.Generator().manual_seed(0)
    new, again = torch.randint(0, 63, (2, 16, 2, 32), generator=generator)
    again[:8] = new[:8]
    with torch.inference_mode():
        for texts, most in ((new, NEW), (again, HALF), (new, KNOWN)):
            count.seen.clear()
            with count:
                run.reward_of(texts, final=True)
            assert count.seen.total() <= most, count.seen


def test_counts_are_the_same_whatever_ran_before():
    """They flickered by two: weights were drawn from a stream that begins elsewhere in every process."""
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights.append(Case("random-2", 8, vocab=16).problem(1).denoiser.network.head.weight)
    assert torch.equal(*weights)


def test_operations_are_counted_and_views_are_not():
    x = torch.ones(3, 4)
    count = Operations()
    with count:
        x.T.view(-1, 3)[0]
        with count.left_out():
            x + 1
        (x * 2).sum()
    assert count.seen == {"aten::mul": 1, "aten::sum": 1}
