"""Unmasking: scores by hand, a row's bits alone and in a batch, and which tokens are shown, against plain loops."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref import unmask

torch.set_num_threads(1)


def laws(cells: int, vocab: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(cells, vocab, generator=generator)).to(dtype).log_softmax(1)


def test_scores_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    drawn = torch.tensor([[0, 0, 3], [1, 0, 2]])
    taken = torch.tensor([[0.7, 1.0, 0.25], [0.2, 1.0, 0.25]], dtype=torch.float64)
    assert torch.allclose(unmask.confidence(p.log(), drawn).exp(), taken)
    gap = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64)
    assert torch.allclose(unmask.margin(p.log(), drawn), gap.expand(2, 3))
    h = -(0.7 * log(0.7) + 0.2 * log(0.2) + 0.1 * log(0.1))
    assert torch.allclose(unmask.negentropy(p.log(), drawn), -torch.tensor([h, 0, log(4)]).double().expand(2, 3))


@pytest.mark.parametrize("score", unmask.SCORES.values(), ids=unmask.SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_is_the_same_bits_in_every_batch(score, dtype, monkeypatch):
    log_p, drawn = laws(37, 1009, dtype=dtype), torch.arange(74).view(2, 37)
    whole = score(log_p, drawn)
    assert whole.shape == (2, 37)
    for cells in ([0], [36, 3], list(range(5, 30))):
        assert torch.equal(score(log_p[cells], drawn[:, cells]), whole[:, cells])
    monkeypatch.setattr(unmask, "BLOCK", (2000, 2000))
    assert torch.equal(score(log_p, drawn), whole)
    assert torch.equal(score(log_p.T.contiguous().T, drawn), whole)  # whatever the strides


WHERE = st.lists(st.booleans(), min_size=6, max_size=6)
NUMBERS = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), min_size=6, max_size=6)


def one(mask: list[bool]) -> Tensor:
    return torch.tensor([mask])


@settings(max_examples=60, deadline=None)
@given(WHERE, NUMBERS, st.sampled_from([0.0, 0.15, 0.3, 1.0, 9.0]))
def test_the_bound_takes_the_longest_run(mask, entropy, bound):
    ranked = sorted((h, i) for i, h in enumerate(entropy) if mask[i])
    sums = [sum(h for h, _ in ranked[:k]) for k in range(len(ranked))]
    assume(all(abs(total - bound) > 1e-9 or total == 0 for total in sums))  # a sum that rounds to either side
    fits = [k for k, total in enumerate(sums, 1) if total <= bound]
    expected = {i for _, i in ranked[: max(fits, default=0)]}
    shown = unmask.bounded(one(mask), torch.tensor([entropy]).double(), bound)
    assert set(shown[0].nonzero()[:, 0].tolist()) == expected
    assert bool(expected) == any(mask)


@settings(max_examples=60, deadline=None)
@given(WHERE, WHERE, NUMBERS, st.integers(0, 6), st.integers(0, 4))
def test_the_surest_of_each_block_in_turn(free, mask, sure, count, size):
    """As a loop would: the earliest block first, in it the highest score, of equal scores the leftmost."""
    where = [f and m for f, m in zip(free, mask, strict=True)]
    number = [sum(free[:i]) // size if size else 0 for i in range(6)]
    ranked = sorted((number[i], -sure[i], i) for i in range(6) if where[i])
    block = unmask.blocks(one(free), size)
    assert all(block[0, i] == number[i] for i in range(6) if free[i])
    taken = torch.tensor([count])
    shown = unmask.surest(one(where), torch.tensor([sure]), block, taken)
    assert shown[0].nonzero()[:, 0].tolist() == sorted(i for *_, i in ranked[:count])
    reach = unmask.reached(one(where), block, taken)
    last = max((b for b, *_ in ranked[:count]), default=-1)
    assert reach[0].tolist() == [where[i] and number[i] <= last for i in range(6)]
    first = min((b for b, *_ in ranked), default=-1)
    assert unmask.foremost(one(where), block)[0].tolist() == [where[i] and number[i] == first for i in range(6)]
