"""DiffusionGemma's class with random weights, and a word tokenizer with a chat template."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from iterref.models.diffusion_gemma import BLIND, KIND

WORDS = "<pad> <eos> <bos> <|turn> <turn|> user model cat dog sat ran on the mat".split()
WORDS += "<|image|> <|image> <image|> <mask>".split()
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|turn> {{ m['role'] }} {{ m['content'] }} <turn|>{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<|turn> model{% endif %}"
LENGTH, VOCAB, NONE = 6, 20, torch.zeros(0, dtype=torch.long)
@cache
def made(
    vocab: int = VOCAB, canvas: int = LENGTH, media: bool = True, width: int = 16, spread: float = 0.2, **text: Any
) -> Any:
    """The class with random weights, in evaluation mode; it is shared, so nobody trains it or changes it."""
    sizes = dict(
        vocab_size=vocab, hidden_size=width, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, global_head_dim=8, num_global_key_value_heads=1, num_experts=3,
        top_k_experts=2, moe_intermediate_size=8, max_position_embeddings=40, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    ids = dict(image_token_id=14, boi_token_id=15, eoi_token_id=16) if media else dict.fromkeys(
        ("image_token_id", "boi_token_id", "eoi_token_id"))  # fmt: skip
    vision = {**BLIND, "hidden_size": 24, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = transformers.DiffusionGemmaConfig(
        text_config=sizes | text, vision_config=vision, canvas_length=canvas, initializer_range=spread, **ids
    )
    return getattr(transformers, KIND)(config).eval().requires_grad_(False)


def tokenizer(folder: Path, words: list[str] = WORDS) -> None:
    """Whole words, and a chat template."""
    tokens = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer_files(folder, tokens, [word for word in words if word.startswith("<")])


def tokenizer_files(folder: Path, tokens: Tokenizer, special: list[str]) -> None:
    """A tokenizer with these special tokens, and the chat template."""
    tokens.add_special_tokens(special)
    tokens.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"chat_template": TEMPLATE}))
