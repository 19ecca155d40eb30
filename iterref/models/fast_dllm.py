"""Fast-dLLM v2: Qwen2.5 models made to write in blocks by diffusion (Wu et al. 2025, arXiv:2509.26328).

    log p(x_0^i | x_t, prompt) = log-softmax of the logits at position i - 1, without the mask;  a_t = 1 - t

A Qwen2 of `transformers` under a mask by blocks (`iterref.models.in_blocks`). Like the causal model that it was, it
says at a position what the next one holds: the first position of a block is predicted by the last of the block before,
which is finished then and sees nothing of it. The first position of all, behind no prompt, reads its own logits.

Files: config.json with model_type "Fast_dLLM_Qwen" and `bd_size`, weights under Qwen2's names. The published sampler
fills a block in parts of 8 from the left; here that is `block_length=8`. Compared with Satgoy152/DualDiffusion at
9587d1e4 (a copy of Efficient-Large-Model/Fast_dLLM_v2_7B's modelling code): tests/models/test_fast_dllm.py says how
close.
"""

from __future__ import annotations

from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.in_blocks import block_size, in_turn
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel

FAMILY = Family(title="Fast-dLLM v2", reads=("fast_dllm_qwen", "fast_dllm_qwenforcausallm"))
MASK = "|<MASK>|"


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = 128, chat: bool | None = None, cached: bool = True
) -> PromptedModel:
    """The text model of a Fast-dLLM v2; options as for SDAR. Raises `ValueError` for a configuration without blocks, a
    network that is no Qwen2, and a tokenizer that does not belong to it."""
    from transformers import Qwen2ForCausalLM

    block = block_size(checkpoint, name="bd_size")
    # The published attention looks at all that the mask shows, whatever the configuration says of a window.
    changes = {"use_sliding_window": False, "sliding_window": None, "layer_types": None}
    config = pretrained.settings(Qwen2ForCausalLM, checkpoint, **changes)
    return in_turn(
        Qwen2ForCausalLM, config, checkpoint, codec, MASK, block, shift=1, length=length, chat=chat, cached=cached
    )
