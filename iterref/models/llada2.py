"""LLaDA2: mixtures of experts that write in blocks by diffusion (inclusionAI 2025, LLaDA2.0 and LLaDA2.1).

    a GLM-4-MoE of `transformers` under a mask by blocks (`iterref.models.in_blocks`);  a_t = 1 - t
    expert weights: sigmoid of the router, the best groups by sigmoid + bias, normalised, times a factor

Files: config.json with model_type "llada2_moe" or "llada21_moe", queries, keys and values in one matrix
(`query_key_value`), experts one by one. Blocks are of `block_size` positions, where config.json says it, else of the 32
of the published sampler. LLaDA2.1 was also trained to correct tokens that are written already; here they are certain,
and a method's moves mask them again.

Compared with ZHZisZZ/dllm at ca176752 (dllm/pipelines/llada2): tests/models/test_llada2.py says how close. Of
experts that tie to rounding holds what `iterref.models.sdar` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.in_blocks import block_size, in_turn
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel

FAMILY = Family(title="LLaDA2", reads=("llada2_moe", "llada21_moe", "llada2moemodellm"))
BLOCK = 32
MASK = "<|mask|>"
# What GLM's class is, by its name in config.json.
NEEDED = {"use_bias": False, "norm_head": False, "score_function": "sigmoid", "rope_scaling": None}
# Its names of what both have.
SAME = {
    "num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts", "use_qkv_bias": "attention_bias",
}  # fmt: skip
NAMES = {
    r"\.word_embeddings\.": ".embed_tokens.",
    r"\.attention\.dense\.": ".self_attn.o_proj.",
    r"\.attention\.query_layernorm\.": ".self_attn.q_norm.",
    r"\.attention\.key_layernorm\.": ".self_attn.k_norm.",
    r"\.mlp\.gate\.expert_bias$": ".mlp.gate.e_score_correction_bias",
}


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = 128, chat: bool | None = None, cached: bool = True
) -> PromptedModel:
    """The text model of a LLaDA2; options as for SDAR. Raises `ValueError` for a network that GLM's class is not, and a
    tokenizer that does not belong to it."""
    from transformers import Glm4MoeForCausalLM

    block = block_size(checkpoint, BLOCK)
    config = pretrained.settings(Glm4MoeForCausalLM, replace(checkpoint, config=glm(checkpoint)))
    apart = replace(checkpoint, tensors=split(checkpoint.weights(), config), adapter=None)
    return in_turn(
        Glm4MoeForCausalLM, config, apart, codec, MASK, block, names=NAMES, length=length, chat=chat, cached=cached
    )


def glm(checkpoint: Checkpoint) -> dict[str, Any]:
    """The same network in the words of GLM's configuration. Raises `ValueError` for one that its class is not."""
    written = checkpoint.config
    pretrained.expect(checkpoint, "GLM", NEEDED)
    heads, experts = checkpoint.size("num_attention_heads"), checkpoint.size("num_experts_per_tok")
    return {
        **{key: value for key, value in written.items() if key not in (*SAME, *NEEDED)},
        **{other: written[name] for name, other in SAME.items() if name in written},
        "model_type": "glm4_moe",
        "n_shared_experts": checkpoint.size("num_shared_experts"),
        "num_key_value_heads": written.get("num_key_value_heads") or heads,
        "head_dim": written.get("head_dim") or checkpoint.size("hidden_size") // heads,
        "use_qk_norm": written.get("use_qk_norm", True),
        "norm_topk_prob": experts > 1,
        "rope_theta": written.get("rope_theta", 10_000.0),
        "partial_rotary_factor": written.get("partial_rotary_factor", 0.5),
        "num_mtp_layers": 0,
    }


def split(weights: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The weights with queries, keys and values apart."""
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    sizes = [count * config.head_dim for count in (heads, shared, shared)]
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        place = re.fullmatch(r"(.*)\.attention\.query_key_value\.(weight|bias)", name)
        if place is None or len(weight) != sum(sizes):
            found[name] = weight
            continue
        for own, part in zip("qkv", torch.split(weight, sizes), strict=True):
            found[f"{place[1]}.self_attn.{own}_proj.{place[2]}"] = part
    return found
