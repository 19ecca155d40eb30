"""Dream: diffusion language models made of Qwen2.5 (Ye et al. 2025, arXiv:2508.15487), and what is trained on alike.

    log p(x_0^i | x_t, prompt) = log-softmax of the logits at position i - 1, without the mask;  a_t = 1 - t
    a Qwen2 without a causal mask: every position of prompt and answer sees every other; no time

Like the causal model that it was, Dream says at a position what the next one holds. The first position of all reads
its own logits, as published: a text without a prompt, or behind one that is no chat, begins with <|beginoftext|>.

Files: config.json with model_type "Dream", weights under Qwen2's names, vocab.json and merges.txt; DiffuCoder has the
same. The answer ends with <|im_end|> or <|endoftext|> and is filled up with the latter. The base model's tokenizer may
hold Qwen's chat template: say chat=False for it.

Compared with ZHZisZZ/dllm at ca176752: tests/models/test_dream.py says how close.
"""

from __future__ import annotations

from iterref.models import pretrained
from iterref.models.bidirectional import Bidirectional
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel, answers, roles, talks

FAMILY = Family(title="Dream", reads=("dream",), spread=True)
MASK = "<|mask|>"


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = 128, chat: bool | None = None
) -> PromptedModel:
    """The text model of a Dream; `length` positions of an answer. `chat` False leaves the chat template unused, True
    demands one. Raises `ValueError` for a network that is no Qwen2, and a tokenizer that does not belong to it."""
    from transformers import Qwen2ForCausalLM

    if checkpoint.config.get("block_size"):
        told = f"{checkpoint.name} writes in blocks that see no later block (block_size="
        raise ValueError(f"{told}{checkpoint.config['block_size']}): only Dream's models of whole answers are read")
    chat = talks(codec, chat)
    # The published attention has no window, whatever the configuration says of one.
    changes = {"use_sliding_window": False, "sliding_window": None}
    config = pretrained.settings(Qwen2ForCausalLM, checkpoint, **changes)
    role = roles(checkpoint, codec, config.vocab_size, MASK, chat)
    model = pretrained.network(Qwen2ForCausalLM, config, checkpoint)
    head = [] if codec is None or codec.start is None else [codec.start]
    network = Bidirectional(model, causal=True, shift=1)
    return answers(network, role, codec, length=length, chat=chat, head=head)
