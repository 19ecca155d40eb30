"""Which rows reach the denoiser: each different question once, none of the call before, and the same laws as ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref import evaluation, sample
from iterref.denoiser import Denoiser
from iterref.evaluation import Known
from iterref.exact.table import Table
from iterref.guidance import ClassifierFreeGuidance, Tempered
from iterref.noise import absorbing, uniform
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.strings import sampler_from_string

LENGTH, TOKENS = 4, 3


class Asked(Denoiser):
    """A denoiser whose law depends on everything that it is told to look at, and which notes what it was asked."""

    def __init__(self, time_independent: bool, promptless: bool, masked: bool = True) -> None:
        self.noise = absorbing(TOKENS + 1) if masked else uniform(TOKENS)
        self.time_independent, self.uses_prompts, self.has_leave_one_out = time_independent, not promptless, True
        self.calls: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self.calls.append(len(x_t))
        text = (x_t * torch.tensor([1.0, 5.0, 25.0, 125.0])).sum(1)
        text = text + (0 if self.time_independent else 7 * t) + (3 * rows if self.uses_prompts else 0)
        row, place = where.nonzero(as_tuple=True)
        score = torch.sin((text[row] + 31 * place)[:, None] * torch.arange(1, self.noise.vocab + 1))
        if self.noise.mask is not None:
            score[:, self.noise.mask] = -torch.inf
        return torch.log_softmax(score, -1)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self(x, torch.zeros(len(x), dtype=torch.float64), where, rows)


def problem_of(denoiser: Any, rows: int, **options: Any) -> Problem:
    return Problem(denoiser, lambda tokens, rows: tokens.sum(1).double(), torch.zeros(rows, LENGTH), **options)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from([None, 1, 3]), st.booleans(), st.booleans())
def test_laws_are_those_of_a_denoiser_that_is_asked_for_everything(
    seed, time_independent, promptless, size, remember, twice
):
    generator = torch.Generator().manual_seed(seed)
    denoiser = Asked(time_independent, promptless)
    prompts = torch.randint(3, (3,), generator=generator)
    run = Run(problem_of(denoiser, 3, max_rows=size, remember=remember, prompts=prompts))

    def question() -> tuple[Tensor, ...]:
        x = torch.randint(2, (12, LENGTH), generator=generator)
        where = torch.rand(12, LENGTH, generator=generator) < 0.5
        where[:4, 2:] = False  # few different questions, and some rows that ask nothing
        return x, torch.randint(2, (12,), generator=generator).double() / 2, where

    wide, questions, rows = run.repeat(4), [question() for _ in range(3)], prompts.repeat(4)
    for x, times, where in questions + questions[-1:] * twice:
        wanted = denoiser(x, times, where, rows)
        denoiser.calls.clear()
        made = run.meter.made_nfe
        assert torch.equal(wide.predict(x, times, where), wanted)
        told = (x, where, times[:, None] * (not time_independent), rows[:, None] * (not promptless))
        different = torch.cat([part.double() for part in told], 1)[where.any(1)].unique(dim=0)
        assert sum(denoiser.calls) == run.meter.made_nfe - made <= len(different)
        if not (remember and time_independent):
            assert sum(denoiser.calls) == len(different)
        assert all(calls <= (size or 12) for calls in denoiser.calls)
    if twice and remember and time_independent:
        assert denoiser.calls == []
    assert run.meter.asked_nfe == 12 * (3 + twice)


@pytest.mark.parametrize("method", ["ancestral:steps=40", "iterref:steps=3,moves=6", "best_of_n:n=4", "smc:steps=8"])
@pytest.mark.parametrize("masked", [True, False])
def test_samples_are_the_same_whether_or_not_answers_are_shared(method: str, masked: bool) -> None:
    results = []
    for shares in (True, False):
        denoiser = Asked(masked, shares, masked)
        problem = problem_of(denoiser, 5, remember=shares, alpha=0.5)
        if not shares:  # the same law, but told apart: nothing is shared
            denoiser.time_independent, denoiser.__class__ = False, Told
        results.append(sample(sampler_from_string(method), problem, seed=1))
    shared, plain = results
    assert torch.equal(shared.tokens, plain.tokens) and shared.asked == plain.asked
    assert shared.cost.nfe <= plain.cost.nfe
    if masked:
        assert shared.cost.nfe < plain.cost.nfe


class Told(Asked):
    """Says that it looks at time and prompt, and does not."""

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        masked = self.noise.mask is not None
        return super().__call__(x_t, torch.zeros_like(t) if masked else t, where, torch.zeros_like(rows))


def test_a_fine_grid_costs_no_more_than_its_states() -> None:
    """A draft whose clean samples compete at 200 grid times has five states of 4 tokens a row at the most."""
    denoiser = Asked(time_independent=True, promptless=False)
    fine = sampler_from_string("iterref:steps=200,moves=0,decisions=1")
    result = sample(fine, problem_of(denoiser, 6), seed=0)
    assert result.asked.nfe == 200 and result.cost.nfe <= 5
    bare = sample(fine, problem_of(denoiser, 6, remember=False), seed=0)
    assert torch.equal(bare.tokens, result.tokens) and bare.cost.nfe > 100


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "KEEP", (2 * LENGTH * (TOKENS + 1), 0))
    denoiser = Asked(time_independent=True, promptless=False)
    run = Run(problem_of(denoiser, 4, max_rows=1))
    where = torch.ones(4, LENGTH, dtype=torch.bool)
    for _ in range(2):
        run.predict(torch.zeros(4, LENGTH, dtype=torch.long), 0.5, where)
    assert run.meter.made_nfe == 4 + 2 and run._posteriors is not None
    assert run._posteriors.p.numel() == 2 * LENGTH * (TOKENS + 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 1), st.integers(0, 1)), max_size=12))
def test_questions_are_the_same_where_both_halves_of_their_digests_are(keys: list[tuple[int, int]]) -> None:
    """In order of appearance, each with all its rows; the same first half may cost a question, and merges none."""
    order, begin, count = evaluation.alike(np.array(keys, dtype=np.int64).reshape(-1, 2))
    groups = [order[at : at + size].tolist() for at, size in zip(begin, count, strict=True)]
    assert sorted(row for group in groups for row in group) == [*range(len(keys))] and groups == sorted(groups)
    assert all(len({keys[row] for row in group}) == 1 and group == sorted(group) for group in groups)
    if len({first for first, _ in keys}) == len(set(keys)):
        assert len(groups) == len(set(keys))


def test_what_is_known_is_found_by_both_halves() -> None:
    known = Known()
    known.keep(np.array([[3, 1], [-5, 2]]), np.array([1, 1]), [torch.tensor([[30.0], [-50.0]])])
    old, new, places = known.find(np.array([[-5, 2], [3, 2], [9, 9], [3, 1]]))
    assert old.tolist() == [0, 3] and new.tolist() == [1, 2] and places[old].tolist() == [1, 0]


def test_denoisers_of_denoisers_say_what_those_within_say() -> None:
    noise = absorbing(3)
    table = Table(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)), noise)
    told = Asked(time_independent=False, promptless=False)
    assert Tempered(table, 0.5).time_independent and not Tempered(table, 0.5).uses_prompts
    assert not Tempered(told, 0.5).time_independent and Tempered(told, 0.5).uses_prompts
    assert not ClassifierFreeGuidance(table, table, 2.0).uses_prompts
    assert not ClassifierFreeGuidance(told, told, 2.0).time_independent


def test_streams_belong_to_rows_that_share_a_law() -> None:
    """Copies of one state share the law and not the draw."""
    denoiser = Asked(time_independent=True, promptless=True)
    run = Run(problem_of(denoiser, 300))
    x, where = torch.zeros(300, LENGTH, dtype=torch.long), torch.ones(300, LENGTH, dtype=torch.bool)
    drawn, _ = run.draw(x, 0.5, where, 2, Rng.seeded(0, 300))
    assert denoiser.calls == [1] and len(drawn[0].unique(dim=0)) > 10 and not torch.equal(drawn[0], drawn[1])


def _denoisers() -> dict[str, tuple[Any, Tensor]]:
    """Denoisers that give probabilities too, with half-masked canvases (2, L) of theirs."""
    from benchmarks.shapes import dit
    from iterref.models.bidirectional import Bidirectional
    from iterref.models.dit import DitOptions
    from iterref.models.text.prompted import Filling
    from iterref.models.tiny_news import Summarizer

    made = dit(DitOptions(vocab=40, width=16, blocks=1, heads=2, condition=8), torch.float32, torch.device("cpu"))
    news, canvas, _ = Summarizer.load().prepare(["a man was arrested in london on monday", "the rain fell"])

    class Network(Bidirectional):
        def __init__(self) -> None:
            self.feels_padding = False

        def __call__(self, ids: Tensor, seen: Tensor | None, where: Tensor) -> Tensor:
            return torch.sin(torch.arange(9.0) * (1 + ids[where][:, None]) + ids.sum(1)[where.nonzero()[:, 0]][:, None])

    answers = Filling(Network(), absorbing(9), torch.tensor([7]), 4)([[1, 2], [3]])
    table = Table(torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(1)), absorbing(4))
    found = {"dit": (made, torch.full((2, 6), 39)), "answers": (answers, torch.full((2, 4), 8)),
             "tempered": (Tempered(table, 0.6), torch.full((2, 3), 3)), "tiny-news": (news, canvas),
             "tempered news": (Tempered(news, 0.5), canvas.clone())}  # fmt: skip
    for _, x in found.values():
        x[0, 1] = x[1, 0] = 1
    return found


def test_probabilities_are_those_whose_logarithms_are_given() -> None:
    rows, times = torch.arange(2), torch.full((2,), 0.5, dtype=torch.float64)
    for name, (denoiser, x_t) in _denoisers().items():
        where = torch.ones_like(x_t, dtype=torch.bool)
        where[1, 2] = False
        shares = denoiser.probabilities(x_t.clone(), times, where, rows)
        logs = denoiser(x_t.clone(), times, where, rows)
        assert shares.sub(logs.exp()).abs().max() < 1e-6, name
        assert shares.sum(1).sub(1).abs().max() < 1e-5, name
        run = Run(Problem(denoiser, lambda tokens, rows: tokens.sum(1).double(), torch.zeros_like(x_t), forbidden=[2]))
        law = run.predict(x_t, 0.5, where)
        assert law[:, 2].isneginf().all()
        allowed = logs.double().index_fill(1, torch.tensor([2]), -torch.inf).log_softmax(1)
        likely = allowed > -20  # below, a float32 probability has few digits or none
        assert law.double().sub(allowed)[likely].abs().max() < 1e-4, name
        drawn, sure = run.draw(x_t, 0.5, where, 3, Rng.seeded(0, 2))
        own = allowed.gather(1, drawn[:, where].T).T
        assert sure[:, where].sub(own).abs().max() < 1e-4, name
        assert not bool((drawn[:, where] == 2).any())


def test_a_law_without_a_possible_token_is_named() -> None:
    where = torch.ones(3, LENGTH, dtype=torch.bool)
    law = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(4, 4)

    class Sure(Asked):
        has_probabilities = True

        def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
            return law.repeat(len(x_t), 1)

    run = Run(problem_of(Sure(True, True), 3, forbidden=[0]))
    with pytest.raises(ValueError, match="row 0: the denoiser gives no probability to any allowed token"):
        run.draw(torch.zeros(3, LENGTH, dtype=torch.long), 0.5, where, 1, Rng.seeded(0, 3))
    with pytest.raises(ValueError, match="has no finite log-weight"):
        Rng.seeded(0, 1).categorical(torch.zeros(1, 4), torch.ones(1, 1, dtype=torch.bool), log=False)
