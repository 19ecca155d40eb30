"""Checkpoint: a published model's configuration and weights, from a folder or from the hub, as data and never as code.

    folder/config.json   folder/model.safetensors, or parts and model.safetensors.index.json   folder/tokenizer.json

Weights are read by `safetensors` alone: a pickle can run code when it is opened, so `pytorch_model.bin` and `.ckpt` are
neither downloaded nor read, and no Python file of a checkpoint is looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
    "merges.txt",
)  # fmt: skip
# What a hub name is asked for.
DATA = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder on this machine, what the user called it, and its configuration."""

    name: str
    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def open(cls, name: str | Path, revision: str | None = None) -> Checkpoint:
        """The checkpoint in a folder, or that of a hub name such as "kuleshov-group/mdlm-owt" at a `revision`.

        Raises `FileNotFoundError` where there is neither, or no config.json, and `ValueError` where that is no JSON.
        """
        folder = fetched(name, revision)
        return cls(str(name), folder, read_json(folder / "config.json", str(name)))

    def weights(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU. Raises `FileNotFoundError` without safetensors, saying what to do, and
        `ValueError` for a damaged file."""
        tensors: dict[str, Tensor] = {}
        for file in self._files():
            with self._reading(file):
                tensors |= load_file(file)
        return tensors

    def fits(self, dtype: torch.dtype, device: torch.device) -> None:
        """Raises `ValueError` where the weights at that precision need more bytes than the device has room for."""
        numbers = 0
        for file in self._files():
            with self._reading(file), safe_open(file, "pt") as tensors:
                numbers += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
        needed, free = numbers * dtype.itemsize, free_memory(device)
        if free is not None and needed > free:
            smaller = "" if dtype.itemsize < 4 else "dtype='bfloat16', "
            raise ValueError(
                f"{self.name} takes {needed / 2**30:.1f} GiB as {str(dtype).removeprefix('torch.')} and {device} has "
                f"{free / 2**30:.1f} GiB: take {smaller}another device or a smaller model"
            )

    def size(self, *names: str) -> int:
        """The whole number that config.json holds under one of `names`, a dot going one level down.

        Raises `ValueError` where there is none.
        """
        for name in names:
            value: Any = self.config
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        raise ValueError(f"config.json of {self.name} has no whole number {names[0]!r}: is it this family's format?")

    @contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        try:
            yield
        except SafetensorError as error:
            raise ValueError(
                f"{file.name} of {self.name} cannot be read ({error}): get it again, it is no complete safetensors file"
            ) from None

    def _files(self) -> list[Path]:
        for name in WEIGHTS:
            index = self.folder / f"{name}.index.json"
            if index.is_file():
                parts = sorted(set(read_json(index, self.name).get("weight_map", {}).values()))
                missing = [part for part in parts if not (self.folder / part).is_file()]
                if missing:
                    raise FileNotFoundError(f"{self.name} has no {missing[0]}, which its index names: get the rest")
                return [self.folder / part for part in parts]
            if (self.folder / name).is_file():
                return [self.folder / name]
        pickles = sorted(file.name for pattern in PICKLES for file in self.folder.glob(pattern))
        if pickles:
            raise FileNotFoundError(
                f"{self.name} holds {pickles[0]} but no safetensors, and a pickle may run code when opened: convert it "
                "where you trust it (safetensors.torch.save_file), or name a hub `revision` that holds safetensors"
            )
        raise FileNotFoundError(f"{self.name} has no {WEIGHTS[0]}: give a folder or a hub name that holds safetensors")


def fetched(name: str | Path, revision: str | None = None, files: Sequence[str] = DATA) -> Path:
    """The folder itself, or the local copy of a hub name, of which only these data files are downloaded.

    Raises `FileNotFoundError` where there is neither, with the hub's reason.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(files)))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FileNotFoundError(
            f"{str(name)!r} is no folder, and the hub did not give a model of that name ({reason}): check the name and "
            "the connection, or give a folder"
        ) from None


def read_json(file: Path, name: str) -> dict[str, Any]:
    """A JSON object. Raises `FileNotFoundError` or `ValueError`, naming the checkpoint."""
    if not file.is_file():
        raise FileNotFoundError(f"{name} has no {file.name}: give a folder or a hub name of a published checkpoint")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} of {name} is no JSON ({error}): get it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} of {name} is no JSON object: get it again")
    return found


def precision(name: str) -> torch.dtype:
    """The dtype called "float32", "bfloat16" or "float16". Raises `ValueError` for another name."""
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}: choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def device_of(name: torch.device | str) -> torch.device:
    """The device of that name. Raises `ValueError` where this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no device {str(name)!r} on this machine ({reason}): say device='cpu'") from None
    return device


def free_memory(device: torch.device) -> int | None:
    """Bytes that a network may take on a device: what is free on a GPU, all there is on a CPU, None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def first_line(error: BaseException) -> str:
    """What an error is and the first line of what it says, to stand in a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip().rstrip('.:')}" if lines else type(error).__name__
