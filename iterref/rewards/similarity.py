"""Similarity: how close a text's meaning is to that of reference texts, by sentence embeddings.

    r(x) = max over references d of cos(e(x), e(d))
    e(x) = normalise(D_k( ... D_1(pool(h_1 ... h_T))))        h the last states of the text's tokens, D dense layers

The steps of e are those of the files of `sentence-transformers`: `modules.json` lists them, `1_Pooling/config.json`
says how states are pooled (with a flag a way in older versions, `pooling_mode` in newer ones), and
`sentence_bert_config.json` how much is read. A step that is not known is refused; without these files the mean is
taken (Reimers and Gurevych 2019, arXiv:1908.10084, section 3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iterref.columns import needed_column
from iterref.hub import read_json, reading
from iterref.rewards.network import Pair, TextNetwork, numbers
from iterref.rewards.rouge import reference_texts

# In the order in which several are put together.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
WAYS = tuple(FLAGS.values())


@dataclass(frozen=True)
class Pooling:
    """The steps behind an encoder: `ways` whose vectors stand side by side, then dense `layers`.

    `length` bounds the tokens of a text, `lower` says that texts are read in lower case, `prefix` stands before each.
    """

    ways: tuple[str, ...] = ("mean",)
    layers: tuple[nn.Module, ...] = ()
    length: int | None = None
    lower: bool = False
    prefix: str = ""

    @classmethod
    def read(cls, folder: Path | None) -> Pooling:
        """From a checkpoint's files. Raises `ValueError` for a step that is not known here."""
        if folder is None:
            return cls()
        steps = [("Pooling", "1_Pooling")] if (folder / "1_Pooling" / "config.json").is_file() else []
        if (folder / "modules.json").is_file():
            listed = read_json(folder / "modules.json", str(folder), several=True)
            steps = [(str(one.get("type")).rpartition(".")[2], str(one.get("path", ""))) for one in listed]
        found: dict[str, Any] = {"layers": ()}
        for kind, path in steps:
            file = folder / path / "config.json"
            if kind == "Pooling" and not found["layers"]:
                found["ways"] = _ways(read_json(file, str(folder)), str(folder))
            elif kind == "Dense":
                found["layers"] += (_dense(folder / path, str(folder)),)
            elif kind not in ("Transformer", "Normalize"):
                raise ValueError(f"{folder} has a step {kind!r}, which is not known here: give another encoder")
        for name in ("sentence_bert_config.json", "config_sentence_transformers.json"):
            config = read_json(folder / name, str(folder)) if (folder / name).is_file() else {}
            found["length"] = config.get("max_seq_length") or found.get("length")
            found["lower"] = bool(config.get("do_lower_case", found.get("lower", False)))
            default = config.get("default_prompt_name")
            if default:
                found["prefix"] = str(config.get("prompts", {}).get(default, ""))
        return cls(**found)

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """Last states (R, T, D) and which are the text's (R, T) -> embeddings (R, E) float64 of length 1."""
        states, mask = states.double(), mask.bool()
        weights, row = mask[:, :, None].double(), torch.arange(len(states), device=states.device)
        heavier = weights * torch.arange(1, mask.shape[1] + 1, device=states.device)[:, None]
        known = {
            "cls": lambda: states[row, mask.int().argmax(1)],
            "lasttoken": lambda: states[row, heavier[:, :, 0].argmax(1)],
            "max": lambda: states.masked_fill(~mask[:, :, None], -torch.inf).amax(1),
            "mean": lambda: (states * weights).sum(1) / weights.sum(1),
            "mean_sqrt_len_tokens": lambda: (states * weights).sum(1) / weights.sum(1).sqrt(),
            "weightedmean": lambda: (states * heavier).sum(1) / heavier.sum(1),
        }
        pooled = torch.cat([known[way]() for way in self.ways], 1)
        for layer in self.layers:
            pooled = layer.to(pooled.device)(pooled)
        return nn.functional.normalize(pooled, dim=1)


def _ways(config: dict[str, Any], name: str) -> tuple[str, ...]:
    """How states are pooled. Raises `ValueError` for a way that is not known."""
    if config.get("include_prompt") is False:
        raise ValueError(f"{name} leaves its prompt out of the pooled states, which is not known here: give another")
    asked = config.get("pooling_mode")
    if asked is None:
        unknown = [key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in FLAGS]
        asked = unknown or [way for key, way in FLAGS.items() if config.get(key)] or ["mean"]
    asked = [asked] if isinstance(asked, str) else list(asked)
    ways = [next((way for way in WAYS if way.split("_len")[0] == str(one).split("_len")[0]), None) for one in asked]
    if None in ways or not ways:
        raise ValueError(f"{name} was trained to pool by {asked}: known are {', '.join(WAYS)}, give another encoder")
    return tuple(way for way in ways if way is not None)


def _dense(folder: Path, name: str) -> nn.Module:
    """A dense layer in double precision, with its activation."""
    config = read_json(folder / "config.json", name)
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ValueError(f"{name} has a dense layer without {folder.name}/model.safetensors: get it, or convert it")
    from safetensors.torch import load_file

    with reading(file, name):
        weights = load_file(file)
    written = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    found = re.fullmatch(r"torch\.nn\.modules\.(?:activation|linear)\.(\w+)", written)
    activation = getattr(nn, found[1], None) if found else None
    if activation is None:
        raise ValueError(f"{name} has a dense layer with {written}, which is not known here: give another encoder")
    linear = nn.Linear(int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)))
    linear.load_state_dict({key.removeprefix("linear."): tensor for key, tensor in weights.items()})
    return nn.Sequential(linear, activation()).double().eval().requires_grad_(False)


@dataclass(eq=False, repr=False, kw_only=True)
class Similarity(TextNetwork[Tensor]):
    """Cosine in [-1, 1] of a text's embedding and its references', as a text reward: `Similarity(folder, to="a cat")`.

    `model` and the other options are as for every `TextNetwork`; any encoder of `transformers` will do, those trained
    for sentences do it well, and pool as their files say (a step that is not known here is refused). The references are
    the texts `to`, or for every text an entry of the column `references` (one text or several; "prompts" for closeness
    to the source). With several, the closest counts."""

    kind = "encoder"

    to: str | Sequence[str] | None = None
    references: str = "reference"
    given: None = field(default=None, init=False)
    limit: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pooling = Pooling.read(self.checkpoint.folder)
        self.length = self._most = min(self._most, self.pooling.length or self._most)
        self.to = None if self.to is None else reference_texts(self.to, "to")

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """R texts and the columns, each of R entries -> R numbers in [-1, 1]."""
        texts = self.embed(self.pairs(completions, columns))
        entries = [tuple(self.to or ())] * len(texts)
        if self.to is None:
            column = needed_column(columns, self.references, len(texts), "the reward")
            entries = [reference_texts(entry, f"row {row}") for row, entry in enumerate(column)]
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


REWARD = Similarity
