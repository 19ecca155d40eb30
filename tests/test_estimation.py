"""Tests of estimation: what is stated before a run against what the same count finds in the whole run.

The bar: bytes stated / measured within 25 % for a network that is larger than the draws from it, and within a factor of
two for a tiny one, in portions and in few steps, for every method and both noises; half the rows are outside it.
"""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from time import process_time

import pytest
import torch
from torch import Tensor

import iterref.estimation as room
from iterref import Problem, generate, sample
from iterref.denoiser import Denoiser, carry_over, from_leave_one_out
from iterref.drafts import OwnDrafts
from iterref.estimation import Estimate, Footprint, estimate, network_weights, peak_memory
from iterref.guidance import ClassifierFreeGuidance
from iterref.models.dit import Dit, DitOptions
from iterref.noise import absorbing, uniform
from iterref.registry import names
from iterref.rewards import with_partial
from iterref.rewards.memory import ENTRIES, ENTRY, Remembered
from iterref.samplers.strings import sampler_from_string
from tests.laws.test_constraint import language
from tests.support.bundled import tiny_news
from tests.support.fakes import PROMPTS, FakeModel, beta
from tests.support.variants import small
from tests.support.worlds import random_reward, random_table

LENGTH, WIDE, TINY, ROWS = 8, 1500, 48, 16


class Network(Denoiser):
    """A small random DiT, as a denoiser of masked or of uniform noise."""

    def __init__(self, noise: str, tokens: int = WIDE) -> None:
        torch.manual_seed(0)
        self.noise = absorbing(tokens, tokens - 1) if noise == "absorbing" else uniform(tokens)
        self.network = Dit(DitOptions(tokens, 16, 1, 2, 8)).eval().requires_grad_(False)
        self.time_independent = noise == "absorbing"
        self.has_leave_one_out = noise == "uniform"

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        logits = self.network(x_t, torch.zeros(1), where)
        if self.noise.mask is not None:
            return carry_over(logits, x_t, where, self.noise.mask)
        return from_leave_one_out(torch.log_softmax(logits, -1), x_t, t, where, self.noise)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.log_softmax(self.network(x, torch.zeros(1), where), -1)


def by_content(tokens: Tensor, rows: Tensor) -> Tensor:
    return (tokens * torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])).sum(1) % 11 * 0.2


def problem_of(noise: str = "absorbing", rows: int = ROWS, max_rows: int | None = None, tokens: int = WIDE) -> Problem:
    canvas = torch.zeros(rows, LENGTH, dtype=torch.long)
    return Problem(Network(noise, tokens), by_content, canvas, alpha=0.5, max_rows=max_rows)


def any_texts(given: Problem) -> Tensor:
    return torch.arange(given.canvas.numel()).view_as(given.canvas) % (TINY - 1)


def ratio(method: str, given: Problem, **options: object) -> float:
    """Bytes stated / measured."""
    stated = estimate(method, given, **options)
    assert stated.cost.reward_calls == stated.sampler.cost().reward_calls
    found = peak_memory(lambda: sample(sampler_from_string(method), given, **options))
    return stated.bytes / found


@pytest.fixture(autouse=True)
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured calls of a few sequences, so that runs of some dozens are large."""
    monkeypatch.setattr(room, "MEASURED", 6 * LENGTH)


def test_the_count_of_a_known_sequence():
    """By hand: (100, 100) float32 is 40,000 bytes, a view none, what nobody holds is gone."""
    given = torch.ones(100, 100)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with Footprint() as count, mode:
            double = given * 2
            assert count.live == 40_000
            seen = double.view(-1)[10:].reshape(-1)
            seen.add_(1)
            assert count.live == 40_000
            wide = double.double()
            assert (count.live, count.peak) == (120_000, 120_000)
            del double, wide
            assert count.live == 40_000  # the view still holds its storage
            del seen
            assert count.live == 0
            layer = torch.nn.functional.linear(given, given, given[0])  # composite in inference mode
            first, second = torch.sort(layer)
            assert count.live == 40_000 + 40_000 + 80_000
            float(first.sum())
            del layer, first, second
        assert (count.live, count.peak) == (0, 160_004)


def test_the_weights_of_networks_are_found():
    layer = torch.nn.Linear(3, 2)
    assert sum(weight.nbytes for weight in network_weights(layer)) == 4 * 8
    assert estimate("ancestral:steps=2", problem_of()).weights == sum(
        weight.nbytes for weight in Network("absorbing").network.state_dict().values()
    )


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("mtm", "select_refine", "svdd")]


@pytest.mark.parametrize("name", ["ancestral", "best_of_n", "iterref", *SLOWER])
def test_the_memory_is_stated_within_a_quarter(name: str):
    assert 0.75 <= ratio(small(name).replace("steps=2", "steps=4"), problem_of()) <= 1.25


SLOW = {"tempering", "waste_free", "particle_gibbs", "select_refine", "mtm", "importance"}
EVERY = [pytest.param("absorbing", 7, name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names()]
EVERY += [pytest.param("uniform", None, name, marks=pytest.mark.slow) for name in names()]


@pytest.mark.parametrize("noise, max_rows, name", EVERY)
def test_the_memory_of_every_method_is_stated_within_a_factor_of_two(name: str, noise: str, max_rows: int | None):
    assert 0.5 <= ratio(small(name).replace("steps=2", "steps=3"), problem_of(noise, 12, max_rows)) <= 2


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
@pytest.mark.parametrize("name", ["ancestral", "iterref"])
def test_the_memory_of_a_tiny_network_is_stated_within_a_factor_of_two(name: str, noise: str):
    assert 0.5 <= ratio(small(name), problem_of(noise, 64, tokens=TINY)) <= 2


def test_remembered_rewards_are_charged_up_to_their_limit():
    """An entry a call, and the real memory of as many answers is no larger."""
    stated = estimate("best_of_n:steps=4,n=2", problem_of(), batch=500)
    assert stated.remembered == 1000 * ENTRY
    assert estimate("best_of_n:n=9", problem_of(), batch=10**6).remembered == ENTRIES * ENTRY
    reward, tokens = Remembered(by_content), torch.arange(1000 * LENGTH).view(1000, LENGTH)
    tracemalloc.start()
    reward(tokens, torch.zeros(1000, dtype=torch.long))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.4 * stated.remembered < held <= stated.remembered


def test_values_of_unfinished_states_are_estimated_as_rewards_are():
    given = replace(problem_of(), reward=with_partial(by_content, lambda tokens, masked, rows: masked.sum(1)))
    stated = estimate("smc:particles=2,steps=3,value=partial", given)
    assert stated.cost.reward_calls == 6 and 0.5 <= ratio("smc:particles=2,steps=3,value=partial", given) <= 2


def test_another_number_of_rows_is_told_apart():
    """Negative control, and what `batch` and `bytes_at` are for."""
    stated = estimate("best_of_n:steps=4,n=2", problem_of())
    found = peak_memory(lambda: sample(sampler_from_string("best_of_n:steps=4,n=2"), problem_of()))
    assert not 0.75 <= stated.bytes_at(ROWS // 2, 10**6) / found <= 1.25
    assert estimate("best_of_n:steps=4,n=2", problem_of(rows=6), batch=ROWS).bytes == pytest.approx(found, rel=0.25)
    assert stated.bytes_at(ROWS, 4) < stated.bytes / 2


def test_a_start_guidance_and_forbidden_tokens_are_estimated_as_they_run():
    given = problem_of()
    stated = estimate("iterref:steps=2,moves=3", given, start=any_texts(given))
    assert 0.75 <= ratio("iterref:steps=2,moves=3", given, start=any_texts(given)) <= 1.25
    assert stated.sampler == sampler_from_string("iterref:steps=0,moves=3")
    guided = Problem(
        ClassifierFreeGuidance(given.denoiser, given.denoiser, 2.0), by_content, given.canvas, forbidden=[3, 5]
    )
    stated = estimate("ancestral:steps=2", guided, budget=8)
    assert stated.sampler == sampler_from_string("ancestral:steps=4") and stated.cost.nfe == 8
    assert 0.75 <= ratio("ancestral:steps=4", guided) <= 1.25


def test_a_constraint_changes_no_call():
    """Random texts, which the measured calls hold, are none of its language."""
    table = random_table("absorbing", 3, 2, 3, coupling=1.0)
    bound = language(table, 2).take(torch.zeros(2, dtype=torch.long))
    given = Problem(table, random_reward(3, 2, 3), torch.zeros(2, 3), constraint=bound)
    method = "smc:steps=2,particles=3"
    assert estimate(method, given).cost == sample(method, given).asked


def test_rows_of_unequal_length_stand_for_all():
    free = torch.arange(LENGTH) < torch.arange(ROWS)[:, None] % (LENGTH + 1)
    given = Problem(Network("absorbing"), by_content, torch.zeros(ROWS, LENGTH), free)
    assert given.may_change[room.spread(given, 8)].sum() / 8 == pytest.approx(LENGTH / 2, abs=0.5)
    assert 0.75 <= ratio("ancestral:steps=1", given) <= 1.25


def test_of_a_deep_run_a_part_is_counted(monkeypatch: pytest.MonkeyPatch):
    given, moves = problem_of(tokens=TINY), "iterref:steps=2,moves=16"
    whole = room.Counting(given)
    assert whole.run(sampler_from_string(moves), False) == 1
    monkeypatch.setattr(room, "DEEPEST", 8)
    part = room.Counting(given)
    assert part.run(sampler_from_string(moves), False) == pytest.approx(len(whole.calls) / len(part.calls))
    assert len(part.calls) <= 8 < len(whole.calls)


def test_the_estimate_prints_and_touches_nothing():
    """Not the canvas, the state of torch's generator, nor what a run gives afterwards; the reward is called once."""
    asked: list[int] = []

    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        asked.append(len(tokens))
        return by_content(tokens, rows)

    given = Problem(Network("absorbing"), reward, torch.zeros(20, LENGTH, dtype=torch.long), max_rows=16)
    method = sampler_from_string("iterref:steps=2,moves=2")
    before, state = sample(method, given), torch.get_rng_state()
    asked.clear()
    stated = estimate(method, given)
    assert len(asked) == 1 and torch.equal(torch.get_rng_state(), state) and not given.canvas.any()
    after = sample(method, given)
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.rewards, after.rewards)
    assert isinstance(stated, Estimate) and stated.seconds > 0 and stated.max_rows == 16
    assert str(stated).startswith(f"{method} on 20 prompts: ") and "MB at the most, beside" in str(stated)


def test_the_price_says_how_many_evaluations_take_as_long_as_a_reward_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "perf_counter", process_time)  # a busy machine tells no time
    given = problem_of()
    times, where = torch.zeros(1), torch.ones(1, LENGTH, dtype=torch.bool)

    def dear(tokens: Tensor, rows: Tensor) -> Tensor:
        for _ in range(20):
            given.denoiser(tokens, times, where.expand(tokens.shape), rows)
        return by_content(tokens, rows)

    cheap = estimate("iterref:steps=2,moves=2", given)
    assert 0 < cheap.price < 1 and f"a reward call as long as {cheap.price:.2g} NFE" in str(cheap)
    assert 2 < estimate("iterref:steps=2,moves=2", replace(given, reward=dear)).price < 40  # 20, and draws besides


@pytest.mark.parametrize(
    "method, options",
    [
        ("ancestral:steps=2", {"reward": beta}),
        ("iterref:steps=2,moves=1,tries=2", {"reward": OwnDrafts(2, 2), "start": "drafts", "max_rows": 10}),
        ("best_of_n:steps=4,n=2", {"reward": 0.5 * OwnDrafts(2, 2) + OwnDrafts(3, 1), "temperature": 0.5}),
    ],
)
def test_texts_and_their_pools_of_drafts_are_charged(method: str, options: dict):
    stated = estimate(FakeModel(), PROMPTS, sampler=method, **options)
    assert stated.cost == generate(FakeModel(), PROMPTS, sampler=method, **options).asked
    assert stated.rows == len(PROMPTS) and stated.bytes > 0 and stated.weights == 0


def test_texts_of_the_bundled_model_are_within_the_bar():
    words = "the mayor said on monday that police had arrested two men after a fire in a bakery near the river".split()
    prompts = [" ".join(words[i % 9 : 12 + i % 7]) for i in range(12)]
    model, options = tiny_news(), {"sampler": "best_of_n:steps=2,n=2", "reward": beta}
    found = peak_memory(lambda: generate(model, prompts, **options))
    assert 0.75 <= estimate(model, prompts, **options).bytes / found <= 1.25
    assert not 0.75 <= estimate(model, prompts, **options, batch=5).bytes / found <= 1.25


def test_bad_input_is_refused():
    given = problem_of(rows=2, tokens=TINY)
    with pytest.raises(ValueError, match="a batch has at least one row, got batch=0"):
        estimate("ancestral", given, batch=0)
    with pytest.raises(ValueError, match="unknown sampler"):
        estimate("ancestrall", given)
    with pytest.raises(ValueError, match="cannot start from given texts"):
        estimate("smc", given, start=any_texts(given))
    with pytest.raises(ValueError, match="cannot stand there in a finished text"):
        estimate("iterref", given, start=torch.full_like(given.canvas, TINY - 1))
    with pytest.raises(ValueError, match="too small for one run"):
        estimate("best_of_n:steps=4", given, budget=2)
    with pytest.raises(ValueError, match="there are no prompts"):
        estimate("tiny-news", [])
    with pytest.raises(ValueError, match="needs one pool of drafts, and the reward has 0"):
        estimate(FakeModel(), ["a"], reward=beta, start="drafts")
    with pytest.raises(TypeError, match="^estimate got an unexpected .* 'constraint': leave it out, the options"):
        estimate("tiny-news", ["a man"], constraint="[a-z]+")
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_row'"):
        estimate(FakeModel(), ["a"], max_row=3)
