"""Nemotron-Labs-Diffusion: a causal model that also denoises the block behind what it has read (NVIDIA 2026).

    log p(x_0^i | x_t, prompt) = log-softmax of the logits at i, without the mask;  a_t = 1 - t
    context   prompt and blocks before, read as by a causal model      block   sees all of itself, and the context

A Ministral3 of `transformers` under such masks (`iterref.models.in_blocks.BehindCausal`). Blocks are of `block_size`
positions and are counted from the answer's first, as in the published sampler. That one draws the first token of every
block from the causal model; here it is denoised like the others, which training did too.

Files: config.json with model_type "nemotron_labs_diffusion", `block_size`, `mask_token_id` and `rope_parameters`,
weights under `encoder.` and `diffusion_head`. The published modelling code, as stored without its repository's name,
imports attention from a file that no stored repository has; linyewei526/Nemotron-Labs-Diffusion at 9a6c93e0 runs and
describes both. tests/models/test_nemotron.py asks Ministral3 as that code's `generate` does, and says how close.
"""

from __future__ import annotations

from collections.abc import Mapping

from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.in_blocks import BehindCausal, block_size, in_turn
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel

FAMILY = Family(title="Nemotron-Labs-Diffusion", reads=("nemotron_labs_diffusion", "nemotronlabsdiffusionmodel"))
MASK = "<SPECIAL_100>"
PARADIGMS = ("bidirectional", "block_diff")  # of training; a third one is the causal model alone
NEEDED = {"sliding_window": None, "attention_bias": False, "mlp_bias": False}
NAMES = {r"^encoder\.": "model.", r"^diffusion_head\.": "lm_head."}


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = 128, chat: bool | None = None, cached: bool = True
) -> PromptedModel:
    """The text model of a Nemotron-Labs-Diffusion; options as for SDAR. Raises `ValueError` for a configuration without
    blocks or rotary parameters, a model that was trained as a causal one alone, a network that is no Ministral3, and a
    tokenizer that does not belong to it."""
    from transformers import Ministral3ForCausalLM

    block, written = block_size(checkpoint), checkpoint.config
    paradigm = written.get("dlm_paradigm", PARADIGMS[0])
    if paradigm not in PARADIGMS:
        told = f"{checkpoint.name} has dlm_paradigm={paradigm!r}"
        raise ValueError(f"{told}: only {' and '.join(PARADIGMS)} were trained to denoise, so it is not read")
    pretrained.expect(checkpoint, "Ministral3", NEEDED)
    if not isinstance(written.get("rope_parameters"), Mapping):
        raise ValueError(f"config.json of {checkpoint.name} has no rope_parameters: is it this family's format?")
    config = pretrained.settings(Ministral3ForCausalLM, checkpoint)
    return in_turn(
        Ministral3ForCausalLM, config, checkpoint, codec, MASK, block, names=NAMES, reads=BehindCausal, length=length,
        chat=chat, cached=cached,
    )  # fmt: skip
