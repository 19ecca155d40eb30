"""Nemotron-Labs-Diffusion checkpoints: a block behind a causal context, the exact cache, and what is refused.

Compared with Ministral3 of transformers 5.23.0 asked as the published `generate` asks its network (the context causally
into a cache, then the block over it, all of it in sight), on the same random weights, in float32 on a CPU, 3 layers of
width 64, keys shared, YaRN with a query scale from position 16 on, 311 tokens, blocks of 8, prompts of 13, 8, 0 and 3
tokens in one batch and each alone: logits of up to 6.3 differ by at most 9.6e-6, with the cache and without.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from iterref.loading import load
from iterref.models.in_blocks import BlockDenoiser
from tests.support.byte_pairs import write_pairs
from tests.support.decoders import half_open, law, laws
from tests.support.dream import END, KNOWN, MASK, PIECES
from tests.support.in_blocks import LENGTH, PROMPTS, apart, expect_exact_cache, expect_same_texts, opened, randomise

BLOCK, T = 4, LENGTH
ROPE = {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 4.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 16, "rope_theta": 1e6,
        "rope_type": "yarn"}  # fmt: skip
SIZES = {"vocab_size": KNOWN + 5, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
         "tie_word_embeddings": False, "rope_parameters": ROPE}  # fmt: skip


def write(folder: Path, sizes: dict[str, Any] = SIZES, block: int = BLOCK, **changes: Any) -> Any:
    config = transformers.Ministral3Config(**deepcopy(sizes))
    network = transformers.Ministral3ForCausalLM(config).eval()
    randomise(network)
    network.save_pretrained(folder)
    held = load_file(folder / "model.safetensors")
    names = {name: name.replace("model.", "encoder.", 1).replace("lm_head", "diffusion_head") for name in held}
    save_file({names[name]: part for name, part in held.items()}, folder / "model.safetensors")
    written = {
        **sizes, "model_type": "nemotron_labs_diffusion", "architectures": ["NemotronLabsDiffusionModel"],
        "auto_map": {"AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel"}, "block_size": block,
        "mask_token_id": MASK, "dlm_paradigm": "bidirectional", "dlm_loss_weight": None, "ar_loss_weight": 1.0,
        "attn_implementation": "sdpa", "attention_bias": False, "mlp_bias": False, "sliding_window": None,
        "hidden_act": "silu", "eos_token_id": END, "pad_token_id": END, "dp_varying_mask_ratio": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(written | changes))
    write_pairs(folder)
    return network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("nemotron")
    return folder, write(folder)


@torch.no_grad()
def published(network: Any, before: list[int], x_t: Tensor, block: int = BLOCK, causal: bool = True) -> Tensor:
    """The logits (L, V) of one answer as the published sampler asks for them: each block behind a cache of the prompt
    and the blocks before."""
    answer, found = [*x_t.tolist(), *[MASK] * (-len(x_t) % block)], []
    for begin in range(0, len(answer), block):
        context, cache = torch.tensor([[*before, *answer[:begin]]]), transformers.DynamicCache()
        size = context.shape[1]
        if size:
            sees = None if causal else torch.ones(1, 1, size, size, dtype=torch.bool)
            network(input_ids=context, attention_mask=sees, past_key_values=cache, use_cache=True)
        found.append(network(
            input_ids=torch.tensor([answer[begin : begin + block]]), past_key_values=cache, use_cache=True,
            attention_mask=torch.ones(1, 1, block, size + block, dtype=torch.bool),
            position_ids=torch.arange(size, size + block)[None],
        ).logits[0])  # fmt: skip
    return torch.cat(found)[: len(x_t)]


def test_distributions_are_those_of_the_published_calls(made: tuple[Path, Any]) -> None:
    folder, network = made
    model = opened(folder)
    prompts = [*PROMPTS, ""]
    befores = model.ids(prompts)
    assert len({len(before) % BLOCK for before in befores}) > 2 and max(map(len, befores)) + T > 16
    x_t = half_open(5, T, PIECES, MASK)
    x_t[3, :6], x_t[3, 7] = torch.arange(6), MASK  # whole blocks are finished in one of them
    denoiser = model.prepare(prompts)[0]
    found = laws(denoiser, x_t)
    for row, before in enumerate(befores):
        wanted = law(published(network, before, x_t[row]).double(), x_t[row], MASK, KNOWN)
        assert found[row].double().sub(wanted).abs().max() < 5e-6
        for control in ({"block": 2 * BLOCK}, {"causal": False} if len(before) > 1 else {"block": 1}):
            other = law(published(network, before, x_t[row], **control).double(), x_t[row], MASK, KNOWN)
            assert found[row].sub(other).abs().max() > 1e-3
    assert apart(lambda prompts: model.prepare(prompts)[0], x_t[:4]) < 1e-5
    copies = torch.tensor([2, 0, 4, 3, 2])  # candidates of some of the prompts, in any order
    assert laws(denoiser, x_t[copies], copies).sub(found[copies]).abs().max() < 1e-5


def test_the_cache_is_exact(made: tuple[Path, Any]) -> None:
    model, plain = opened(made[0], 5 * BLOCK), opened(made[0], 5 * BLOCK, cached=False)
    cached, x_t, _ = model.prepare(PROMPTS)
    assert isinstance(cached, BlockDenoiser)
    expect_exact_cache(plain.prepare(PROMPTS)[0], cached, x_t, PIECES)


def test_blocks_begin_with_the_answer(made: tuple[Path, Any]) -> None:
    """Wherever a prompt ends, the first block is whole, and no position feels a later one."""
    model = opened(made[0], 3 * BLOCK)
    denoiser, x_t, _ = model.prepare(PROMPTS)
    assert denoiser.block_length == BLOCK and denoiser.block_offset is None
    x_t[:, :2] = torch.tensor([5, 6])
    later, same = x_t.clone(), x_t.clone()
    later[:, BLOCK:] = 7
    same[:, BLOCK - 1] = 7
    found = laws(denoiser, x_t)
    assert laws(denoiser, later)[:, :BLOCK].sub(found[:, :BLOCK]).abs().max() < 1e-6
    assert bool((laws(denoiser, same)[:, 2].sub(found[:, 2]).abs().amax(1) > 1e-3).all())


def test_texts_are_written_and_the_form_is_right(made: tuple[Path, Any]) -> None:
    expect_same_texts(made[0], 2 * BLOCK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": None}, "has no whole number 'block_size'"),
        ({"block_size": 0}, "has block_size=0: a block has at least one position"),
        ({"mask_token_id": KNOWN + 400}, "they do not fit"),
        ({"dlm_paradigm": "autoregressive"}, "dlm_paradigm='autoregressive': only .* were trained to denoise"),
        ({"sliding_window": 8}, "has sliding_window=8, which needs another network"),
        ({"attention_bias": True}, "has attention_bias=True, which needs another network"),
        ({"rope_parameters": None}, "has no rope_parameters: is it this family's format?"),
        ({"model_type": "ministral3", "architectures": ["Ministral3ForCausalLM"]}, "is of the architecture ministral3"),
        ({"model_type": "nemotron", "architectures": ["NemotronForCausalLM"]}, "is of the architecture nemotron"),
        ({"model_type": "nvrdiff", "architectures": ["DiffEncoderModel"]}, "is of the architecture nvrdiff"),
        ({"num_hidden_layers": 3}, "lack 'model.layers.2"),
    ],
)
def test_what_is_near_it_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, length=T, chat=False)
