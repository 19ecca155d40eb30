"""Pooling: how a sentence encoder makes one vector of a text, read from the files of `sentence-transformers`.

    e(x) = normalise(D_k( ... D_1(pool(h_1 ... h_T))))        h the last states of the text's tokens, D dense layers

`modules.json` lists the steps, `1_Pooling/config.json` says how states are pooled (with a flag a way in older versions,
`pooling_mode` in newer ones), `sentence_bert_config.json` how much is read. A step that is not known is refused; a
checkpoint without these files takes the mean (Reimers and Gurevych 2019, arXiv:1908.10084, section 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iterref.hub import read_json, reading

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
            listed = read_list(folder / "modules.json", str(folder))
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
        weights = mask[:, :, None].double()
        size = weights.sum(1)
        first = mask.int().argmax(1)
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(1)
        row = torch.arange(len(states), device=states.device)
        vectors = []
        for way in self.ways:
            if way in ("cls", "lasttoken"):
                vectors.append(states[row, first if way == "cls" else last])
            elif way == "max":
                vectors.append(states.masked_fill(~mask[:, :, None], -torch.inf).amax(1))
            elif way == "weightedmean":
                heavier = weights * torch.arange(1, mask.shape[1] + 1, device=states.device)[:, None]
                vectors.append((states * heavier).sum(1) / heavier.sum(1))
            else:
                vectors.append((states * weights).sum(1) / (size if way == "mean" else size.sqrt()))
        pooled = torch.cat(vectors, 1)
        for layer in self.layers:
            pooled = layer.to(pooled.device)(pooled)
        return nn.functional.normalize(pooled, dim=1)


def read_list(file: Path, name: str) -> list[dict[str, Any]]:
    """A JSON list of objects. Raises `ValueError` for another file."""
    import json

    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file.name} of {name} is no JSON ({error}): get it again") from None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{file.name} of {name} is no JSON list of objects: get it again")
    return found


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
