"""Data: document-summary pairs from JSON lines, or texts alone, their tokenizer, and batches of like length.

canvas = summary tokens, then <eos> to the end                  (as Nie et al. 2025, arXiv:2502.09992, fill theirs)
kept_j = [source token j lies on a longest common subsequence of source and summary]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from rapidfuzz.distance import LCSseq
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iterref.lines import objects, opened, readable
from iterref.models.text.reading import unread

Batch = tuple[Tensor, Tensor, Tensor]  # sources (B, S), canvases (B, L), kept flags (B, S)
PAD, EOS, MASK, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<eos>", "<mask>", "<unk>")
FIELDS = {"document", "summary", "text", "prompt", "completion"}  # of files that other commands read, too


def read_pairs(paths: Iterable[str | Path], form: str = "news") -> list[tuple[str, str]]:
    """(document, summary) pairs of JSON-lines files, with an empty document where a line has a `text` alone, and
    likewise the lines of text files (.txt or .txt.gz) that are not blank; blanks at their ends are text in the `form`
    "plain". Raises `ValueError` naming a file and line that lacks either, and for texts among pairs."""
    pairs: list[tuple[str, str]] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}: give files with a pair or a text a line")
        with opened(path) as file:
            lines = readable(file, path.name)
            if Path(path.name.lower().removesuffix(".gz")).suffix == ".txt":
                texts = [line.strip("\r\n" if form == "plain" else None) for line in lines if line.strip()]
                if texts and (other := _other_form(texts[0].strip())):
                    raise ValueError(f"{path.name} holds {other[0]} and is named .txt, as texts are: {other[1]}")
                pairs += [("", text) for text in texts]
                continue
            for place, row in objects(lines, path.name, "write one object a line, or name a file of texts .txt"):
                row = row if {"document", "summary"} & row.keys() else {"document": "", "summary": row.get("text")}
                for field in ("document", "summary"):
                    if not isinstance(row.get(field), str):
                        raise ValueError(f"{place} has no text in a field `{field}`: add it, or give `text` alone")
                pairs.append((row["document"], row["summary"]))
    if len({bool(document.strip()) for document, _ in pairs}) > 1:
        raise ValueError("some texts have a document and some have none: train on either kind alone")
    return pairs


def _other_form(line: str) -> tuple[str, str] | None:
    """What a file of texts holds instead whose first line is an object of JSON, or a header, with fields that are read,
    and what to do; None for a text."""
    with suppress(ValueError, RecursionError):  # of what is no JSON, or nested without end
        found = json.loads(line)
        return ("JSON lines", "name it .jsonl") if isinstance(found, dict) and FIELDS & found.keys() else None
    cells = [cell.strip('"') for cell in re.split("[,;|\t]", line)]
    table = len(cells) > 1 and FIELDS & {*cells} and all(re.fullmatch(r"\w+", cell) for cell in cells)
    return ("a table", "write JSON lines of it, or its texts alone") if table else None


def train_tokenizer(texts: Iterable[str], vocab: int, form: str = "news") -> Tokenizer:
    """Byte-pair encoding of at most `vocab` pieces over blank-separated words (Sennrich et al. 2016, arXiv:1508.07909).
    Every character of the texts is a piece, so only unseen characters become `<unk>`; decoding gives the words back,
    and in the `form` "plain" the very text, of which each digit is a piece. Raises `ValueError` where the characters
    alone are more than `vocab`."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS[UNKNOWN]))
    scheme = "never" if form == "plain" else "always"
    words = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if form == "plain" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, words]) if digits else words
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    specials = [AddedToken(name, special=True, lstrip=True) for name in SPECIALS]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() > vocab:
        least = tokenizer.get_vocab_size()
        raise ValueError(f"vocab is {vocab}, and the texts' characters take {least}: raise vocab to that at least")
    return tokenizer


def kept(source: Sequence[int], target: Sequence[int]) -> list[bool]:
    """Which source tokens lie on a longest common subsequence of source and target."""
    flags = [False] * len(source)
    for step in LCSseq.opcodes(source, target):
        if step.tag == "equal":
            flags[step.src_start : step.src_end] = [True] * (step.src_end - step.src_start)
    return flags


def lacking(text: str, read: Encoding) -> str:
    """The characters of a text that its tokenizer lacks, in words; "" for none. A text may spell `<unk>` itself."""
    return unread(text, read, UNKNOWN, SPECIALS[UNKNOWN]) if UNKNOWN in read.ids else ""


@dataclass(frozen=True)
class Pairs:
    """Tokenised pairs: `sources` that end with EOS, `canvases` (n, L) long filled up with it, kept flags `keeps`."""

    sources: list[list[int]]
    canvases: Tensor
    keeps: list[list[bool]]

    @classmethod
    def encode(cls, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int, source_length: int) -> Pairs:
        """Pairs that fit: a source of less than `source_length`, a target of less than `length` tokens, neither empty
        (of texts alone, no source is but its EOS) or with characters that the tokenizer lacks."""
        documents = tokenizer.encode_batch([document for document, _ in pairs], add_special_tokens=False)
        summaries = tokenizer.encode_batch([summary for _, summary in pairs], add_special_tokens=False)
        prompted = any(document.ids for document in documents)
        sources, canvases, keeps = [], [], []
        for texts, document, summary in zip(pairs, documents, summaries, strict=True):
            if any(map(lacking, texts, (document, summary))):
                continue
            if bool(document.ids) == prompted and len(document.ids) < source_length and 0 < len(summary.ids) < length:
                source, target = document.ids + [EOS], summary.ids + [EOS]
                sources.append(source)
                canvases.append(target + [EOS] * (length - len(target)))
                keeps.append(kept(source, target))
        if not sources:
            bounds = f"1 to {length - 1} tokens (length) and a document at most {source_length - 1} (source_length)"
            told = f"no pair fits: a text needs {bounds}"
            raise ValueError(f"{told}, in characters of the tokenizer: raise them, or give other texts")
        return cls(sources, torch.tensor(canvases), keeps)

    def batch(self, index: Sequence[int]) -> Batch:
        """Sources (B, S) padded, canvases (B, L) and kept flags (B, S) as floats of the rows `index`."""
        lists = self.sources, self.keeps
        source, keep = (pad_sequence([torch.tensor(of[i]) for i in index], True, PAD) for of in lists)
        return source, self.canvases[list(index)], keep.float()


def batches(pairs: Pairs, size: int, seed: int, epoch: int) -> list[list[int]]:
    """The row numbers of every batch of an epoch: random pools of 50 batches, cut by source length, in random order."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(pairs.sources), generator=generator).tolist()
    cut = []
    for start in range(0, len(order), 50 * size):
        pool = sorted(order[start : start + 50 * size], key=lambda i: len(pairs.sources[i]))
        cut += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
