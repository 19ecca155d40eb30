"""Tokenizers of Dream's kind, as vocab.json and merges.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
PAIRS = ["t h", "th e", "c a", "ca t", "d o", "do g", "Ġ the", "Ġ cat", "Ġ dog", "s a", "sa w", "Ġ saw", "Ġ a", "e r"]
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def bytes_and_pairs() -> list[str]:
    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(pair.replace(" ", "") for pair in PAIRS)]


def write_pairs(folder: Path, added: list[str] = ADDED, **changes: Any) -> int:
    """Writes the tokenizer as Dream's repositories hold it; returns how many tokens it knows."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = bytes_and_pairs()
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(PAIRS) + "\n")
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    config = {
        "tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>", "chat_template": TEMPLATE,
        "added_tokens_decoder": {str(len(pieces) + n): {"content": name, **flags} for n, name in enumerate(added)},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))
    return len(pieces) + len(added)
