"""Similarity: how close a text's meaning is to that of reference texts, by sentence embeddings.

    r(x) = max over references d of cos(e(x), e(d)),      e(x) = mean over the tokens of x of the encoder's last states

Mean pooling is that of Reimers and Gurevych 2019 (Sentence-BERT, arXiv:1908.10084, section 3).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iterref.rewards.checkpoint import Device
from iterref.rewards.network import Pair, TextNetwork, numbers


class Similarity(TextNetwork[Tensor]):
    """Cosine in [-1, 1] of a text's embedding and its references', as a text reward: `Similarity(folder, to="a cat")`.

    `model` is a folder or hub name with safetensors, or a loaded network with its `tokenizer`; any encoder of
    `transformers` will do, those trained for sentences do it well. The references are the texts `to`, or for every row
    an entry of the column `references` (one text or several; "prompts" for closeness to the source). With several, the
    closest counts. Texts of more tokens than the network reads, or than `length`, are cut with a warning. `batch` texts
    are read at a time, padded; the latest `limit` embeddings are remembered. A text without any token is forbidden.

    Raises `FileNotFoundError`, `ValueError` or `TypeError` with what to do, before anything runs; a sentence encoder
    that says it pools otherwise than by the mean is refused.
    """

    def __init__(
        self,
        model: Any,
        *,
        to: str | Sequence[str] | None = None,
        references: str = "reference",
        tokenizer: Any = None,
        device: Device = "cpu",
        dtype: torch.dtype | str = "float32",
        batch: int = 32,
        length: int | None = None,
        limit: int = 20_000,
    ) -> None:
        super().__init__(
            "encoder", model, tokenizer,
            given=None, device=device, dtype=dtype, batch=batch, length=length, limit=limit,
        )  # fmt: skip
        _check_pooling(self.checkpoint.folder)
        self.references = references
        self.to = None if to is None else _entry(to, "to")

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """R texts and the columns, each of R entries -> R numbers in [-1, 1]."""
        texts = self.embed(self.pairs(completions, columns))
        entries = self._references(columns, len(texts))
        flat = [(None, reference) for entry in entries for reference in entry]
        known = dict(zip(flat, self.embed(flat), strict=True))
        values: list[float | None] = []
        for row, (text, entry) in enumerate(zip(texts, entries, strict=True)):
            against = [one for reference in entry if (one := known[None, reference]) is not None]
            if len(against) < len(entry):
                raise ValueError(f"row {row} has a reference without any token among {entry!r}: give texts with words")
            # a sum over each pair by itself, not a matrix product: a text's value must not depend on its neighbours
            values.append(None if text is None else max(float((text * one).sum()) for one in against))
        return numbers(values)

    def embed(self, pairs: Sequence[Pair]) -> list[Tensor | None]:
        """Embeddings (D,) float64 of length 1, on the CPU; None for a text without a token."""
        return self.fetch(pairs)

    def read(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """One embedding a row of a padded batch, (R, T) each."""
        network, mask = self.checkpoint.network, batch["attention_mask"]
        encoder = network.get_encoder() if getattr(self.checkpoint.config, "is_encoder_decoder", False) else network
        states = encoder(**batch).last_hidden_state.double() * mask[:, :, None]
        mean = states.sum(1) / mask.sum(1, keepdim=True)
        return list(torch.nn.functional.normalize(mean, dim=1).cpu())

    def _references(self, columns: dict[str, Any], size: int) -> list[tuple[str, ...]]:
        if self.to is not None:
            return [self.to] * size
        if columns.get(self.references) is None:
            raise ValueError(f"the reward needs the column {self.references!r}, not only {sorted(columns)}: add it")
        entries = [_entry(entry, f"row {row}") for row, entry in enumerate(columns[self.references])]
        if len(entries) != size:
            raise ValueError(f"there are {len(entries)} references for {size} completions: give one each")
        return entries


def _entry(entry: str | Sequence[str], where: str) -> tuple[str, ...]:
    texts = (entry,) if isinstance(entry, str) else tuple(entry)
    if not texts:
        raise ValueError(f"{where} has an empty list of references: give it at least one text")
    return texts


def _check_pooling(folder: Path | None) -> None:
    """Refuses a sentence encoder that was trained with another pooling, whose mean would mean little."""
    file = folder / "1_Pooling" / "config.json" if folder else None
    if file is None or not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    if not config.get("pooling_mode_mean_tokens", True):
        modes = [name.removeprefix("pooling_mode_") for name, on in config.items() if name.startswith("pooling") and on]
        raise ValueError(f"{folder} was trained to pool by {', '.join(modes)}: give an encoder that takes the mean")


REWARD = Similarity
