"""Checkpoint: a published model's configuration and weights, from a folder or from the hub, as data and never as code.

    folder/config.json   folder/model.safetensors, or parts and model.safetensors.index.json   folder/tokenizer.json

Weights are read by `safetensors` alone: a pickle can run code when it is opened. No Python file is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from iterref import hub
from iterref.models import quantized
from iterref.models.adapter import CONFIG, TOKENIZER, Adapter

if TYPE_CHECKING:
    from iterref.models.device_map import DeviceMap

CPU = torch.device("cpu")
WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
# What a hub name is asked for.
DATA = ("config.json", "generation_config.json", CONFIG, "*.safetensors", "*.safetensors.index.json", *TOKENIZER)


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder on this machine, what the user called it, its configuration, and what its weights become: of
    which precision, on which device, or spread by a map. With `tensors` in memory the folder has a tokenizer alone. An
    `adapter` is merged into them, and `quantize` says what they become thereafter."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    dtype: torch.dtype = torch.float32
    place: torch.device | DeviceMap = CPU
    tensors: Mapping[str, Tensor] | None = field(default=None, repr=False)
    adapter: Adapter | None = None
    quantize: str | None = None

    @classmethod
    def open(cls, name: str | Path, revision: str | None = None, **placing: Any) -> Checkpoint:
        """The checkpoint in a folder, or that of a hub name such as "kuleshov-group/mdlm-owt" at a `revision`. Raises
        `FileNotFoundError` where there is neither, or no config.json, and `ValueError` where that is no JSON."""
        folder = hub.fetched(name, DATA, revision=revision)
        return cls(str(name), folder, hub.read_json(folder / "config.json", str(name)), **placing)

    @property
    def device(self) -> torch.device:
        assert isinstance(self.place, torch.device)
        return self.place

    @property
    def prequantized(self) -> str | None:
        """By what the weights in its files are quantised, None for whole ones (`quantized.method_of`)."""
        return quantized.method_of(self.config, self.name)

    def weights(self) -> dict[str, Tensor]:
        """All tensors by name, those of files on the CPU, with the adapter merged in. Raises `FileNotFoundError`
        without safetensors, saying what to do, and `ValueError` for a damaged file and for quantised weights."""
        if self.prequantized is not None:
            told = f"the weights of {self.name} are quantised by {self.prequantized}"
            raise ValueError(f"{told}, and this family puts them into a form of its own: get the whole, say quantize=")
        tensors = dict(self.tensors or {})
        for file in self.files() if self.tensors is None else ():
            with hub.reading(file, self.name):
                tensors |= load_file(file)
        return tensors if self.adapter is None else self.adapter.merged(tensors, self.name)

    def expect_room(self) -> None:
        if isinstance(self.place, torch.device) and self.tensors is None and self.prequantized is None:
            hub.expect_room(self.name, hub.shapes(self.files(), self.name), self.dtype, self.place)

    def size(self, *names: str) -> int:
        """config.json's whole number under one of `names`, a dot going one level down. Raises `ValueError` for none."""
        for name in names:
            value: Any = self.config
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        raise ValueError(f"config.json of {self.name} has no whole number {names[0]!r}: is it this family's format?")

    def flag(self, name: str, usual: bool = False) -> bool:
        """config.json's `name`, or the `usual` where it has none. Raises `ValueError` for neither true nor false."""
        value = self.config.get(name, usual)
        if value not in (True, False, None):  # null is false, as in Python
            raise ValueError(f"config.json of {self.name} has {name}={value!r}: write true or false there")
        return bool(value)

    def files(self) -> list[Path]:
        """The safetensors files. Raises `FileNotFoundError` without any, and for one that the index names, and
        `ValueError` for two sets of weights."""
        for name in WEIGHTS:
            if found := hub.indexed(self.folder, name, self.name):
                return found
            stem = name.removesuffix(".safetensors")
            shards = sorted(self.folder.glob(f"{stem}-*-of-*.safetensors"))  # whose names say how many there are
            if shards:
                count = int(re.sub(r"\D", "", shards[0].stem.rpartition("-of-")[2]) or 0)
                if len(shards) == count:
                    return shards
                raise FileNotFoundError(f"{self.name} has {len(shards)} of {count} parts of its weights: get the rest")
        raise hub.no_safetensors(self.name, self.folder)
