"""Small checkpoints of Dream with random weights, and byte pairs beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.support.byte_pairs import ADDED, bytes_and_pairs, write_pairs
from tests.support.decoders import HEADS, INNER, LAYERS, WIDTH, Naming, draw, write

PIECES = len(bytes_and_pairs())
END, _, TURN, START, MASK = range(PIECES, PIECES + len(ADDED))
KNOWN = PIECES + len(ADDED)
VOCAB = KNOWN + 7
NAMING = Naming(
    "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
    {role: f"model.layers.{{}}.{name}" for role, name in {
        "before": "input_layernorm", "query": "self_attn.q_proj", "key": "self_attn.k_proj",
        "value": "self_attn.v_proj", "out": "self_attn.o_proj", "between": "post_attention_layernorm",
        "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}.items()},
)  # fmt: skip
def config(vocab: int = VOCAB, **changes: Any) -> dict[str, Any]:
    """config.json with the names that the published one has."""
    written = {
        "model_type": "Dream", "architectures": ["DreamModel"], "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2,
        "intermediate_size": INNER, "vocab_size": vocab, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "rope_scaling": None, "max_position_embeddings": 131072, "max_window_layers": 28,
        "sliding_window": None, "use_sliding_window": False, "use_mrope": False, "tie_word_embeddings": False,
        "attention_dropout": 0.0, "use_cache": True, "torch_dtype": "bfloat16", "mask_token_id": MASK,
        "bos_token_id": END, "eos_token_id": END, "pad_token_id": END,
    }  # fmt: skip
    return written | changes


def checkpoint(folder: Path, **changes: Any) -> dict[str, Tensor]:
    written = config(**changes)
    weights = draw(
        NAMING, written["vocab_size"], written["num_key_value_heads"], written["tie_word_embeddings"], biased=True
    )
    write(folder, written, weights)
    write_pairs(folder)
    return weights
