"""UDLM and Duo checkpoints: the published posterior, the published step, the leave-one-out law, labels.

Compared with kuleshov-group/discrete-diffusion-guidance at edb0f8c2 (models/hf/modeling_udlm.py, diffusion.py; the
rotary kernel of flash-attn replaced) on the same random weights, in float32 on a CPU, L = 64 and 1024, with labels and
without: logits of up to 5 differ by at most 3.9e-6, the law of a step (`_compute_posterior`) by 3.7e-7.

Duo: s-sahoo/duo at 7c9b498f (models/dit.py, algo.py; the rotary kernel of flash-attn replaced), on the same
random weights, in float32 on a CPU, L = 64 and 1024: logits are the same bits, the law of a step (`_posterior_from_x0`)
differs by at most 3.7e-7.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.check import check
from iterref.generation import generate
from iterref.guidance import ClassifierFreeGuidance
from iterref.loading import load
from iterref.models import udlm
from iterref.models.checkpoint import Checkpoint
from iterref.models.text.prefix import PrefixModel
from iterref.models.udlm import FIRST
from tests.support.published import (
    CLS,
    END,
    LENGTH,
    MASK,
    PAD,
    SEP,
    WORDS,
    all_states,
    flat_config,
    noisy_tokens,
    product_matrix,
    reference_logits,
    step_matrix,
    tokenizer,
    weights,
    write,
)

KINDS = {"udlm": {"time_conditioning": True, "cfg": False, "cfg_num_classes": -1}, "DUO": {"causal": False}}
ONE = torch.ones((), dtype=torch.float64)


def a(t: float | Tensor) -> Tensor:
    """The published schedule: how likely a token is still the clean one."""
    return 1 - (1 - 1e-3) * (ONE * t)


def small(folder, kind="udlm", vocab=12, **more) -> PrefixModel:
    return load(write(folder, flat_config(kind, vocab, **(KINDS[kind] | more)), weights(vocab)), tokenizer="none")


def published_step(prediction: Tensor, x_t: Tensor, a_t: Tensor, a_s: Tensor) -> Tensor:
    """The published posterior of x_s (R, L, V) from predictions (R, L, V), as its code writes it."""
    vocab = prediction.shape[-1]
    z = torch.nn.functional.one_hot(x_t, vocab).double()
    ratio = a_t / a_s
    above = vocab * a_t * z * prediction + (ratio - a_t) * z + (a_s - a_t) * prediction
    above = above + (1 - ratio) * (1 - a_s) / vocab
    return above / (vocab * a_t * prediction.gather(-1, x_t[..., None]) + 1 - a_t)


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_is_the_prediction_times_the_evidence(tmp_path, kind):
    model = small(tmp_path, kind)
    x, t = noisy_tokens(5, 12, None), torch.linspace(0.1, 1, 5, dtype=torch.float64)
    where = torch.ones_like(x, dtype=torch.bool)
    prediction = reference_logits(weights(12), x, -torch.log(a(t))).softmax(-1)
    a_t = a(t)[:, None, None]
    want = prediction * (a_t * torch.nn.functional.one_hot(x, 12) + (1 - a_t) / 12)
    want = want / want.sum(-1, keepdim=True)
    got = model.denoiser(x, t, where, torch.zeros(5, dtype=torch.long)).exp().view(5, LENGTH, 12)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)
    assert float((got - prediction).abs().max()) > 0.1  # negative control: it is no posterior by itself


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("t", "u"), [(1.0, 0.5), (0.7, 0.55), (0.4, 0.0)])
def test_one_step_is_the_published_sampler_s(tmp_path, kind, t, u):
    model, noisy = small(tmp_path, kind, vocab=3), all_states(3, 2)
    prediction = reference_logits(weights(3), noisy, -torch.log(a(t)).expand(len(noisy))).softmax(-1)
    cells = published_step(prediction, noisy, a(t), a(u))
    got = step_matrix(model.denoiser, noisy, t, u)
    torch.testing.assert_close(got, product_matrix(cells, noisy), atol=1e-6, rtol=0)
    mistaken = published_step(cells_of(model, noisy, t), noisy, a(t), a(u))  # negative control: evidence twice
    assert t == 1 or float((got - product_matrix(mistaken, noisy)).abs().max()) > 0.01  # at t = 1 there is none


def cells_of(model: PrefixModel, noisy: Tensor, t: float) -> Tensor:
    """The library's posteriors (S, L, V)."""
    where, times = torch.ones_like(noisy, dtype=torch.bool), torch.full((len(noisy),), t, dtype=torch.float64)
    return model.denoiser(noisy, times, where, times.long()).exp().double().view(*noisy.shape, -1)


def test_the_leave_one_out_law_is_the_prediction_at_the_first_time(tmp_path):
    model, x = small(tmp_path), noisy_tokens(3, 12, None)
    where = torch.ones_like(x, dtype=torch.bool)
    got = model.denoiser.leave_one_out(x, where, torch.zeros(3, dtype=torch.long)).view(3, LENGTH, 12)
    want = reference_logits(weights(12), x, -torch.log(a(FIRST)).expand(3)).log_softmax(-1)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_check_of_form(tmp_path, kind):
    findings = check(small(tmp_path, kind).denoiser, noisy_tokens(4, 12, None))
    assert not [finding for finding in findings if finding.passed is False]
    assert sum(finding.passed is True for finding in findings) >= 6


def test_a_time_independent_one_reads_no_time(tmp_path):
    model, x = small(tmp_path, time_conditioning=False), noisy_tokens(2, 12, None)
    where = torch.ones_like(x, dtype=torch.bool)
    early, late = (model.denoiser.logits(x, ONE * t * torch.ones(2), where, x[:, 0]) for t in (0.1, 0.9))
    assert torch.equal(early, late)


def test_frames_of_bert_and_of_gpt2(tmp_path):
    bert, gpt = tmp_path / "bert", tmp_path / "gpt"
    size = tokenizer(bert, [CLS, SEP, PAD, MASK])
    model = load(write(bert, flat_config("udlm", size), weights(size)))
    assert model.decode(model.encode(["the cat ran"])) == ["the cat ran"]
    assert model.encode(["the cat ran"])[0, [0, 4, 5]].tolist() == [len(WORDS), len(WORDS) + 1, len(WORDS) + 2]
    size = tokenizer(gpt, [END])
    model = load(write(gpt, flat_config("DUO", size + 1), weights(size + 1)))
    assert model.noise.vocab == size + 1 and model.encode(["the cat"])[0, :4].tolist() == [size - 1, 0, 1, size - 1]


def test_duo_s_padding_may_be_noise_and_never_text(tmp_path):
    size = tokenizer(tmp_path, [END])
    model = load(write(tmp_path, flat_config("DUO", size + 1), weights(size + 1)), length=6)
    denoiser, canvas, free = model.prepare(["the"])
    canvas[free] = size
    law = denoiser(canvas, torch.full((1,), 0.5), free, torch.zeros(1, dtype=torch.long)).exp()
    assert law[:, size].max() == 0 and law[:, :size].min() > 0
    assert torch.allclose(law.sum(1), torch.ones(len(law)))
    clean = denoiser.leave_one_out(canvas, free, torch.zeros(1, dtype=torch.long)).exp()
    assert clean[:, size].max() == 0
    result = generate(model, ["the", "a dog"], reward=lambda completions: [0.0] * len(completions), sampler="ancestral")
    assert int(result.tokens.max()) < size


def test_labels_condition_and_guide(tmp_path):
    config = flat_config("udlm", 12, cfg=True, cfg_num_classes=2)
    folder, x = write(tmp_path, config, weights(12, 3)), noisy_tokens(3, 12, None)
    where, rows = torch.ones_like(x, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
    times = torch.full((3,), 0.5, dtype=torch.float64)
    models = {label: load(folder, tokenizer="none", label=label).denoiser for label in (None, 0, 2)}
    for label, denoiser in models.items():
        named = torch.full((3,), 2 if label is None else label)
        want = reference_logits(weights(12, 3), x, -torch.log(a(times)), named)
        got = denoiser.logits(x, times, where, rows).view(3, LENGTH, 12)
        torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)
    guided = ClassifierFreeGuidance(models[0], models[None], 2.0)
    assert guided(x, times, where, rows).shape == (3 * LENGTH, 12)
    for label in (3, -1):
        with pytest.raises(ValueError, match=f"has 3 labels, and {label} is none of them"):
            load(folder, tokenizer="none", label=label)
    with pytest.raises(ValueError, match="has 0 labels"):
        load(write(tmp_path, flat_config("udlm", 12), weights(12)), tokenizer="none", label=0)


def test_what_does_not_fit_is_refused(tmp_path):
    size = tokenizer(tmp_path, [END])
    write(tmp_path, flat_config("udlm", size - 2), weights(size - 2))
    with pytest.raises(ValueError, match=f"knows {size - 2} tokens and the tokenizer {size}: they do not fit"):
        load(tmp_path)
    write(tmp_path, flat_config("DUO", 12, causal=True), weights(12))
    with pytest.raises(ValueError, match="autoregressive"):
        load(tmp_path, tokenizer="none")


def test_the_family_reads_a_checkpoint_by_itself(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path, flat_config("udlm", 12), weights(12)))
    model = udlm.load(checkpoint, None)
    assert model.length == LENGTH and model.noise.mask is None
