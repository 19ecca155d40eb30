"""The problem: what is refused at the door, what no move may touch, and that chunks and rows change nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.models.markov import Markov, world
from iterref.noise import Noise, absorbing
from iterref.problem import Best, Problem
from iterref.random import Rng
from iterref.rewards.base import Remembered, RewardError
from tests.support.worlds import random_reward, random_table

torch.set_num_threads(1)
INF = float("inf")
LENGTH, VOCAB = 6, 3


def model_of(kind: str = "absorbing") -> Markov:
    return world(LENGTH, VOCAB, 1, kind)[0]


def no_reward(tokens: Tensor, rows: Tensor) -> Tensor:
    return torch.zeros(len(tokens), dtype=torch.float64)


def problem_of(kind: str = "absorbing", rows: int = 3, **options: object) -> Problem:
    canvas = torch.arange(rows * LENGTH).view(rows, LENGTH) % VOCAB
    return Problem(model_of(kind), no_reward, canvas, **options)


def frozen(row: int, position: int, token: int) -> Problem:
    """A problem with one token of one frozen position set."""
    canvas, free = torch.zeros(2, LENGTH, dtype=torch.long), torch.ones(2, LENGTH, dtype=torch.bool)
    canvas[row, position], free[row, position] = token, False
    return Problem(model_of(), no_reward, canvas, free)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Problem(model_of(), no_reward, torch.zeros(0, 4)), r"none of them zero, got \(0, 4\)"),
        (lambda: Problem(model_of(), no_reward, torch.zeros(4, 0)), "none of them zero"),
        (lambda: Problem(model_of(), no_reward, torch.zeros(4)), "the canvas must be"),
        (lambda: problem_of(free=torch.ones(3, 5)), r"`free` has shape \(3, 5\), the canvas \(3, 6\)"),
        (lambda: problem_of(alpha=0.0), "alpha must be positive and finite, got 0.0"),
        (lambda: problem_of(alpha=-1.0), "alpha must be positive"),
        (lambda: problem_of(alpha=INF), "alpha must be positive"),
        (lambda: problem_of(alpha=float("nan")), "alpha must be positive"),
        (lambda: problem_of(max_rows=0), "max_rows must be at least 1"),
        (lambda: frozen(1, 2, 9), "row 1, position 2: token 9 is outside the vocabulary of 4"),
        (lambda: frozen(0, 5, -1), "row 0, position 5: token -1 is outside"),
        (lambda: frozen(1, 3, 3), "row 1, position 3: a frozen position holds the mask"),
        (lambda: problem_of(forbidden=[7]), "forbidden token 7 is outside the vocabulary of 4"),
        (lambda: problem_of(forbidden=[0, 1, 2]), "every token is forbidden"),
        (lambda: problem_of("uniform", forbidden=torch.arange(3)), "every token is forbidden"),
    ],
)
def test_refused_at_the_door(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize(
    "position, token, words",
    [
        (0, 1, "row 1, position 0: token 1 cannot stand there"),  # frozen, and the canvas has 0 there
        (2, 3, "row 1, position 2: token 3"),  # the mask
        (2, 1, "row 1, position 2: token 1"),  # forbidden
        (2, 9, "row 1, position 2: token 9"),
        (2, -1, "row 1, position 2: token -1"),
    ],
)
def test_texts_to_start_from_are_checked(position, token, words):
    free = torch.ones(3, LENGTH, dtype=torch.bool)
    free[:, 0] = False
    problem = problem_of(free=free, forbidden=[1])
    texts = torch.where(free, 2, problem.canvas)
    assert torch.equal(problem.finished(texts.int()), texts)
    texts[1, position] = token
    with pytest.raises(ValueError, match=words):
        problem.finished(texts)
    with pytest.raises(ValueError, match="the texts have shape"):
        problem.finished(texts[:2])


def test_free_positions_may_hold_anything_before():
    canvas = torch.full((1, LENGTH), -5)
    problem = Problem(model_of(), no_reward, canvas)
    assert torch.equal(problem.prior(Rng.seeded(0, 1)), torch.full((1, LENGTH), 3))


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
    ],
)
def test_a_broken_denoiser_is_caught(answer, words):
    problem = Problem(Broken(absorbing(4), answer), no_reward, torch.zeros(2, 2))
    x_t, where = torch.full((2, 2), 3), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=words):
        problem.predict(x_t, 1.0, where, problem.rows)


def test_a_position_with_only_forbidden_tokens_names_its_row():
    certain = torch.full((2, 4), -INF)
    certain[0, 0], certain[1, 1] = 0.0, 0.0
    problem = Problem(Broken(absorbing(4), certain), no_reward, torch.zeros(2, 1), forbidden=[1])
    with pytest.raises(ValueError, match="row 1: .* forbid fewer tokens"):
        problem.predict(torch.full((2, 1), 3), 1.0, torch.ones(2, 1, dtype=torch.bool), problem.rows)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_forbidden_tokens_are_left_out_and_the_rest_keeps_its_ratios(kind):
    free, banned = problem_of(kind), problem_of(kind, forbidden=[1])
    x_t = free.prior(Rng.seeded(1, 3))
    where = torch.ones_like(x_t, dtype=torch.bool)
    for before, after in (
        (free.predict(x_t, 0.9, where, free.rows), banned.predict(x_t, 0.9, where, free.rows)),
        (free.conditionals(free.canvas, where, free.rows), banned.conditionals(free.canvas, where, free.rows)),
    ):
        assert bool(torch.isneginf(after[:, 1]).all())
        assert torch.allclose((after - before)[:, 0], (after - before)[:, 2], atol=1e-12)
        assert torch.allclose(after.exp().sum(1), torch.ones(len(after), dtype=torch.float64), atol=1e-12)
        guesses = banned.draw(after, where, x_t, 50, Rng.seeded(2, 3))
        assert not bool((guesses == 1).any())
    assert bool((free.draw(free.predict(x_t, 0.9, where, free.rows), where, x_t, 50, Rng.seeded(2, 3)) == 1).any())


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_frozen_positions_are_kept_by_every_step(kind):
    free = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.5
    problem = problem_of(kind, free=free)
    for seed in range(10):
        rng = Rng.seeded(seed, 3)
        x_1 = problem.prior(rng.fork("prior"))
        x_s = problem.back(problem.canvas, 1.0, 0.1, problem.rows, rng.fork("back"))
        x_t = problem.forth(x_1, problem.canvas, 0.0, 0.5, problem.rows, rng.fork("forth"))
        for x in (x_1, x_s, x_t):
            assert torch.equal(x[~free], problem.canvas[~free])
    assert not torch.equal(x_s, problem.canvas)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("max_rows", [1, 2, 3])
def test_chunks_change_no_bit(kind, max_rows):
    whole, chunked = problem_of(kind, rows=5), problem_of(kind, rows=5, max_rows=max_rows)
    x_t = whole.back(whole.canvas, 1.0, 0.4, whole.rows, Rng.seeded(1, 5))
    where = whole.noise.undetermined(x_t, torch.full((5,), 0.6)).clone()
    where[3] = False
    for ask in (
        lambda problem: problem.predict(x_t, 0.6, where, problem.rows),
        lambda problem: problem.conditionals(problem.canvas, where, problem.rows),
        lambda problem: problem.score(problem.canvas, problem.rows, final=True),
    ):
        assert torch.equal(ask(whole.begin()), ask(chunked.begin()))


@pytest.mark.parametrize("max_rows", [None, 2])
def test_the_meter_counts_what_is_asked_and_what_is_made(max_rows):
    table = random_table("absorbing", 3, 2, 3, coupling=1)
    problem = Problem(table, random_reward(3, 2, 3), torch.zeros(4, 3), max_rows=max_rows).begin()
    x_t = torch.tensor([[2, 0, 1], [0, 0, 0], [2, 2, 2], [1, 1, 1]])
    problem.predict(x_t, 0.5, x_t == 2, problem.rows)  # two rows have nothing open
    assert (problem.meter.asked_denoiser, problem.meter.made_denoiser, problem.meter.depth) == (4, 2, 1)
    nothing = problem.predict(x_t, 0.5, torch.zeros_like(x_t, dtype=torch.bool), problem.rows)
    assert nothing.shape == (0, 3)
    assert (problem.meter.asked_denoiser, problem.meter.made_denoiser, problem.meter.depth) == (8, 2, 2)
    texts = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 1]])
    rows = torch.tensor([0, 0, 1, 2])
    for made in (3, 3):  # one pair twice in the first call, and all known in the second
        problem.score(texts, rows, final=False)
        assert problem.meter.made_reward == made
    assert problem.meter.asked_reward == 8
    assert problem.meter.asked(4).reward == 2 and problem.meter.made(4).reward == 0.75
    assert min(problem.meter.seconds.values()) >= 0


def test_without_memory_every_row_is_asked():
    problem = problem_of(remember=False).begin()
    problem.score(problem.canvas[:1].repeat(3, 1), torch.zeros(3, dtype=torch.long), final=False)
    assert problem.meter.made_reward == problem.meter.asked_reward == 3


def test_a_run_begins_afresh():
    problem = problem_of()
    first = problem.begin()
    first.score(problem.canvas, problem.rows, final=True)
    second = problem.begin()
    assert second.meter.asked_reward == problem.meter.asked_reward == 0 and problem.best is None
    assert second.best is not None and bool(torch.isneginf(second.best.reward).all())
    assert isinstance(first.reward, Remembered) and first.reward is not second.reward
    kept = Remembered(no_reward)
    assert replace(problem, reward=kept).begin().reward is kept


def test_only_finished_texts_can_be_the_best():
    table = random_table("absorbing", 2, 2, 3, coupling=1)
    problem = Problem(table, random_reward(2, 2, 3), torch.zeros(1, 2)).begin()
    assert problem.best is not None
    problem.score(torch.tensor([[0, 1]]), problem.rows, final=False)
    assert bool(torch.isneginf(problem.best.reward).all())
    problem.score(torch.tensor([[1, 1]]), problem.rows, final=True)
    assert problem.best.tokens.tolist() == [[1, 1]]


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

    problem = replace(problem_of(), reward=reward).begin()
    with pytest.raises(RewardError, match="row 2"):
        problem.score(problem.canvas, problem.rows, final=True)
