"""Sapiens: two RoBERTas of human antibody sequences, one of heavy chains and one of light ones.

    iterref.load("sapiens-vh")                  iterref.load("sapiens-vl")

Prihoda et al. 2022, mAbs 14:1 (BioPhi), doi:10.1080/19420862.2021.2020203: 4 layers of 128, 0.57M parameters each,
MIT licence. Written by fairseq, which is not needed here; its figures are met: tests/packaged/test_sapiens.py.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from iterref.packaged.residues import tokenizer
from iterref.packaged.source import Converted, Packaged, renamed, unpickled

SPECIAL = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
# What fairseq calls a part, and `RobertaForMaskedLM`; its padding's number is 1, and places are counted from behind it.
NAMES = {
    r"^decoder\.sentence_encoder\.embed_tokens": "roberta.embeddings.word_embeddings",
    r"^decoder\.sentence_encoder\.embed_positions": "roberta.embeddings.position_embeddings",
    r"^decoder\.sentence_encoder\.emb_layer_norm": "roberta.embeddings.LayerNorm",
    r"^decoder\.sentence_encoder\.layers": "roberta.encoder.layer",
    r"self_attn\.k_proj": "attention.self.key",
    r"self_attn\.q_proj": "attention.self.query",
    r"self_attn\.v_proj": "attention.self.value",
    r"self_attn\.out_proj": "attention.output.dense",
    r"self_attn_layer_norm": "attention.output.LayerNorm",
    r"fc1": "intermediate.dense",
    r"fc2": "output.dense",
    r"final_layer_norm": "output.LayerNorm",
    r"^decoder\.lm_head\.(weight|bias)$": r"lm_head.decoder.\1",
    r"^decoder\.lm_head": "lm_head",
}
DICTIONARY = "8ff5c1d10c4e921ffb6c4ef6161e55880c1d9efb1c7c74fa3b39654470118dcd"


def convert(files: Sequence[Path]) -> Converted:
    """The language model in a checkpoint of fairseq, whose options are a plain namespace."""
    import torch

    weights, dictionary = files
    held = unpickled(weights, Namespace)
    kept = {renamed(name, NAMES): weight for name, weight in held["model"].items()}
    asked, (vocab, width) = held["args"], kept["roberta.embeddings.word_embeddings.weight"].shape
    kept["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, width)  # it has none
    kept["lm_head.bias"] = kept["lm_head.decoder.bias"]
    letters = [line.split()[0] for line in dictionary.read_text(encoding="utf-8").splitlines()]
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    if len(vocabulary) != vocab:
        raise ValueError(f"{weights.name} knows {vocab} tokens and {dictionary.name} lists {len(vocabulary)}")
    config = {
        "architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "vocab_size": vocab, "hidden_size": width,
        "num_hidden_layers": asked.encoder_layers, "num_attention_heads": asked.encoder_attention_heads,
        "intermediate_size": asked.encoder_ffn_embed_dim, "hidden_act": asked.activation_fn,
        "max_position_embeddings": len(kept["roberta.embeddings.position_embeddings.weight"]), "type_vocab_size": 1,
        "layer_norm_eps": 1e-5, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
        "mask_token_id": vocabulary.index("<mask>"), "canvas_length": asked.max_positions - 2,
    }  # fmt: skip
    about = {**SPECIAL, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": asked.max_positions}
    return Converted(config, kept, tokenizer(vocabulary, SPECIAL), about)


CHECKPOINTS = tuple(
    Packaged(f"sapiens-v{chain}", f"{kind} chains of human antibodies (Sapiens, masked, 0.57M)", "models", "sapiens",
             "1.0.5", {f"models/v1/checkpoint_v{chain}.pt": known, "models/v1/dict.txt": DICTIONARY}, convert)
    for chain, kind, known in (
        ("h", "heavy", "43254666e9ac0d5aa8fc120f12ac02b6ff082cd1f107c389023c1b947f214825"),
        ("l", "light", "570a63a6bdd60750c2cc2d280a419c300fafff8ab83f343f8e3847fd07903f6e"),
    )
)  # fmt: skip
