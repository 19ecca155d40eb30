"""Texts for networks: tokens of unequal length in padded batches, cut to what the network reads, each text asked once.

value(text) = f(network(tokens of the text)); padding stands behind the text and is masked, so that it changes nothing.

The numbers of a batch and of one text differ by rounding only (1e-6 in float32, 1e-14 with dtype="float64").
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from iterref.columns import needed_column
from iterref.rewards.algebra import TextComposable
from iterref.rewards.checkpoint import Device, Kind, load, load_tokenizer, vocabulary
from iterref.rewards.memory import Memory

# A text, and what stands before it or None.
Pair = tuple[str | None, str]
Encoding = dict[str, list[int]]
Value = TypeVar("Value")


@dataclass(eq=False, repr=False, kw_only=True)
class TextNetwork(TextComposable, ABC, Generic[Value]):
    """What text rewards by a network have in common: the checkpoint, its tokenizer, batches, and the memory of answers.

    The `model` is a folder or hub name with safetensors, a bundled one (a folder of that name goes first), or a loaded
    network with its `tokenizer`. `given` names a column that stands before the text. Texts of more tokens than the
    network reads, or than `length`, are cut with a warning. `batch` texts are read at a time, padded, unless the
    network's answers depend on the padding, which is found by asking; the latest `limit` answers are remembered. A text
    without any token is forbidden; one that the tokenizer cannot read whole is warned about, or with `lossy=False`
    refused. `asked` counts the texts that came in, `evaluated` those that the network read, `truncated` those cut.

    Raises `FileNotFoundError`, `ValueError` or `TypeError` with what to do, before anything runs."""

    kind: ClassVar[Kind]

    model: Any = field(kw_only=False)
    tokenizer: Any = None
    given: str | None = None
    device: Device = "cpu"
    dtype: torch.dtype | str = "float32"
    batch: int = 32
    length: int | None = None
    limit: int = 200_000
    lossy: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"a batch of {self.batch} texts cannot be read: give at least 1")
        self.checkpoint = load(self._kind(), self.model, self.device, self.dtype)
        self.tokenizer = load_tokenizer(self.tokenizer, self.checkpoint)
        self.length = self._most = _length(self.checkpoint.network, self.tokenizer, self.length)
        self.asked = self.evaluated = self.truncated = 0
        self.fill = padding(self.tokenizer, self.checkpoint.config)
        self._warned, self._blind = False, None if self.batch > 1 else True
        self._known = vocabulary(self.checkpoint)
        network = self.checkpoint.network
        forward = getattr(network, "_orig_mod", network).forward  # what torch compiled takes anything, by its signature
        self._reads = set(inspect.signature(forward).parameters)
        self._memory: Memory[Pair, Value | None] = Memory(self.limit)
        self._changes = self.checkpoint.changes

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """R texts and the columns, each of R entries -> R numbers; -inf for a text without a token."""
        return numbers(self.fetch(self.pairs(completions, columns)))

    def pairs(self, completions: Sequence[str], columns: dict[str, Any]) -> list[Pair]:
        """The texts, each with its entry of the column `given`, if any. Raises ValueError naming the row."""
        before: list[str | None] = [None] * len(completions)
        if self.given is not None:
            before = needed_column(columns, self.given, len(completions), "the reward")
        for name, texts in (("completion", completions), (self.given, before)):
            for row, text in enumerate(texts if name else ()):
                if not isinstance(text, str):
                    raise ValueError(f"{name} {row} is a {type(text).__name__}: give its text, a string")
        return list(zip(before, completions, strict=True))

    def fetch(self, pairs: Sequence[Pair]) -> list[Value | None]:
        """One value a text, from memory or from the network; None for a text without a token."""
        self.asked += len(pairs)
        if self._changes != (changes := self.checkpoint.changes):  # what it said before its training went on
            self._memory, self._changes = Memory(self.limit), changes
        return self._memory.fetch(pairs, lambda new: self._values([pairs[place] for place in new]))

    def encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        """The tokens of texts, with what the tokenizer puts around them, cut to `length`."""
        encodings = self._tokens(pairs)
        long = [place for place, encoding in enumerate(encodings) if len(encoding["input_ids"]) > self._most]
        if long:
            self.cut(pairs[long[0]][1], len(encodings[long[0]]["input_ids"]), len(long))
            shorter = self._tokens([pairs[place] for place in long], truncation=True, max_length=self._most)
            for place, encoding in zip(long, shorter, strict=True):
                encodings[place] = encoding
        return encodings

    @abstractmethod
    def read(self, batch: dict[str, Tensor]) -> list[Value]:
        """One value a text of a padded batch, (R, T) each: `input_ids`, `attention_mask` and what else was encoded."""

    def _kind(self) -> Kind:
        """What is read of the checkpoint."""
        return self.kind

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
        sizes = [len(encoding["input_ids"]) for encoding in encodings]
        self._expect_known(pairs, encodings)
        for (_, text), encoding in zip(pairs, encodings, strict=True):
            if (highest := max(encoding["input_ids"], default=0)) >= self._known:
                told = f"the text {text[:40]!r} has token {highest} and {self.checkpoint.name} knows {self._known}"
                raise ValueError(f"{told}: give the tokenizer that the model was trained with")
        values: list[Value | None] = [None] * len(pairs)
        left = sorted(filter(sizes.__getitem__, range(len(pairs))), key=sizes.__getitem__)  # little padding in a batch
        while left:
            places = left[: self.batch]
            if self._blind is False:  # of one size where padding would be read
                places = [place for place in places if sizes[place] == sizes[places[0]]]
            left = left[len(places) :]
            for place, value in zip(places, self._ask([encodings[place] for place in places]), strict=True):
                values[place] = value
        self.evaluated += len(pairs)
        return values

    def _ask(self, encodings: list[Encoding]) -> list[Value]:
        """One value a text, of texts sorted by their sizes."""
        unequal = len(encodings[0]["input_ids"]) < len(encodings[-1]["input_ids"])
        try:
            with self.checkpoint.judging():
                if unequal and self._blind is None:
                    self._blind = self._blind_to_padding(encodings[0], encodings[-1])
                if unequal and not self._blind:
                    return [self.read(self._padded([one]))[0] for one in encodings]
                return self.read(self._padded(encodings))
        except torch.cuda.OutOfMemoryError as error:
            told = f"{len(encodings)} texts at once are too many for the memory of {self.checkpoint.device}"
            raise ValueError(f"{told}: lower batch=") from error

    def _blind_to_padding(self, short: Encoding, long: Encoding) -> bool:
        """Whether a text's value is the same beside a longer one, up to rounding."""
        alone = torch.as_tensor(self.read(self._padded([short]))[0], dtype=torch.float64)
        try:
            beside = torch.as_tensor(self.read(self._padded([short, long]))[0], dtype=torch.float64)
        except (ValueError, RuntimeError) as error:  # a network that takes texts of one length only says so
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            return False
        rounding = 100 * torch.finfo(next(self.checkpoint.network.parameters()).dtype).eps
        return bool(torch.allclose(alone, beside, rtol=rounding, atol=rounding))

    def _padded(self, encodings: list[Encoding]) -> dict[str, Tensor]:
        return padded(encodings, self.fill, self.checkpoint.device)

    def _tokens(self, pairs: Sequence[Pair], **options: Any) -> list[Encoding]:
        texts = [text for _, text in pairs]
        before = [prefix for prefix, _ in pairs if prefix is not None]
        order = (before, texts) if before else (texts,)
        encoded = self.tokenizer(*order, padding=False, return_attention_mask=True, verbose=False, **options)
        keys = {"input_ids", "attention_mask", "token_type_ids"} & set(encoded) & self._reads
        return [{key: list(encoded[key][place]) for key in keys} for place in range(len(texts))]

    def _expect_known(self, pairs: Sequence[Pair], encodings: Sequence[Encoding]) -> None:
        """Warns of the first text that the tokenizer does not know whole; without `lossy`, refuses each."""
        unknown = unknown_token(self.tokenizer)
        for (_, text), encoding in zip(pairs, encodings, strict=True):
            if self._warned or (unknown not in encoding["input_ids"] and len(encoding["input_ids"]) > 4):
                continue
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if (ids or not text.strip()) and unknown not in ids:
                continue
            loss = f"reads {ids.count(unknown)} of its {len(ids)} tokens as unknown" if ids else "finds no token in it"
            what = f"{type(self).__name__}: the tokenizer of {self.checkpoint.name} {loss}, of the text {text[:40]!r}"
            if not self.lossy:
                raise ValueError(f"{what}: give a model of this script, or allow it by lossy=True")
            warnings.warn(f"{what} (said once; lossy=False refuses such texts)", stacklevel=2)
            self._warned = True


def numbers(values: Sequence[Any]) -> list[float]:
    """Values as rewards: a text without one is forbidden."""
    return [-float("inf") if value is None else value for value in values]


def padded(encodings: list[Encoding], fill: int, device: torch.device) -> dict[str, Tensor]:
    """Encodings as one batch, (R, T) each; the shorter ones are filled up behind, their `input_ids` by `fill`."""
    size = max(len(encoding["input_ids"]) for encoding in encodings)
    fills = {key: fill if key == "input_ids" else 0 for key in encodings[0]}
    lines = {key: [one[key] + [fills[key]] * (size - len(one[key])) for one in encodings] for key in fills}
    return {key: torch.tensor(line, device=device) for key, line in lines.items()}


def padding(tokenizer: Any, config: Any = None) -> int:
    """The token to pad with: the network's own, which classifiers look for, or the tokenizer's. It is masked, so any
    will do where there is none."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for token in (getattr(text, "pad_token_id", None), tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def unknown_token(tokenizer: Any) -> int | None:
    """The token that stands for what a tokenizer does not know; None where it knows every byte."""
    found = tokenizer.unk_token_id
    if found is None:  # not named in its configuration, and used all the same
        name = getattr(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), "unk_token", None)
        found = None if name is None else tokenizer.convert_tokens_to_ids(name)
    return None if found in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) else found


def _length(network: nn.Module, tokenizer: Any, wanted: int | None) -> int:
    """Tokens that a network reads: the least of what is wanted, its tokenizer's limit and its table of positions."""
    config: Any = network.config
    limits = [wanted, getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    for name, module in network.named_modules():
        # RoBERTa and its kin count positions from behind the padding token's
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    length = min((limit for limit in limits if limit and limit > 0), default=2**31)  # -1 stands for no limit
    if wanted is not None and wanted < 1:
        raise ValueError(f"a network cannot read {wanted} tokens: give length of at least 1")
    return int(length)
