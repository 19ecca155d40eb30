"""The generator: published vectors, independence of the batch bit for bit, and the laws of its draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor

from iterref import random
from iterref.noise import uniform
from iterref.philox import derive, philox, philox_host
from iterref.random import Rng

ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, words", VECTORS)
def test_known_answers(counter, key, words):
    assert philox(counter, key) == words
    as_tensors = tuple(torch.tensor([[word]]) for word in counter)
    assert tuple(int(word) for word in philox(as_tensors, key)) == words
    assert tuple(int(word) for word in philox_host(counter, key)) == words


def test_host_and_device_make_the_same_words():
    """For shapes that broadcast, and a key a counter."""
    generator = np.random.default_rng(3)
    tall = (4, 1)
    for shapes in [((5,), (), tall, tall), ((), (), (), ()), (tall, (2,), tall, tall), ((0,), (), tall, ())]:
        counter = tuple(generator.integers(0, 2**32, shape) for shape in shapes)
        for key in [(7, ONES), tuple(generator.integers(0, 2**32, (2, *shapes[0])))]:
            tensors = tuple(torch.as_tensor(word) for word in counter), tuple(torch.as_tensor(word) for word in key)
            for host, device in zip(philox_host(counter, key), philox(*tensors), strict=True):
                assert host.tolist() == device.broadcast_to(host.shape).tolist()


def test_prepared_numbers_are_those_of_the_forks():
    rng = Rng.seeded(5, torch.tensor([3, 8])).repeat(2)
    sizes = {("order",): 5, ("decide", 0, "choose"): 1, ("decide", 1, "choose"): 2, ("decide", -3): 4}
    ready = rng.fork("move").prepare((*((path, size, 0) for path, size in sizes.items()), (("draw", 0), 7, 3)))
    for path, size in sizes.items():
        for one in (ready.fork(*path), ready.fork(*path[:1]).fork(*path[1:])):
            for shape in [(size,), (size + 3,), (), (1,), (2, size)]:
                assert torch.equal(one.uniform(*shape), rng.fork("move", *path).uniform(*shape)), (path, shape)
    for path in [("else",), ("decide", 0), ("decide", 0, "accept"), ("order", "again")]:  # not prepared
        assert torch.equal(ready.fork(*path).uniform(3), rng.fork("move", *path).uniform(3))
    some = torch.tensor([2, 0])  # other rows have other numbers
    assert torch.equal(ready.fork("order").take(some).uniform(5), rng.fork("move", "order").uniform(5)[some])
    assert torch.equal(ready.fork("order").repeat(2).uniform(5), rng.fork("move", "order").repeat(2).uniform(5))
    assert torch.equal(ready.uniform(2), rng.fork("move").uniform(2))


def test_prepared_draws_are_those_of_the_forks():
    """In every step of a block and behind it, for as many draws as are at hand and for more."""
    rng, where = Rng.seeded(5, torch.tensor([3, 8])).repeat(2), torch.rand(4, 7) < 0.6
    p = torch.rand(int(where.sum()), 9)
    for step in (3, 4, 18, 19, 2):
        plain = rng.fork("step", step, "move")
        ready = plain.prepare(((("draw", 0), 7, 3), (("order",), 4, 0)))
        for n in (1, 2, 3, 4):
            drawn = ready.fork("draw", 0).categorical(p, where, n)
            assert torch.equal(drawn, plain.fork("draw", 0).categorical(p, where, n))
        drawn = ready.fork("draw", 0).categorical(p, where, 2, first=1)
        assert torch.equal(drawn, plain.fork("draw", 0).categorical(p, where, 2, first=1))
        assert torch.equal(ready.fork("draw", 0).uniform(5), plain.fork("draw", 0).uniform(5))
        assert torch.equal(ready.fork("order").order(4), plain.fork("order").order(4))


def test_derived_keys_are_fixed_and_distinct():
    keys = [derive((1, 2), item) for item in ["accept", "propose", "", 0, 1, -1, 2**32, 2**63 - 1, -(2**63), "0"]]
    assert len(set(keys)) == len(keys)
    assert all(0 <= word <= ONES for key in keys for word in key)
    assert derive((1, 2), np.int64(7)) == derive((1, 2), 7)
    assert derive((1, 2), 7) == philox((0, ONES, 7, 0), (1, 2))[:2]


def cells(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 100), st.integers(1, 7))
def test_draws_do_not_depend_on_the_batch(seed, shuffle, n):
    rows, length, vocab = 6, 5, 7
    rng = Rng.seeded(seed, rows).fork("x", 3)
    log_p = cells(shuffle, (rows, length, vocab))
    full = rng.categorical(log_p.flatten(0, 1), torch.ones(rows, length, dtype=torch.bool), 8).view(8, rows, length)
    some = torch.randperm(rows, generator=torch.Generator().manual_seed(shuffle))[:3]
    where = cells(shuffle + 1, (3, length)) > 0
    drawn = rng.take(some).categorical(log_p[some][where], where, n)
    assert torch.equal(drawn, full[:n][:, some][:, where])
    named = Rng.seeded(seed, some).fork("x").fork(3)
    assert torch.equal(named.categorical(log_p[some][where], where, n), drawn)
    for method in ("uniform", "order"):
        assert torch.equal(getattr(named, method)(length), getattr(rng, method)(length)[some])
    assert torch.equal(named.uniform(9)[:, :length], named.uniform(length))
    assert torch.equal(named.choose(log_p[some, 0]), rng.choose(log_p[:, 0])[some])
    assert torch.equal(named.bernoulli(log_p[some]), rng.bernoulli(log_p)[some])


@pytest.mark.parametrize("vocab", [9, 5000])
def test_draws_do_not_depend_on_the_block(monkeypatch, vocab):
    rng, where = Rng.seeded(1, 50), torch.ones(50, 4, dtype=torch.bool)
    log_p = cells(0, (200, vocab))
    full = rng.categorical(log_p, where, 5)
    monkeypatch.setattr(random, "BLOCK", (1, 1))
    assert torch.equal(rng.categorical(log_p, where, 5), full)
    log_p[137] = -torch.inf
    with pytest.raises(ValueError, match=r"packed row 137 \(row 34, position 1\)"):
        rng.categorical(log_p, where)


def test_copies_are_copy_major_and_copy_zero_is_the_row():
    rng = Rng.seeded(5, torch.tensor([10, 3, 7]))
    many = rng.repeat(4)
    assert torch.equal(many.rows, torch.tensor([10, 3, 7] * 4))
    u = many.uniform(6).view(4, 3, 6)
    assert torch.equal(u[0], rng.uniform(6))
    assert torch.equal(rng.repeat(2).uniform(6), many.uniform(6)[:6])
    nested = rng.repeat(2).repeat(3)
    assert len({(int(r), int(b)) for r, b in zip(nested.rows, nested.branch, strict=True)}) == 18
    # Copy i of copy j of a row is the copy j * 3 + i, wherever it sits.
    assert torch.equal(nested.uniform(6).view(3, 2, 3, 6)[1, 1], rng.repeat(6).uniform(6).view(6, 3, 6)[4])


def test_streams_are_uncorrelated():
    size = 200_000
    rng = Rng.seeded(0, 2)
    base = rng.uniform(size)
    others = [
        rng.fork("a").uniform(size),
        rng.fork("b").uniform(size),
        rng.fork(0).uniform(size),
        rng.fork(1).uniform(size),
        Rng.seeded(1, 2).uniform(size),
        rng.repeat(2).uniform(size)[2:],
        base.roll(1, 1),
        base.roll(2, 1),
        base.flip(0),
    ]
    streams = torch.stack([base, *others]).flatten(1)
    noise = torch.corrcoef(streams).fill_diagonal_(0).abs().max()
    assert noise < 5 / streams.shape[1] ** 0.5
    # The same measure sees a stream that is shared in part.
    mixed = torch.where(torch.arange(streams.shape[1]) % 50 == 0, streams[0], streams[1])
    assert torch.corrcoef(torch.stack([streams[0], mixed]))[0, 1] > 5 / streams.shape[1] ** 0.5


def test_uniform_law_and_precision():
    u = Rng.seeded(3, 4).uniform(50, 1001)
    assert u.shape == (4, 50, 1001) and u.dtype == torch.float64
    assert u.min() >= 0 and u.max() < 1
    assert kstest(u.flatten().numpy(), "uniform").pvalue > 1e-4
    assert kstest((u.flatten() ** 1.02).numpy(), "uniform").pvalue < 1e-4
    low_bits = (u * 2.0**53).long() & 2047
    assert chisquare(torch.bincount(low_bits.flatten(), minlength=2048).numpy()).pvalue > 1e-4
    assert Rng.seeded(3, 4).uniform().shape == (4,) and Rng.seeded(3, 4).uniform(0).shape == (4, 0)


def p_value(drawn: Tensor, p: Tensor) -> float:
    """Chi-square of draws (D,) against a law p (V,): tokens seldom expected are put into 50 groups, in their order."""
    expected = p * len(drawn)
    rare = expected < 20
    group = torch.where(rare, (rare.cumsum(0) - 1) * 50 // max(int(rare.sum()), 1), 50 + (~rare).cumsum(0) - 1)
    size = int(group.max()) + 1
    seen = torch.bincount(group[drawn], minlength=size).double()
    mass = torch.zeros(size, dtype=torch.float64).index_add_(0, group, expected)
    keep = mass > 0
    return float(chisquare(seen[keep].numpy(), mass[keep].numpy() * (seen[keep].sum() / mass.sum()).item()).pvalue)


def test_categorical_law_with_a_zipf_vocabulary():
    rank = torch.arange(1, 50_259, dtype=torch.float64)
    p = rank**-1.1 / (rank**-1.1).sum()
    where = torch.ones(4, 4, dtype=torch.bool)
    log_p = (p.log() + 3).float().expand(16, -1)
    drawn = Rng.seeded(0, 4).categorical(log_p, where, 131_072)
    assert p_value(drawn.flatten(), p) > 1e-4
    tilted = p * (1 + 0.1 * (rank % 2))
    assert p_value(drawn.flatten(), tilted / tilted.sum()) < 1e-4


def single_precision_sums(p: Tensor, u: Tensor) -> Tensor:
    total_to = np.cumsum(p.numpy().astype(np.float32))
    return torch.from_numpy(np.searchsorted(total_to, u.numpy() * float(total_to[-1]), side="right"))


def single_precision_uniforms(p: Tensor, u: Tensor) -> Tensor:
    coarse = (u * 2**24).floor() / 2**24
    return torch.searchsorted(p.cumsum(0), coarse, right=True)


def tail_is_right(drawn: Tensor, p: Tensor) -> bool:
    """Groups of the tail are drawn as often as they should be, and its tokens repeat no oftener than chance."""
    tail = drawn[drawn > 0]
    repeats = len(tail) - len(tail.unique())
    return p_value(drawn, p) > 1e-4 and repeats < 20


@pytest.mark.parametrize("vocab", [5, 4096, 5003])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_draws_pass_the_distribution_function(vocab, kind):
    """In two steps or one, the token is where the sum of weights, taken in order and in float64, passes u."""
    generator = torch.Generator().manual_seed(vocab)
    log_p = (3 * torch.randn(40, vocab, generator=generator)).to(kind)
    log_p[:, torch.randperm(vocab, generator=generator)[: vocab // 3]] = -torch.inf
    rng, where = Rng.seeded(3, 40), torch.ones(40, 1, dtype=torch.bool)
    drawn = rng.categorical(log_p, where, 64)
    assert log_p[torch.arange(40), drawn].isfinite().all()
    assert torch.equal(drawn[:3], rng.categorical(log_p, where, 3))
    assert torch.equal(drawn[:, 7:9], rng.take(torch.tensor([7, 8])).categorical(log_p[7:9], where[7:9], 64))
    share = torch.softmax(log_p.double(), 1).cumsum(1)
    position = torch.zeros(40, 1, dtype=torch.long)
    counter = (position, torch.arange(32), rng.rows[:, None], rng.branch[:, None])
    u = random.doubles(counter, rng.key, 2).flatten(1).T
    above = share.gather(1, drawn.T).T
    below = above - torch.softmax(log_p.double(), 1).gather(1, drawn.T).T
    slack = 1e-6 if kind == torch.float32 else 1e-12
    assert bool((u <= above + slack).all()) and bool((u >= below - slack).all())
    wrong = drawn.roll(1, 0)  # a control
    assert not bool((u <= share.gather(1, wrong.T).T + slack).all())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_not_rounded_once_more(kind):
    """A wide vocabulary's groups add up to what the tokens do."""
    p = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0)).add(1).to(kind)
    rng, where = Rng.seeded(3, 3), torch.ones(3, 1, dtype=torch.bool)
    same = rng.categorical(p.double(), where, 2000, log=False)
    assert (rng.categorical(p, where, 2000, log=False) == same).double().mean() > 0.999
    assert (rng.categorical(p.roll(1), where, 2000, log=False) == same).double().mean() < 0.999  # a control


def test_one_law_for_all_cells():
    """It is drawn from as if it were written out for every cell, whether or not a vocabulary is wide."""
    where = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)) < 0.6
    for vocab in (7, 5000):
        law = torch.randn(1, vocab, dtype=torch.float64)
        rng, cells = Rng.seeded(1, 30), int(where.sum())
        written = rng.categorical(law.expand(cells, -1), where, 3)
        assert torch.equal(rng.categorical(law, where, 3), written) and written.shape == (3, cells)
        assert torch.equal(uniform(vocab).prior(6, rng), uniform(vocab).prior(6, rng))
    assert rng.categorical(law, torch.zeros(30, 6, dtype=torch.bool)).shape == (1, 0)


def test_a_tail_of_tiny_tokens_survives():
    p = torch.full((1_000_001,), 1e-9, dtype=torch.float64)
    p[0] = 1 - 1e-3
    rng = Rng.seeded(2, 1)
    one = torch.ones(1, 1, dtype=torch.bool)
    assert tail_is_right(rng.categorical(p.log()[None], one, 2_000_000)[:, 0], p)
    u = rng.uniform(2_000_000)[0]
    assert not tail_is_right(single_precision_sums(p, u), p)
    assert not tail_is_right(single_precision_uniforms(p, u), p)


def test_impossible_tokens_are_never_drawn(monkeypatch):
    log_p = torch.tensor([[-torch.inf, 0.0, -torch.inf, -1000.0, -torch.inf]], dtype=torch.float64).expand(3, -1)
    where = torch.ones(3, 1, dtype=torch.bool)
    rng = Rng.seeded(0, 3)
    assert rng.categorical(log_p, where, 1000).eq(1).all()
    for u in (0.0, 1 - 2.0**-53):
        given = torch.full((3, 1, 2), u, dtype=torch.float64)
        monkeypatch.setattr(random, "doubles", lambda counter, key, halves, given=given: given)
        for scale in (1.0, 1 + 2.0**-52, 1.7, 3.0):
            weights = torch.tensor([[0.0, scale, 0.0, scale / 3, 0.0]], dtype=torch.float64).expand(3, -1)
            assert rng.categorical(weights.log(), where).eq(1 if u == 0 else 3).all()


def test_bernoulli():
    rng = Rng.seeded(4, 3)
    p = torch.tensor([0.0, 0.3, 1.0])[:, None].expand(3, 100_000)
    seen = rng.bernoulli(p)
    assert not seen[0].any() and seen[2].all()
    assert abs(seen[1].double().mean() - 0.3) < 5 * (0.21 / 100_000) ** 0.5


def test_choose_law():
    weights = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    drawn = Rng.seeded(9, 100_000).choose(weights.log().expand(100_000, -1))
    assert p_value(drawn, weights) > 1e-4


@pytest.mark.parametrize("seed", [0, 1])
def test_order_is_a_uniform_permutation(seed):
    rows = 48_000
    ranks = Rng.seeded(seed, rows).order(4)
    assert torch.equal(ranks.sort(1).values, torch.arange(4).expand(rows, 4))
    code = (ranks * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = code.unique(return_counts=True)[1]
    assert len(counts) == 24 and chisquare(counts.numpy()).pvalue > 1e-4
    # Which of two positions comes first is the same for a longer row.
    longer = Rng.seeded(seed, rows).order(7)
    assert torch.equal(longer[:, 0] < longer[:, 3], ranks[:, 0] < ranks[:, 3])


def test_empty_calls():
    rng = Rng.seeded(0, 3)
    none = torch.zeros(3, 2, dtype=torch.bool)
    assert rng.categorical(torch.zeros(0, 5), none, 4).shape == (4, 0)
    assert rng.take(torch.zeros(0, dtype=torch.int64)).choose(torch.zeros(0, 5)).shape == (0,)
    assert rng.order(0).shape == (3, 0) and rng.bernoulli(torch.zeros(3, 0)).shape == (3, 0)


def test_errors_say_where():
    rng = Rng.seeded(0, 3)
    where = torch.tensor([[False, True], [True, True], [False, False]])
    for value, text in ((-torch.inf, "no finite"), (torch.nan, "nan"), (torch.inf, "inf")):
        log_p = torch.zeros(3, 4)
        log_p[2] = value
        with pytest.raises(ValueError, match=rf"packed row 2 \(row 1, position 1\).*{text}"):
            rng.categorical(log_p, where)
    log_p = torch.zeros(3, 4)
    log_p[1, 2] = torch.nan
    with pytest.raises(ValueError, match="row 1 has a log-weight of nan"):
        rng.choose(log_p)
    with pytest.raises(ValueError, match="row 1 has a NaN probability"):
        rng.bernoulli(log_p)
    with pytest.raises(ValueError, match="2 rows of weights for 3 True cells"):
        rng.categorical(torch.zeros(2, 4), where)
    with pytest.raises(ValueError, match="for 3 rows"):
        rng.choose(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="row 1 has identity -1"):
        Rng.seeded(0, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="seed"):
        Rng.seeded(-1, 2)
    with pytest.raises(ValueError, match="64 bits"):
        rng.fork(2**63)
    for n in (0, 2**33):
        with pytest.raises(ValueError, match="copies"):
            rng.repeat(n)
    with pytest.raises(ValueError, match="copies"):
        Rng(rng.key, rng.rows, rng.branch, 2**31).repeat(3)


def test_draws_within_a_part_follow_its_weights():
    """Parts of running sums, each draw with a part of its own; numbered as those of `categorical`."""
    weights = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]], dtype=torch.float64)
    where, n = torch.ones(1, 1, dtype=torch.bool), 20_000
    begin = torch.arange(n)[:, None] % 2 * 2  # 0, 1 and 2, 3, 4 in turn
    end = torch.where(begin > 0, 5, 2)
    rng = Rng.seeded(1, 1)
    drawn = rng.within(weights.cumsum(1), begin, end, where)
    for part, law in ((0, [0.25, 0.75, 0, 0, 0]), (1, [0, 0, 0.5, 0.5, 0])):
        share = torch.bincount(drawn[part::2, 0], minlength=5) / (n / 2)
        assert float((share - torch.tensor(law)).abs().max()) < 0.02
    assert torch.equal(rng.within(weights.cumsum(1), begin[4:9], end[4:9], where, first=4), drawn[4:9])
