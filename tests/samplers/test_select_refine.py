"""Select and refine: what one loop does, enumerated; that rewards never fall; from given texts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import iterref.samplers.select_refine as select_refine
from iterref.budget import Cost, fit_budget
from iterref.decoding import Decoder, grid
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers.base import ScoredCloud
from iterref.samplers.best_of_n import BestOfN
from iterref.samplers.select_refine import SelectRefine
from iterref.sampling import sample
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix, total_variation
from tests.support.worlds import TableReward, random_reward, random_table

EXACT = 1e-10


def problem_of(table: Table, reward: TableReward, rows: int) -> Problem:
    return Problem(table, reward, torch.zeros(rows, table.length, dtype=torch.long), remember=False)


def one_loop(method: SelectRefine, table: Table, reward: TableReward) -> Tensor:
    """The transition matrix of one loop over finished texts."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = Run(problem_of(table, reward, len(start)))
        state, _ = method.step(run, method.resume(run, table.states()[start]), rng)
        assert isinstance(state, ScoredCloud) and torch.equal(state.reward, reward(state.x_0, run.rows))
        return state.x_0

    return law_matrix(*enumerate_outcomes(outcome, len(table.states())), table.states())


def plain(table: Table, reward: TableReward, steps: int) -> Tensor:
    """The law of plain sampling."""
    times = grid(steps)

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = Run(problem_of(table, reward, len(start)))
        x = run.prior(rng)
        for t, u in zip(times, times[1:], strict=False):
            x = Decoder().step(run, x, t, u, rng)
        return x

    return law_matrix(*enumerate_outcomes(outcome, 1), table.states())[0]


def better_of(law: Tensor, values: Tensor) -> Tensor:
    """The matrix of `old, unless a draw of the law has a higher reward`."""
    matrix = torch.where(values[None, :] > values[:, None], law[None, :], 0.0)
    return matrix + torch.diag(1 - matrix.sum(1))


@pytest.mark.parametrize("kind, steps", [("absorbing", 1), ("absorbing", 2), ("uniform", 2)])
def test_a_full_span_is_a_fresh_draft_against_the_old_text(kind, steps):
    table = random_table(kind, 2 if kind == "absorbing" else 1, 2, 5, coupling=1.5)
    reward = random_reward(table.length, 2, 5)
    wanted = better_of(plain(table, reward, steps), reward.values.flatten())
    full = SelectRefine(steps=0, loops=1, denoise_steps=steps, span=1.0)
    assert float((one_loop(full, table, reward) - wanted).abs().max()) < EXACT
    part = SelectRefine(steps=0, loops=1, denoise_steps=steps, span=0.5)
    assert float((one_loop(part, table, reward) - wanted).abs().max()) > 1e-2  # a part of the text is kept


def test_a_loop_ends_at_the_maximum_and_not_in_the_tilted_law():
    """The best text is absorbing: what it samples in the long run is no law of the model's."""
    table, reward = random_table("absorbing", 2, 2, 5, coupling=1.5), random_reward(2, 2, 5)
    matrix = one_loop(SelectRefine(steps=0, loops=1, denoise_steps=1, span=0.5), table, reward)
    law = torch.linalg.matrix_power(matrix, 2**14)
    best = int(reward.values.flatten().argmax())
    assert torch.allclose(law[:, best], torch.ones(4, dtype=torch.float64), atol=1e-9)
    assert total_variation(law[0], table.tilted(reward.values.flatten(), 1.0).exp()) > 0.1


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_without_loops_it_is_best_of_n(noise):
    model, reward, _ = world(8, 4, noise=noise)
    problem = Problem(model, reward, torch.zeros(16, 8))
    mine = sample(SelectRefine(steps=4, n=5, keep=3, loops=0), problem, seed=3)
    best = sample(BestOfN(steps=4, n=5), problem, seed=3)
    assert torch.equal(mine.tokens, best.tokens) and torch.equal(mine.rewards, best.rewards)
    assert mine.asked == best.asked


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_rewards_never_fall_and_refining_pays(noise):
    model, reward, _ = world(16, 4, noise=noise)
    problem = Problem(model, reward, torch.zeros(64, 16))
    method = SelectRefine(steps=4, n=4, keep=2, loops=6, denoise_steps=2, span=0.2)
    result = sample(method, problem, seed=1)
    rewards = result.trace.table()["reward"][3:]
    assert bool((rewards.diff(dim=0) >= 0).all()) and float((rewards[-1] - rewards[0]).mean()) > 1
    assert torch.equal(rewards[-1], result.best.reward) and torch.equal(result.rewards, result.best.reward)
    kept = result.particles
    assert kept.n == 2 and bool((kept.reward[0] >= kept.reward[1]).all())
    assert torch.equal(kept.reward[1], reward(kept.x_0[1], torch.zeros(64)))
    taken = result.trace.table()["accepted"][4:]
    assert set(taken.unique().tolist()) <= {0.0, 0.5, 1.0} and 0.05 < float(taken.mean()) < 0.95


def test_a_text_takes_one_place(monkeypatch):
    """However high its reward: what is kept beside it is the best of the others."""
    table = random_table("absorbing", 2, 2, 5, coupling=0.5)
    reward = TableReward(torch.tensor([[3.0, 1.0], [0.0, 2.0]], dtype=torch.float64))
    problem, method = problem_of(table, reward, 40), SelectRefine(2, n=6, keep=2, loops=12, span=0.5, denoise_steps=1)

    def different() -> float:
        x = sample(method, problem, seed=2).particles.x_0
        return float((x[0] != x[1]).any(1).double().mean())

    assert different() > 0.9
    monkeypatch.setattr(select_refine, "_repeated", lambda x: torch.zeros(x.shape[:2], dtype=torch.bool))
    assert different() < 0.1  # negative control: without the rule the best text fills both places


def test_from_given_texts():
    model, reward, _ = world(10, 4)
    free = torch.arange(10) > 2
    canvas = torch.zeros(8, 10, dtype=torch.long)
    problem = Problem(model, reward, canvas, free.expand(8, -1))
    method = SelectRefine(steps=4, n=4, keep=3, loops=5, denoise_steps=2)
    result = sample(method, problem, start=canvas)
    assert result.asked == Cost(3 * 2 * 5, 1 + 3 * 5, 2 * 5) == result.sampler.cost()
    assert bool((result.rewards >= reward(canvas, torch.arange(8))).all()) and not torch.equal(result.tokens, canvas)
    assert torch.equal(result.tokens[:, :3], canvas[:, :3])
    none = sample(SelectRefine(loops=0), problem, start=canvas)
    assert torch.equal(none.tokens, canvas) and none.asked == Cost(0, 1, 0) == none.sampler.cost()


def test_hard_constraints():
    """A forbidden text gives way to a possible one and never takes its place; all forbidden is told as stuck."""
    model, _, _ = world(6, 4)

    def even_starts(tokens: Tensor, rows: Tensor) -> Tensor:
        allowed = (tokens[:, 0] % 2 == 0) & (rows > 0)  # row 0 has no possible text at all
        return torch.where(allowed, tokens.sum(1).double(), -torch.inf)

    problem = Problem(model, even_starts, torch.zeros(16, 6))
    result = sample(SelectRefine(steps=2, n=2, keep=2, loops=8, span=0.5, denoise_steps=1), problem)
    assert result.rewards[0] == -torch.inf and bool(result.rewards[1:].isfinite().all())
    assert 0 in result.trace.stuck_rows() and not bool(result.particles.reward.isnan().any())


def test_a_budget_buys_loops():
    fitted = fit_budget(SelectRefine(steps=4, n=4, denoise_steps=2), 40)
    assert (fitted.n, fitted.loops, fitted.cost().nfe) == (4, 12, 40)


@pytest.mark.parametrize(
    "options", [{"n": 2, "keep": 3}, {"span": 0.0}, {"span": 1.5}, {"span": 9}, {"span": ()}, {"denoise_steps": 0}]
)
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ValueError, match="select_refine: "):
        SelectRefine(**options)


def test_no_draft_needs_a_text():
    model, reward, _ = world(6, 4)
    with pytest.raises(ValueError, match="give texts to start from"):
        sample(SelectRefine(steps=0), Problem(model, reward, torch.zeros(2, 6)))
