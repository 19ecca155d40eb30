"""LLaDA: large language diffusion models (Nie et al. 2025, arXiv:2502.09992; LLaDA 1.5: Zhu et al. 2025, 2505.19223).

    log p(x_0^i | x_t, prompt) = log-softmax of the logits without the mask at masked positions;  a_t = 1 - t
    a LLaMA without a causal mask: every position of prompt and answer sees every other; no time

Files: config.json with model_type "llada", weights called `model.transformer.*`, tokenizer.json. The network is the
LLaMA of `transformers` under other names. The answer ends with <|eot_id|> or <|endoftext|> and is filled up with the
latter. The chat template is used where the tokenizer has a token that ends a turn: the base model's has none.

Compared with ZHZisZZ/dllm at ca176752 and ML-GSAI/LLaDA at b7e6c356: tests/models/test_llada.py says how close.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iterref.models import pretrained
from iterref.models.bidirectional import Bidirectional
from iterref.models.checkpoint import Checkpoint
from iterref.models.family import Family
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel, answers, roles, talks

FAMILY = Family(title="LLaDA", reads=("llada",), spread=True)
MASK = "<|mdm_mask|>"
# What LLaMA's class is, by its name in config.json, and what the published code takes where it is not said.
NEEDED: dict[str, Any] = {
    "block_type": "llama", "block_group_size": 1, "rope": True, "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    **dict.fromkeys(("alibi", "attention_layer_norm", "input_emb_norm", "scale_logits"), False),
    **dict.fromkeys(("bias_for_layer_norm", "include_bias", "include_qkv_bias"), False),
}  # fmt: skip
USUAL = {"block_type": "sequential", "rope": False, "layer_norm_type": "default"}
ACTIVATIONS = ("silu", "gelu", "relu")
OUTER = {"wte": "embed_tokens", "ln_f": "norm"}
INNER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
# A weight's name here, as a pattern, and in LLaMA's class; another name stays, for the loader to refuse.
NAMES = {
    r"^model\.transformer\.ff_out\.": "lm_head.",
    **{rf"^model\.transformer\.{own}\.": f"model.{other}." for own, other in OUTER.items()},
    **{rf"^model\.transformer\.blocks\.(\d+)\.{own}\.": rf"model.layers.\1.{other}." for own, other in INNER.items()},
}


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int = 128, chat: bool | None = None
) -> PromptedModel:
    """The text model of a LLaDA; `length` positions of an answer. `chat` False leaves the chat template unused, True
    demands one. Raises `ValueError` for a network that is no LLaMA, and a tokenizer that does not belong to it."""
    from transformers import LlamaForCausalLM

    chat = talks(codec, chat)
    config = pretrained.settings(LlamaForCausalLM, replace(checkpoint, config=llama(checkpoint)))
    role = roles(checkpoint, codec, config.vocab_size, MASK, chat)
    model = pretrained.network(LlamaForCausalLM, config, checkpoint, NAMES)
    head = [] if codec is None else codec.frame[0]
    return answers(Bidirectional(model, causal=True), role, codec, length=length, chat=chat, head=head)


def llama(checkpoint: Checkpoint) -> dict[str, Any]:
    """The same network in the words of LLaMA's configuration. Raises `ValueError` for one that LLaMA's class is not."""
    written = checkpoint.config
    pretrained.expect(checkpoint, "LLaMA", NEEDED, USUAL)
    activation = written.get("activation_type", "swiglu")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"{checkpoint.name} has activation_type={activation!r}: this library reads {known}")
    width, heads = checkpoint.size("d_model"), checkpoint.size("n_heads")
    return {
        "vocab_size": written.get("embedding_size") or checkpoint.size("vocab_size"),
        "hidden_size": width,
        "num_hidden_layers": checkpoint.size("n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": written.get("n_kv_heads") or (1 if written.get("multi_query_attention") else heads),
        "intermediate_size": written.get("mlp_hidden_size") or written.get("mlp_ratio", 4) * width,
        "hidden_act": activation,
        "rms_norm_eps": written.get("rms_norm_eps", 1e-5),
        "rope_theta": written.get("rope_theta", (written.get("rope_parameters") or {}).get("rope_theta", 10_000.0)),
        "tie_word_embeddings": written.get("weight_tying", True),
        "max_position_embeddings": written.get("max_sequence_length", 1024),
    }
