"""Stable-DiffCoder checkpoints: a LLaMA in blocks, told from other LLaMAs, the exact cache, and what is refused.

Compared with LLaMA's class of transformers 5.23.0 under the published mask (`_make_block_causal_mask` of ByteDance's
modelling file, which adds a sampler to `LlamaForCausalLM` and changes nothing of it): 5e-6 in the distributions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from iterref.loading import load
from iterref.models.in_blocks import BlockDenoiser
from tests.support.byte_pairs import write_pairs
from tests.support.decoders import half_open, laws
from tests.support.dream import END, KNOWN, MASK, PIECES
from tests.support.in_blocks import (
    LENGTH,
    PROMPTS,
    apart,
    expect_exact_cache,
    expect_same_texts,
    independent,
    opened,
    randomise,
)

BLOCK, T = 4, LENGTH
SIZES = {"vocab_size": KNOWN + 5, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
         "rope_theta": 1e6, "tie_word_embeddings": False}  # fmt: skip


def write(folder: Path, sizes: dict[str, Any] = SIZES, **changes: Any) -> Any:
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()
    randomise(network)
    network.save_pretrained(folder)
    written = {
        **sizes, "model_type": "llama", "architectures": ["StableDiffcoderForCausalLM"], "attention_bias": False,
        "auto_map": {"AutoModelForCausalLM": "modeling_stable_diffcoder.StableDiffcoderForCausalLM"},
        "mask_token_id": MASK, "hidden_act": "silu", "eos_token_id": END, "pad_token_id": END, "rope_scaling": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(written | changes))
    write_pairs(folder)
    return network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("fast")
    return folder, write(folder)


def test_distributions_are_those_of_a_llama_in_blocks(made: tuple[Path, Any]) -> None:
    folder, network = made
    model = opened(folder)
    befores = model.ids(PROMPTS)
    assert len({len(before) % BLOCK for before in befores}) > 1
    x_t = half_open(4, T, PIECES, MASK)
    x_t[3, :6], x_t[3, 7] = torch.arange(6), MASK  # whole blocks are finished in one of them
    found = laws(model.prepare(PROMPTS)[0], x_t)
    for row, before in enumerate(befores):
        assert found[row].double().sub(independent(network, before, x_t[row], BLOCK)).abs().max() < 5e-6
        assert independent(network, before, x_t[row], 2 * BLOCK).sub(found[row]).abs().max() > 0.01  # a control
    assert apart(lambda prompts: model.prepare(prompts)[0], x_t) < 1e-5


def test_the_cache_is_exact(made: tuple[Path, Any]) -> None:
    model, plain = opened(made[0], 5 * BLOCK), opened(made[0], 5 * BLOCK, cached=False)
    cached, x_t, _ = model.prepare(PROMPTS)
    assert isinstance(cached, BlockDenoiser)
    expect_exact_cache(plain.prepare(PROMPTS)[0], cached, x_t, PIECES)


def test_texts_are_written_and_the_form_is_right(made: tuple[Path, Any]) -> None:
    expect_same_texts(made[0], 2 * BLOCK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 0}, "has block_size=0: a block has at least one position"),
        ({"mask_token_id": KNOWN + 400}, "they do not fit"),
        ({"architectures": ["SeedCoderForCausalLM"]}, "is of the architecture llama, seedcoderforcausallm"),
        ({"num_hidden_layers": 3}, "lack 'model.layers.2"),
    ],
)
def test_what_is_near_it_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, length=T, chat=False)


def test_blocks_are_of_another_length_where_config_says_so(tmp_path: Path) -> None:
    write(tmp_path, block_size=8)
    assert opened(tmp_path).prepare([""])[0].block_length == 8
