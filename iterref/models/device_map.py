"""Device map: where the parts of a network go that outgrows one device, layer after layer.

    "auto", "balanced"     evenly over all accelerators; what they have no room for on the host, then on the disk
    "balanced_low_0"       the same, with little on the first accelerator
    "sequential"           the first accelerator full, then the next
    {"model.layers.0": 0, "model.layers.1": "cpu", "lm_head": "disk", ...}        each part by name; "" is all others
    "tensor_parallel"      every matrix in slices over the ranks of a launcher, which all compute at once

`transformers` reads the weights to their places, and hooks of `accelerate` carry states from device to device. What is
on the host or the disk is copied to the first accelerator in every call; without any, the host computes it. From
outside the network has one device, the first. Ranks in tensor parallelism make the same calls in the same order and
hold the same logits, bit for bit, so that equal seeds keep them together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from iterref import hub
from iterref.models.checkpoint import Checkpoint
from iterref.optional import require

WAYS = ("auto", "balanced", "balanced_low_0", "sequential")
RANKS = "tensor_parallel"
SLICED = ("llama", "qwen2")  # types whose plan was tried
HOST = ("cpu", "disk")  # where weights wait, and nothing is computed while there is an accelerator
# Adds up what its own parts say, and masks are made where it answers: neither does its class tell (transformers 5.23).
TOGETHER = ("DiffusionGemmaSelfConditioning",)
Where = int | str


@dataclass(frozen=True)
class DeviceMap:
    """Where the parts of a network go: `parts` is one of `WAYS`, or the place of every part by name. `limits` are the
    most bytes of weights that a device may hold, a number or "20GiB", by device. `folder` takes those weights on the
    disk that the checkpoint's files do not hold as the network does (experts that are kept one by one)."""

    parts: str | Mapping[str, Where]
    limits: Mapping[Where, Where] | None = None
    folder: Path | None = None

    @classmethod
    def checked(
        cls, parts: str | Mapping[str, Where], limits: Mapping[Where, Where] | None = None,
        folder: str | Path | None = None,
    ) -> DeviceMap:  # fmt: skip
        """The map of these names. Raises `ValueError` without `accelerate`, and for a way, a device or a limit that
        there is not, saying what to do."""
        require("accelerate", "large", "a device map")
        if not isinstance(parts, Mapping) and parts not in (*WAYS, RANKS):
            told = f"unknown device_map {parts!r}: choose one of {', '.join((*WAYS, RANKS))}"
            raise ValueError(f"{told}, name the place of each part, or say device= for one device")
        if not parts:
            raise ValueError("device_map names no part: {'': 0} would put all of them on the first accelerator")
        places = parts if isinstance(parts, str) else {part: _place(where) for part, where in parts.items()}
        if parts == RANKS and (limits is not None or folder is not None):
            raise ValueError(f"{RANKS} gives every rank an equal part: leave max_memory and offload_folder out")
        if limits is not None:
            if not isinstance(places, str):
                raise ValueError("max_memory is for a map that is made: leave it out where device_map names the parts")
            limits = {_place(where): _bytes(most) for where, most in limits.items()}
        return cls(places, limits, None if folder is None else Path(folder))

    def options(self, kind: Any, config: Any, checkpoint: Checkpoint, names: Mapping[str, str]) -> dict[str, Any]:
        """What `from_pretrained` of a class is told beside a checkpoint's folder: a place for every part, and to read
        data of this machine alone. Raises `ValueError` where the parts that are named are not the network's."""
        told = {
            "key_mapping": dict(names) or None, "use_safetensors": True, "local_files_only": True,
            "trust_remote_code": False,
        }  # fmt: skip
        parts = self.parts
        if parts == RANKS:
            return told | {"distributed_config": ranks(kind, config)}
        if isinstance(parts, str):
            parts = spread(parts, self.limits, _bare(kind, config), checkpoint.dtype)
        return told | {"device_map": whole(parts, _bare(kind, config)), "offload_folder": self.folder}


def entrance(model: nn.Module) -> torch.device:
    """The device of a network's inputs and answers, spread or not."""
    parts = getattr(model, "hf_device_map", None)
    if parts is None:
        return next(model.parameters()).device
    first = _first(parts)
    return torch.device(f"cuda:{first}" if isinstance(first, int) else first)


def tokens_of(model: Any) -> nn.Embedding:
    """The table of token vectors, where inputs enter a network of `transformers`."""
    return cast(nn.Embedding, model.get_input_embeddings())


def spread(way: str, limits: Mapping[Where, Where] | None, model: nn.Module, dtype: torch.dtype) -> dict[str, Where]:
    """A place for every part of a model by one of `WAYS`, within limits or what is free; the model is taken apart. A
    part whose weights are all another's goes where the other goes, and is not counted: `accelerate` knows of single
    weights that two parts share, not of layers (DiffusionGemma's encoder has its decoder's). Raises `ValueError` for a
    class that does not say which of its parts are computed in one place."""
    from accelerate.utils import get_balanced_memory, get_max_memory, infer_auto_device_map

    unsplit = _unsplit(model)
    if not getattr(model, "_no_split_modules", None):
        lacks = f"a {type(model).__name__} does not say which of its layers may be apart"
        raise ValueError(f"{lacks}, so device_map={way!r} cannot: name the place of every part")
    homes = {id(weight): name for name, weight in model.named_parameters()}
    table, twins = homes[id(tokens_of(model).weight)], dict[str, str]()
    for name, module in list(_units(model, unsplit)):
        owners = [homes[id(weight)] for weight in module.parameters()]
        early = type(module).__name__ in TOGETHER  # small, and has to be where inputs enter
        if early or owners and not any(_within(owner, name) for owner in owners):
            twins[name] = table if early else owners[0]
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, nn.Identity())
    with hub.quiet():
        room, told = limits and dict(limits), {"no_split_module_classes": unsplit, "dtype": dtype}
        balanced = partial(get_balanced_memory, model, low_zero=way == "balanced_low_0", **told)
        room = get_max_memory(room) if way == "sequential" else balanced(room)
        found: dict[str, Where] = dict(infer_auto_device_map(model, room, **told))
    return found | {name: next(found[part] for part in found if _within(home, part)) for name, home in twins.items()}


def whole(parts: Mapping[str, Where], model: nn.Module) -> dict[str, Where]:
    """The same map with a place for every part, none of them within another. A part stands for all in it that have no
    name of their own. Raises `ValueError` for a name that is no part of the model, a weight without a place, a layer
    that would be computed in two places, and a weight that two parts share in two places: each of these is an error of
    `torch` in mid-run, or a wrong place without one."""
    from accelerate.utils import find_tied_parameters

    found: dict[str, Where] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in parts:
        if name not in modules:
            ends = [one for one in sorted(modules) if one.endswith(name.rsplit(".", 1)[-1])] or sorted(modules)[1:]
            raise ValueError(f"device_map names {name!r}, and a {type(model).__name__} has no such part: {ends[0]!r}?")
    for name, module in modules.items():
        if any(_within(name, done) for done in found):
            continue
        place = next((parts[one] for one in sorted(parts, key=len, reverse=True) if _within(name, one)), None)
        split = any(one != name and _within(one, name) for one in parts)
        held = [_join(name, own) for own in _tensors(module, recurse=not split)]
        if held and place is None:
            lacks = held[0] if split else name
            raise ValueError(f"device_map has no place for {lacks!r}: name it, or '' for all that has no name")
        if place is not None:
            found |= dict.fromkeys(held if split else [name], place)
    first = _first(found)
    computed = {name: first if place in HOST else place for name, place in found.items()}
    entry, unsplit = tokens_of(model), _unsplit(model)
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind not in unsplit and module is not entry:
            continue
        inside = {place for one, place in computed.items() if one.startswith(f"{name}.")}
        if kind in unsplit and len(inside) > 1:
            raise ValueError(f"device_map computes parts of {name!r} in different places: give it one as a whole")
        inside |= {place for one, place in computed.items() if _within(name, one)}
        if (module is entry or kind in TOGETHER) and inside - {first}:
            raise ValueError(f"device_map computes {name!r}, where inputs enter, apart from the first: {first!r}")
    for shared in sorted(find_tied_parameters(model)):
        homes = {one: next(p for part, p in found.items() if _within(one, part)) for one in shared}
        if len(set(homes.values())) > 1:
            one, other = sorted(homes, key=lambda name: str(homes[name]))[:: len(homes) - 1]
            raise ValueError(f"{one!r} and {other!r} are the same weight: device_map has to put both in one place")
    return found


def ranks(kind: Any, config: Any) -> Any:
    """What `transformers` is told of a launcher's ranks, over which a network is cut. Raises `ValueError` without any,
    for a class that has no plan which was tried, and for heads that do not divide."""
    try:
        from transformers.distributed import DistributedConfig
    except ImportError:
        raise ValueError(f"device_map={RANKS!r} needs a newer transformers: pip install -U transformers") from None
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2:
        raise ValueError(f"device_map={RANKS!r} needs ranks, and there are none: torchrun --nproc-per-node 2 ...")
    if kind.config_class.model_type not in SLICED:
        raise ValueError(f"a {kind.__name__} has no plan of slices that was tried: {', '.join(SLICED)} have")
    heads = min(config.num_attention_heads, config.num_key_value_heads)
    if heads % count or config.num_attention_heads % count:
        raise ValueError(f"a network of {heads} heads of keys cannot be cut into {count}: take ranks that divide them")
    return DistributedConfig(tp_size=count, tp_plan="auto")


def _bare(kind: Any, config: Any) -> nn.Module:
    """A network of a configuration without any numbers in it."""
    with torch.device("meta"):
        model = kind(config)
    model.tie_weights()
    return cast(nn.Module, model)


def _unsplit(model: nn.Module) -> list[str]:
    """The classes of parts that compute in one place."""
    return sorted({*(getattr(model, "_no_split_modules", None) or ()), *TOGETHER})


def _units(model: nn.Module, unsplit: Sequence[str], name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The parts that go to one place each: layers, and what has weights of its own."""
    for child, module in model.named_children():
        full = _join(name, child)
        if type(module).__name__ in unsplit or _tensors(module, recurse=False):
            yield full, module
        else:
            yield from _units(module, unsplit, full)


def _tensors(module: nn.Module, recurse: bool) -> list[str]:
    weights = module.named_parameters(recurse=recurse, remove_duplicate=False)
    return [name for name, _ in (*weights, *module.named_buffers(recurse=recurse))]


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


def _within(weight: str, part: str) -> bool:
    return not part or weight == part or weight.startswith(f"{part}.")


def _place(name: Where) -> Where:
    """A device as `accelerate` names it: a GPU by number, others in words. Raises `ValueError` where there is none."""
    if name in HOST:
        return name
    device = hub.device_of(f"cuda:{name}" if isinstance(name, int) else name)
    return "cpu" if device.type == "cpu" else (device.index or 0) if device.type == "cuda" else str(device)


def _first(parts: Mapping[str, Where]) -> Where:
    """The device that computes what is on the host or the disk: `accelerate` takes it so, of GPUs the lowest number."""
    return next(iter(set(parts.values()) - set(HOST)), "cpu")


def _bytes(most: Where) -> int:
    from accelerate.utils import convert_file_size_to_int

    try:
        return int(convert_file_size_to_int(most))
    except (ValueError, TypeError):
        raise ValueError(f"max_memory of {most!r} is no number of bytes: say it as in '20GiB'") from None
