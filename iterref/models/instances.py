"""Instances: a network and a tokenizer that are in memory already, as the checkpoint that they would be saved as.

The network's own code is not asked again: its weights go where those of a folder do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from iterref.models.checkpoint import Checkpoint


def held(model: Any, tokenizer: Any, folder: Path, **placing: Any) -> Checkpoint:
    """The checkpoint of a network of `transformers`, which may be compiled or wrapped for training; `folder` gets its
    tokenizer, an object of `transformers` or `tokenizers`. Raises `TypeError` for an object that is no such network or
    tokenizer, and `ValueError` for weights that are not there as they were trained (adapters, quantised, on no device),
    saying what to do."""
    for wrapper in ("_orig_mod", "module"):  # of torch.compile, of data parallelism
        model = getattr(model, wrapper, model) if isinstance(model, torch.nn.Module) else model
    kind = type(model).__name__
    if isinstance(model, type):
        raise TypeError(f"model= is the class {model.__name__}: pass one of its objects, or a name")
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("the model has adapters: merge them into it (model.merge_and_unload()), and pass the result")
    config: Any = getattr(model, "config", None)
    if not isinstance(model, torch.nn.Module) or not hasattr(config, "to_dict"):
        hint = "pass its .model and .tokenizer" if hasattr(model, "model") and hasattr(model, "tokenizer") else (
            "pass a network of transformers, give the name of a folder, or write a denoiser of it (docs/extending.md)"
        )
        raise TypeError(f"model= is a {kind}: {hint}")
    if getattr(model, "is_quantized", False) or getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"the {kind} is quantised, and its weights are not those of its class: load it without")
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError(f"some weights of the {kind} are on the disk or on no device: load it without device_map")
    written = {**config.to_dict(), "architectures": [kind]}
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    save(tokenizer, folder)
    return Checkpoint(f"the {kind}", folder, written, tensors=tensors, **placing)


def place_of(model: Any) -> tuple[torch.device, str]:
    """Where a network is, and the precision that its weights have, by name."""
    weights = model.parameters() if isinstance(model, torch.nn.Module) else ()
    weight = next((one for one in weights if one.is_floating_point()), None)
    if weight is None:
        return torch.device("cpu"), "float32"
    name = str(weight.dtype).removeprefix("torch.")
    return weight.device, name if name in ("bfloat16", "float16") else "float32"


def save(tokenizer: Any, folder: Path) -> None:
    """Writes a tokenizer as its library does."""
    if tokenizer is None:
        raise TypeError("tokenizer= is missing: pass the model's tokenizer, or 'none' for token ids alone")
    if isinstance(tokenizer, str | Path):
        return  # read by its name
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    elif hasattr(tokenizer, "save") and hasattr(tokenizer, "to_str"):
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        raise TypeError(f"tokenizer= is a {type(tokenizer).__name__}: pass one of transformers, or a name")
