"""Which positions a move makes noise: gaps, sizes, and that the tokens have no say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.denoiser import Denoiser, Wrapped
from iterref.moves.renoise import Excursion, partition, renoise, spaced
from iterref.moves.shared import Shared
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Paired
from tests.support.worlds import random_reward, random_table, refine

some = settings(max_examples=40, deadline=None)
masks = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(0, 10_000))
gaps, spans = st.integers(1, 14), st.floats(0.01, 1.0)


def free_of(sizes: tuple[int, int, int]) -> Tensor:
    rows, length, seed = sizes
    return torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.7


def least_gap(chosen: Tensor) -> int:
    """The least distance of two True positions of a row (L,); the length where there are fewer than two."""
    positions = chosen.nonzero()[:, 0]
    return int(positions.diff().min()) if len(positions) > 1 else len(chosen)


def one_after_the_other(free: Tensor, rank: Tensor, gap: int, count: int) -> Tensor:
    """The plain greedy for one row (L,): the latest in the order first, whoever is too near to a chosen one is out."""
    chosen: list[int] = []
    for i in sorted(free.nonzero()[:, 0].tolist(), key=lambda i: -int(rank[i])):
        if all(abs(i - j) >= gap for j in chosen):
            chosen.append(i)
    return torch.tensor([i in chosen[:count] for i in range(len(free))])


@some
@given(masks, gaps, spans)
def test_spaced_is_the_plain_greedy(sizes, gap, share):
    free, rng = free_of(sizes), Rng.seeded(sizes[2], sizes[0])
    sites, rank = spaced(free, gap, share, rng), rng.order(free.shape[1])
    for row in range(len(free)):
        count = max(1, round(float(free[row].sum() * torch.tensor(share))))
        assert torch.equal(sites[row], one_after_the_other(free[row], rank[row], gap, count))


@some
@given(masks, gaps, spans)
def test_spaced_keeps_its_gap_and_its_size(sizes, gap, share):
    free = free_of(sizes)
    sites = spaced(free, gap, share, Rng.seeded(1, sizes[0]))
    assert not bool((sites & ~free).any())
    for row, mine in zip(free, sites, strict=True):
        assert int(mine.sum()) == 0 or least_gap(mine) >= min(gap, len(mine))
        assert int(mine.sum()) >= int(row.any())
        assert int(mine.sum()) <= max(1, round(float(row.sum() * torch.tensor(share))))


def test_the_gap_check_can_fail():
    assert least_gap(torch.tensor([True, False, True, True])) == 1
    assert least_gap(spaced(torch.ones(1, 9, dtype=torch.bool), 1, 1.0, Rng.seeded(0, 1))[0]) == 1


def test_spaced_fills_the_row_where_the_share_allows_it():
    """No further position could be added: random sequential adsorption runs to the end."""
    free = torch.ones(50, 30, dtype=torch.bool)
    for gap in (1, 2, 4):
        sites = spaced(free, gap, 1.0, Rng.seeded(2, 50))
        near = torch.stack([sites.roll(shift, 1) for shift in range(-gap + 1, gap)]).any(0)
        assert bool(near[:, gap:-gap].all())
        assert bool((sites.sum(1) >= 30 // (2 * gap - 1)).all())


def test_spaced_favours_no_position():
    """Far from the ends, every position is as likely a site as any other."""
    many = 4000
    sites = spaced(torch.ones(many, 12, dtype=torch.bool), 3, 0.1, Rng.seeded(4, many))
    assert bool((sites.sum(1) == 1).all())
    assert float((sites.double().mean(0) - 1 / 12).abs().max()) < 5 * (1 / 12 / many) ** 0.5


@some
@given(masks, st.integers(1, 6))
def test_partition_is_even(sizes, blocks):
    where = free_of(sizes)
    part = partition(where, blocks, Rng.seeded(7, sizes[0]))
    assert torch.equal(part >= 0, where) and int(part.max()) < blocks
    for row, mine in zip(where, part, strict=True):
        counts = torch.bincount(mine[row], minlength=blocks)
        assert int(counts.sum()) == int(row.sum()) and int(counts.max() - counts.min()) <= 1


def run_of(kind: str, free: Tensor | None = None, rows: int = 2) -> Run:
    table = random_table(kind, 5, 2, 3, coupling=1)
    return Run(Problem(table, random_reward(5, 2, 3), torch.zeros(rows, 5, dtype=torch.long), free))


@pytest.mark.parametrize("spacing", [0, 2])
def test_renoising_under_masks_never_looks_at_the_tokens(spacing):
    run, rng = run_of("absorbing", rows=40), Rng.seeded(3, 40)
    masked = [renoise(run, torch.full((40, 5), token), refine(0, 0.5), spacing, rng).x_s == 2 for token in (0, 1)]
    assert torch.equal(*masked) and 0 < int(masked[0].sum()) < 200
    if spacing:
        assert all(least_gap(row) >= 2 for row in masked[0])


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("spacing", [0, 2])
def test_frozen_positions_are_never_opened(kind, spacing):
    free = torch.tensor([[True, False, True, True, False], [False] * 5])
    run, x = run_of(kind, free), torch.tensor([[0, 1, 0, 1, 1], [1, 0, 1, 0, 0]])
    for seed in range(20):
        rng = Rng.seeded(seed, 2)
        for trip, gap in ((refine(0, 0.9), spacing), (refine(0.4, 0.9), spacing), (refine(0.4, 0.4), 0)):
            noisy = renoise(run, x, trip, gap, rng)
            assert torch.equal(noisy.x_s[~free], x[~free])
            assert not bool((noisy.sites & ~free).any())
            assert not bool((run.undetermined(noisy.x_s, trip.times[0]) & ~free).any())


def test_candidates_at_the_same_noise_level_redraw_what_is_noisy():
    run, x_t = run_of("absorbing"), torch.tensor([[0, 2, 1, 2, 2], [1, 1, 0, 0, 2]])
    x_0 = torch.zeros_like(x_t)
    new = Shared(2).redraw(run, Paired(0, 0.5, x_t, x_0, torch.zeros(2).double()), Rng.seeded(0, 2))
    assert torch.equal(new.x_t, x_t.expand(2, 2, 5)) and torch.equal(new.where, x_t == 2)


class Asked(Wrapped):
    """A denoiser that takes note of the questions it is asked."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.questions: list[str] = []

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self.questions.append("posterior")
        return self.denoiser(x_t, t, where, rows)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self.questions.append("leave one out")
        return self.denoiser.leave_one_out(x, where, rows)


@pytest.mark.parametrize(
    "kind, spacing, trip, question",
    [
        ("uniform", 2, refine(0, 0.5), "leave one out"),
        ("absorbing", 2, refine(0, 0.5), "posterior"),
        ("uniform", 0, refine(0, 0.5), "posterior"),
        ("uniform", 2, refine(0.2, 0.5), "posterior"),
        ("uniform", 2, refine(0, 0.5, steps=2), "posterior"),
    ],
)
def test_who_leaves_one_out(kind: str, spacing: int, trip: Excursion, question: str):
    """Gibbs conditionals serve spaced sites of a clean text under noise that shows nothing, in one evaluation."""
    denoiser, clean = Asked(random_table(kind, 5, 2, 3, coupling=1)), torch.zeros(2, 5, dtype=torch.long)
    run = Run(Problem(denoiser, random_reward(5, 2, 3), clean))
    Shared(1, spacing=spacing).propose(run, Paired(0, trip.t, clean, clean, torch.zeros(2)), trip, Rng.seeded(0, 2))
    assert set(denoiser.questions) == {question}
