"""Similarity: how close a text's meaning is to that of reference texts, by sentence embeddings.

r(x) = max over references d of cos(e(x), e(d)),      e(x) as `rewards.pooling` reads it from the checkpoint's files
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from iterref.columns import needed_column
from iterref.rewards.network import Pair, TextNetwork, numbers
from iterref.rewards.pooling import Pooling
from iterref.rewards.rouge import reference_texts


@dataclass(eq=False, repr=False, kw_only=True)
class Similarity(TextNetwork[Tensor]):
    """Cosine in [-1, 1] of a text's embedding and its references', as a text reward: `Similarity(folder, to="a cat")`.

    `model` and the other options are as for every `TextNetwork`; any encoder of `transformers` will do, those trained
    for sentences do it well, and pool as their files say (a step that is not known here is refused). The references are
    the texts `to`, or for every text an entry of the column `references` (one text or several; "prompts" for closeness
    to the source). With several, the closest counts.
    """

    kind = "encoder"

    model: Any = field(kw_only=False)
    to: str | Sequence[str] | None = None
    references: str = "reference"
    given: None = field(default=None, init=False)
    limit: int = 20_000

    def __post_init__(self) -> None:
        self.load(self.model)
        self.pooling = Pooling.read(self.checkpoint.folder)
        self.length = self._most = min(self._most, self.pooling.length or self._most)
        self.to = None if self.to is None else reference_texts(self.to, "to")

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
        network, mask = self.checkpoint.network, batch["attention_mask"]
        encoder = network.get_encoder() if getattr(self.checkpoint.config, "is_encoder_decoder", False) else network
        return list(self.pooling(encoder(**batch).last_hidden_state, mask).cpu())

    def _references(self, columns: dict[str, Any], size: int) -> list[tuple[str, ...]]:
        if self.to is not None:
            return [tuple(self.to)] * size
        column = needed_column(columns, self.references, size, "the reward")
        return [reference_texts(entry, f"row {row}") for row, entry in enumerate(column)]


REWARD = Similarity
