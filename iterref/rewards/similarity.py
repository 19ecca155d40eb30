"""Similarity: how close a text's meaning is to that of reference texts, by sentence embeddings.

r(x) = max over references d of cos(e(x), e(d)),      e(x) as `rewards.pooling` reads it from the checkpoint's files
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iterref.columns import needed_column
from iterref.rewards.checkpoint import Device
from iterref.rewards.network import Pair, TextNetwork, numbers
from iterref.rewards.pooling import Pooling
from iterref.rewards.rouge import reference_texts


class Similarity(TextNetwork[Tensor]):
    """Cosine in [-1, 1] of a text's embedding and its references', as a text reward: `Similarity(folder, to="a cat")`.

    `model` is a folder or hub name with safetensors, or a loaded network with its `tokenizer`; any encoder of
    `transformers` will do, those trained for sentences do it well, and pool as their files say. The references are the
    texts `to`, or for every row an entry of the column `references` (one text or several; "prompts" for closeness to
    the source). With several, the closest counts. Texts of more tokens than the network reads, or than `length`, are
    cut with a warning. `batch` texts are read at a time, padded; the latest `limit` embeddings are remembered. A text
    without any token is forbidden; one that the tokenizer cannot read whole is warned about, or with `lossy=False`
    refused.

    Raises `FileNotFoundError`, `ValueError` or `TypeError` with what to do, before anything runs; a sentence encoder
    with a step that is not known here is refused.
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
        lossy: bool = True,
    ) -> None:
        super().__init__(
            "encoder", model, tokenizer,
            given=None, device=device, dtype=dtype, batch=batch, length=length, limit=limit, lossy=lossy,
        )  # fmt: skip
        self.pooling = Pooling.read(self.checkpoint.folder)
        self.length = min(self.length, self.pooling.length or self.length)
        self.references = references
        self.to = None if to is None else reference_texts(to, "to")

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
        start, lower = self.pooling.prefix, self.pooling.lower
        return self.fetch([(None, start + (text.lower() if lower else text)) for _, text in pairs])

    def read(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """One embedding a row of a padded batch, (R, T) each."""
        network, mask = self.checkpoint.network, batch["attention_mask"]
        encoder = network.get_encoder() if getattr(self.checkpoint.config, "is_encoder_decoder", False) else network
        return list(self.pooling(encoder(**batch).last_hidden_state, mask).cpu())

    def _references(self, columns: dict[str, Any], size: int) -> list[tuple[str, ...]]:
        if self.to is not None:
            return [self.to] * size
        column = needed_column(columns, self.references, size, "the reward")
        return [reference_texts(entry, f"row {row}") for row, entry in enumerate(column)]


REWARD = Similarity
