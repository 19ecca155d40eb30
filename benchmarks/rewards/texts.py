"""Texts of the bundled reward models: how files are read, brought to one form, cut, and made into tokens.

    canonical text = lower case, one kind of quotes, every number `##`, words and punctuation apart

News in tokenised form and prose as printed come out alike, so a model judges the words and not the habits of spacing.
The form is part of the saved tokenizer: whoever loads it hands over raw text.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>")
PAD, START, END, MASK = range(4)
NUMBER = r"[\w-]*\d(?:[\w.,:/-]*\w)?"  # a word with a digit in it is a number as a whole
WORD = r"##|\w+|-+|\.{2,}|[^\w\s]"


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one file of the data folder, in order."""
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def canonical() -> normalizers.Normalizer:
    """Raw text in the one form."""
    replaced = [
        (r"[\u2018\u2019]", "'"), (r"[\u201c\u201d]|``|''", '"'), (r"[\u2013\u2014]", "-"), ("_", " "),
        (r"\s+n't\b", "n't"), (NUMBER, "##"),
    ]  # fmt: skip
    steps = [normalizers.Replace(Regex(old), new) for old, new in replaced]
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *steps])


def words() -> pre_tokenizers.PreTokenizer:
    """Canonical text in words."""
    return pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)


def in_words(text: str) -> list[str]:
    """A raw text in canonical words, as the tokenizers see it."""
    return [word for word, _ in words().pre_tokenize_str(canonical().normalize_str(text))]


def byte_pairs(texts: Iterator[str], vocab: int, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """Byte-pair encoding over canonical words (Sennrich et al. 2016, arXiv:1508.07909), `special` first. It starts from
    bytes, so that no character is unknown: an unknown one would be a hole in a likelihood. (The trainer of word pieces
    numbers its letters in a random order, so its tokenizers cannot be made twice.)"""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = canonical()
    letters = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words(), letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def passages(text: str, most: int = 90) -> list[str]:
    """A paragraph in pieces of whole sentences, of about `most` words at most: what fits a small model."""
    pieces: list[list[str]] = [[]]
    for sentence in re.split(r"(?<=[.!?])['\"\u201d]?\s+(?=\S)", text):
        parts = sentence.split()
        for part in (parts[i : i + most] for i in range(0, len(parts), most)):
            if len(pieces[-1]) + len(part) > most:
                pieces.append([])
            pieces[-1] += part
    return [" ".join(piece) for piece in pieces if piece]


def padded(ids: Sequence[Sequence[int]], fill: int = PAD) -> Tensor:
    """Token lists as one table (R, T) long."""
    longest = max(map(len, ids))
    return torch.tensor([[*one, *[fill] * (longest - len(one))] for one in ids])


def save_tokenizer(tokenizer: Tokenizer, folder: Path, length: int, reads: Sequence[str], **names: str) -> None:
    """Writes tokenizer.json and tokenizer_config.json, the latter in words that every version reads."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[PAD], model_max_length=length, model_input_names=list(reads),
        clean_up_tokenization_spaces=False, **names,
    )  # fmt: skip
    wrapped.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)  # indented, it is nearly twice as large
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
