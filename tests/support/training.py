"""Training runs of a second: files to learn from, and options of a tiny network."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch

from iterref.training import TrainConfig

WORDS = "red green blue fast slow cat dog bird runs sleeps sings here there".split()


def write_pairs(path: Path, rows: int = 64) -> Path:
    """Pairs to learn from: a summary is the first and the last word of its document."""
    generator = torch.Generator().manual_seed(0)
    with gzip.open(path, "wt") as file:
        for _ in range(rows):
            size = int(torch.randint(3, 8, (1,), generator=generator))
            words = [WORDS[i] for i in torch.randint(len(WORDS), (size,), generator=generator).tolist()]
            file.write(json.dumps({"document": " ".join(words), "summary": f"{words[0]} {words[-1]}"}) + "\n")
    return path


def small_run(folder: Path, **changes: Any) -> TrainConfig:
    options: dict[str, object] = {
        "train": (str(write_pairs(folder / "pairs.jsonl.gz")),),
        "validation": str(folder / "pairs.jsonl.gz"),
        "out": str(folder / "out"),
        "steps": 6,
        "warmup": 2,
        "cooldown": 2,
        "batch": 8,
        "length": 6,
        "vocab": 60,
        "width": 16,
        "heads": 2,
        "hidden": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "validation_every": 3,
        "threads": 1,
    }
    return TrainConfig(**{**options, **changes})


def write_sentences(folder: Path) -> str:
    """A user's own text file, as printed: capitals, numbers, punctuation."""
    file = folder / "own.txt"
    file.write_text("The Cat sleeps, here.\nA dog sings in 1987!\nThe bird runs.\n" * 20, encoding="utf-8")
    return str(file)
