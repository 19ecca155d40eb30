"""The run: what no move may touch, that chunks and rows change nothing, and what the meter counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from iterref.denoiser import Denoiser, expect_posteriors
from iterref.exact.table import Table
from iterref.noise import Noise, absorbing, uniform
from iterref.problem import Problem
from iterref.random import Rng
from iterref.result import Best
from iterref.rewards.base import RewardError
from iterref.rewards.memory import Remembered
from iterref.run import Run
from iterref.sampling import sample
from tests.support.problems import LENGTH, model_of, no_reward, problem_of
from tests.support.worlds import random_reward, random_table

INF = float("inf")


def run_of(kind: str = "absorbing", rows: int = 3, **options: object) -> Run:
    return Run(problem_of(kind, rows, **options))


def test_free_positions_may_hold_anything_before():
    canvas = torch.full((1, LENGTH), -5)
    run = Run(Problem(model_of(), no_reward, canvas))
    assert torch.equal(run.prior(Rng.seeded(0, 1)), torch.full((1, LENGTH), 3))


@dataclass(frozen=True)
class Broken(Denoiser):
    """A denoiser whose numbers are wrong."""

    noise: Noise
    answer: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self.answer


@pytest.mark.parametrize(
    "answer, words",
    [
        (torch.zeros(3, 4), r"returned \(3, 4\) for 4 open positions and 4 tokens"),
        (torch.zeros(4, 5), r"returned \(4, 5\) for 4 open positions"),
        (torch.tensor([[0.0] * 4] * 3 + [[float("nan")] * 4]), "row 1: the denoiser gives no probability"),
        ([[0.0] * 4] * 4, "returned a list: it must return a tensor"),
        (torch.zeros(4, 4).long(), r"returned a tensor of torch\.int64"),
        (torch.zeros(4, 4), "log-probabilities add up to 4 at an open position"),
        (torch.full((4, 4), 0.25), "log-probabilities add up to 5.136"),  # probabilities in their place
        (torch.full((4, 4), 0.25).log(), "gives the mask a probability of 0.25 at an open position"),
    ],
)
def test_a_broken_denoiser_is_caught(answer, words):
    run = Run(Problem(Broken(absorbing(4), answer), no_reward, torch.zeros(2, 2)))
    x_t, where = torch.full((2, 2), 3), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=words):
        run.predict(x_t, 1.0, where)


def test_half_precision_is_near_enough_to_one():
    """Also where it rounds every log-probability of a wide vocabulary up."""
    p = torch.full((1, 50_258), -math.log(50_257)).bfloat16()
    p[:, -1] = -INF
    assert float(p.double().exp().sum()) > 1.01
    expect_posteriors(p, True, absorbing(50_258))


class Scribbling(Table):
    """Fills in whatever it is given."""

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        answer = super().__call__(x_t, t, where, rows)
        for given in (x_t, t, where, rows):
            given.zero_()
        return answer

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        answer = super().leave_one_out(x, where, rows)
        for given in (x, where, rows):
            given.zero_()
        return answer


@pytest.mark.parametrize("text", ["auto", "growth:steps=3,moves=3", "vgb:moves=4", "remdm", "iterref:moves=6"])
@pytest.mark.parametrize("noise", [absorbing(4), uniform(3)], ids=["absorbing", "uniform"])
def test_a_denoiser_may_write_into_what_it_is_given(text, noise):
    law, canvas = random_table("absorbing", 4, 3, 1, 1.0).log_p.view((3,) * 4), torch.zeros(3, 4)
    results = [sample(text, Problem(kind(law, noise), no_reward, canvas), seed=2) for kind in (Table, Scribbling)]
    assert torch.equal(results[0].tokens, results[1].tokens)


def test_a_position_with_only_forbidden_tokens_names_its_row():
    certain = torch.full((2, 4), -INF)
    certain[0, 0], certain[1, 1] = 0.0, 0.0
    run = Run(Problem(Broken(absorbing(4), certain), no_reward, torch.zeros(2, 1), forbidden=[1]))
    with pytest.raises(ValueError, match="row 1: .* forbid fewer tokens"):
        run.predict(torch.full((2, 1), 3), 1.0, torch.ones(2, 1, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_forbidden_tokens_are_left_out_and_the_rest_keeps_its_ratios(kind):
    free, banned = run_of(kind), run_of(kind, forbidden=[1])
    x_t = free.prior(Rng.seeded(1, 3))
    where = torch.ones_like(x_t, dtype=torch.bool)
    for before, after in (
        (free.predict(x_t, 0.9, where), banned.predict(x_t, 0.9, where)),
        (free.conditionals(free.canvas, where), banned.conditionals(free.canvas, where)),
    ):
        assert bool(torch.isneginf(after[:, 1]).all())
        assert torch.allclose((after - before)[:, 0], (after - before)[:, 2], atol=1e-12)
        assert torch.allclose(after.exp().sum(1), torch.ones(len(after), dtype=torch.float64), atol=1e-12)
    shown = where & (x_t != 1)  # what stands there is kept where nothing is drawn
    assert not bool((banned.draw(x_t, 0.9, where, 50, Rng.seeded(2, 3))[0][:, shown] == 1).any())
    assert bool((free.draw(x_t, 0.9, where, 50, Rng.seeded(2, 3))[0] == 1).any())


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_frozen_positions_are_kept_by_every_step(kind):
    free = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.5
    run = run_of(kind, free=free)
    for seed in range(10):
        rng = Rng.seeded(seed, 3)
        x_1 = run.prior(rng.fork("prior"))
        x_s = run.renoise(run.canvas, 1.0, 0.1, rng.fork("back"))
        x_t = run.denoise(x_1, run.canvas, 0.0, 0.5, rng.fork("forth"))
        for x in (x_1, x_s, x_t):
            assert torch.equal(x[~free], run.canvas[~free])
    assert not torch.equal(x_s, run.canvas)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("max_rows", [1, 2, 3])
def test_chunks_change_no_bit(kind, max_rows):
    whole, chunked = (run_of(kind, rows=5, max_rows=size) for size in (None, max_rows))
    x_t = whole.renoise(whole.canvas, 1.0, 0.4, Rng.seeded(1, 5))
    where = whole.noise.undetermined(x_t, torch.full((5,), 0.6)).clone()
    where[3] = False
    for ask in (
        lambda run: run.predict(x_t, 0.6, where),
        lambda run: run.conditionals(run.canvas, where),
        lambda run: run.draw(x_t, 0.6, where, 3, Rng.seeded(2, 5))[0],
        lambda run: run.reward_of(run.canvas, final=True),
        lambda run: run.reward_of(run.canvas.expand(2, -1, -1), final=True),
    ):
        assert torch.equal(ask(whole), ask(chunked))


def test_a_wide_vocabulary_without_its_forbidden_tokens_is_the_same_in_every_chunk(monkeypatch):
    """With several threads, too, among whom torch divides a sum of one row."""
    p = torch.rand(3, 100_001, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(Broken, "has_probabilities", True)
    monkeypatch.setattr(Broken, "probabilities", lambda self, x_t, t, where, rows: self.answer[rows])
    some = Broken(absorbing(100_001), p.index_fill_(1, torch.tensor([100_000]), 0).div_(p.sum(1, keepdim=True)))
    runs = [Run(Problem(some, no_reward, torch.zeros(3, 1), forbidden=[1], max_rows=size)) for size in (None, 1)]
    torch.set_num_threads(2)
    try:
        asked = torch.full((3, 1), 100_000), 1.0, torch.ones(3, 1, dtype=torch.bool)
        assert torch.equal(*(run.predict(*asked) for run in runs))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("max_rows", [None, 2])
def test_the_meter_counts_what_is_asked_and_what_is_made(max_rows):
    table = random_table("absorbing", 3, 2, 3, coupling=1)
    prompts = torch.tensor([0, 0, 1, 2])
    run = Run(Problem(table, random_reward(3, 2, 3), torch.zeros(4, 3), max_rows=max_rows, prompts=prompts))
    x_t = torch.tensor([[2, 0, 1], [0, 0, 0], [2, 2, 2], [1, 1, 1]])
    run.predict(x_t, 0.5, x_t == 2)  # two rows have nothing open
    assert (run.meter.asked_nfe, run.meter.made_nfe, run.meter.depth) == (4, 2, 1)
    nothing = run.predict(x_t, 0.5, torch.zeros_like(x_t, dtype=torch.bool))
    assert nothing.shape == (0, 3)
    assert (run.meter.asked_nfe, run.meter.made_nfe, run.meter.depth) == (8, 2, 2)
    texts = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 1]])
    for made in (3, 3):  # one pair twice in the first call, and all known in the second
        run.reward_of(texts, final=False)
        assert run.meter.made_reward_calls == made
    assert run.meter.asked_reward_calls == 8
    assert run.meter.asked(4).reward_calls == 2 and run.meter.made(4).reward_calls == 0.75
    assert min(run.meter.seconds.values()) >= 0


def test_without_memory_every_row_is_asked():
    run = run_of(remember=False, prompts=torch.zeros(3, dtype=torch.long))
    run.reward_of(run.canvas[:1].repeat(3, 1), final=False)
    assert run.meter.made_reward_calls == run.meter.asked_reward_calls == 3


def test_a_run_begins_afresh():
    problem = problem_of()
    first = Run(problem)
    first.reward_of(problem.canvas, final=True)
    second = Run(problem)
    assert first.meter.asked_reward_calls == 3 and second.meter.asked_reward_calls == 0
    assert bool(first.best.reward.isfinite().all()) and bool(torch.isneginf(second.best.reward).all())
    assert isinstance(first.reward, Remembered) and first.reward is not second.reward
    kept = Remembered(no_reward)
    assert Run(replace(problem, reward=kept)).reward is kept


def test_only_finished_texts_can_be_the_best():
    table = random_table("absorbing", 2, 2, 3, coupling=1)
    run = Run(Problem(table, random_reward(2, 2, 3), torch.zeros(1, 2)))
    run.reward_of(torch.tensor([[0, 1]]), final=False)
    assert bool(torch.isneginf(run.best.reward).all())
    run.reward_of(torch.tensor([[1, 1]]), final=True)
    assert run.best.tokens.tolist() == [[1, 1]]


def test_best_keeps_the_first_of_the_highest_a_row():
    best = Best(torch.zeros(3, 2, dtype=torch.long), torch.tensor([-INF, 1.0, -INF], dtype=torch.float64))
    tokens = torch.tensor([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]])
    best.see(tokens, torch.tensor([0.5, 2.0, 2.0, 0.9, -INF], dtype=torch.float64), torch.tensor([0, 0, 0, 1, 2]))
    assert best.tokens.tolist() == [[2, 2], [0, 0], [0, 0]]
    assert best.reward.tolist() == [2.0, 1.0, -INF]
    best.see(tokens[3:4], torch.tensor([2.0], dtype=torch.float64), torch.tensor([0]))
    assert best.tokens[0].tolist() == [2, 2]  # an equal reward is no better


@pytest.mark.parametrize("value", [float("nan"), INF])
def test_a_reward_that_is_none_names_its_row(value):
    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        return torch.where(rows == 2, value, 0.0)

    run = Run(replace(problem_of(), reward=reward))
    with pytest.raises(RewardError, match="row 2"):
        run.reward_of(run.canvas, final=True)


def test_copies_share_what_a_run_holds():
    """Meter, best and answers are one, and copy i of row r is sequence i R + r."""
    run = run_of("uniform")
    wide = run.repeat(2)
    assert wide is run.repeat(2) and run.repeat(1) is run and wide.repeat(1) is wide
    assert wide.rows.tolist() == [0, 1, 2, 0, 1, 2] and wide.meter is run.meter and wide.best is run.best
    assert torch.equal(wide.canvas, run.canvas.repeat(2, 1)) and wide.batch == run.batch == 3
    run.conditionals(run.canvas, run.free)
    wide.conditionals(wide.canvas, wide.free)
    assert run.meter.made_nfe == 1 and run.meter.asked_nfe == 9  # the canvases of all rows are one text
