"""SDAR: language models that write in blocks, each by diffusion given those before it (Cheng et al. 2025, 2510.06303).

    a Qwen3 or Qwen3-MoE of `transformers` under a mask by blocks (`iterref.models.in_blocks`);  a_t = 1 - t

TraDo comes in the same format. Files: config.json with model_type "sdar" or "sdar_moe", `block_size` and
`mask_token_id`, weights under Qwen3's names, experts one by one. Compared with the modelling code in darkshapes/divisor
(a copy of JetAstra/SDAR's) and, of mixtures of experts, in linyewei526/dLLM-ARIS-1: tests/models/test_sdar.py and
test_sdar_moe.py say how close. Experts are chosen, not mixed: where two tie to rounding, a distribution may jump with
its batch, in the published class too.
"""

from __future__ import annotations

from typing import Any

from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.in_blocks import block_size, in_turn
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel

FAMILY = Family(title="SDAR", reads=("sdar", "sdarforcausallm", "sdar_moe", "sdarmoeforcausallm"))
MASK = "<|MASK|>"
# What the published configuration of mixtures takes where config.json says nothing.
MIXED = {"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": False, "decoder_sparse_step": 1,
         "rope_theta": 10_000.0}  # fmt: skip


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = 128, chat: bool | None = None, cached: bool = True
) -> PromptedModel:
    """The text model of an SDAR; `length` positions of an answer. `chat` False leaves the chat template unused, True
    demands one; `cached` False reads prompts and finished blocks anew in every call. Raises `ValueError` for a
    configuration without blocks, a network that is no Qwen3, and a tokenizer that does not belong to it."""
    from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM

    block = block_size(checkpoint)
    mixed = str(checkpoint.config.get("model_type")).lower() == "sdar_moe"
    kind: Any = Qwen3MoeForCausalLM if mixed else Qwen3ForCausalLM
    # The published attention has no window, whatever the configuration says of one.
    changes: dict[str, Any] = {"use_sliding_window": False, "sliding_window": None}
    if mixed:  # by the name of its type the class knows how experts are stored
        usual = {name: value for name, value in MIXED.items() if name not in checkpoint.config}
        changes |= {"model_type": "qwen3_moe", **usual}
    else:
        changes["layer_types"] = None
    config = pretrained.settings(kind, checkpoint, **changes)
    return in_turn(kind, config, checkpoint, codec, MASK, block, length=length, chat=chat, cached=cached)
