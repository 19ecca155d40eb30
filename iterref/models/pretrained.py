"""Pretrained: networks of `transformers` classes from checkpoints, as data and never as code, for inference.

A network is refused where the checkpoint lacks a part of it or holds one that it has no place for: a layer of random
numbers would answer too, and nobody would notice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from iterref import hub
from iterref.hub import first_line, quiet
from iterref.models.checkpoint import Checkpoint
from iterref.models.device_map import DeviceMap
from iterref.models.quantized import quantized
from iterref.packaged.source import renamed

Network = TypeVar("Network", bound=nn.Module)
# What config.json says of how its last user ran the network, and not of what it is: masks are made for the attention
# that a class takes by itself, and its answers are read by name.
RUNNING = (
    "auto_map", "architectures", "attn_implementation", "_attn_implementation", "return_dict", "use_return_dict",
    "torchscript", "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "gradient_checkpointing",
)  # fmt: skip
OTHER = "config.json is of another network than the weights, or of other sizes: get both from one place"


def settings(kind: Any, checkpoint: Checkpoint, **changes: Any) -> Any:
    """The configuration of a network of `transformers`, of the class `kind`, from a checkpoint's config.json, with
    `changes` to it. Raises `ValueError` where the class refuses it."""
    try:
        return kind.config_class.from_dict({**_described(checkpoint.config), **changes})
    except Exception as error:  # whatever the class objects to, one sentence says where
        told = f"config.json of {checkpoint.name} is none of {kind.config_class.__name__}"
        raise ValueError(f"{told} ({first_line(error)})") from None


def expect(
    checkpoint: Checkpoint, network: str, needed: Mapping[str, Any], usual: Mapping[str, Any] | None = None
) -> None:
    """Raises `ValueError` where config.json is that of another network than the class called `network`: what is
    `needed`, by name, and where that is not what an entry is `usual`ly, unless it is written."""
    for name, wanted in needed.items():
        found = checkpoint.config.get(name, {**needed, **(usual or {})}[name])
        if (found or None) != (wanted or None):
            told = f"{checkpoint.name} has {name}={found!r}, which needs another network than {network}'s"
            raise ValueError(f"{told} ({name}={wanted!r}): it is not read")


def network(
    kind: Any, config: Any, checkpoint: Checkpoint, names: Mapping[str, str] | None = None, spare: Sequence[str] = ()
) -> nn.Module:
    """A network of the class `kind` with a configuration and a checkpoint's weights, where its place is. A weight has
    the class' own name once the patterns of `names` are replaced in it. Parts whose names contain one of `spare` may be
    missing, left over or of another shape. Raises `ValueError` for other parts like that."""
    names, place, shapes = names or {}, checkpoint.place, {}
    stored = checkpoint.prequantized
    if stored is not None:
        if checkpoint.adapter is not None or checkpoint.quantize is not None:
            told = f"the weights of {checkpoint.name} are quantised already, by {stored}"
            raise ValueError(f"{told}: get the whole ones for an adapter or another quantize=")
        config.quantization_config = dict(checkpoint.config["quantization_config"])
        place = place if isinstance(place, DeviceMap) else DeviceMap.checked({"": str(place)})
    elif isinstance(place, DeviceMap):
        found = hub.shapes(checkpoint.files(), checkpoint.name)
        shapes = {renamed(name, names): shape for name, shape in found.items()}
    if isinstance(place, DeviceMap):
        # From the files themselves: each weight goes to its place alone, and those on the disk are never read here, nor
        # are their sizes looked at.
        source, options = checkpoint.folder, place.options(kind, config, checkpoint, names)
    else:
        held = {renamed(name, names): weight for name, weight in checkpoint.weights().items()}
        source, options = None, {"state_dict": {name: held[name] for name in held if not _among(name, spare)}}
    options |= {"config": config, "dtype": checkpoint.dtype, "ignore_mismatched_sizes": True}  # refused below, by name
    with quiet():
        try:
            made, info = kind.from_pretrained(source, output_loading_info=True, **options)
        except Exception as error:
            if "out of memory" in str(error):
                raise
            if "offload_folder" in str(error):
                lacks = f"some weights of {checkpoint.name} that go to the disk are not in its files"
                raise ValueError(f"{lacks} as a {kind.__name__} has them: say offload_folder=") from None
            raise _unfit(kind, checkpoint, first_line(error)) from None
    apart = ((name, shapes.get(name, part.shape), part.shape) for name, part in made.state_dict().items())
    odd = [*info["mismatched_keys"], *(one for one in apart if one[1] != one[2])]
    for name, stored, wanted in sorted(one for one in odd if not _among(one[0], spare)):
        raise _unfit(kind, checkpoint, f"{name} is of another size, {tuple(stored)} and not {tuple(wanted)}")
    lists = info["missing_keys"], info["unexpected_keys"]
    missing, left = (sorted(name for name in names if not _among(name, spare)) for names in lists)
    if missing or left:
        raise _other_parts(kind, checkpoint, missing, left)
    placed: nn.Module = made if isinstance(place, DeviceMap) else made.to(place)
    placed.eval().requires_grad_(False)
    return quantized(placed, checkpoint.quantize, made.get_output_embeddings(), checkpoint.name)


def filled(
    network: Network, weights: Mapping[str, Tensor], name: str, precision: Callable[[str], torch.dtype],
    device: torch.device,
) -> Network:  # fmt: skip
    """A network without numbers, for inference with these weights, each in a `precision` by its name. Raises
    `ValueError` naming a weight that is missing, left over or of another shape."""
    wanted = network.state_dict()
    odd = sorted(wanted.keys() ^ weights.keys())
    odd = odd or [one for one, weight in wanted.items() if weights[one].shape != weight.shape]
    if odd:
        matter = "is missing" if odd[0] not in weights else "has no place" if odd[0] not in wanted else (
            f"has shape {tuple(weights[odd[0]].shape)} and not {tuple(wanted[odd[0]].shape)}")  # fmt: skip
        told = f"the weights of {name} do not make a {type(network).__name__} of the sizes in config.json"
        raise ValueError(f"{told} ({odd[0]!r} {matter}): the two files belong to different models")
    placed = {one: weight.to(device=device, dtype=precision(one)) for one, weight in weights.items()}
    network.load_state_dict(placed, assign=True)
    return network.eval().requires_grad_(False)


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, and those within it, without `RUNNING`."""
    kept = {key: value for key, value in config.items() if key not in RUNNING}
    return {key: _described(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def _among(name: str, spare: Sequence[str]) -> bool:
    return any(part in name for part in spare)


def _other_parts(kind: Any, checkpoint: Checkpoint, missing: Sequence[str], left: Sequence[str]) -> ValueError:
    """What to raise for weights that lack parts of a network, or hold others, by the likeliest reason."""
    more = f" and {len(missing or left) - 1} more" if len(missing or left) > 1 else ""
    told = f"{'lack' if missing else 'hold'} {(missing or left)[0]!r}{more}"
    saved = ", ".join(map(str, checkpoint.config.get("architectures") or []))
    why = hub.foreign(left)
    if missing and not left and not any(re.search(r"\.\d+\.", name) for name in missing):  # a head, and no layer
        why = f"they were saved by {saved or 'another class'} without this part: save them by a {kind.__name__}"
    needs = f"a {kind.__name__} of these sizes {'needs' if missing else 'has no place for'}"
    return ValueError(f"the weights of {checkpoint.name} {told}, which {needs}: {why or OTHER}")


def _unfit(kind: Any, checkpoint: Checkpoint, reason: str) -> ValueError:
    told = f"the weights of {checkpoint.name} do not make a {kind.__name__} ({reason})"
    return ValueError(f"{told}: {OTHER}")
