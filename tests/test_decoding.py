"""Plain decoding: the exact law of a few steps, how many tokens each order reveals, scores by hand, which tokens are
shown against plain loops, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import log

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref import decoding
from iterref.decoding import ORDERS, Decoder, grid
from iterref.denoiser import Denoiser
from iterref.exact.markov import Markov, world
from iterref.exact.table import Table
from iterref.noise import Noise, absorbing
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.dependence import telling
from iterref.samplers.power import log_mass
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix, total_variation
from tests.support.worlds import random_reward, random_table

ANCESTRAL = Decoder()


def sampled(table: Table, steps: int, decoder: Decoder = ANCESTRAL, free: Tensor | None = None) -> Tensor:
    """The exact law over clean states of `steps` steps of the decoder."""
    times, reward = grid(steps), random_reward(table.length, table.tokens, 1)

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        canvas = torch.zeros(len(start), table.length, dtype=torch.long)
        run = Run(Problem(table, reward, canvas, None if free is None else free.expand(len(start), -1)))
        x = run.prior(rng)
        for t, u in zip(times, times[1:], strict=False):
            x = decoder.step(run, x, t, u, rng)
        return x

    return law_matrix(*enumerate_outcomes(outcome, 1), table.states())[0]


def product_of_marginals(table: Table) -> Tensor:
    p = table.log_p.exp().view((table.tokens,) * table.length)
    law = torch.ones_like(p)
    for i in range(table.length):
        others = [j for j in range(table.length) if j != i]
        law = law * p.sum(others, keepdim=True)
    return law.flatten()


def test_grid():
    assert grid(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert grid(10)[7] == 0.3 and grid(1) == (1.0, 0.0)  # the nearest number to 3/10


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_two_tokens_meet_in_a_step_once_in_so_many(steps):
    """Two masked tokens are revealed in the same of T steps with probability 1/T, and then from the product of their
    marginals; else one after the other, which is exact. So the error falls as 1/T, and T = L is not exact yet."""
    table = random_table("absorbing", 2, 2, 5, coupling=1.5)
    p, product = table.log_p.exp(), product_of_marginals(table)
    law = sampled(table, steps)
    assert torch.allclose(law, product / steps + p * (1 - 1 / steps), atol=1e-12, rtol=0)
    assert total_variation(law, p) > 1e-4


def test_more_steps_are_nearer_to_the_model_under_uniform_noise():
    table = random_table("uniform", 2, 2, 5, coupling=1.5)
    errors = [total_variation(sampled(table, steps), table.log_p.exp()) for steps in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2] > 1e-4


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_a_factorised_law_needs_one_step(kind):
    table = random_table(kind, 2, 3, 5, coupling=0)
    for steps in (1, 2):
        assert torch.allclose(sampled(table, steps), table.log_p.exp(), atol=1e-12, rtol=0)


def test_one_free_token_is_its_conditional():
    """With the rest frozen, one step draws from p(x^i | the rest)."""
    table = random_table("absorbing", 3, 2, 5, coupling=1.5)
    p = table.log_p.exp().view(2, 2, 2)
    law = sampled(table, 2, free=torch.tensor([[False, True, False]])).view(2, 2, 2)
    assert torch.allclose(law[0, :, 0], p[0, :, 0] / p[0, :, 0].sum(), atol=1e-12, rtol=0)


def test_the_order_by_confidence_samples_a_sharper_law():
    table = random_table("absorbing", 2, 2, 5, coupling=1.5)
    law, p = sampled(table, 2, Decoder("confidence")), table.log_p.exp()
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert total_variation(law, p) > 1e-2 and float((law * law.log()).sum()) > float((p * p.log()).sum())


COUNTED = [Decoder(order, block) for order in ("left", "confidence", "margin", "entropy") for block in (0, 3)]
COUNTED.append(Decoder("random", 3))
ONE_BY_ONE = [Decoder(order, block) for order in ("left", "margin", "entropy") for block in (0, 2)]
ONE_BY_ONE += [Decoder("random", 1), Decoder("random", 3), Decoder("bounded", 0, 0.0), Decoder("bounded", 2, 0.0)]
EVERY = [Decoder(order, block, 0.7) for order in ORDERS for block in (0, 3)]


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats."""
    return float((p * (p / q).log()).sum())


def problem_of(noise: str = "absorbing", rows: int = 4) -> Problem:
    """Rows with 8, 5, 1 and 0 of 8 positions free, the 5 of them with gaps."""
    model, reward, _ = world(8, 3, noise=noise)
    free = torch.ones(rows, 8, dtype=torch.bool)
    free[1, [0, 2, 5]] = False
    free[2, 1:] = False
    free[3] = False
    return Problem(model, reward, torch.zeros(rows, 8), free)


def batch(noise: str = "absorbing") -> Run:
    return Run(problem_of(noise))


@pytest.mark.parametrize("decoder", ONE_BY_ONE, ids=str)
def test_one_token_at_a_time_samples_the_model(decoder):
    """A choice that does not look at what is drawn is exact, whatever else it looks at: the chain rule in an order."""
    table = random_table("absorbing", 3, 2, 5, coupling=1.5)
    assert torch.allclose(sampled(table, 3, decoder), table.log_p.exp(), atol=1e-12, rtol=0)


def test_looking_at_what_is_drawn_is_detected():
    """Negative control: confidence is the probability of the drawn token, so that likely tokens come in early."""
    table = random_table("absorbing", 3, 2, 5, coupling=1.5)
    assert total_variation(sampled(table, 3, Decoder("confidence")), table.log_p.exp()) > 1e-2


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.05, 0.3, 0.6]), st.sampled_from([0, 2]))
def test_the_bound_bounds_what_is_lost(seed, bound, block):
    """KL(model || sampler) <= bound for each step that shows several tokens, here one, unless the steps run out."""
    table = random_table("absorbing", 3, 2, seed, coupling=2)
    law = sampled(table, 3, Decoder("bounded", block, bound))
    assert divergence(table.log_p.exp(), law) <= bound + 1e-12


def test_the_bound_is_tight_in_its_place():
    """A copied fair coin: H = log 2 each, so log 2 shows both at once, wrongly, and less one after the other."""
    coin = Table({(0, 0): 0.0, (1, 1): 0.0}, absorbing(3))
    half = torch.tensor([0.5, 0, 0, 0.5], dtype=torch.float64)
    assert torch.allclose(sampled(coin, 2, Decoder("bounded", bound=0.69)), half, atol=1e-12, rtol=0)
    quarter = torch.full((4,), 0.25, dtype=torch.float64)
    assert torch.allclose(sampled(coin, 2, Decoder("bounded", bound=0.7)), quarter, atol=1e-12, rtol=0)
    assert divergence(half[[0, 3]], quarter[[0, 3]]) == pytest.approx(log(2))
    copied = torch.tensor([[0.0, -30], [-30, 0]], dtype=torch.float64)
    two = Table(copied[:, :, None, None] + copied, absorbing(3))
    lost = divergence(two.log_p.exp(), sampled(two, 4, Decoder("bounded", bound=0.7)))
    assert lost == pytest.approx(2 * log(2))  # the bound is that of a step, not of all


def test_a_sure_row_is_done_early_and_is_not_evaluated_again():
    """One row in which everything follows from a frozen token, one of independent coins."""
    follows = {(0, 0, 0, 0): 0.0, (1, *((1,) * 3)): 0.0}
    coins = {(2, *bits): 0.0 for bits in product((0, 1), repeat=3)}
    table = Table(follows | coins, absorbing(4))
    free = torch.tensor([[False, True, True, True]]).expand(2, -1)
    run = Run(Problem(table, random_reward(4, 3, 1), torch.tensor([[1, 0, 0, 0], [2, 0, 0, 0]]), free))
    rng, times = Rng.seeded(1, 2), grid(4)
    x, shown = run.prior(rng), []
    for k in range(4):
        x = Decoder("bounded", bound=0.5).step(run, x, times[k], times[k + 1], rng.fork(k))
        shown.append((x != 3).sum(1).tolist())
    assert shown == [[4, 2], [4, 3], [4, 4], [4, 4]] and x[0].tolist() == [1, 1, 1, 1]
    assert run.meter.asked_nfe == 8 and run.meter.made_nfe == 4 and run.meter.depth == 4


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 12])
@pytest.mark.parametrize("decoder", COUNTED, ids=str)
def test_each_row_reveals_its_share_block_by_block(decoder, steps):
    """After the step to u, round(free (1 - a_u)) positions are masked, in rows of different sizes alike."""
    run, rng, times = batch(), Rng.seeded(2, 4), grid(steps)
    x = run.prior(rng)
    for k in range(steps):
        before = x
        x = decoder.step(run, x, times[k], times[k + 1], rng.fork(k))
        masked, seen = x == run.noise.mask, before != run.noise.mask
        assert masked.sum(1).tolist() == [round(int(n) * times[k + 1]) for n in run.free.sum(1)]
        assert torch.equal(x[seen], before[seen])
        assert in_turn(run, masked, decoder.block_length)
        if decoder.order == "left":
            assert in_turn(run, masked, 1)
    assert torch.equal(x[~run.free], run.canvas[~run.free])


def in_turn(run: Run, masked: Tensor, block: int) -> bool:
    """Whether no row shows a free token of a later block while one of an earlier block is masked."""
    for free, hidden_here in zip(run.free, masked, strict=True):
        index = free.nonzero()[:, 0] if block else free.nonzero()[:0, 0]
        parts = hidden_here[index].split(block) if len(index) else ()
        begun = [bool((~part).any()) for part in parts]
        done = [bool((~part).all()) for part in parts]
        if any(begun[j] and not done[i] for j in range(len(parts)) for i in range(j)):
            return False
    return True


def test_orders_without_blocks_are_not_in_turn():
    """Negative control: what is held of blocks is not held of orders without."""
    run, rng = batch(), Rng.seeded(2, 4)
    x = Decoder("margin").step(run, run.prior(rng), 1.0, 0.5, rng)
    assert not in_turn(run, x == run.noise.mask, 3)


def test_the_bound_keeps_to_its_block():
    """However large it is, a step ends with the block, so that three blocks take three steps."""
    run, rng, times = batch(), Rng.seeded(2, 4), grid(6)
    x, left = run.prior(rng), []
    for k in range(6):
        x = Decoder("bounded", 3, 1e9).step(run, x, times[k], times[k + 1], rng.fork(k))
        left.append((x == run.noise.mask).sum(1).tolist())
    assert left == [[5, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0], *[[0, 0, 0, 0]] * 3]
    assert run.meter.asked_nfe == 24 and run.meter.made_nfe == 3 + 2 + 1


@dataclass
class Counting(Denoiser):
    """A denoiser that notes how many positions it was asked for."""

    within: Markov
    cells: list[int]

    @property
    def noise(self) -> Noise:
        return self.within.noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self.cells.append(int(where.sum()))
        return self.within(x_t, t, where, rows)


@pytest.mark.parametrize(
    "decoder, cells",
    [
        (Decoder("left"), 4 + 3),  # what it shows of 8 and of 5 free positions
        (Decoder("random", 3), 4 + 3),
        (Decoder("margin"), 8 + 5),
        (Decoder("margin", 3), 6 + 3),  # the blocks that four and three tokens lie in
        (Decoder("bounded", 3), 3 + 3),
    ],
    ids=str,
)
def test_no_more_positions_are_asked_for_than_a_step_may_show(decoder, cells):
    problem = problem_of()
    counting = Counting(problem.denoiser, [])
    run, rng = Run(replace(problem, denoiser=counting)), Rng.seeded(2, 4)
    decoder.step(run, run.prior(rng), 1.0, 0.5, rng)
    assert counting.cells == [cells + 1]  # and the one position of the third row


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
@pytest.mark.parametrize("decoder", EVERY, ids=str)
def test_two_halves_make_a_step(decoder, noise):
    """Going on from a full clean sample gives the tokens that a step does, and the same for a row alone."""
    if noise == "uniform" and (decoder.block_length or decoder.order not in ("random", "bounded")):
        return
    run, rng = batch(noise), Rng.seeded(7, 4)
    x_t = ANCESTRAL.step(run, run.prior(rng), 1.0, 0.75, rng)
    for u in (0.5, 0.0):
        step = decoder.step(run, x_t, 0.75, u, rng)
        where = run.undetermined(x_t, 0.75)
        x_0, sure = run.draw(x_t, 0.75, where, 2, rng.fork("draw"), decoder.confidence)
        assert sure.dtype == torch.float64
        assert torch.equal(decoder.reveal(run, x_t, x_0[0], sure[0], 0.75, u, rng), step)
        some = torch.tensor([1, 0])
        assert torch.equal(
            decoder.step(Run(problem_of(noise).only(some)), x_t[some], 0.75, u, rng.take(some)), step[some]
        )


@pytest.mark.parametrize("bound", [0.0, 0.3, 0.6, 2.0])
def test_uniform_noise_is_settled_within_the_bound(bound):
    """From every noisy state: tokens within the bound are drawn from their posteriors, all others from 1/V."""
    table = random_table("uniform", 2, 2, 6, coupling=1.5)
    noisy, t = table.noisy_states(), 0.8
    everywhere = torch.ones_like(noisy, dtype=torch.bool)
    p = table(noisy, torch.full((4,), t, dtype=torch.float64), everywhere, torch.zeros(4)).exp().view(4, 2, 2)
    entropy = -(p * p.log()).sum(2)

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = Run(Problem(table, random_reward(2, 2, 1), torch.zeros(len(start), 2)))
        return Decoder("bounded", bound=bound).step(run, noisy[start], t, 0.4, rng)

    both = entropy.amin(1) <= bound
    for row in range(4):
        kept = torch.ones(2, dtype=torch.bool) if both[row] else torch.arange(2) == entropy[row].argmin()
        p[row, ~kept] = 0.5
    matrix = law_matrix(*enumerate_outcomes(outcome, 4), noisy)
    assert torch.allclose(matrix, (p[:, 0, :, None] * p[:, 1, None, :]).flatten(1), atol=1e-12, rtol=0)


def test_confidence_takes_the_surest_tokens():
    """A law that is certain of its last position reveals that one first."""
    log_p = torch.zeros(3, 2, 2, 2, dtype=torch.float64)[0]
    log_p[..., 1] -= 8  # the last token is nearly always 0
    run = Run(Problem(Table(log_p, absorbing(3)), random_reward(3, 2, 1), torch.zeros(30, 3)))
    rng = Rng.seeded(1, 30)
    x = Decoder("confidence").step(run, run.prior(rng), 1.0, 2 / 3, rng)
    assert bool(((x != 2).long().argmax(1) == 2).float().mean() > 0.9)


@pytest.mark.parametrize("order", ["left", "confidence", "margin", "entropy"])
def test_most_orders_need_a_mask(order):
    refused(Decoder(order), f"order '{order}' needs absorbing noise.*use order='random' or 'bounded'")


@pytest.mark.parametrize("order", ["random", "bounded"])
def test_blocks_need_a_mask(order):
    refused(Decoder(order, 2), f"order '{order}' with block_length=2 needs absorbing noise.*block_length=0")


def refused(decoder: Decoder, words: str) -> None:
    """Before the denoiser is asked, and where a step goes on from a clean sample."""
    run, rng = batch("uniform"), Rng.seeded(0, 4)
    x = run.prior(rng)
    with pytest.raises(ValueError, match=words):
        decoder.step(run, x, 1.0, 0.5, rng)
    assert run.meter.asked_nfe == 0
    with pytest.raises(ValueError, match=words):
        decoder.reveal(run, x, x, torch.zeros(4, 8), 1.0, 0.5, rng)


@pytest.mark.parametrize("options", [{"order": "best"}, {"block_length": -1}, {"bound": -0.1}, {"bound": float("nan")}])
def test_unknown_orders_and_negative_numbers_are_refused(options):
    with pytest.raises(ValueError, match="order must be one of random, left, confidence|must not be negative"):
        Decoder(**options)


# Scores, and which tokens they show.


def laws(cells: int, vocab: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(cells, vocab, generator=generator)).to(dtype).log_softmax(1)


def test_scores_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    drawn = torch.tensor([[0, 0, 3], [1, 0, 2]])
    taken = torch.tensor([[0.7, 1.0, 0.25], [0.2, 1.0, 0.25]], dtype=torch.float64)
    assert torch.allclose(decoding.confidence(p.log(), drawn).exp(), taken)
    gap = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64)
    assert torch.allclose(decoding.margin(p.log(), drawn), gap.expand(2, 3))
    h = -(0.7 * log(0.7) + 0.2 * log(0.2) + 0.1 * log(0.1))
    assert torch.allclose(decoding.negentropy(p.log(), drawn), -torch.tensor([h, 0, log(4)]).double().expand(2, 3))


@pytest.mark.parametrize("score", [*decoding.SCORES.values(), telling, partial(log_mass, exponent=2.0)])
def test_a_score_of_probabilities_is_that_of_their_logarithms(score):
    log_p, drawn = laws(37, 1009), torch.arange(74).view(2, 37)
    log_p[:, 5] = -torch.inf
    assert torch.allclose(score(log_p.exp(), drawn, False), score(log_p, drawn), rtol=1e-12)


@pytest.mark.parametrize("score", decoding.SCORES.values(), ids=decoding.SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logs", [True, False])
def test_a_score_is_the_same_bits_in_every_batch(score, dtype, logs, monkeypatch):
    log_p, drawn = laws(37, 1009, dtype=dtype), torch.arange(74).view(2, 37)
    p = log_p if logs else log_p.exp()
    whole = score(p, drawn, logs)
    assert whole.shape == (2, 37)
    for cells in ([0], [36, 3], list(range(5, 30))):
        assert torch.equal(score(p[cells], drawn[:, cells], logs), whole[:, cells])
    monkeypatch.setattr(decoding, "BLOCK", (2000, 2000))
    assert torch.equal(score(p, drawn, logs), whole)
    assert torch.equal(score(p.T.contiguous().T, drawn, logs), whole)  # whatever the strides


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
    shown = decoding.bounded(one(mask), torch.tensor([entropy]).double(), bound)
    assert set(shown[0].nonzero()[:, 0].tolist()) == expected
    assert bool(expected) == any(mask)


@settings(max_examples=60, deadline=None)
@given(WHERE, WHERE, NUMBERS, st.integers(0, 6), st.integers(0, 4))
def test_the_surest_of_each_block_in_turn(free, mask, sure, count, size):
    """As a loop would: the earliest block first, in it the highest score, of equal scores the leftmost."""
    where = [f and m for f, m in zip(free, mask, strict=True)]
    number = [sum(free[:i]) // size if size else 0 for i in range(6)]
    ranked = sorted((number[i], -sure[i], i) for i in range(6) if where[i])
    block = decoding.blocks(one(free), size)
    assert all(block[0, i] == number[i] for i in range(6) if free[i])
    taken = torch.tensor([count])
    shown = decoding.surest(one(where), torch.tensor([sure]), block, taken)
    assert shown[0].nonzero()[:, 0].tolist() == sorted(i for *_, i in ranked[:count])
    reach = decoding.reached(one(where), block, taken)
    last = max((b for b, *_ in ranked[:count]), default=-1)
    assert reach[0].tolist() == [where[i] and number[i] <= last for i in range(6)]
    first = min((b for b, *_ in ranked), default=-1)
    assert decoding.foremost(one(where), block)[0].tolist() == [where[i] and number[i] == first for i in range(6)]
