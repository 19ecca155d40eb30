"""BD3-LM checkpoints: a DiT in blocks with and without adaLN, the exact cache, and what is refused.

Compared with kuleshov-group/bd3lms at 1c3e8f43 (models/hf/modeling_bd3lm.py, attention by torch) on the same random
weights, in float32 on a CPU, 3 layers of width 64, 311 tokens, L = 64, blocks of 4 and 16: without adaLN, as published,
logits of up to 6.5 differ by at most 3.7e-6, with adaLN (up to 15) by 1.3e-5, with the cache and without. Its training
path, in which a noisy half looks at a clean half, says the same of the first open block: 3.4e-6 and 1.1e-5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import iterref
from iterref.check import check_model
from iterref.loading import load
from iterref.models.bd3lm import CanvasInBlocks
from iterref.models.text.prefix import PrefixModel
from iterref.noise import Schedule
from tests.support.decoders import law, laws
from tests.support.in_blocks import blocks_of, expect_exact_cache
from tests.support.published import (
    BLOCKS,
    CONDITION,
    END,
    HEADS,
    LENGTH,
    PAD,
    WIDTH,
    WORDS,
    flat_config,
    tokenizer,
    weights,
    write,
)

BLOCK = 4
PROMPTS = ["the cat saw", "", "a dog and a man ran"]
VOCAB = len(WORDS) + 3  # two special tokens, and the mask behind them
MASK = VOCAB - 1


def checkpoint(folder: Path, adaptive: bool = False, **changes: Any) -> dict[str, Tensor]:
    held = weights(VOCAB)
    if not adaptive:
        held = {name: one for name, one in held.items() if "adaLN" not in name and "sigma_map" not in name}
    config = {"block_size": BLOCK, "cross_attn": True, "adaln": adaptive, "time_conditioning": False, **changes}
    write(folder, flat_config("bd3lm", VOCAB, **config), held)
    tokenizer(folder, [END, PAD])
    return held


def opened(folder: Path, **options: Any) -> PrefixModel:
    model = load(folder, **options)
    assert isinstance(model, PrefixModel)
    return model


def reading(held: dict[str, Tensor], ids: Tensor, block: int = BLOCK) -> Tensor:
    """Raw logits (T, V) of one canvas as it is said in words, in float64, heads one by one."""
    w, size = {name: one.double() for name, one in held.items()}, WIDTH // HEADS

    def norm(name: str, h: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    c = torch.zeros(CONDITION).double()
    if "sigma_map.mlp.0.weight" in w:
        features = torch.cat([torch.ones(128), torch.zeros(128)]).double()  # of a noise level of 0
        inner = torch.nn.functional.silu(w["sigma_map.mlp.0.weight"] @ features + w["sigma_map.mlp.0.bias"])
        c = torch.nn.functional.silu(w["sigma_map.mlp.2.weight"] @ inner + w["sigma_map.mlp.2.bias"])

    def modulation(name: str, parts: int) -> tuple[Tensor, ...]:
        if f"{name}.adaLN_modulation.weight" not in w:
            return tuple(torch.full((WIDTH,), float(part % 3 == 2)).double() for part in range(parts))
        made = w[f"{name}.adaLN_modulation.weight"] @ c + w[f"{name}.adaLN_modulation.bias"]
        return made.chunk(parts)

    angle = torch.arange(len(ids))[:, None] * 1e4 ** -(torch.arange(0, size, 2).double() / size)

    def turned(h: Tensor) -> Tensor:
        turn = torch.complex(h[:, : size // 2], h[:, size // 2 :]) * torch.exp(1j * angle)
        return torch.cat([turn.real, turn.imag], -1)

    h, sees = w["vocab_embed.embedding"][ids], blocks_of(len(ids), block)
    for layer in range(BLOCKS):
        name = f"blocks.{layer}"
        shift, scale, gate, shift_2, scale_2, gate_2 = modulation(name, 6)
        mixed = (norm(f"{name}.norm1", h) * (1 + scale) + shift) @ w[f"{name}.attn_qkv.weight"].T
        query, key, value = (part.split(size, -1) for part in mixed.chunk(3, -1))
        heads = []
        for one in range(HEADS):
            score = turned(query[one]) @ turned(key[one]).T * size**-0.5
            heads.append(score.masked_fill(~sees, -torch.inf).softmax(-1) @ value[one])
        h = h + gate * (torch.cat(heads, -1) @ w[f"{name}.attn_out.weight"].T)
        inner = (norm(f"{name}.norm2", h) * (1 + scale_2) + shift_2) @ w[f"{name}.mlp.0.weight"].T
        inner = torch.nn.functional.gelu(inner + w[f"{name}.mlp.0.bias"], approximate="tanh")
        h = h + gate_2 * (inner @ w[f"{name}.mlp.2.weight"].T + w[f"{name}.mlp.2.bias"])
    shift, scale = modulation("output_layer", 2)
    out = norm("output_layer.norm_final", h) * (1 + scale) + shift
    return out @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"]


@pytest.mark.parametrize("adaptive", [False, True])
def test_distributions_are_those_of_the_network_in_words(tmp_path: Path, adaptive: bool) -> None:
    held = checkpoint(tmp_path, adaptive)
    model = opened(tmp_path)
    denoiser, canvas, free = model.prepare(PROMPTS)
    assert isinstance(denoiser, CanvasInBlocks) and denoiser.block_length == BLOCK and denoiser.time_independent
    assert model.noise.mask == MASK and model.noise.schedule == Schedule("linear") and not denoiser.uses_prompts
    assert denoiser.surest_block == 0  # the network's own blocks are those to write in
    x_t = canvas.clone()
    x_t[:, 7], x_t[1, :5] = 3, torch.arange(5)
    found = laws(denoiser, x_t)
    ids = torch.nn.functional.pad(x_t, (0, -LENGTH % BLOCK), value=MASK)
    for row in range(3):
        wanted = law(reading(held, ids[row])[:LENGTH], x_t[row], MASK, VOCAB - 1)
        assert found[row].double().sub(wanted).abs().max() < 1e-5
        control = law(reading(held, ids[row], 2 * BLOCK)[:LENGTH], x_t[row], MASK, VOCAB - 1)
        assert control.sub(wanted).abs().max() > 1e-3
        assert laws(denoiser, x_t[[row]], torch.tensor([row]))[0].sub(found[row]).abs().max() < 1e-5  # alone
    later = x_t.clone()
    later[:, 2 * BLOCK :] = 5
    assert laws(denoiser, later)[:, : 2 * BLOCK].sub(found[:, : 2 * BLOCK]).abs().max() < 1e-6  # no block feels a later


def test_the_cache_is_exact(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    cached, canvas, free = opened(tmp_path).prepare(PROMPTS)
    plain, _, _ = opened(tmp_path, cached=False).prepare(PROMPTS)
    assert isinstance(cached, CanvasInBlocks)
    expect_exact_cache(plain, cached, canvas, len(WORDS), free)


def test_texts_are_written_and_the_form_is_right(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model = opened(tmp_path)
    result = iterref.generate(model, PROMPTS, reward="length:4", budget=8, seed=1)
    other = iterref.generate(opened(tmp_path, cached=False), PROMPTS, reward="length:4", budget=8, seed=1)
    assert result.texts == other.texts and result.lengths is not None
    assert all(text.startswith(prompt) for text, prompt in zip(result.texts or [], PROMPTS, strict=True))
    findings = check_model(model, None, PROMPTS * 2)
    assert [one.sentence for one in findings if one.passed is False] == []


def test_one_block_is_the_whole_canvas_without_cross_attention(tmp_path: Path) -> None:
    checkpoint(tmp_path, cross_attn=False)
    assert opened(tmp_path).prepare([""])[0].block_length == LENGTH


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": None}, "has no whole number 'block_size'"),
        ({"block_size": 0}, "has block_size=0: blocks have 1 to 10 positions"),
        ({"time_conditioning": True}, "reads the time"),
        ({"causal": True}, "is autoregressive"),
        ({"adaln": True}, "'adapt.bias' is missing"),
        ({"n_blocks": 3}, "is missing"),
    ],
)
def test_what_is_near_it_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint(tmp_path, **changes) if "adaln" not in changes else write(
        tmp_path, flat_config("bd3lm", VOCAB, block_size=BLOCK, **changes),
        {name: one for name, one in weights(VOCAB).items() if "adaLN" not in name},
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        load(tmp_path, tokenizer="none")


def test_a_canvas_longer_than_it_was_trained_on_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    with pytest.raises(ValueError, match="was trained on 10 positions, got length=11: at most that"):
        load(tmp_path, length=11)
