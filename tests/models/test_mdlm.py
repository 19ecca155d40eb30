"""MDLM checkpoints: read from their own format, the published law, the published step, bad input.

Compared with kuleshov-group/mdlm at c112c526 (models/dit.py, diffusion.py; flash-attn replaced by torch's attention) on
the same random weights, in float32 on a CPU, L = 64 and 1024: logits of up to 5 differ by at most 4.3e-6, probabilities
by 1.1e-7, the law of a step (`_ddpm_update`) by 3.1e-7. On a GPU the published code runs its blocks in bfloat16.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from iterref.check import check
from iterref.generation import generate
from iterref.guidance import Tempered
from iterref.loading import load
from iterref.models import mdlm
from iterref.models.checkpoint import Checkpoint
from iterref.models.text.codec import Codec
from iterref.models.text.prefix import PrefixModel
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


def sigma(t: Tensor) -> Tensor:
    """The published noise schedule."""
    return -torch.log1p(-(1 - 1e-3) * t)


def published_law(w: dict[str, Tensor], x: Tensor, level: Tensor, mask: int) -> Tensor:
    """The published parameterisation, (R, L, V) probabilities: no mask, and what is revealed is carried over."""
    logits = reference_logits(w, x, level)
    logits[..., mask] = -torch.inf
    return torch.where((x == mask)[..., None], logits.softmax(-1), torch.nn.functional.one_hot(x, logits.shape[-1]))


def small(folder, vocab=12, **more) -> PrefixModel:
    return load(write(folder, flat_config("mdlm", vocab, **more), weights(vocab)), tokenizer="none")


@pytest.mark.parametrize("timed", [False, True])
def test_the_law_is_the_published_one(tmp_path, timed):
    model = small(tmp_path, time_conditioning=timed)
    x, t = noisy_tokens(5, 12, 11), torch.linspace(0.1, 1, 5, dtype=torch.float64)
    where = torch.ones_like(x, dtype=torch.bool)
    level = sigma(t) if timed else torch.zeros(5)
    want = published_law(weights(12), x, level, 11)
    got = model.denoiser(x, t, where, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(got.exp().view(5, LENGTH, 12).double(), want, atol=1e-6, rtol=0)
    assert model.denoiser.time_independent is not timed
    other = published_law(weights(12), x, sigma(1.001 - t), 11)  # negative control: another level shows
    assert float((got.exp().view(5, LENGTH, 12) - other).abs().max()) > 1e-3


@pytest.mark.parametrize(("t", "u"), [(1.0, 0.5), (0.7, 0.55), (0.4, 0.0)])
def test_one_step_is_the_published_sampler_s(tmp_path, t, u):
    """Every outcome of a step, against (a_u - a_t) p + (1 - a_u) [mask], over 1 - a_t."""
    model, noisy = small(tmp_path, vocab=4), all_states(4, 2)
    p = published_law(weights(4), noisy, torch.zeros(len(noisy)), 3)
    move_t, move_u = (1 - torch.exp(-sigma(torch.tensor(s, dtype=torch.float64))) for s in (t, u))
    hidden = p * (move_t - move_u) / move_t
    hidden[..., 3] = move_u / move_t
    cells = torch.where((noisy == 3)[..., None], hidden, p)
    got = step_matrix(model.denoiser, noisy, t, u)
    torch.testing.assert_close(got, product_matrix(cells, noisy), atol=1e-6, rtol=0)
    late = step_matrix(model.denoiser, noisy, t, u + 0.1)  # negative control
    assert float((got - late).abs().max()) > 0.01


def test_it_passes_the_check_of_form(tmp_path):
    model = small(tmp_path, time_conditioning=True)
    texts = noisy_tokens(4, 11, None)
    findings = check(model.denoiser, texts)
    assert not [finding for finding in findings if finding.passed is False]
    assert sum(finding.passed is True for finding in findings) >= 7


def test_unequal_prompts_in_a_batch_are_as_alone(tmp_path):
    vocab = tokenizer(tmp_path, [END]) + 1
    model = load(write(tmp_path, flat_config("mdlm", vocab), weights(vocab)))
    prompts = ["the cat saw a dog", "", "a man"]
    denoiser, canvas, free = model.prepare(prompts)
    times = torch.ones(3, dtype=torch.float64)
    together = denoiser(canvas, times, free, torch.arange(3)).split(free.sum(1).tolist())
    for row, prompt in enumerate(prompts):
        denoiser, canvas, free = model.prepare([prompt])
        alone = denoiser(canvas, times[:1], free, torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


def test_generate_keeps_the_prompt_and_writes_words(tmp_path):
    vocab = tokenizer(tmp_path, [END]) + 1
    model = load(write(tmp_path, flat_config("mdlm", vocab), weights(vocab)), length=8)
    result = generate(
        model, ["the cat", "a man ran"], reward=lambda completions: [float(len(one)) for one in completions],
        sampler="iterref", budget=24, max_rows=1,
    )  # fmt: skip
    assert result.tokens.shape == (2, 8) and int(result.tokens.max()) < vocab - 1
    for text, prompt in zip(result.texts, ["the cat", "a man ran"], strict=True):
        assert text.startswith(prompt) and set(text.split()) <= set(WORDS)


def test_half_precision_and_device_are_options(tmp_path):
    folder = write(tmp_path, flat_config("mdlm", 12), weights(12))
    model = load(folder, tokenizer="none", dtype="bfloat16", device="cpu")
    assert model.denoiser.network.head.weight.dtype == torch.bfloat16
    findings = check(model.denoiser, noisy_tokens(4, 11, None), tolerance=2e-2)
    assert not [finding for finding in findings if finding.passed is False]


def test_where_the_mask_is(tmp_path):
    """Behind GPT-2's tokens, BERT's own, the last without a tokenizer, or as config.json says."""
    plain, masked = tmp_path / "plain", tmp_path / "masked"
    size = tokenizer(plain, [END])
    model = load(write(plain, flat_config("mdlm", size + 1), weights(size + 1)))
    assert model.noise.mask == size and Codec.load(plain).mask is None
    size = tokenizer(masked, [CLS, SEP, PAD, MASK, "[later]"])
    model = load(write(masked, flat_config("mdlm", size), weights(size)))
    assert model.noise.mask == size - 2
    model = load(write(masked, flat_config("mdlm", size), weights(size)), tokenizer="none")
    assert model.noise.mask == size - 1
    model = load(write(masked, flat_config("mdlm", size, mask_token_id=size - 3), weights(size)))
    assert model.noise.mask == size - 3
    for wrong, told in ((2, "mask_token_id of .* is 2, which its tokenizer reads as 'dog'"), ("10", "is no token id")):
        write(masked, flat_config("mdlm", size, mask_token_id=wrong), weights(size))
        with pytest.raises(ValueError, match=told):
            load(masked)


def test_tokens_that_the_tokenizer_does_not_know_are_never_written(tmp_path):
    size = tokenizer(tmp_path, [END])
    model = load(write(tmp_path, flat_config("mdlm", size + 4), weights(size + 4)))
    denoiser, canvas, free = model.prepare(["the"])
    law = denoiser(canvas, torch.ones(1), free, torch.zeros(1, dtype=torch.long)).exp()
    assert model.noise.mask == size and law[:, size:].max() == 0 and law[:, :size].min() > 0


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    size = tokenizer(tmp_path, [END])
    for vocab in (size, size - 3):  # no room for the mask; tokens that the model does not know
        write(tmp_path, flat_config("mdlm", vocab), weights(vocab))
        with pytest.raises(ValueError, match=f"knows {vocab} tokens and the tokenizer {size}, with the mask {size}"):
            load(tmp_path)
    write(tmp_path, flat_config("mdlm", size + 1, mask_token_id=99), weights(size + 1))
    with pytest.raises(ValueError, match="with the mask 99: they do not fit"):
        load(tmp_path, tokenizer="none")


def test_weights_of_other_sizes_are_refused(tmp_path):
    write(tmp_path, flat_config("mdlm", 13), weights(12))
    with pytest.raises(ValueError, match="'table.weight' has shape"):
        load(tmp_path, tokenizer="none")
    config = flat_config("mdlm", 12)
    del config["n_heads"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no whole number 'n_heads'"):
        load(tmp_path, tokenizer="none")


def test_the_family_reads_a_checkpoint_by_itself(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path, flat_config("mdlm", 12, condition=4), weights(12, condition=4)))
    model = mdlm.load(checkpoint, None, length=6)
    assert model.length == 6 and model.noise.mask == 11 and model.denoiser.network.options.condition == 4


def test_texts_are_as_long_as_the_models_own_where_the_surest_tokens_come_first():
    """Confidence order reveals ends first, on a canvas where a text may end anywhere; written block by block it does
    not. The control is the order without blocks."""
    model = load("tiny-books")
    assert model.denoiser.surest_block == 8 and Tempered(model.denoiser, 2.0).surest_block == 8

    def length(method: str, block: int) -> float:
        model.denoiser.surest_block = block
        done = generate(model, ["the"] * 24, reward=lambda completions: [0.0] * len(completions), sampler=method)
        return sum(len(text.split()) for text in done.texts) / 24

    own = length("ancestral:steps=16", 8)
    assert 0.7 * own < length("beam:steps=12", 8) < 1.4 * own
    assert length("beam:steps=12", 48) < 0.6 * own
