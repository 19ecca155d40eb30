"""Small checkpoints of LLaDA with random weights, and word tokenizers with its chat template beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from tests.support.decoders import HEADS, INNER, LAYERS, WIDTH, Naming, draw, write

WORDS = "the cat dog saw a man ran home user assistant".split()
START, END, MASK, HEAD, TAIL, TURN = (
    "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
)  # fmt: skip
NAMES = [*WORDS, START, END, MASK, HEAD, TAIL, TURN]
ID = {name: at for at, name in enumerate(NAMES)}
KNOWN, VOCAB = len(NAMES), len(NAMES) + 3  # the network's table is larger
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
NAMING = Naming(
    "model.transformer.wte.weight", "model.transformer.ln_f.weight", "model.transformer.ff_out.weight",
    {role: f"model.transformer.blocks.{{}}.{name}" for role, name in {
        "before": "attn_norm", "query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "attn_out",
        "between": "ff_norm", "gate": "ff_proj", "up": "up_proj", "down": "ff_out"}.items()},
)  # fmt: skip
def config(vocab: int = VOCAB, **changes: Any) -> dict[str, Any]:
    """config.json with the names that the published one has."""
    written = {
        "model_type": "llada", "architectures": ["LLaDAModelLM"], "auto_map": {"AutoModel": "modeling_llada.X"},
        "d_model": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": HEADS, "mlp_hidden_size": INNER,
        "mlp_ratio": 4, "embedding_size": vocab, "vocab_size": vocab, "weight_tying": False, "activation_type": "silu",
        "block_type": "llama", "block_group_size": 1, "layer_norm_type": "rms", "layer_norm_with_affine": True,
        "bias_for_layer_norm": False, "include_bias": False, "include_qkv_bias": False, "rope": True, "alibi": False,
        "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "attention_layer_norm": False, "input_emb_norm": False,
        "scale_logits": False, "multi_query_attention": None, "init_device": "meta", "precision": "amp_bf16",
        "max_sequence_length": 4096, "mask_token_id": ID[MASK], "eos_token_id": ID[END], "pad_token_id": ID[END],
    }  # fmt: skip
    return written | changes


def tokenizer(folder: Path, names: list[str] = NAMES, template: str | None = TEMPLATE) -> None:
    words = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token=END))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens([name for name in names if name.startswith("<|")])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, chat_template=template, bos_token=START, eos_token=END, pad_token=END
    )
    made.save_pretrained(folder)


def checkpoint(
    folder: Path, names: list[str] = NAMES, template: str | None = TEMPLATE, **changes: Any
) -> dict[str, Tensor]:
    written = config(**changes)
    weights = draw(NAMING, written["embedding_size"], written["n_kv_heads"], written["weight_tying"])
    write(folder, written, weights)
    tokenizer(folder, names, template)
    return weights
