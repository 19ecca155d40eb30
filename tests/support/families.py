"""A small checkpoint of every family whose network a device map may spread, and a short run of its model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import iterref
from iterref.result import Result
from tests.support import dream, gemma, llada, masked

SHARED = TemporaryDirectory(prefix="families")
FAMILIES = ("llada", "dream", "masked_lm", "diffusion_gemma")
PROMPTS = ["cat", "the dog ran the cat"]


def folder(tmp_path: Path, family: str) -> Path:
    """A folder of a test's own with a tiny checkpoint and its tokenizer."""
    return Path(copytree(made(family), tmp_path / family))


@cache
def made(family: str) -> Path:
    """The folder that is copied; LLaDA's and the masked model's networks have one table for both ends."""
    where = Path(SHARED.name) / family
    where.mkdir()
    if family == "llada":
        llada.checkpoint(where, weight_tying=True)
    elif family == "dream":
        dream.checkpoint(where)
    elif family == "masked_lm":
        masked.checkpoint(where)
    else:
        gemma.made().save_pretrained(where)
        gemma.tokenizer(where)
    return where


def run(model: Any) -> Result:
    """Unequal prompts, so that there is padding, and a few calls of the network."""
    return iterref.generate(model, PROMPTS, reward=length, alpha=0.5, sampler="best_of_n:steps=2,n=2", seed=3)


def length(completions: list[str]) -> list[float]:
    return [-abs(len(text) - 11.0) for text in completions]
