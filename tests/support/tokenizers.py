"""Small tokenizers of four kinds, written as files of `tokenizers`, and text models that know nothing beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.models.text.codec import Codec
from iterref.models.text.prefix import PrefixModel
from iterref.noise import Noise, absorbing

WORDS = "the cat dog sat on mat a man ran home".split()
SIGNS = [".", ",", "'", "-"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KINDS = ("words", "pieces", "bytes", "unigram")


class Flat(Denoiser):
    """A denoiser that knows nothing."""

    uses_prompts = False

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        law = torch.zeros(int(where.sum()), self.noise.vocab)
        seen = x_t[where]
        if self.noise.mask is not None:
            law[:, self.noise.mask] = -torch.inf
            law[seen != self.noise.mask] = -torch.inf
            law[seen != self.noise.mask, seen[seen != self.noise.mask]] = 0.0
        return torch.log_softmax(law, -1)


def tokenizer(kind: str, words: list[str] = WORDS) -> Tokenizer:
    """A tokenizer of a kind of `KINDS` with BERT's special tokens first, framed as [CLS] text [SEP]."""
    letters = [*LETTERS, *LETTERS.upper(), *SIGNS]
    if kind == "words":
        made = Tokenizer(models.WordLevel(numbered([*SPECIAL, *words, *SIGNS]), unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    elif kind == "pieces":
        pieces = [*SPECIAL, *words, *LETTERS, *(f"##{letter}" for letter in LETTERS), *SIGNS]
        made = Tokenizer(models.WordPiece(numbered(pieces), unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
    elif kind == "bytes":
        made = Tokenizer(models.BPE(numbered([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]),
                                    [("t", "h"), ("th", "e")]))  # fmt: skip
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        pieces = [(name, 0.0) for name in SPECIAL] + [(f"\u2581{word}", -2.0) for word in words]
        made = Tokenizer(models.Unigram([*pieces, ("\u2581", -3.0), *((one, -6.0) for one in letters)], unk_id=1))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(SPECIAL)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def numbered(names: list[str]) -> dict[str, int]:
    return {name: at for at, name in enumerate(names)}


def written(folder: Path, made: Tokenizer) -> Path:
    """A folder with the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


def codec(folder: Path, kind: str, **options: Any) -> Codec:
    """The codec of a tokenizer of that kind."""
    return Codec.load(written(folder, tokenizer(kind)), **options)


def knowing_nothing(of: Codec, length: int = 24) -> PrefixModel:
    """A text model of a tokenizer with a mask that finds all tokens alike."""
    return PrefixModel(Flat(absorbing(of.reach, of.mask)), length, of)
