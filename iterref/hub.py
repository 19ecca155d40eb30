"""Hub: files of published checkpoints, from a folder or a hub name, as data and never as code.

Only what a caller lists is fetched, weights are `*.safetensors`, and a pickle is never opened: it may run code when it
is. Whatever is not there or does not fit is one sentence that says what to do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from logging import ERROR, getLogger
from math import prod
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch

from iterref import packaged

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state)")  # of a training run, and no weights
# What torchao, which transformers imports where it is installed, says of kernels that this machine has no use for.
AT_IMPORT = ("torchao", "torch.utils._pytree")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fetched(
    name: str | Path, files: Sequence[str], *, revision: str | None = None, besides: Sequence[str] = (), hint: str = ""
) -> Path:
    """The folder itself, that of a checkpoint inside a Python package (`iterref.packaged`), or the local copy of a hub
    name, of which only these files (patterns) are fetched and none of `besides`; `hint` is what else a user may do.
    Raises `FileNotFoundError` where there is none, with the hub's reason, and `ValueError` for a file or no name."""
    if not str(name):  # which stands for the folder that one is in
        raise ValueError("the name of a checkpoint is empty: give a folder or a hub name")
    folder = Path(name).expanduser()
    if folder.is_dir():
        for file in folder.iterdir():
            if not file.exists() and any(fnmatch(file.name, wanted) for wanted in files):
                raise FileNotFoundError(f"{file.name} of {name} is a link to a file that is gone: get it again")
        return folder
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder that holds it, with its config.json")
    if folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1:
        raise FileNotFoundError(f"there is no folder {folder}: give one that save_pretrained wrote, or a hub name")
    inside = packaged.located(name)
    if inside is not None:
        return inside
    from huggingface_hub import constants, snapshot_download

    try:
        ignored = list(besides) or None
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=[*files], ignore_patterns=ignored))
    except Exception as error:  # whatever the hub objects to: a name, a connection, a cache
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        told = f"{str(name)!r} is no folder here, and no model that the hub or its cache gave ({reason})"
        raise FileNotFoundError(f"{told}: check the name, fetch it once while online, or give a folder{hint}") from None


def read_json(file: Path, name: str, several: bool = False) -> Any:
    """A JSON object, or a list of `several`. Raises `FileNotFoundError` or `ValueError`, naming the checkpoint."""
    if not file.is_file():
        raise FileNotFoundError(_instead(file.parent, name, f"{name} has no {file.name}"))
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, or of what is nested without end
        raise ValueError(f"{file.name} of {name} is no JSON ({error}): get it again") from None
    if isinstance(found, list) != several or not all(isinstance(one, dict) for one in (found if several else [found])):
        what = "list of objects" if several else "object"
        raise ValueError(f"{file.name} of {name} is no JSON {what}: get it again")
    return found


def casing(folder: Path, config: Mapping[str, Any]) -> dict[str, bool]:
    """`do_lower_case` for a vocab.txt alone whose tokenizer_config.json, `config`, does not tell; else nothing.
    `transformers` lower-cases unless it is told otherwise, and a cased vocabulary shows by its entries what it is."""
    if "do_lower_case" in config or (folder / "tokenizer.json").is_file() or not (folder / "vocab.txt").is_file():
        return {}
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return {"do_lower_case": not any(line != line.lower() for line in lines if not line.startswith("["))}


def indexed(folder: Path, file: str, name: str) -> list[Path]:
    """The weights in `file`, or in the parts that its index names; none where there is neither. As for `transformers`,
    an index whose parts are gone is left from before the file. Raises `FileNotFoundError` for a part that is missing,
    and `ValueError` where there are both: training scripts that save twice leave the old ones."""
    index, whole = folder / f"{file}.index.json", folder / file
    written = read_json(index, name).get("weight_map", {}) if index.is_file() else {}
    parts = sorted({*written.values()} - {file})
    missing = [part for part in parts if Path(part).name != part or not (folder / part).is_file()]
    if whole.is_file():
        if parts and not missing:
            told = f"{name} holds its weights twice, in {file} and in {parts[0]} and the like"
            raise ValueError(f"{told}: take those away that are not meant (and {index.name} with the parts)")
        return [whole]
    if missing:
        raise FileNotFoundError(f"{name} has no {missing[0]}, which its index names: get the rest")
    return [folder / part for part in parts]


def no_safetensors(name: str, folder: Path) -> FileNotFoundError:
    """What to raise for a folder without weights that may be read, by what it has in their place."""
    own = sorted(file.name for file in folder.glob("*.safetensors") if not file.name.startswith("adapter"))
    if own:
        told = f"{name} holds {own[0]} and no model.safetensors"
        return FileNotFoundError(f"{told}: if these are all its weights, call the file that")
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES and not STATE.match(file.name))
    if not pickles:
        return FileNotFoundError(_instead(folder, name, f"{name} holds no *.safetensors"))
    told = f"{name} holds {pickles[0]} and no *.safetensors, and a pickle may run code when it is opened"
    how = "convert it where you trust it (save_pretrained, or safetensors.torch.save_file)"
    return FileNotFoundError(f"{told}: {how}, or name a hub revision that holds safetensors")


def _instead(folder: Path, name: str, lacks: str) -> str:
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = read_json(adapter, name).get("base_model_name_or_path") or "a model"
        how = "merge it into that (merge_and_unload of peft), save_pretrained the result, and give its folder"
        return f"{lacks}: it is an adapter of {base}: {how}"
    inner = [file.parent for file in folder.glob("*/config.json")]
    if inner:
        newest = max(inner, key=lambda one: one.stat().st_mtime)
        return f"{lacks}, and {newest.name} in it has: give {folder / newest.name}"
    return f"{lacks}: give a folder or a hub name of a published checkpoint, which save_pretrained writes"


def shapes(files: Iterable[Path], name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in safetensors files by name, read from the headers alone."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with reading(file, name), safe_open(file, "pt") as weights:
            found |= {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}
    return found


def foreign(names: Sequence[str]) -> str | None:
    """What weights by names that a network has no place for were saved from, and what to do; None for no known case."""
    whole = "".join(names)
    if any(part in whole for part in ("lora_", "modules_to_save", "base_layer")):
        return "they hold an adapter: merge it into its model (merge_and_unload of peft) and save that"
    if any(part in whole for part in ("weight_scale", "qweight", "quant_state", "absmax", "qzeros")):
        return "they are quantised: get the ones that are not"
    if names and all(name.startswith(("_orig_mod.", "module.")) for name in names):
        return "they were saved from a compiled or wrapped network: save_pretrained the network within"
    return None


@contextmanager
def reading(file: Path, name: str) -> Iterator[None]:
    """Says what to do where a safetensors file cannot be read."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        told = f"{file.name} of {name} cannot be read ({error})"
        raise ValueError(f"{told}: get it again, it is no complete safetensors file") from None


def expect_room(name: str, sizes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> None:
    """Raises `ValueError` where weights of these shapes need more bytes than the device has room for."""
    needed, free = sum(map(prod, sizes.values())) * dtype.itemsize, free_memory(device)
    if free is not None and needed > free:
        smaller = "" if dtype.itemsize < 4 else "dtype='bfloat16', "
        told = f"{name} takes {needed / 2**30:.1f} GiB as {str(dtype).removeprefix('torch.')}"
        room = f"{device} has {free / 2**30:.1f} GiB"
        raise ValueError(f"{told} and {room}: take {smaller}another device or a smaller model")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a network may take on a device: what is free on a GPU, all there is on a CPU, None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def precision(name: str | torch.dtype) -> torch.dtype:
    """The dtype called "float32", "bfloat16" or "float16". Raises `ValueError` for another name."""
    name = str(name).removeprefix("torch.")
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}: choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def device_of(name: torch.device | str) -> torch.device:
    """The device of that name. Raises `ValueError` where this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise ValueError(f"there is no device {str(name)!r} on this machine ({reason}): say device='cpu'") from None
    return device


def first_line(error: BaseException) -> str:
    """What an error is and the first line of what it says, to stand in a sentence."""
    lines = str(error).strip().splitlines()
    told = " ".join(line.strip() for line in lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {told.rstrip('.:')}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back what `transformers` and `accelerate` report and warn of at a checkpoint; what matters is raised."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with catch_warnings(), hushed("transformers", "accelerate", *AT_IMPORT):
            simplefilter("ignore")
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


@contextmanager
def hushed(*names: str) -> Iterator[None]:
    """Holds back what loggers say below an error; those that speak at the import of torchao unless named."""
    logs = [(log, log.level) for log in map(getLogger, names or AT_IMPORT)]
    for log, _ in logs:
        log.setLevel(ERROR)
    try:
        yield
    finally:
        for log, level in logs:
            log.setLevel(level)
