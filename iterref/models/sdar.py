"""SDAR: language models that write in blocks, each by diffusion given those before it (Cheng et al. 2025, 2510.06303).

    a Qwen3 of `transformers` under a mask by blocks (`iterref.models.in_blocks`);  a_t = 1 - t

TraDo comes in the same format. Files: config.json with model_type "sdar", `block_size` and `mask_token_id`, weights
under Qwen3's names. Compared with the modelling code in darkshapes/divisor (a copy of JetAstra/SDAR's):
tests/models/test_sdar.py says how close.
"""

from __future__ import annotations

from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.in_blocks import InBlocks, block_size, in_turn
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel
from iterref.models.text.roles import roles, talks

FAMILY = Family(title="SDAR", reads=("sdar", "sdarforcausallm"))
LENGTH = 128
MASK = "<|MASK|>"


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = LENGTH, chat: bool | None = None, cached: bool = True
) -> PromptedModel:
    """The text model of an SDAR; `length` positions of an answer.

    `chat` False leaves the chat template unused, True demands one; `cached` False reads prompts and finished blocks
    anew in every call. Raises `ValueError` for a configuration without blocks, a network that is no Qwen3, and a
    tokenizer that does not belong to it.
    """
    from transformers import Qwen3ForCausalLM

    block = block_size(checkpoint)
    chat = talks(codec, chat)
    # The published attention has no window, whatever the configuration says of one.
    changes = {"use_sliding_window": False, "sliding_window": None, "layer_types": None}
    config = pretrained.settings(Qwen3ForCausalLM.config_class, checkpoint, **changes)
    role = roles(checkpoint, codec, config.vocab_size, MASK, chat)
    network = InBlocks(pretrained.network(Qwen3ForCausalLM, config, checkpoint), block)
    return in_turn(network, role, codec, length=length, chat=chat, most=config.max_position_embeddings, cached=cached)
