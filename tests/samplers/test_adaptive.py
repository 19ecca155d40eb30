"""Adaptation: pilots that choose options, rows that share a budget, spans that follow acceptance, chains in a row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iterref.adaptive import refine_hardest, select_sampler
from iterref.budget import Budget
from iterref.denoiser import Denoiser
from iterref.exact.markov import world
from iterref.guidance import ClassifierFreeGuidance
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers.iterref import ADAPT_TARGET, Adapting, IterRef
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix
from tests.support.worlds import random_reward, random_table


def problem_of(rows: int = 32, free: Tensor | None = None, length: int = 12) -> Problem:
    model, reward, _ = world(length, 6)
    return Problem(model, reward, torch.zeros(rows, length, dtype=torch.long), free, alpha=0.3)


def test_pilots_choose_the_options_that_pay():
    candidates = ["iterref:span=0.05", "iterref:span=0.5", "iterref:moves=1,span=0.02", "best_of_n:steps=4"]
    found = select_sampler(candidates, problem_of(48), budget=(32, 256), seed=3)
    assert found.sampler == sampler_from_string("iterref:span=0.5")
    assert [len(rewards) for rewards in found.rewards.values()].count(2) == 2  # the better half went on
    # four at half of the budget, two at all of it
    assert 0 < found.cost.nfe <= 4 * 16 + 2 * 32 and found.cost.reward_calls <= 4 * 128 + 2 * 256


def test_pilots_leave_the_run_alone():
    """The run has streams of its own: pilots are independent of it, and so is the choice that they make."""
    problem, seen = problem_of(8), []
    model = problem.denoiser

    class Spy(Denoiser):
        noise = model.noise

        def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
            seen.append(x_t.clone())
            return model(x_t, t, where, rows)

    spied = Problem(Spy(), problem.reward, problem.canvas, alpha=0.3)
    select_sampler(["iterref:steps=2", "iterref:steps=3"], spied, budget=16, seed=5)
    pilots = {tuple(row.tolist()) for x in seen for row in x}
    seen.clear()
    sample(sampler_from_string("iterref:steps=2"), spied, budget=16, seed=5)
    noise = tuple([model.noise.mask] * 12)
    run = {tuple(row.tolist()) for x in seen for row in x}
    assert len(run & pilots - {noise}) < 0.05 * len(run)


@pytest.mark.parametrize(
    ("samplers", "words"),
    [([], "nothing to choose"), (["iterref", "iterref:"], "the same"), (["iteref"], "did you mean")],
)
def test_a_choice_needs_candidates(samplers, words):
    with pytest.raises(ValueError, match=words):
        select_sampler(samplers, problem_of(2), budget=64)


def test_rows_that_are_done_leave_their_budget_to_the_others():
    """Texts that must hold ten of the rewarded pairs: more rows get there when those that have them stop."""
    problem, limit = problem_of(64, length=16), Budget(16, 64)
    text, enough, even, focused = "iterref:objective=maximise,early=0", 10.0, [], []
    for seed in range(3):
        plain = sample(sampler_from_string(text), problem, budget=limit, seed=seed)
        even.append(float((plain.best.reward >= enough).double().mean()))
        result = refine_hardest(text, problem, enough=enough, budget=limit, seed=seed)
        assert result.asked.nfe <= limit.nfe and result.asked.reward_calls <= limit.reward_calls
        assert torch.equal(result.rewards, problem.reward(result.tokens, torch.arange(64)))
        focused.append(float((result.rewards >= enough).double().mean()))
    assert 0.1 < sum(even) / 3 < 0.9  # the task is neither trivial nor hopeless
    assert (sum(focused) - sum(even)) / 3 > 0.05


def test_rows_at_enough_are_done():
    problem = problem_of(8)
    first = refine_hardest("iterref", problem, enough=-1.0, budget=32)
    assert first.asked.nfe == 16
    assert not bool((refine_hardest("iterref", problem, enough=99.0, budget=32).rewards < first.rewards).any())


def test_a_denoiser_of_two_passes_keeps_the_budget():
    """Classifier-free guidance, whose sequences take two NFE each, in the rounds as in the first run."""
    given = problem_of(8)
    guided = replace(given, denoiser=ClassifierFreeGuidance(given.denoiser, given.denoiser, 2.0))
    asked = refine_hardest("iterref", guided, enough=99.0, budget=32).asked
    assert guided.denoiser.passes == 2 and 24 < asked.nfe <= 32


def test_focus_refuses_a_method_without_moves_and_no_rounds():
    with pytest.raises(ValueError, match="cannot start from given texts"):
        refine_hardest("best_of_n", problem_of(2), enough=1.0, budget=64)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        refine_hardest("iterref", problem_of(2), enough=1.0, budget=64, rounds=0)


@pytest.mark.parametrize("span", [0.02, 1.0])
def test_spans_follow_acceptance(span):
    """From spans that are nearly always or hardly ever accepted, acceptance comes nearer to its target."""
    text = f"iterref:steps=1,moves=60,tries=1,decisions=1,spacing=0,early=0,span={span}"
    runs = [sample(sampler_from_string(text + more), problem_of(64)).trace.table() for more in ("", ",adapt=true")]
    fixed, adapted = (table["accepted"][-20:].mean() for table in runs)
    assert abs(adapted - ADAPT_TARGET) < 0.5 * abs(fixed - ADAPT_TARGET)


def test_the_steps_of_adaptation_vanish(monkeypatch):
    spans: list[float] = []
    plain = IterRef.step

    def recorded(self, run, state, rng):
        state, info = plain(self, run, state, rng)
        spans.append(float(state.span) if isinstance(state, Adapting) else float("nan"))
        return state, info

    monkeypatch.setattr(IterRef, "step", recorded)
    sample(sampler_from_string("iterref:steps=1,moves=200,tries=1,decisions=1,adapt=true,early=0"), problem_of(1))
    steps = torch.tensor(spans[1:]).log().diff().abs()
    assert float(steps[:10].max()) > 5 * float(steps[-10:].max()) > 0


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_chains_side_by_side_meet_by_weight(kind):
    """Two chains of one candidate each are importance resampling among two: E[w(x) / (w(x) + w(y))], as enumerated."""
    table, alpha = random_table(kind, 1, 3, 4, coupling=1), 0.5
    reward = random_reward(1, 3, 4)
    states = table.states()
    p, w = table.log_p.exp().flatten(), (reward(states, torch.zeros(3)) / alpha).exp()
    pair = p[:, None] * p[None, :]
    law = (pair * w[:, None] / (w[:, None] + w[None, :])).sum(1) * 2
    method = IterRef(steps=1, moves=0, tries=1, decisions=1, chains=2)

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = Run(Problem(table, reward, torch.zeros(len(start), 1, dtype=torch.long), alpha=alpha))
        state, _ = method.step(run, method.init(run, rng), rng)
        return method.output(run, state).tokens

    found = law_matrix(*enumerate_outcomes(outcome, 1), states)[0]
    assert torch.allclose(found, law, atol=1e-12, rtol=0)
    assert float((found - p).abs().max()) > 1e-2  # negative control: without the meeting it would be the model's law


def test_chains_buy_evaluations_without_depth():
    wide, deep = sampler_from_string("iterref:steps=2,moves=6,chains=3"), sampler_from_string("iterref:steps=2,moves=6")
    assert wide.cost().nfe == 3 * deep.cost().nfe and wide.cost().depth == deep.cost().depth
    result = sample(wide, problem_of(4))
    assert result.particles is not None and result.particles.x_t.shape == (3, 4, 12)
    assert result.particles.reward is not None
    rows = torch.arange(4)
    assert all(any(torch.equal(result.tokens[b], x[b]) for x in result.particles.x_t) for b in rows)
