"""Configuration: the options of a training run, every one checked when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from math import isfinite
from numbers import Integral, Real
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

import torch

from iterref.models.tiny_news import FORMS
from iterref.models.transformer import TransformerOptions
from iterref.training.data import MASK, PAD, SPECIALS

WORDS = {"optimizer": ("muon", "adamw"), "precision": ("bfloat16", "float32"), "form": FORMS}
LEAST = {
    "seed": 0, "steps": 1, "warmup": 0, "cooldown": 0, "batch": 1, "copies": 1, "length": 2, "source_length": 2,
    "vocab": len(SPECIALS) + 1, "width": 2, "heads": 1, "hidden": 1, "encoder_layers": 1, "decoder_layers": 1,
    "weight_decay": 0, "end_weight": 0, "keep_weight": 0, "ema": 0, "validation_every": 1, "validation_rows": 1,
    "checkpoint_minutes": 0, "threads": 1,
}  # fmt: skip
BOUNDS: dict[str, tuple[Callable[[Any, Any], Any], Mapping[str, float]]] = {
    "at least": (ge, LEAST),
    "at most": (le, {"seed": 2**32 - 1, "threads": 1024}),
    "above": (gt, {"matrix_rate": 0, "rate": 0, "clip": 0}),
    "below": (lt, {"ema": 1}),  # at 1 the first weights would stay
}
KINDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a string"}


@dataclass(frozen=True)
class TrainConfig:
    """What a training run is: `train` files and an optional `validation` file of JSON lines with `document` and
    `summary`, or of texts alone, JSON lines with `text` or one text a line (.txt), packed (.gz) or not; and a folder
    `out`. With `init`, a folder that training wrote or a bundled model, the run starts from its weights and tokenizer,
    and the sizes have to be its own.

    `form` says how the model reads text: as "news" (lower case, words apart, numbers as `##`), to which `normalise`
    brings raw text, and which it must have otherwise; or "plain", as it stands, each digit a token of its own. Texts
    have fewer than `length` tokens and documents fewer than `source_length`, or are left out; `copies` maskings of each
    are one step's. The learning rates warm up over `warmup` steps, stay, and fall linearly to 0 over the last
    `cooldown` steps.
    `optimizer` is "muon" (matrices at `matrix_rate`, the rest by AdamW at `rate`) or "adamw" (all at `rate`).
    `end_weight` scales the loss of repeated end tokens, `keep_weight` that of the encoder's side task: to tell which
    source tokens the target keeps. `ema` is the decay of the averaged weights, which are exported. Raises `TypeError`
    or `ValueError` naming a bad option."""

    train: tuple[str, ...]
    out: str
    validation: str | None = None
    init: str | None = None
    seed: int = 0
    steps: int = 8_000
    warmup: int = 200
    cooldown: int = 5_500
    batch: int = 64
    copies: int = 2
    length: int = 28
    source_length: int = 96
    vocab: int = 8192
    width: int = 256
    heads: int = 4
    hidden: int = 512
    encoder_layers: int = 4
    decoder_layers: int = 3
    optimizer: str = "muon"
    matrix_rate: float = 4e-3
    rate: float = 1.5e-3
    weight_decay: float = 0.05
    end_weight: float = 0.2
    keep_weight: float = 0.5
    ema: float = 0.999
    clip: float = 1.0
    precision: str = "bfloat16"
    validation_every: int = 500
    validation_rows: int = 500
    checkpoint_minutes: float = 5.0
    threads: int = 2
    normalise: bool = True
    form: str = "news"

    def __post_init__(self) -> None:
        if isinstance(self.train, str | Path) or not isinstance(self.train, Sequence):
            raise TypeError(f"train is a list of files, got {self.train!r}: give a list, of one file too")
        files = tuple(_path("train", file) for file in self.train)
        if not files:
            raise ValueError("train names no file: give files with a pair or a text a line")
        real = [Path(file).resolve() for file in files]
        twice = next((file for file, where in zip(files, real, strict=True) if real.count(where) > 1), None)
        if twice is not None:
            raise ValueError(f"train names {twice} twice: give every file once")
        known = {"train": files, "out": _path("out", self.out)}
        for name in ("validation", "init"):
            if getattr(self, name) is not None:
                known[name] = _path(name, getattr(self, name))
        known |= {one.name: _typed(one.name, getattr(self, one.name), type(one.default)) for one in fields(self)[4:]}
        for name, value in known.items():
            object.__setattr__(self, name, value)
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                choices = " or ".join(map(repr, words))
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose {choices}")
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon, 2.9 and later have: choose optimizer='adamw'")
        for how, (holds, bounds) in BOUNDS.items():
            for name, bound in bounds.items():
                if not holds(getattr(self, name), bound):
                    raise ValueError(f"{name} must be {how} {bound}, got {getattr(self, name)}")
        if self.form == "plain" and not self.normalise:
            raise ValueError("normalise is for the form 'news', plain text is read as it stands: leave normalise out")
        if self.cooldown > self.steps:
            raise ValueError(f"cooldown {self.cooldown} must be between 0 and the {self.steps} steps")
        self.network(self.vocab)  # refuses a width that the heads do not divide

    def network(self, vocab: int) -> TransformerOptions:
        """The sizes of the network over a vocabulary."""
        return TransformerOptions(
            vocab=vocab, mask=MASK, pad=PAD, width=self.width, heads=self.heads, hidden=self.hidden,
            encoder_layers=self.encoder_layers, decoder_layers=self.decoder_layers,
        )  # fmt: skip

    def rate_share(self, step: int) -> float:
        """The share of the peak learning rates at a step: warm-up, plateau, linear fall to 0."""
        return min(1.0, (step + 1) / max(1, self.warmup)) * min(1.0, (self.steps - step) / max(1, self.cooldown))


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise TypeError(f"{name} is a path, got {value!r}: give a string or a Path")
    return str(value)


def _typed(name: str, value: Any, kind: type) -> Any:
    """The value as the option's own type; numbers of other libraries become Python's."""
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # of a whole number of hundreds of digits
            if isfinite(float(value)):
                return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise TypeError(f"{name} is {KINDS[kind]}, got {value!r}: give {KINDS[kind]}")
