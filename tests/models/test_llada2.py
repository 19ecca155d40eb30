"""LLaDA2 checkpoints: experts, partial rotary positions, attention by blocks, the exact cache, and what is refused.

Compared with ZHZisZZ/dllm at ca176752 (dllm/pipelines/llada2/models/modeling_llada2_moe.py, under transformers 5.23.0
with its missing names supplied) on the same random weights, in float32 on a CPU, 3 layers of width 64 (the first
dense), 8 experts in 4 groups and one shared, 311 tokens, blocks of 4, prompts of 13, 8, 0 and 3 tokens in one batch:
logits of up to 5.7 differ by at most 5.3e-6, with the cache and without. LLaDA2.1's file has the same network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import iterref
from iterref.check import check_model
from iterref.loading import load
from iterref.models.in_blocks import BlockDenoiser
from tests.support.byte_pairs import write_pairs
from tests.support.decoders import half_open, law, laws
from tests.support.dream import END, KNOWN, MASK, PIECES
from tests.support.in_blocks import PROMPTS, apart, blocks_of, expect_exact_cache, opened

BLOCK, T, WIDTH, HEADS, KEYS, SIZE = 4, 10, 24, 4, 2, 8
EXPERTS, GROUPS, INNER, FACTOR, THETA = 8, 4, 12, 2.5, 6e5
CONFIG = {
    "model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"], "auto_map": {"AutoModel": "modeling.X"},
    "vocab_size": KNOWN + 5, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": SIZE,
    "num_attention_heads": HEADS, "num_key_value_heads": KEYS, "moe_intermediate_size": INNER, "num_experts": EXPERTS,
    "num_experts_per_tok": 2, "num_shared_experts": 1, "n_group": GROUPS, "topk_group": 2, "norm_head": False,
    "routed_scaling_factor": FACTOR, "first_k_dense_replace": 1, "use_bias": False, "use_qkv_bias": False,
    "use_qk_norm": True, "rms_norm_eps": 1e-6, "rope_theta": THETA, "partial_rotary_factor": 0.5, "rope_scaling": None,
    "max_position_embeddings": 64, "score_function": "sigmoid", "tie_word_embeddings": False, "hidden_act": "silu",
    "block_size": BLOCK, "mask_token_id": MASK, "eos_token_id": END, "pad_token_id": END, "norm_topk_prob": True,
}  # fmt: skip
MLP = {"gate_proj": 1, "up_proj": 1, "down_proj": 0}


def weights() -> dict[str, Tensor]:
    """Random weights by their published names."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (KNOWN + 5, WIDTH), "model.word_embeddings.weight": (KNOWN + 5, WIDTH),
        "model.norm.weight": (WIDTH,),
    }  # fmt: skip

    def mlp(name: str, inner: int) -> None:
        for own, up in MLP.items():
            shapes[f"{name}.{own}.weight"] = (inner, WIDTH) if up else (WIDTH, inner)

    for layer in range(2):
        name = f"model.layers.{layer}"
        shapes[f"{name}.attention.query_key_value.weight"] = ((HEADS + 2 * KEYS) * SIZE, WIDTH)
        shapes[f"{name}.attention.dense.weight"] = (WIDTH, HEADS * SIZE)
        for norm in ("attention.query_layernorm", "attention.key_layernorm"):
            shapes[f"{name}.{norm}.weight"] = (SIZE,)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{name}.{norm}.weight"] = (WIDTH,)
        if not layer:
            mlp(f"{name}.mlp", 32)
            continue
        shapes[f"{name}.mlp.gate.weight"], shapes[f"{name}.mlp.gate.expert_bias"] = (EXPERTS, WIDTH), (EXPERTS,)
        mlp(f"{name}.mlp.shared_experts", INNER)
        for expert in range(EXPERTS):
            mlp(f"{name}.mlp.experts.{expert}", INNER)
    found = {}
    for name, shape in shapes.items():
        random = torch.randn(shape, generator=generator)
        scaled = 1.5 * random * shape[-1] ** -0.5 if len(shape) > 1 else 0.4 * random
        found[name] = scaled + (len(shape) == 1 and "bias" not in name)
    return found


def write(folder: Path, **changes: Any) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    held = weights()
    save_file(held, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (CONFIG | changes).items() if v != "absent"}))
    write_pairs(folder)
    return held


def reading(held: dict[str, Tensor], ids: list[int], block: int = BLOCK, bias: float = 1.0) -> Tensor:
    """Raw logits (T, V) of one text as it is said in words, in float64: heads, and experts, are taken one by one."""
    w = {name: weight.double() for name, weight in held.items()}

    def norm(name: str, h: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    def mlp(name: str, h: Tensor) -> Tensor:
        gate, up, down = (w[f"{name}.{own}.weight"] for own in MLP)
        return (torch.nn.functional.silu(h @ gate.T) * (h @ up.T)) @ down.T

    def experts(name: str, h: Tensor) -> Tensor:
        score = (h @ w[f"{name}.gate.weight"].T).sigmoid()
        choice = score + bias * w[f"{name}.gate.expert_bias"]
        found = mlp(f"{name}.shared_experts", h)
        for at in range(len(h)):
            groups = choice[at].view(GROUPS, -1)
            best = sorted(range(GROUPS), key=lambda g: float(groups[g].topk(2).values.sum()))[-2:]
            allowed = [e for e in range(EXPERTS) if e // (EXPERTS // GROUPS) in best]
            chosen = sorted(allowed, key=lambda e: float(choice[at, e]))[-2:]
            total = sum(score[at, e] for e in chosen)
            for e in chosen:
                found[at] += FACTOR * score[at, e] / total * mlp(f"{name}.experts.{e}", h[at])
        return found

    angle = torch.arange(len(ids))[:, None] * THETA ** -(torch.arange(0, SIZE // 2, 2).double() / (SIZE // 2))

    def turned(h: Tensor) -> Tensor:  # the first half of a head alone
        half = SIZE // 2
        left, right = h[:, : half // 2], h[:, half // 2 : half]
        turn = torch.complex(left, right) * torch.exp(1j * angle)
        return torch.cat([turn.real, turn.imag, h[:, half:]], -1)

    h, sees = w["model.word_embeddings.weight"][ids], blocks_of(len(ids), block)
    for layer in range(2):
        name = f"model.layers.{layer}"
        mixed = norm(f"{name}.input_layernorm", h) @ w[f"{name}.attention.query_key_value.weight"].T
        parts = mixed.split(SIZE, -1)
        heads = []
        for head in range(HEADS):
            key = parts[HEADS + head // (HEADS // KEYS)]
            value = parts[HEADS + KEYS + head // (HEADS // KEYS)]
            query = turned(norm(f"{name}.attention.query_layernorm", parts[head]))
            score = query @ turned(norm(f"{name}.attention.key_layernorm", key)).T * SIZE**-0.5
            heads.append(score.masked_fill(~sees, -torch.inf).softmax(-1) @ value)
        h = h + torch.cat(heads, -1) @ w[f"{name}.attention.dense.weight"].T
        inner = norm(f"{name}.post_attention_layernorm", h)
        h = h + (experts(f"{name}.mlp", inner) if layer else mlp(f"{name}.mlp", inner))
    return norm("model.norm", h) @ w["lm_head.weight"].T


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("llada2")
    return folder, write(folder)


def test_distributions_are_those_of_the_network_in_words(made: tuple[Path, dict[str, Tensor]]) -> None:
    folder, held = made
    model = opened(folder)
    x_t = half_open(4, T, PIECES, MASK)
    x_t[3, :6], x_t[3, 7] = torch.arange(6), MASK  # whole blocks are finished in one of them
    found = laws(model.prepare(PROMPTS)[0], x_t)
    for row, before in enumerate(model.ids(PROMPTS)):
        if PROMPTS[row] in PROMPTS[:row]:
            continue
        ids = [*before, *x_t[row].tolist()]
        ids += [MASK] * (-len(ids) % BLOCK)
        place = slice(len(before), len(before) + T)
        wanted = law(reading(held, ids)[place], x_t[row], MASK, KNOWN)
        assert found[row].double().sub(wanted).abs().max() < 1e-5
        for other in ({"block": 2 * BLOCK}, {"bias": 0.0}) if row == 0 else ():  # controls
            control = law(reading(held, ids, **other)[place], x_t[row], MASK, KNOWN)
            assert control.sub(wanted).abs().max() > 1e-3
    assert apart(lambda prompts: model.prepare(prompts)[0], x_t) < 1e-5


def test_the_cache_is_exact(made: tuple[Path, Any]) -> None:
    model, plain = opened(made[0], 5 * BLOCK), opened(made[0], 5 * BLOCK, cached=False)
    cached, x_t, _ = model.prepare(PROMPTS)
    assert isinstance(cached, BlockDenoiser)
    expect_exact_cache(plain.prepare(PROMPTS)[0], cached, x_t, PIECES)


def test_texts_are_written_and_the_form_is_right(made: tuple[Path, Any]) -> None:
    model = opened(made[0], 2 * BLOCK)
    result = iterref.generate(model, PROMPTS, reward="length:4", budget=8, seed=1)
    assert result.texts is not None and result.lengths is not None
    findings = check_model(opened(made[0]), None, PROMPTS * 2)
    assert [one.sentence for one in findings if one.passed is False] == []
    assert model.prepare([""])[0].block_length == BLOCK


def test_blocks_are_of_32_where_nothing_says_their_length(tmp_path: Path) -> None:
    write(tmp_path, block_size="absent", model_type="llada21_moe")
    assert opened(tmp_path).prepare([""])[0].block_length == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 0}, "has block_size=0: a block has at least one position"),
        ({"use_bias": True}, "has use_bias=True, which needs another network than GLM's"),
        ({"score_function": "softmax"}, "has score_function='softmax', which needs another network"),
        ({"num_shared_experts": None}, "has no whole number 'num_shared_experts'"),
        ({"mask_token_id": KNOWN + 400}, "they do not fit"),
        ({"num_key_value_heads": 4}, "do not make a Glm4MoeForCausalLM|hold 'model.layers.0.attention|lack 'model.lay"),
        ({"model_type": "llada_moe", "architectures": ["LLaDAMoEModelLM"]}, "is of the architecture llada_moe"),
        ({"model_type": "bailing_moe", "architectures": ["BailingMoeV2ForCausalLM"]}, "is of the architecture bailing"),
        ({"num_hidden_layers": 3}, "lack 'model.layers.2"),
    ],
)
def test_what_is_near_it_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, length=T, chat=False)
