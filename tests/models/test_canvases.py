"""Answers of several canvases: each denoised behind those before it, which the encoder reads once, one after another.

Compared with transformers 5.23.0 on the same random weights (tests/models/test_diffusion_gemma.py says of which sizes):
the class is given the prompt and the canvases before as its prompt, a text at a time, as its `generate` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

import iterref
from iterref import loading
from iterref.check import check_model
from iterref.estimation import estimate
from iterref.generation import draw_drafts
from iterref.models.diffusion_gemma import CanvasDenoiser
from iterref.models.text.prompted import PromptedModel
from iterref.problem import Problem
from iterref.result import Interrupted
from iterref.rewards.base import RewardError
from iterref.sampling import sample
from iterref.turns import turns
from tests.support.gemma import LENGTH, VOCAB, made, tokenizer

pytest.importorskip("transformers.models.diffusion_gemma")

PROMPTS = [[2, 7, 8], [9], [2, 3, 5, 7, 8, 9, 10, 4, 3, 6], []]  # the third is longer than a canvas and the window
L = 3 * LENGTH - 2
WORDS = ["the cat", "dog sat on the mat", "the dog sat on the mat the cat ran"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    made().save_pretrained(folder)
    tokenizer(folder)
    return folder


def opened(folder: Path, length: int = L, **options: Any) -> PromptedModel:
    return loading.load(folder, length=length, **options)


def asked(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(VOCAB, (rows, L), generator=generator)
    return x, torch.full((rows,), 0.5, dtype=torch.float64), torch.rand(x.shape, generator=generator) < 0.6


def packed(law: Tensor, where: Tensor) -> list[Tensor]:
    return list(law.exp().split(where.sum(1).tolist()))


@pytest.mark.parametrize("passes", [0, 1])
def test_each_canvas_is_denoised_behind_those_before_it(folder, passes):
    theirs, ours = made(), opened(folder, self_condition=passes).bind(PROMPTS)
    x, t, where = asked(4)
    laws = packed(ours(x, t, where, torch.arange(4)), where)
    for row, prompt in enumerate(PROMPTS):
        wanted, without = [], []
        for begin in range(0, L, LENGTH):
            canvas = x[row : row + 1, begin : begin + LENGTH]
            for text, found in (([*prompt, *x[row, :begin].tolist()], wanted), (prompt, without)):
                if not text:  # which the class cannot read
                    found.append(torch.full((canvas.shape[1], VOCAB), torch.nan))
                    continue
                logits = None
                for _ in range(passes + 1):
                    logits = theirs(
                        input_ids=torch.tensor([text]), decoder_input_ids=canvas, self_conditioning_logits=logits
                    ).logits
                logits[..., [14, 15, 16, 17, 18, 19]] = -torch.inf
                found.append(logits[0].softmax(-1))
        known = torch.cat(wanted)[where[row]].isfinite().all(1)
        assert laws[row][known].sub(torch.cat(wanted)[where[row]][known]).abs().max() < 1e-5
        later = where[row].nonzero()[:, 0] >= LENGTH
        if prompt:  # the control: it matters what the canvases before say
            assert laws[row][later].sub(torch.cat(without)[where[row]][later]).abs().max() > 0.01


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [2, 2, 0, 3, 1, 2]])
def test_a_row_is_the_same_alone_among_others_and_without_the_cache(folder, rows):
    model, plain = opened(folder), opened(folder, cached=False)
    x, t, where = asked(len(rows))
    told = x, t, where, torch.tensor(rows)
    cached = model.bind(PROMPTS)
    laws = packed(cached(*told), where)
    again, anew = packed(cached(*told), where), packed(plain.bind(PROMPTS)(*told), where)
    for at, row in enumerate(rows):
        one = x[at : at + 1], t[:1], where[at : at + 1], torch.zeros(1, dtype=torch.long)
        for other in (model.bind([PROMPTS[row]])(*one).exp(), again[at], anew[at]):
            torch.testing.assert_close(laws[at], other, atol=1e-5, rtol=0)


def test_another_cache_would_show(folder):
    denoiser, (x, t, where) = opened(folder).bind(PROMPTS), asked(4)
    right = denoiser(x, t, where, torch.arange(4)).exp()
    kept = denoiser.contexts.kept
    for name in kept.names():
        for layer in kept[name].layers:
            layer.values = -layer.values
    assert denoiser(x, t, where, torch.arange(4)).exp().sub(right).abs().max() > 1e-3


def test_what_there_is_no_room_for_is_read_anew(folder, monkeypatch):
    denoiser, (x, t, where) = opened(folder).bind(PROMPTS), asked(4)
    right = denoiser(x, t, where, torch.arange(4))
    assert len(denoiser.contexts.kept) == 8  # two contexts each
    monkeypatch.setattr("iterref.models.kept.KEPT", (0, 0))
    for row in (0, 3, 0):
        one = denoiser(x[[row]], t[:1], where[[row]], torch.tensor([row]))
        begin = int(where[:row].sum())
        torch.testing.assert_close(one.exp(), right[begin : begin + len(one)].exp(), atol=1e-5, rtol=0)
        assert len(denoiser.contexts.kept) == 1 and denoiser.contexts.kept.total > 0


def cats(completions: list[str], **columns: Any) -> list[float]:
    return [float(text.split().count("cat")) for text in completions]


def test_canvases_are_written_one_after_another_and_read_once(folder):
    model, seen, read = opened(folder), [], []
    model._network.model.model.encoder.register_forward_hook(
        lambda module, given, told, out: read.append(tuple(told["input_ids"].shape)), with_kwargs=True
    )
    original = CanvasDenoiser._logits

    def watched(self: Any, x_t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        seen.append({int(place) // LENGTH for place in where.nonzero()[:, 1]})
        return original(self, x_t, where, rows)

    told = dict(reward=cats, alpha=0.2, seed=1, min_new_tokens=L)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CanvasDenoiser, "_logits", watched)
        found = iterref.generate(model, WORDS, sampler="iterref:steps=3,tries=4,moves=2", **told)
    assert [one for at, one in enumerate(seen) if not at or one != seen[at - 1]] == [{0}, {1}, {2}]
    assert len(read) == 3 and read[1:] == [(3, LENGTH)] * 2  # the prompts, and each finished canvas of the three
    assert found.lengths.tolist() == [L] * 3
    once = iterref.generate(opened(folder, LENGTH), WORDS, sampler="iterref:steps=3,tries=4,moves=2", **{
        **told, "min_new_tokens": LENGTH})  # fmt: skip
    assert torch.equal(once.tokens, found.tokens[:, :LENGTH])  # the first canvas is the answer of one canvas
    assert found.asked.nfe == 3 * once.asked.nfe and len(found.trace.steps) == 3 * len(once.trace.steps)
    base = iterref.generate(model, WORDS, sampler="ancestral:steps=5", **told)
    assert float(found.rewards.mean()) > float(base.rewards.mean()) + 0.5
    assert found.rewards.tolist() == cats(found.texts)


def test_an_answer_that_has_ended_needs_no_further_canvas(folder):
    model, calls = opened(folder), []

    def short(completions: list[str], **columns: Any) -> list[float]:
        return [-float(len(text.split())) for text in completions]

    model._network.model.model.decoder.register_forward_hook(lambda *given: calls.append(1))
    found = iterref.generate(model, WORDS, reward=short, alpha=0.01, sampler="iterref:steps=3,tries=16,moves=6")
    assert bool((found.lengths < LENGTH).all())
    blank = model.encode([""])[0, -1]
    assert bool((found.tokens[:, LENGTH:] == blank).all())  # nothing was written there
    before = len(calls)
    calls.clear()
    iterref.generate(model, WORDS, reward=short, alpha=0.01, sampler="iterref:steps=3,tries=16,moves=6",
                     min_new_tokens=L)  # fmt: skip
    assert len(calls) > 2 * before


def test_the_distribution_is_that_of_canvas_after_canvas(tmp_path):
    """Two canvases of one position, three tokens: of 6,000 plain samples against the class' own distributions."""
    theirs = made(3, 1, media=False, spread=0.4)
    theirs.save_pretrained(tmp_path)
    model = loading.load(tmp_path, length=2, tokenizer="none")
    ids = [[0]] * 6000
    denoiser = model.bind(ids)
    problem = Problem(denoiser, lambda tokens, rows: torch.zeros(len(tokens)).double(),
                      torch.zeros(len(ids), 2, dtype=torch.long))  # fmt: skip
    tokens = sample(iterref.samplers.Ancestral(steps=1), problem, seed=4).tokens
    counts = torch.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9).double()
    start = torch.arange(3)[:, None]  # what noise stood there

    def one(text: list[int]) -> Tensor:
        given = torch.tensor([text]).expand(3, -1)
        return theirs(input_ids=given, decoder_input_ids=start).logits[:, 0].double().softmax(-1).mean(0)

    law = torch.cat([one([0])[a] * one([0, a]) for a in range(3)])
    assert chisquare(counts, law * len(ids)).pvalue > 1e-3
    apart = torch.outer(one([0]), one([0])).flatten()  # the control: both behind the prompt alone
    assert chisquare(counts, apart * len(ids)).pvalue < 1e-6


def test_the_last_canvases_alone_are_refined(folder):
    model = opened(folder)
    plain = iterref.generate(model, WORDS, sampler="ancestral:steps=4", reward=cats, seed=3, min_new_tokens=L)
    told = {"prompts": WORDS, "reward": cats, "strength": 1.0, "sampler": "iterref:tries=4,moves=6", "seed": 5}
    kept = iterref.refine(model, plain.tokens, last_blocks=1, budget=12, **told)
    assert torch.equal(kept.tokens[:, : 2 * LENGTH], plain.tokens[:, : 2 * LENGTH])
    assert not torch.equal(kept.tokens, plain.tokens) and kept.cost.nfe <= 12
    whole = iterref.refine(model, plain.tokens, budget=36, **told)
    assert bool((whole.tokens != plain.tokens).view(3, -1)[:, :LENGTH].any()) and whole.cost.nfe <= 36
    assert float(whole.rewards.mean()) >= float(kept.rewards.mean()) >= float(plain.rewards.mean())


def test_budgets_drafts_and_estimates_count_every_canvas(folder):
    model = opened(folder)
    found = iterref.generate(model, WORDS, reward=cats, sampler="iterref:tries=4", budget=(30, 120), alpha=0.2)
    assert 18 <= found.asked.nfe <= 30 and found.asked.reward_calls <= 120
    assert len(turns(Problem(model.bind([[1]]), cats, torch.zeros(1, L, dtype=torch.long)))) == 3
    method = found.sampler
    stated = estimate(model, WORDS, reward=cats, sampler=method)
    assert stated.cost.nfe == 3 * method.cost().nfe and stated.cost.reward_calls == 3 * method.cost().reward_calls
    pool = iterref.OwnDrafts(n=3, steps=2)
    agreed = iterref.generate(model, WORDS, reward=pool, sampler="iterref:tries=2", budget=40, min_new_tokens=L)
    drafts = draw_drafts(model, WORDS, pool)
    assert drafts.asked.nfe == 3 * 3 * 2 and agreed.asked.nfe <= 40
    for passes in (0, 1):
        given = opened(folder, self_condition=passes)
        told = {"reward": pool, "sampler": "iterref:tries=2", "budget": 60 * (1 + passes)}
        stated, made = estimate(given, WORDS, **told), iterref.generate(given, WORDS, min_new_tokens=L, **told)
        assert stated.cost == made.asked and stated.sampler == made.sampler
    assert bool((drafts.tokens[..., LENGTH:] != 0).any())
    with pytest.raises(ValueError, match="is too small for one run"):
        iterref.generate(model, WORDS, reward=cats, sampler="iterref:tries=4", budget=2)


def test_what_breaks_off_has_the_canvases_that_were_written(folder):
    model, whole = opened(folder), []

    def failing(completions: list[str], **columns: Any) -> list[float]:
        whole.append(max(len(text.split()) for text in completions))
        if whole[-1] > LENGTH:
            raise RewardError("no more")
        return cats(completions)

    told = {"sampler": "iterref:steps=2,tries=2", "min_new_tokens": L, "seed": 2}
    with pytest.raises(RewardError) as error:
        iterref.generate(model, WORDS, reward=failing, **told)
    first = iterref.generate(opened(folder, LENGTH), WORDS, reward=cats, **{**told, "min_new_tokens": LENGTH})
    assert torch.equal(error.value.partial.tokens[:, :LENGTH], first.tokens) and not error.value.partial.finished
    steps = []

    def stop(progress: Any) -> None:
        steps.append((progress.step, progress.steps))
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        iterref.generate(model, WORDS, reward=cats, callback=stop, **told)
    assert [step for step, _ in steps] == [1, 2, 3, 4] and steps[0][1] % 3 == 0


def test_it_passes_the_check_and_refuses_what_does_not_fit(folder):
    findings = check_model(opened(folder), prompts=WORDS)
    assert not [one for one in findings if one.passed is False], findings
    assert {"prompts", "rows", "packing"} <= {one.name for one in findings if one.passed}
    with pytest.raises(ValueError, match="prompt 1 takes .* positions and its answer 16, and the model reads 40"):
        opened(folder, chat=False).prepare(["cat", " ".join(["cat"] * 30)])
    with pytest.raises(ValueError, match="a constraint is met within one block of 6 positions, .* written in 3: ask"):
        iterref.generate(opened(folder), WORDS, reward=cats, sampler="iterref", constraint="(cat|dog)( (cat|dog))*")
    longer = iterref.generate(opened(folder, 4), WORDS, reward=cats, sampler="ancestral:steps=2", max_new_tokens=9)
    assert longer.tokens.shape == (3, 9)


def test_a_region_within_one_canvas_has_the_whole_budget(folder):
    model = opened(folder)
    text = "cat " * LENGTH + "dog [sat on the] mat"
    done = iterref.infill(model, [text.replace("cat dog", "dog")] * 2, prompts=["the mat"] * 2, reward=cats, budget=20,
                          alpha=0.1, sampler="iterref:tries=4")  # fmt: skip
    assert done.cost.nfe > 10 and all(one.endswith(" mat") for one in done.texts)
