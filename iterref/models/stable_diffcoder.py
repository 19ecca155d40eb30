"""Stable-DiffCoder: a code model that writes in short blocks by diffusion (ByteDance Seed 2026).

    a LLaMA of `transformers` under a mask by blocks (`iterref.models.in_blocks`);  a_t = 1 - t

Files: config.json with model_type "llama" and the architecture "StableDiffcoderForCausalLM", weights under LLaMA's
names, a tokenizer with `<[MASK_TOKEN]>`. The published modelling file is LLaMA's class with a sampler: blocks of 4
from the start of the prompt (`block_size` in config.json says others), logits at the position itself. What it does at
a block is what tests/models/test_stable_diffcoder.py compares with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.in_blocks import block_size, in_turn
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel

FAMILY = Family(title="Stable-DiffCoder", reads=("stablediffcoderforcausallm",), recognises="recognised")
BLOCK = 4
MASK = "<[MASK_TOKEN]>"


def recognised(config: Mapping[str, Any]) -> bool:
    """Whether config.json names the architecture; its model_type is LLaMA's."""
    return FAMILY.reads[0] in [str(one).lower() for one in config.get("architectures") or []]


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = 128, chat: bool | None = None, cached: bool = True
) -> PromptedModel:
    """The text model of a Stable-DiffCoder; options as for SDAR. Raises `ValueError` for a network that is no LLaMA,
    and a tokenizer that does not belong to it."""
    from transformers import LlamaForCausalLM

    block = block_size(checkpoint, BLOCK)
    config = pretrained.settings(LlamaForCausalLM, checkpoint)
    return in_turn(LlamaForCausalLM, config, checkpoint, codec, MASK, block, length=length, chat=chat, cached=cached)
