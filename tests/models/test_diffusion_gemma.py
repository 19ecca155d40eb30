"""DiffusionGemma: the class' own numbers, one encoding a prompt, what the output is, and the family's steps.

Compared with transformers 5.23.0 (models/diffusion_gemma, a prompt at a time) on the same random weights, 6 layers,
V = 4000, L = 256, prompts of 1 to 300 tokens around a window of 64, logits of up to 20: the same bits in float64, with
self_condition=1 too; probabilities within 1.8e-5 (4.4e-4) in float32. Experts are chosen: where two tie to rounding an
answer jumps, as the class' own does between batches. diffusers 0.42.1: the law of a step within 1.3e-7. Losses were
read in google-deepmind/gemma at 7691fd4e (gemma/diffusion/hackable_diffusion_adapter), google/hackable_diffusion at
37c5e000 (lib/training/discrete_loss.py), NVIDIA-NeMo/Automodel at 02dacd57 (components/loss/dllm_loss.py, the same)
and ZHZisZZ/dllm at 37f3e116 (dllm/pipelines/diffusiongemma/trainer.py, the other).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import iterref
from iterref import loading
from iterref.check import check, check_model
from iterref.decoding import Decoder
from iterref.exact.markov import world
from iterref.generation import generate
from iterref.models import diffusion_gemma
from iterref.models.canvases import Contexts, Network
from iterref.models.diffusion_gemma import KIND, CanvasDenoiser
from iterref.models.text.prompted import PromptedModel
from iterref.noise import uniform
from iterref.random import Rng
from tests.support.gemma import LENGTH, NONE, VOCAB, WORDS, made, tokenizer
from tests.support.oracle import enumerate_outcomes, law_matrix
from tests.support.paths import stepped
from tests.support.published import all_states, product_matrix, step_matrix

pytest.importorskip("transformers.models.diffusion_gemma")

PROMPTS = [[2, 7, 8], [9], [2, 3, 5, 7, 8, 9, 10, 4, 3, 6], []]  # the third is longer than the sliding window


def load(folder: Path, model: Any, text: bool = False, **options: Any) -> PromptedModel:
    """The class' own files, read by this library."""
    model.save_pretrained(folder)
    if text:
        tokenizer(folder)
    return loading.load(folder, **options) if text else loading.load(folder, tokenizer="none", **options)


def canvases(rows: int, vocab: int = VOCAB, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(vocab, (rows, length), generator=generator)
    return x, torch.rand(x.shape, generator=generator) < 0.6


def half(rows: int) -> Tensor:
    return torch.full((rows,), 0.5, dtype=torch.float64)


def packed(law: Tensor, where: Tensor) -> list[Tensor]:
    """The laws of each row."""
    return list(law.exp().split(where.sum(1).tolist()))


@pytest.mark.parametrize(("attention", "passes"), [(None, 0), ("vision", 1), (None, 2)])
def test_laws_are_those_of_the_class(tmp_path, attention, passes):
    theirs = made(use_bidirectional_attention=attention)
    ours = load(tmp_path, theirs, self_condition=passes).bind(PROMPTS)
    x, where = canvases(4)
    laws = packed(ours(x, half(4), where, torch.arange(4)), where)
    for row, prompt in enumerate(PROMPTS[:3]):  # the class cannot read an empty prompt
        logits = None
        for _ in range(passes + 1):
            logits = theirs(
                input_ids=torch.tensor([prompt]), decoder_input_ids=x[row : row + 1], self_conditioning_logits=logits
            ).logits
        logits[..., [14, 15, 16]] = -torch.inf
        torch.testing.assert_close(laws[row], logits[0, where[row]].softmax(-1), atol=1e-5, rtol=0)
        if passes:  # negative control: the signal has a say
            alone = theirs(input_ids=torch.tensor([prompt]), decoder_input_ids=x[row : row + 1]).logits
            assert float((laws[row] - alone[0, where[row]].softmax(-1)).abs().max()) > 0.01
    assert ours.passes == passes + 1 and ours.time_independent


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [2, 2, 0, 3, 1, 2]])
def test_a_row_is_the_same_alone_and_among_others(tmp_path, rows):
    model = load(tmp_path, made())
    x, where = canvases(len(rows))
    laws = packed(model.bind(PROMPTS)(x, half(len(rows)), where, torch.tensor(rows)), where)
    for at, row in enumerate(rows):
        only = (x[at : at + 1], half(1), where[at : at + 1], torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(laws[at], model.bind([PROMPTS[row]])(*only).exp(), atol=1e-5, rtol=0)


def test_prompts_are_encoded_once_and_never_changed(tmp_path):
    model, calls = load(tmp_path, made(), text=True), []
    network = model._network
    network.model.model.encoder.register_forward_hook(lambda *given: calls.append("encoder"))
    network.model.model.decoder.register_forward_hook(lambda *given: calls.append("decoder"))
    denoiser, canvas, free = model.prepare(["the cat", "dog sat on the mat", "the cat"])
    prompts = denoiser.contexts.prompts
    assert calls == ["encoder"] and prompts.which.tolist() == [0, 1, 0]  # equal prompts share their memory
    before = [part.clone() for layer in prompts.cache.layers for part in (layer.keys, layer.values)]
    x, rows = denoiser.noise.prior(LENGTH, Rng.seeded(0, 6)), torch.tensor([0, 2, 1, 0, 0, 1])
    first = denoiser(x, half(6), torch.ones_like(x, dtype=torch.bool), rows)
    assert torch.equal(first, denoiser(x, half(6), torch.ones_like(x, dtype=torch.bool), rows))
    after = [part for layer in prompts.cache.layers for part in (layer.keys, layer.values)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert calls == ["encoder", "decoder", "decoder"]


def test_candidates_of_one_prompt_share_its_memory(tmp_path):
    model = load(tmp_path, made())
    one, many = model.bind([[2, 7]] * 3).contexts.prompts, model.bind(PROMPTS).contexts.prompts
    shown = one.of(torch.tensor([0, 2, 1, 1, 0]), LENGTH)["past_key_values"]
    for layer, kept in zip(shown.layers, one.cache.layers, strict=True):
        assert layer.keys.shape[0] == layer.values.shape[0] == 5
        assert layer.keys.data_ptr() == kept.keys.data_ptr() and layer.values.stride(0) == 0  # a view, no copy
    assert many.of(torch.arange(4), LENGTH)["past_key_values"] is many.cache
    assert many.of(torch.tensor([1, 0, 2, 3]), LENGTH)["past_key_values"] is not many.cache


def test_the_head_runs_on_open_positions_alone(tmp_path):
    model, seen = load(tmp_path, made(), self_condition=1), []
    model._network.model.lm_head.register_forward_hook(lambda head, given, out: seen.append(tuple(out.shape)))
    x, where = canvases(4)
    model.bind(PROMPTS)(x, half(4), where, torch.arange(4))
    assert seen == [(4, LENGTH, VOCAB), (int(where.sum()), VOCAB)]  # the signal needs all, the answer what is asked


def probabilities(theirs: Any, prompt: list[int], states: Tensor) -> Tensor:
    """The class' own laws of every position (S, L, V), float64."""
    ids = torch.tensor([prompt]).expand(len(states), -1)
    return theirs(input_ids=ids, decoder_input_ids=states).logits.double().softmax(-1)


def published_step(p0: Tensor, x_t: Tensor, t: float, u: float) -> Tensor:
    """The law (S, L, V) of x_u as diffusers' DiscreteDDIMScheduler draws it: x_0 from the output, then one of three
    routes: to x_0, stay, or to a random token."""
    vocab, b, a = p0.shape[-1], 1 - u, (1 - t) / (1 - u)
    law = torch.zeros_like(p0)
    for token in range(vocab):
        same = (x_t == token).double()
        routes = torch.stack([b * (1 - a) / vocab + a * b * same, torch.full_like(same, a * (1 - b) / vocab),
                              torch.full_like(same, (1 - a) * (1 - b) / vocab)], -1)  # fmt: skip
        clean, stay, fresh = (routes / routes.sum(-1, keepdim=True)).unbind(-1)
        moved = (stay[..., None] * F.one_hot(x_t, vocab) + fresh[..., None] / vocab).double()
        moved[..., token] += clean
        law += p0[..., token, None] * moved
    return law


@pytest.mark.parametrize(("t", "u"), [(1.0, 0.5), pytest.param(0.7, 0.4, marks=pytest.mark.slow), (0.5, 0.0)])
def test_a_plain_step_is_the_published_posterior_step(tmp_path, t, u):
    theirs, states = made(3, 2, media=False), all_states(3, 2)
    model = load(tmp_path, theirs)
    cells = published_step(probabilities(theirs, [1, 2], states), states, t, u)
    got = step_matrix(model.bind([[1, 2]]), states, t, u)
    torch.testing.assert_close(got, product_matrix(cells, states), atol=1e-6, rtol=0)
    other = step_matrix(load(tmp_path, theirs, left_out=True).bind([[1, 2]]), states, t, u)  # negative control
    assert t == 1 or float((got - other).abs().max()) > 0.01  # at t = 1 a token says nothing


@pytest.mark.parametrize("bound", [0.2, 0.9])
def test_the_bounded_order_is_the_published_accept_and_renoise(tmp_path, bound):
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
        EntropyBoundSampler,
        EntropyBoundSamplerConfig,
    )

    theirs, states = made(3, 2, media=False), all_states(3, 2)
    denoiser = load(tmp_path, theirs).bind([[1, 2]])
    laws = probabilities(theirs, [1, 2], states)
    sampler = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), 2, 3, 8)
    sampler.accept_canvas(states, states, laws.log(), 4)
    accepted = sampler.accepted_token_mask
    cells = torch.where(accepted[..., None], laws, 1 / 3)  # drawn where accepted, fresh noise elsewhere

    def outcome(start: Tensor, rng: Any) -> Tensor:
        return stepped(denoiser, states[start], 0.8, 0.4, Decoder("bounded", bound=bound), rng)

    got = law_matrix(*enumerate_outcomes(outcome, len(states)), states)
    torch.testing.assert_close(got, product_matrix(cells, states), atol=1e-6, rtol=0)
    assert bool(accepted.any(1).all())
    assert bound > 0.5 or not bool(accepted.all())  # the bound has a say
    reverse = step_matrix(denoiser, states, 0.8, 0.4)  # negative control: it is no posterior step
    assert float((got - reverse).abs().max()) > 0.01


def trained(loss_at: str, length: int = 16, vocab: int = 8, steps: int = 80, rows: int = 32) -> tuple[Any, Tensor]:
    """The class trained on texts of a Markov chain with the loss at "all" positions or at the "replaced" ones alone,
    and further texts of the chain."""
    chain = world(length, vocab, seed=0, noise="uniform")[0]
    texts = chain.sample(Rng.seeded(5, 2048))
    model = made.__wrapped__(vocab, length, media=False, width=32, num_attention_heads=4, num_hidden_layers=1,
                 layer_types=["full_attention"], spread=0.02, num_experts=1, top_k_experts=1)  # fmt: skip
    model.requires_grad_(True)
    learned = [part for name, part in model.named_parameters() if "vision" not in name]
    optimiser = torch.optim.Adam(learned, 0.02, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=steps)
    for _ in range(steps):
        x_0 = texts[torch.randint(len(texts), (rows,))]
        replaced = torch.rand(x_0.shape) < (torch.randperm(rows)[:, None] + torch.rand(1)) / rows
        x_t = torch.where(replaced, torch.randint(vocab, x_0.shape), x_0)
        logits = model(input_ids=torch.ones(rows, 1, dtype=torch.long), decoder_input_ids=x_t).logits
        loss = F.cross_entropy(logits.transpose(1, 2), x_0, reduction="none")
        (loss.mean() if loss_at == "all" else loss[replaced].mean()).backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return model.eval().requires_grad_(False), chain.sample(Rng.seeded(9, 200))


@pytest.mark.parametrize("loss_at", ["all", pytest.param("replaced", marks=pytest.mark.slow)])
def test_what_the_output_is_follows_from_where_the_loss_was(loss_at):
    model, texts = trained(loss_at)
    network, vocab = Network(model), model.config.text_config.vocab_size
    contexts = Contexts(network, [[1]], model.config.canvas_length)
    failed = {}
    for left_out in (False, True):
        findings = check(CanvasDenoiser(network, uniform(vocab), contexts, NONE, left_out=left_out), texts, real=True)
        failed[left_out] = {one.name for one in findings if one.passed is False}
    right = loss_at == "replaced"
    assert failed[right] == set()
    assert {"posterior", "direction"} <= failed[not right]  # negative control: the other reading is found out


def test_it_passes_the_check_of_form(tmp_path):
    for options in ({}, {"self_condition": 1}, {"left_out": True}):
        model = load(tmp_path, made(), **options)
        x = torch.tensor([0, 1, 7, 8, 9, 10])[torch.randint(6, (4, LENGTH), generator=torch.Generator().manual_seed(1))]
        findings = check(model.bind(PROMPTS), x, rows=torch.arange(4), forbidden=[14, 15, 16])
        assert not [one for one in findings if one.passed is False], findings
        assert sum(one.passed is True for one in findings) >= 7
    model = loading.load(folder_with_text(tmp_path), self_condition=1)
    findings = check_model(model, prompts=["the cat sat on the mat", "dog ran", "the dog sat"])
    assert not [one for one in findings if one.passed is False], findings
    assert "prompts" in {one.name for one in findings if one.passed}


def folder_with_text(folder: Path) -> Path:
    made().save_pretrained(folder)
    tokenizer(folder)
    return folder


def test_a_clean_token_is_certain_and_so_only_at_time_zero(tmp_path):
    x, where = canvases(3)
    model = load(tmp_path, made())
    laws = packed(model.bind(PROMPTS)(x, torch.tensor([0.0, 0.5, 0.0]), where, torch.arange(3)), where)
    for row in (0, 2):
        assert torch.equal(laws[row], F.one_hot(x[row, where[row]], VOCAB).float())
    assert float(laws[1].max()) < 1


def test_texts_are_refined_end_to_end(tmp_path):
    plain = loading.load(folder_with_text(tmp_path))
    prompts = ["the cat", "dog sat on the mat"]
    calls = []
    plain._network.model.model.encoder.register_forward_hook(lambda *given: calls.append(1))

    def cats(completions: list[str], **columns: Any) -> list[float]:
        return [float(text.split().count("cat")) for text in completions]

    options = dict(reward=cats, sampler="iterref:tries=4", alpha=0.2, seed=1)
    found = generate(plain, prompts, budget=16, **options)
    base = generate(plain, prompts, sampler="ancestral:steps=8", reward=cats, alpha=0.2, seed=1)
    assert len(calls) == 2  # once a run
    assert float(found.rewards.mean()) > float(base.rewards.mean()) + 0.5
    assert found.rewards.tolist() == cats(found.texts)
    assert not torch.isin(found.tokens, torch.tensor([14, 15, 16, 17, 18, 19])).any()
    assert found.asked.nfe <= 16
    twice = generate(loading.load(tmp_path, self_condition=1), prompts, budget=16, **options)
    assert found.asked.nfe / 2 < twice.asked.nfe <= 16  # every row counts both passes
    bounded = generate(plain, prompts, sampler="ancestral:steps=6,order=bounded,bound=0.5", reward=cats, seed=1)
    assert bounded.tokens.shape == (2, LENGTH)


def test_prompts_are_chats_and_answers_end_with_the_turn(tmp_path):
    model = loading.load(folder_with_text(tmp_path), length=4)
    assert model.ids(["the cat", ""]) == [[2, 3, 5, 12, 7, 4, 3, 6], [2]]
    assert loading.load(tmp_path, chat=False).ids(["the cat"]) == [[2, 12, 7]]
    assert model.decode(torch.tensor([[7, 9, 4, 8], [12, 8, 1, 7], [0, 7, 7, 7]])) == ["cat sat", "the dog", ""]
    assert model.decode(model.encode(["dog ran", "the dog sat on"])) == ["dog ran", "the dog sat on"]
    denoiser, canvas, free = model.prepare(["the cat", ""])
    assert canvas.shape == (2, 4) and bool(free.all()) and denoiser.noise.mask is None
    assert denoiser.noise.vocab == VOCAB and float(denoiser.noise.pi.min()) == 1 / VOCAB  # noise writes every id


def test_media_masks_and_unknown_ids_are_never_written(tmp_path):
    model = loading.load(folder_with_text(tmp_path))
    x, where = canvases(2)
    denoiser = model.prepare(["the cat", "dog"])[0]
    law = denoiser(x, half(2), where, torch.arange(2)).exp()
    assert float(law[:, 14:].max()) == 0 and float(law[:, :14].min()) > 0  # media, the mask, 18 and 19
    assert torch.allclose(law.sum(1), torch.ones(len(law)))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param("bfloat16", 0.15, marks=pytest.mark.slow), ("float16", 0.02)]
)
def test_half_precision_weights_run(tmp_path, dtype, tolerance):
    theirs = made()
    x, where = canvases(4)
    exact = load(tmp_path, theirs, self_condition=1).bind(PROMPTS)(x, half(4), where, torch.arange(4))
    model = loading.load(tmp_path, tokenizer="none", dtype=dtype, self_condition=1)
    assert model._network.model.dtype == getattr(torch, dtype)
    law = model.bind(PROMPTS)(x, half(4), where, torch.arange(4))
    assert law.dtype == torch.float32 and torch.allclose(law.exp().sum(1), torch.ones(len(law)), atol=1e-5)
    assert float((law.exp() - exact.exp()).abs().max()) < tolerance


def test_shards_are_read_and_the_part_that_sees_is_not(tmp_path):
    theirs, whole, parts = made(), tmp_path / "whole", tmp_path / "parts"
    x, where = canvases(4)
    expected = load(whole, theirs).bind(PROMPTS)(x, half(4), where, torch.arange(4))
    theirs.save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 1
    model = loading.load(parts, tokenizer="none")
    assert torch.equal(model.bind(PROMPTS)(x, half(4), where, torch.arange(4)), expected)
    tower = model._network.model.model.encoder.vision_tower
    assert sum(part.numel() for part in tower.parameters()) < 10_000 and tower.config.hidden_size == 8
    kept = {name: part for name, part in load_file(whole / "model.safetensors").items() if "vision" not in name}
    save_file(kept, whole / "model.safetensors", metadata={"format": "pt"})
    blind = loading.load(whole, tokenizer="none")
    assert torch.equal(blind.bind(PROMPTS)(x, half(4), where, torch.arange(4)), expected)


def test_the_decoder_is_compiled_on_demand(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: asked.append((type(self).__name__, options)))
    load(tmp_path, made())
    assert asked == []
    load(tmp_path, made(), compile=True)
    assert asked == [("DiffusionGemmaDecoderModel", {"dynamic": True, "mode": None})]


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    folder = folder_with_text(tmp_path)
    for length in (0, -1):
        with pytest.raises(ValueError, match=f"at least one position, got length={length}"):
            loading.load(folder, length=length)
    with pytest.raises(ValueError, match="self_condition counts passes before the last, got -1"):
        loading.load(folder, self_condition=-1)
    with pytest.raises(ValueError, match="prompt 1 takes 36 positions and its answer 6, and the model reads 40"):
        loading.load(folder, chat=False).prepare(["cat", " ".join(["cat"] * 35)])
    tokenizer(folder, [*WORDS, "more", "and", "more still"])
    with pytest.raises(ValueError, match="knows 20 tokens and the tokenizer 21: they do not fit"):
        loading.load(folder)
    weights = load_file(folder / "model.safetensors")
    gone = {name: part for name, part in weights.items() if "layers.1.mlp.up_proj" not in name}
    save_file(gone, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack '.*layers.1.mlp.up_proj.weight'"):
        loading.load(folder, tokenizer="none")
    monkeypatch.setattr(diffusion_gemma, "KIND", "DiffusionGemmaOfTomorrow")
    with pytest.raises(ValueError, match=r"needs the DiffusionGemmaOfTomorrow of transformers 5.11 or later"):
        loading.load(folder, tokenizer="none")


def test_the_family_is_its_own_file():
    assert loading.family_of({"model_type": "diffusion_gemma"}, "x") == "diffusion_gemma"
    assert loading.family_of({"architectures": [KIND], "model_type": "diffusion_gemma"}, "x") == "diffusion_gemma"
    assert diffusion_gemma.FAMILY.tokenizer is None


def test_no_text_ends_within_a_region(tmp_path):
    """Under a reward for short texts an end in front of kept text would be the best of all."""
    model = load(tmp_path, made(), text=True)
    done = iterref.infill(
        model, ["cat [dog sat] ran"] * 12, prompts=["the mat"] * 12, alpha=0.01,
        reward=lambda completions: [-float(len(text)) for text in completions],
        sampler="iterref:steps=3,moves=6,tries=8",
    )  # fmt: skip
    assert all(text.startswith("cat ") and text.endswith(" ran") for text in done.texts)


@pytest.mark.parametrize("text", ["the cat <turn|>", "<|turn> model", "<eos>", "cat <bos> dog", "<|image|>"])
def test_a_user_closes_no_turn(tmp_path, text):
    model = load(tmp_path, made(), text=True)
    with pytest.raises(ValueError, match="prompt 1 spells the special token"):
        model.prepare(["cat", text])
    with pytest.raises(ValueError, match="text 0 spells the special token"):
        model.encode([text])


def test_the_default_decides_by_the_reward_alone_where_the_model_judges_no_text(tmp_path):
    model = load(tmp_path, made(), text=True)

    def longer(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    found = iterref.generate(model, ["the cat", "the mat"], reward=longer, budget=300)
    plain = iterref.generate(model, ["the cat", "the mat"], reward=longer, sampler="ancestral")
    assert bool((found.rewards > plain.rewards).all()) and found.asked.nfe <= 300
    assert iterref.refine(
        model, found.tokens, prompts=["the cat", "the mat"], reward=longer, budget=100
    ).rewards.sum() >= (found.rewards.sum())
    asked: list[Any] = []
    with pytest.raises(ValueError, match="leave-one-out"):  # which nobody can give is not made up, nor run for
        iterref.generate(model, ["the cat"], reward=longer, budget=20, log_likelihood=True, callback=asked.append)
    with pytest.raises(ValueError, match="leave log_likelihood out"):
        iterref.log_likelihood(model, ["the cat"], prompts=["the"])
    assert not asked
