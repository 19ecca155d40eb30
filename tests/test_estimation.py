"""Tests of estimation: what is stated before a run against what the same count finds in the whole run.

The bar: stated / measured within [0.8, 1.2] for every method, both noises, calls of all sizes, with batches 8 to 16
times as large as the probe; and half or a quarter of the rows is outside of it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import iterref.estimation.probe as probes
from iterref import Problem, evaluation, generate, parse, problem, random, sample
from iterref.denoiser import Denoiser, carry_over, from_leave_one_out
from iterref.drafts import OwnDrafts
from iterref.estimation import Estimate, Footprint, estimate, held
from iterref.estimation.bounds import Drawing
from iterref.estimation.footprint import Moment
from iterref.estimation.law import Law, derived, straight
from iterref.estimation.probe import Probe, Seen, any_texts, chosen, shorter
from iterref.guidance import ClassifierFreeGuidance
from iterref.models.dit import Dit, DitOptions
from iterref.models.tiny_news import Summarizer
from iterref.noise import absorbing, uniform
from iterref.registry import names
from tests.support.variants import MASKED, VARIANTS, small

torch.set_num_threads(1)
SLOW = pytest.mark.slow
LENGTH, TOKENS, SIZE = 8, 48, 8  # positions, tokens, and rows of a probe


class Network(Denoiser):
    """A small random DiT, as a denoiser of masked or of uniform noise."""

    def __init__(self, noise: str, tokens: int = TOKENS) -> None:
        torch.manual_seed(0)
        self.noise = absorbing(tokens, tokens - 1) if noise == "absorbing" else uniform(tokens)
        self.network = Dit(DitOptions(tokens, 16, 1, 2, 8)).eval().requires_grad_(False)
        self.time_independent = noise == "absorbing"
        if noise == "uniform":
            self.leave_one_out = self.others

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        logits = self.network(x_t, torch.zeros(1), where)
        if self.noise.mask is not None:
            return carry_over(logits, x_t, where, self.noise.mask)
        return from_leave_one_out(torch.log_softmax(logits, -1), x_t, t, where, self.noise)

    def others(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.log_softmax(self.network(x, torch.zeros(1), where), -1)


def by_content(tokens: Tensor, rows: Tensor) -> Tensor:
    return (tokens * torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])).sum(1) % 11 * 0.2


def problem_of(noise: str, rows: int, max_rows: int | None = None, tokens: int = TOKENS) -> Problem:
    canvas = torch.zeros(rows, LENGTH, dtype=torch.long)
    return Problem(Network(noise, tokens), by_content, canvas, alpha=0.5, max_rows=max_rows)


def measured(method: str, given: Problem, **options) -> int:
    with Footprint() as footprint:
        sample(parse(method), given, **options)
    return footprint.peak


@pytest.fixture(autouse=True)
def small_probes(monkeypatch):
    """Probes of SIZE rows, whatever a method has side by side, so that runs of a few hundred rows are large."""
    monkeypatch.setattr(probes, "ROWS", SIZE)
    monkeypatch.setattr(probes, "TOKENS", 1)


def right(stated: float, found: float) -> bool:
    return 0.8 <= stated / found <= 1.2


# The counter


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


def test_the_count_is_the_allocators_own_record():
    """Against what the CPU's allocator tells the profiler: every allocation, within operations too (of narrow
    vocabularies a draw sums a hidden copy of its block, 4 MB at the most, so here is a wide one)."""
    for method in ("iterref:steps=2,moves=3,tries=2", "smc:steps=3,particles=3"):
        given = problem_of("absorbing", 16, tokens=5000)
        seen = measured(method, given)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            sample(parse(method), given)
        events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
        live = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).cumsum(0)
        assert seen == pytest.approx(int(live.max()), rel=0.02)


def test_another_device_is_not_counted():
    with Footprint("cuda") as count:
        torch.ones(100) * 2
    assert count.peak == 0


def test_what_is_held_is_counted_once():
    weight = torch.ones(10)
    layer = torch.nn.Linear(3, 2)
    assert held({"a": weight, "b": [weight[2:]]}, lambda: weight) == 40
    assert held(layer, layer.weight) == 4 * 8
    assert held(Network("absorbing")) == held(Network("absorbing").network) + 8 * TOKENS  # the law of the noise
    assert held(layer, device="cuda") == 0


def test_places_are_lines_of_the_package():
    given = problem_of("absorbing", 4)
    with Footprint() as count:
        sample(parse("ancestral:steps=2"), given)
    files = {file.rsplit("/", 1)[-1] for file, _ in count.places}
    assert {"dit.py", "random.py", "problem.py", "decode.py"} <= files
    assert not files & {"footprint.py", "evaluation.py"}
    assert max(moment.live for moment in count.places.values()) == count.peak


# The law


def test_terms_from_three_probes_by_hand():
    """A place that holds 10 + 100 B + 7 r bytes, one that holds 50 + 30 B, and a draw of 9 bytes a row up to 60."""

    def seen(rows: int, called: int) -> Probe:
        asked = 2 * rows
        places = {
            ("a", 1): Moment(10 + 100 * rows + 7 * 1000 * called, 10 + 100 * rows, 0, asked, called),
            ("b", 2): Moment(50 + 30 * rows, 20 * rows, 0, asked, called),
            ("c", 3): Moment(5000 * called + 9 * called, 0, 9 * called, asked, called, 2),
        }
        return Probe(rows, places, 0, Seen(asked), 0.0)

    draw = Drawing(100, torch.device("cpu"), 10, 20, 40, {(10, 2): 300, (20, 2): 450, (40, 2): 600})
    a, b, c = derived(seen(2, 4), seen(8, 16), seen(8, 4), draw).terms
    assert a.at(1000, 300) == pytest.approx(10 + 100 * 1000 + 7000 * 300)
    assert a.at(100, 300) == pytest.approx(10 + 100 * 100 + 7000 * 200)  # a question has 200 rows
    assert b.at(1000, 300) == b.at(1000, 1) == pytest.approx(50 + 30 * 1000)
    assert c.at(1000, 20) == pytest.approx(5000 * 20 + 9 * 20)
    assert c.at(1000, 300) == pytest.approx(5000 * 300 + 9 * 32)  # twice what 16 rows drew
    assert Law((a, b)).at(1000, 1) == max(a.at(1000, 1), b.at(1000, 1))
    assert Law((b,)).beside(1.0, 2.0).at(10, 1) == b.at(10, 1) + 21
    assert Law((b,)).then(Law((a,))).terms == (b, a)
    assert Law((c,)).times(3.0).at(1000, 300) == pytest.approx(3 * c.at(1000, 300))


def test_lines_stay_sensible():
    assert straight(30, 1, 60, 2) == (0, 30)
    assert straight(40, 1, 60, 2) == (20, 20)
    assert straight(60, 1, 60, 2) == (60, 0)
    assert straight(70, 1, 60, 2) == (60, 0)  # never less for more
    assert straight(1, 1, 60, 2) == (0, 30)  # never less than nothing at no rows
    assert straight(30, 1, 30, 1) == (0, 30)


# The bar


def check(noise: str, method: str, max_rows: int | None, times: int = 8) -> None:
    given = problem_of(noise, times * SIZE, max_rows)
    stated, found = estimate(method, given), measured(method, given)
    assert right(stated.bytes, found), stated.bytes / found
    assert stated.cost == parse(method).cost()


QUICK = [("absorbing", name, None) for name in names()]
QUICK += [("uniform", name, 24) for name in ("ancestral", "iterref", "smc", "svdd")]  # the slow test has the others


@pytest.mark.parametrize("noise, name, max_rows", QUICK)
def test_the_memory_of_every_method_is_stated(noise, name, max_rows):
    check(noise, small(name), max_rows)


@pytest.mark.parametrize("noise, name, max_rows", [("uniform", "ancestral", None), ("absorbing", "iterref", 24)])
def test_a_quarter_of_the_rows_is_told_apart(noise, name, max_rows):
    """Negative control."""
    given = problem_of(noise, 12 * SIZE, max_rows)
    found = measured(small(name), given)
    assert not right(estimate(small(name), given, batch=3 * SIZE).bytes, found)
    assert not right(estimate(small(name), given, batch=24 * SIZE).bytes, found)


@SLOW
@pytest.mark.parametrize("max_rows", [None, 32, 5])
@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
@pytest.mark.parametrize("name", names())
def test_the_memory_of_all_variants_is_stated(noise, name, max_rows):
    for written in ("", *VARIANTS.get(name, ()), *(MASKED.get(name, ()) if noise == "absorbing" else ())):
        if not ("order=bounded" in written and noise == "uniform" and max_rows == 5):
            check(noise, small(name, written), max_rows, times=16)


@SLOW
@pytest.mark.xfail(reason="stated 0.79 to 0.80 of what is found", strict=True)
@pytest.mark.parametrize(
    "method", ["ancestral:steps=2,order=bounded,bound=0.5", "best_of_n:steps=2,n=2,order=bounded,bound=0.9"]
)
def test_calls_of_five_rows_that_open_as_many_tokens_as_chance_will(method):
    """Known to be missed by a hair: the fullest of some hundred tiny calls is fuller than any that a probe sees."""
    check("uniform", method, 5, times=16)


def test_batches_up_to_32_times_the_probe():
    given = problem_of("absorbing", 32 * SIZE, 40)
    assert right(estimate("iterref:steps=2,moves=2", given).bytes, measured("iterref:steps=2,moves=2", given))


@pytest.mark.parametrize("repeated", ["iterref:steps=2,moves=12,blocks=1", "tempering:steps=2,moves=12,width=2",
    "metropolis:steps=2,moves=12", "select_refine:steps=2,n=2,loops=9", "particle_gibbs:steps=2,sweeps=9"])  # fmt: skip
def test_memory_is_that_of_a_few_moves(repeated):
    """What lets probes be short: the peak of many moves, loops or sweeps is that of a few, and the trace's lines."""
    given, method = problem_of("absorbing", 24), parse(repeated)
    brief = shorter(method)
    assert brief != method and str(shorter(brief)) == str(brief)
    lines = 10 * 8 * 24 * (method.iterations - brief.iterations)
    found, few = measured(repeated, given), measured(str(brief), given)
    assert few * 0.97 <= found <= (few + lines) * 1.03


def test_what_many_steps_leave_behind_is_stated():
    """The trace of many moves takes as much as a move."""
    given = problem_of("absorbing", 8 * SIZE, 32)
    method, texts = "metropolis:moves=40", any_texts(given)
    found = measured(method, given, watch=(0, 3), start=texts)
    assert right(estimate(method, given, watch=(0, 3), start=texts).bytes, found)
    assert not right(estimate("metropolis:moves=4", given, start=texts).bytes, found)


@pytest.mark.parametrize("max_rows", [None, 64, pytest.param(24, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_what_is_remembered_is_bounded(monkeypatch, max_rows):
    """A run that cannot remember all its laws, though a probe could."""
    for room in (evaluation, problem):
        monkeypatch.setattr(room, "KEEP", (64 * LENGTH * TOKENS, 0))
    given = problem_of("absorbing", 16 * SIZE, max_rows)
    for method in ("iterref:steps=2,moves=3,blocks=1", "ancestral:steps=2,order=confidence"):
        assert right(estimate(method, given).bytes, measured(method, given))


def test_blocks_of_draws_are_bounded(monkeypatch):
    """Where a draw takes more than a call, until its blocks are full, as they are in no probe."""
    monkeypatch.setattr(random, "BLOCK", (2**12, 0))
    given, method = problem_of("absorbing", 16 * SIZE), "best_of_n:steps=1,n=2"
    stated, found = estimate(method, given).bytes, measured(method, given)
    assert right(stated, found)
    monkeypatch.setattr(random, "BLOCK", (2**30, 0))
    assert estimate("iterref:steps=1,moves=0,tries=16", given).bytes > 1.2 * stated


def test_a_start_guidance_and_forbidden_tokens_are_estimated_as_they_run():
    given = problem_of("absorbing", 12 * SIZE)
    texts = any_texts(given)
    stated = estimate("iterref:steps=2,moves=3", given, start=texts)
    assert right(stated.bytes, measured("iterref:steps=2,moves=3", given, start=texts))
    assert stated.sampler == parse("iterref:steps=0,moves=3")
    guided = Problem(
        ClassifierFreeGuidance(given.denoiser, given.denoiser, 2.0), by_content, given.canvas, forbidden=[3, 5]
    )
    stated = estimate("ancestral:steps=2", guided, budget=8)
    assert stated.sampler == parse("ancestral:steps=4") and stated.cost.denoiser == 8
    assert right(stated.bytes, measured("ancestral:steps=4", guided))


def test_rows_of_unequal_length_stand_for_all():
    given = problem_of("absorbing", 16 * SIZE)
    free = torch.arange(LENGTH) < torch.arange(16 * SIZE)[:, None] % (LENGTH + 1)
    given = Problem(given.denoiser, by_content, given.canvas, free)
    assert given.opened[chosen(given, SIZE)].sum() / SIZE == pytest.approx(LENGTH / 2, abs=0.5)
    assert right(estimate("ancestral:steps=1", given).bytes, measured("ancestral:steps=1", given))


# What is made of it


def test_the_largest_call_that_fits():
    given = problem_of("absorbing", 12 * SIZE)
    stated = estimate("best_of_n:steps=2,n=2", given)
    memory = 0.7 * stated.bytes
    size = stated.max_rows_within(memory)
    assert 1 < size < 24 * SIZE
    found = measured("best_of_n:steps=2,n=2", problem_of("absorbing", 12 * SIZE, size))
    assert right(memory, found)
    assert stated.max_rows_within(10 * stated.bytes) == 24 * SIZE
    assert stated.rows_within(stated.bytes) == pytest.approx(12 * SIZE, abs=1)
    assert stated.rows_within(stated.bytes / 2) == pytest.approx(6 * SIZE, abs=SIZE)
    with pytest.raises(ValueError, match=r"even with max_rows=1, and 1 kB are there: run at most \d+ rows at a time"):
        stated.max_rows_within(1000)


def test_the_estimate_prints():
    stated = estimate("ancestral:steps=2", problem_of("absorbing", 2))
    assert isinstance(stated, Estimate) and stated.per_row > 0 and stated.seconds > 0
    assert str(stated).startswith("ancestral:steps=2 on 2 rows: ") and "kB at the most, beside" in str(stated)
    assert stated.weights == held(Network("absorbing"))


def test_nothing_is_touched():
    """Not the problem, its meter and reward, the state of torch's generator, nor what a run gives afterwards."""
    asked = []

    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        asked.append(len(tokens))
        return by_content(tokens, rows)

    canvas = torch.zeros(40, LENGTH, dtype=torch.long)
    given = Problem(Network("absorbing"), reward, canvas, max_rows=16)
    before, state = sample(parse("iterref:steps=2,moves=2"), given), torch.get_rng_state()
    asked.clear()
    estimate("iterref:steps=2,moves=2", given)
    assert not asked and torch.equal(torch.get_rng_state(), state)
    assert given.meter.asked_denoiser == given.meter.made_reward == 0 and given.laws is None and given.best is None
    assert not given.canvas.any()
    after = sample(parse("iterref:steps=2,moves=2"), given)
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.rewards, after.rewards)


def test_bad_input_is_refused():
    given = problem_of("absorbing", 4)
    with pytest.raises(ValueError, match="a batch has at least one row, got batch=0"):
        estimate("ancestral", given, batch=0)
    with pytest.raises(ValueError, match="unknown method"):
        estimate("ancestrall", given)
    with pytest.raises(ValueError, match="cannot start from given texts"):
        estimate("smc", given, start=any_texts(given))
    with pytest.raises(ValueError, match="cannot stand there in a finished text"):
        estimate("iterref", given, start=torch.full_like(given.canvas, TOKENS - 1))
    with pytest.raises(ValueError, match="too small for one run"):
        estimate("best_of_n:steps=4", given, budget=2)
    with pytest.raises(ValueError, match="there are no prompts"):
        estimate("tiny-news", [])
    with pytest.raises(ValueError, match="needs one pool of drafts, and the reward has 0"):
        estimate("tiny-news", ["a man was found ."], reward=lambda completions: [0.0], start="drafts")
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_row'"):
        estimate("tiny-news", ["a man was found ."], max_row=3)


# The bundled model


@pytest.fixture(scope="module")
def news() -> Summarizer:
    return Summarizer.load()


WORDS = "the mayor said on monday that police had arrested two men after a fire in a bakery near the river".split()
PROMPTS = [" ".join(WORDS[i % 9 : 12 + i % 7]) for i in range(32)]


@pytest.mark.parametrize(
    "method, options",
    [
        ("ancestral:steps=2", {"reward": lambda completions, **columns: [len(text) for text in completions]}),
        ("iterref:steps=2,moves=1,tries=2", {"reward": OwnDrafts(2, 2), "start": "drafts", "max_rows": 10}),
        pytest.param("smc:steps=2,particles=2", {"reward": OwnDrafts(2, 2), "max_rows": 24}, marks=SLOW),
    ],
)
def test_texts_of_the_bundled_model(news, monkeypatch, method, options):
    monkeypatch.setattr(probes, "ROWS", 4)
    with Footprint() as footprint:
        result = generate(news, PROMPTS, sampler=method, **options)
    stated = estimate(news, PROMPTS, sampler=method, **options)
    assert right(stated.bytes, footprint.peak), stated.bytes / footprint.peak
    assert stated.cost == result.asked
    assert stated.weights == held(news)
    assert not right(estimate(news, PROMPTS, sampler=method, **options, batch=8).bytes, footprint.peak)
