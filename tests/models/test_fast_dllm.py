"""Fast-dLLM v2 checkpoints: the shift across blocks, the exact cache, and what is refused.

Compared with Satgoy152/DualDiffusion at 9587d1e4 (FastDLLM_inferencing/Fast_dLLM_v2_7B/modeling.py, a copy of
Efficient-Large-Model/Fast_dLLM_v2_7B's, under transformers 5.23.0 with its two missing names supplied) on the same
random weights, in float32 on a CPU, 3 layers of width 64, keys shared, 311 tokens, blocks of 4, prompts of 13, 8, 1 and
3 tokens in one batch: logits of up to 5.7 differ by at most 5.4e-6, with the cache and without; against its own cache
of whole blocks, 3.7e-6.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from iterref.loading import load
from iterref.models.in_blocks import BlockDenoiser
from tests.support.byte_pairs import write_pairs
from tests.support.decoders import half_open, law, laws
from tests.support.dream import END, KNOWN, MASK, PIECES
from tests.support.in_blocks import (
    LENGTH,
    PROMPTS,
    apart,
    blocks_of,
    expect_exact_cache,
    expect_same_texts,
    opened,
    randomise,
    seconds,
)

BLOCK, T = 4, LENGTH
SIZES = {"vocab_size": KNOWN + 5, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
         "rope_theta": 1e6, "tie_word_embeddings": False}  # fmt: skip


def write(folder: Path, sizes: dict[str, Any] = SIZES, block: int = BLOCK, **changes: Any) -> Any:
    network = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes)).eval()
    randomise(network)
    network.save_pretrained(folder)
    written = {
        **sizes, "model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": block,
        "auto_map": {"AutoModel": "modeling.X"}, "conplemenrary_mask": True, "mask_token_id": MASK,
        "hidden_act": "silu", "eos_token_id": END, "pad_token_id": END, "rope_scaling": None, "sliding_window": 8,
        "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(written | changes))
    write_pairs(folder)
    return network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("fast")
    return folder, write(folder)


def independent(network: Any, before: list[int], x_t: Tensor, shift: int = 1) -> Tensor:
    """p(x_0 | x_t) (L, V) of one answer, as it is said in words: what a position holds is said one before it."""
    ids = [*before, *x_t.tolist()]
    ids += [MASK] * (-len(ids) % BLOCK)
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([ids]), attention_mask=blocks_of(len(ids), BLOCK)[None, None]).logits[0]
    if shift:
        logits = torch.cat([logits[:1], logits[:-1]])
    return law(logits[len(before) : len(before) + len(x_t)].double(), x_t, MASK, KNOWN)


def test_a_position_is_predicted_one_before_it_across_blocks_too(made: tuple[Path, Any]) -> None:
    folder, network = made
    model = opened(folder)
    befores = model.ids(PROMPTS)
    assert len({len(before) % BLOCK for before in befores}) > 1
    x_t = half_open(4, T, PIECES, MASK)
    x_t[3, :6], x_t[3, 7] = torch.arange(6), MASK  # whole blocks are finished in one of them
    found = laws(model.prepare(PROMPTS)[0], x_t)
    for row, before in enumerate(befores):
        assert found[row].double().sub(independent(network, before, x_t[row])).abs().max() < 5e-6
        assert independent(network, before, x_t[row], shift=0).sub(found[row]).abs().max() > 0.01  # a control
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
        ({"bd_size": None}, "has no whole number 'bd_size'"),
        ({"bd_size": 0}, "has bd_size=0: a block has at least one position"),
        ({"mask_token_id": KNOWN + 400}, "they do not fit"),
        ({"model_type": "Fast_dLLM_Llama", "architectures": ["Fast_dLLM_LlamaForCausalLM"]}, "the architecture fast_"),
        ({"num_hidden_layers": 3, "layer_types": None}, "lack 'model.layers.2"),
    ],
)
def test_what_is_near_it_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, length=T, chat=False)


@pytest.mark.slow
def test_the_time_of_a_block_does_not_depend_on_what_stands_before_it(tmp_path: Path) -> None:
    """But for attention to what was read, which a wide network spends little of its time on."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "max_position_embeddings": 8192}
    write(tmp_path, SIZES | sizes, block=32)
    near, far = seconds(opened(tmp_path, 32), [64, 1024], 32)
    assert far < 1.5 * near, (near, far)
    [again] = seconds(opened(tmp_path, 32, cached=False), [1024], 32, calls=2)
    assert again > 5 * far  # a control
