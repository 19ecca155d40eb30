"""SDAR's mixtures of experts: a Qwen3-MoE in blocks, the exact cache, and what is refused.

Compared with linyewei526/dLLM-ARIS-1 at 5fc3f3cc (SDAR/evaluation/opencompass/configs/sdar_local_models/
modeling_sdar_moe.py, under transformers 5.23.0 with its missing names and kernels written out) on the same random
weights, in float32 on a CPU, 3 layers of width 64 (the first dense), 8 experts of which 2 are chosen, 311 tokens,
blocks of 4, prompts of 13, 8, 0 and 3 tokens in one batch: logits of up to 7.8 differ by at most 2.5e-6 with the cache
and 4.5e-6 without it, and by as much from each text alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

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
SIZES = {"vocab_size": KNOWN + 5, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
         "rope_theta": 1e6, "moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2,
         "norm_topk_prob": True, "mlp_only_layers": [0], "tie_word_embeddings": False}  # fmt: skip


def write(folder: Path, **changes: Any) -> Any:
    network = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIZES)).eval()
    randomise(network)
    network.save_pretrained(folder)
    written = {
        **SIZES, "model_type": "sdar_moe", "architectures": ["SDARMoeForCausalLM"], "block_size": BLOCK,
        "auto_map": {"AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM"}, "mask_token_id": MASK,
        "hidden_act": "silu", "attention_bias": False, "rope_scaling": None, "eos_token_id": END, "pad_token_id": END,
        "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1, "decoder_sparse_step": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(written | changes))
    write_pairs(folder)
    return network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("sdar_moe")
    return folder, write(folder)


def test_distributions_are_those_of_a_mixture_in_blocks(made: tuple[Path, Any]) -> None:
    folder, network = made
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in load_file(folder / "model.safetensors")  # one by one
    model = opened(folder)
    befores = model.ids(PROMPTS)
    assert len({len(before) % BLOCK for before in befores}) > 1
    x_t = half_open(4, T, PIECES, MASK)
    x_t[3, :6], x_t[3, 7] = torch.arange(6), MASK  # whole blocks are finished in one of them
    found = laws(model.prepare(PROMPTS)[0], x_t)
    for row, before in enumerate(befores):
        assert found[row].double().sub(independent(network, before, x_t[row], BLOCK)).abs().max() < 5e-6
        assert independent(network, before, x_t[row], 2 * BLOCK).sub(found[row]).abs().max() > 0.005  # a control
    assert apart(lambda prompts: model.prepare(prompts)[0], x_t) < 1e-5


def test_the_cache_is_exact(made: tuple[Path, Any]) -> None:
    model, plain = opened(made[0], 5 * BLOCK), opened(made[0], 5 * BLOCK, cached=False)
    cached, x_t, _ = model.prepare(PROMPTS)
    assert isinstance(cached, BlockDenoiser)
    expect_exact_cache(plain.prepare(PROMPTS)[0], cached, x_t, PIECES)


def test_texts_are_written_and_the_form_is_right(made: tuple[Path, Any]) -> None:
    expect_same_texts(made[0], 2 * BLOCK)


def test_what_config_does_not_say_is_what_the_published_one_takes(tmp_path: Path) -> None:
    network = write(tmp_path, norm_topk_prob=None)
    written = json.loads((tmp_path / "config.json").read_text())
    del written["norm_topk_prob"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert not opened(tmp_path)._network.model.config.norm_topk_prob and network.config.norm_topk_prob


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": None}, "has no whole number 'block_size'"),
        ({"mask_token_id": KNOWN + 400}, "they do not fit"),
        ({"model_type": "sdar", "architectures": ["SDARForCausalLM"]}, "Qwen3ForCausalLM"),
        ({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}, "is of the architecture qwen3_moe"),
        ({"num_experts": 8}, "do not make a Qwen3MoeForCausalLM"),
        ({"mlp_only_layers": []}, "lack 'model.layers.0.mlp"),
        ({"num_hidden_layers": 3}, "lack 'model.layers.2"),
    ],
)
def test_what_is_near_it_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, length=T, chat=False)
