"""Byte pairs: the tokenizer of Qwen2's kind that comes as vocab.json and merges.txt, without a tokenizer.json.

    NFC  ->  words, single digits, punctuation, spaces  ->  bytes  ->  merged pairs          (Sennrich et al. 2016)

Dream's repositories hold such a tokenizer and Python code to read it, which is not run. tokenizer_config.json lists
the tokens that were added to the vocabulary, with their ids.

Compared with dllm/pipelines/dream/models/tokenization_dream.py of ZHZisZZ/dllm at ca176752, under transformers 4.46.2:
1,214 texts (docs, and random strings of many scripts) give the same 36,305 ids with a vocabulary of 1,506 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

KINDS = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# What is never merged over: contractions, words with the sign before them, digits one by one, signs, line ends, spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def written(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds such a tokenizer; `config` is its tokenizer_config.json."""
    files = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return files and config.get("tokenizer_class") in KINDS


def read(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer. Raises what the library raises for damaged files, and `ValueError` for ids that do not fit."""
    made = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    added = {int(token): dict(entry) for token, entry in dict(config.get("added_tokens_decoder") or {}).items()}
    for token in sorted(added):  # they get their ids in the order in which they come
        content = str(added[token]["content"])
        made.add_tokens([AddedToken(content, **{flag: bool(added[token].get(flag, False)) for flag in FLAGS})])
        if made.token_to_id(content) != token:
            raise ValueError(f"the added token {content!r} is said to be {token} and is {made.token_to_id(content)}")
    return made
