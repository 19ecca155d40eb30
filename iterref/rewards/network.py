"""Texts for networks: tokens of unequal length in padded batches, cut to what the network reads, each text asked once.

value(text) = f(network(tokens of the text)); padding stands behind the text and is masked, so that it changes nothing.

The numbers of a batch and of one text differ by rounding only (1e-6 in float32, 1e-14 with dtype="float64").
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from iterref.rewards.algebra import TextComposable
from iterref.rewards.memory import Memory
from iterref.rewards.checkpoint import Device, Kind, load, load_tokenizer, vocabulary

# A text, and what stands before it or None.
Pair = tuple[str | None, str]
Encoding = dict[str, list[int]]
Value = TypeVar("Value")


class TextNetwork(TextComposable, ABC, Generic[Value]):
    """What text rewards by a network have in common: the checkpoint, its tokenizer, batches, and the memory of answers.

    `asked` counts the texts that came in, `evaluated` those that the network read, `truncated` those that it read in
    part, of which the first is warned about. A text without any token has no value and gives None.
    """

    def __init__(
        self,
        kind: Kind,
        model: Any,
        tokenizer: Any,
        *,
        given: str | None,
        device: Device,
        dtype: torch.dtype | str,
        batch: int,
        length: int | None,
        limit: int,
    ) -> None:
        if batch < 1:
            raise ValueError(f"a batch of {batch} texts cannot be read: give at least 1")
        self.checkpoint = load(kind, model, device, dtype)
        self.tokenizer = load_tokenizer(tokenizer, self.checkpoint)
        self.given = given
        self.batch = batch
        self.length = _length(self.checkpoint.network, self.tokenizer, length)
        self.asked = self.evaluated = self.truncated = 0
        self._known = vocabulary(self.checkpoint)
        self._reads = set(inspect.signature(self.checkpoint.network.forward).parameters)
        self._memory: Memory[Pair, Value | None] = Memory(limit)

    def pairs(self, completions: Sequence[str], columns: dict[str, Any]) -> list[Pair]:
        """The texts, each with its entry of the column `given`, if any. Raises ValueError naming the row."""
        for row, text in enumerate(completions):
            if not isinstance(text, str):
                raise ValueError(f"completion {row} is a {type(text).__name__}: give its text, a string")
        if self.given is None:
            return [(None, text) for text in completions]
        if columns.get(self.given) is None:
            raise ValueError(f"the reward needs the column {self.given!r}, there is only {sorted(columns)}: add it")
        return list(zip(columns[self.given], completions, strict=True))

    def fetch(self, pairs: Sequence[Pair]) -> list[Value | None]:
        """One value a text, from memory or from the network; None for a text without a token."""
        self.asked += len(pairs)
        return self._memory.fetch(pairs, lambda new: self._values([pairs[place] for place in new]))

    def encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        """The tokens of texts, with what the tokenizer puts around them, cut to `length`."""
        encodings = self._tokens(pairs, {})
        long = [place for place, encoding in enumerate(encodings) if len(encoding["input_ids"]) > self.length]
        if long:
            self.cut(pairs[long[0]][1], len(encodings[long[0]]["input_ids"]), len(long))
            shorter = self._tokens([pairs[place] for place in long], {"truncation": True, "max_length": self.length})
            for place, encoding in zip(long, shorter, strict=True):
                encodings[place] = encoding
        return encodings

    @abstractmethod
    def read(self, batch: dict[str, Tensor]) -> list[Value]:
        """One value a row of a padded batch of `input_ids`, `attention_mask` and what else was encoded, (R, T) each."""

    def cut(self, text: str, size: int, count: int) -> None:
        """Takes note of texts that are longer than the network reads, and warns about the first ever."""
        if not self.truncated:
            warnings.warn(
                f"{type(self).__name__}: the text {text[:40]!r}... has {size} tokens and {self.checkpoint.name} reads "
                f"{self.length}: its end was not judged, nor will that of others be (counted in `truncated`)",
                stacklevel=2,
            )
        self.truncated += count

    def _values(self, pairs: list[Pair]) -> list[Value | None]:
        encodings = self.encode(pairs)
        values: list[Value | None] = [None] * len(pairs)
        readable = [place for place, encoding in enumerate(encodings) if encoding["input_ids"]]
        readable.sort(key=lambda place: len(encodings[place]["input_ids"]))  # texts of one batch need little padding
        for start in range(0, len(readable), self.batch):
            places = readable[start : start + self.batch]
            self._check_ids(pairs, encodings, places)
            for place, value in zip(places, self._ask([encodings[place] for place in places]), strict=True):
                values[place] = value
        self.evaluated += len(pairs)
        return values

    def _ask(self, encodings: list[Encoding]) -> list[Value]:
        try:
            with torch.inference_mode():
                return self.read(self._padded(encodings))
        except torch.cuda.OutOfMemoryError as error:
            raise ValueError(
                f"{len(encodings)} texts at once are too many for the memory of {self.checkpoint.device}: lower batch="
            ) from error

    def _padded(self, encodings: list[Encoding]) -> dict[str, Tensor]:
        fill = {"input_ids": padding(self.tokenizer)}
        size = max(len(encoding["input_ids"]) for encoding in encodings)
        batch = {
            key: torch.tensor([one[key] + [fill.get(key, 0)] * (size - len(one[key])) for one in encodings])
            for key in encodings[0]
        }
        return {key: tensor.to(self.checkpoint.device) for key, tensor in batch.items()}

    def _tokens(self, pairs: Sequence[Pair], options: dict[str, Any]) -> list[Encoding]:
        texts = [text for _, text in pairs]
        before = [prefix for prefix, _ in pairs if prefix is not None]
        order = (before, texts) if before else (texts,)
        encoded = self.tokenizer(*order, padding=False, return_attention_mask=True, verbose=False, **options)
        keys = {"input_ids", "attention_mask", "token_type_ids"} & set(encoded) & self._reads
        return [{key: list(encoded[key][place]) for key in keys} for place in range(len(texts))]

    def _check_ids(self, pairs: list[Pair], encodings: list[Encoding], places: list[int]) -> None:
        for place in places:
            highest = max(encodings[place]["input_ids"])
            if highest >= self._known:
                raise ValueError(
                    f"the text {pairs[place][1][:40]!r} has token {highest} and {self.checkpoint.name} knows "
                    f"{self._known}: give the tokenizer that the model was trained with"
                )


def numbers(values: Sequence[float | None]) -> list[float]:
    """Values as rewards: a text without one is forbidden."""
    return [-float("inf") if value is None else value for value in values]


def padding(tokenizer: Any) -> int:
    """A token to pad with. It is masked, so any will do where the tokenizer has none of its own."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _length(network: nn.Module, tokenizer: Any, wanted: int | None) -> int:
    """Tokens that a network reads: the least of what is wanted, its tokenizer's limit and its table of positions."""
    config: Any = network.config
    limits = [wanted, getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    for name, module in network.named_modules():
        # RoBERTa and its kin count positions from behind the padding token's
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    length = min((limit for limit in limits if limit), default=2**31)
    if length < 1 or (wanted is not None and wanted < 1):
        raise ValueError(f"a network cannot read {wanted} tokens: give length of at least 1")
    return int(length)
