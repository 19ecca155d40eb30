"""Loading: a text model from a folder or a hub name, whatever family it belongs to.

    load("tiny-books")    load("kuleshov-group/mdlm-owt", length=128)    load("folder", device="cuda", dtype="bfloat16")

The family is the file in `iterref.models` that reads the kind of checkpoint which config.json names. No code of a
checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from iterref import registry
from iterref.fence import fenced
from iterref.hub import device_of, fetched, hushed, precision, read_json
from iterref.models import instances
from iterref.models.adapter import CONFIG as ADAPTER
from iterref.models.adapter import Adapter, adapter_in
from iterref.models.base import TextModel
from iterref.models.checkpoint import Checkpoint
from iterref.models.device_map import DeviceMap
from iterref.models.family import Family
from iterref.models.quantized import expect_scheme, usual
from iterref.models.text.codec import Codec
from iterref.numbers import flag, whole_number
from iterref.padding import compile_static

PIPELINE = "model_index.json"  # in the place of config.json where a checkpoint is a pipeline of several parts
# What the files of a tokenizer are called, besides sentencepiece's *.model.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")


def load(
    name: str | Path | None = None,
    *,
    model: Any = None,
    length: int | None = None,
    tokenizer: Any = None,
    device: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    compile: bool | Literal["static"] = False,
    family: str | None = None,
    lossy: bool = False,
    base: str | Path | None = None,
    quantize: str | None = None,
    **options: Any,
) -> TextModel:
    """The text model in a folder, of a hub name, or a bundled one (`iterref ls models`): "tiny-news" (None too) ...

    `length` is the number of positions of a canvas, the model's own unless given: those of the answer, or with models
    that know no prompts (MDLM, UDLM, Duo, SEDD) of prompt and text. `tokenizer` is a folder or a hub name, the
    checkpoint's own or else its family's unless given, "none" for token ids alone. `model` is a network of
    `transformers` in memory in place of a name, with its `tokenizer` object; it is read as it is now, onto its own
    device and in its own precision unless others are given. `device` is "cpu" unless given; a `device_map` ("auto", or
    {part: place}) spreads a network of `transformers` over several, the host and the disk, of which `max_memory` says
    how much weights may take and `offload_folder` keeps what cannot be read from the checkpoint's own files
    (`iterref.models.device_map`). `dtype` is the precision of the weights: "float32" (unless given; under int4
    "bfloat16"), "bfloat16" or "float16" (probabilities are float32 always). `compile` has torch compile the network at
    first use, which takes a minute and pays in long runs; "static" does so for a few sizes of calls, up to which they
    are padded (`iterref.padding`), and records CUDA graphs on a GPU. `family` ("mdlm", "masked_lm", ...) says what a
    checkpoint is where its config.json does not. A text that the tokenizer cannot give back is refused, unless `lossy`.
    A folder or hub name that holds an adapter of PEFT is merged into its `base`, the model that its adapter_config.json
    names unless given (`iterref.models.adapter`). `quantize` ("int8", "int4") holds the matrices of the network in 8 or
    4 bits a weight (`iterref.models.quantized`). `options` are the family's own (`chat=False`, `label=` of UDLM,
    `guidance=` of images: docs/models.md).

    Raises `FileNotFoundError` for what is not there and `ValueError` for what cannot be read, each saying what to do.
    """
    length = None if length is None else whole_number("length", length, "pass how many positions a canvas has")
    if length is not None and length < 1:
        raise ValueError(f"a canvas needs at least one position, got length={length}")
    lossy = flag("lossy", lossy)
    expect_scheme(quantize)
    if compile != "static":
        compile = flag("compile", compile)
    if model is not None or not isinstance(name, str | Path | None):
        if model is not None and name is not None or any(one is not None for one in (device_map, revision, base)):
            told = "a model= in memory has no name, revision, device_map or base"
            raise ValueError(f"{told}: give either, device= for a place")
        held = name if model is None else model
        own, precise = instances.place_of(held)
        place: torch.device | DeviceMap = own if device is None else device_of(device)
        weights, name = precision(dtype or usual(quantize, precise)), f"the {type(held).__name__}"
    else:
        held, name, weights = None, "tiny-news" if name is None else name, precision(dtype or usual(quantize))
        place = _place(device, device_map, max_memory, offload_folder, compile)
    if isinstance(place, DeviceMap) and quantize is not None:
        raise ValueError("quantize= makes weights on one device: say device= in place of device_map=")
    called = str(name)
    placing: dict[str, Any] = {"dtype": weights, "place": place, "quantize": quantize}
    checkpoint: Checkpoint | None = None
    with TemporaryDirectory() as folder, _undisturbed(name, place):
        if held is not None:
            checkpoint = instances.held(held, tokenizer, Path(folder), **placing)
            tokenizer = tokenizer if isinstance(tokenizer, str | Path) else None
            adapter, config = None, checkpoint.config
        else:
            name, revision, adapter, config = _found(name, revision, base, place)
            if adapter is not None and tokenizer is None:
                tokenizer = _beside(adapter.folder)
        if family is not None:
            registry.entry("models", family)  # refuses one that there is not
        kind = family or family_of(config, str(name))
        module: Any = import_module(f"iterref.models.{kind}")
        about: Family = module.FAMILY
        options = _checked(options, kind, about.title)
        if isinstance(place, DeviceMap) and not about.spread:
            spread = [one.facts["title"] for one in registry.entries("models").values() if one.facts.get("spread")]
            told = f"{name} runs in a network that has one device"
            raise ValueError(f"{told}: say device=, for device_map is of {', '.join(spread)}")
        if about.whole is not None:
            if length is not None or tokenizer is not None or held is not None:
                raise ValueError(about.whole)
            if quantize is not None or adapter is not None:
                raise ValueError(f"{name} ({about.title}) takes neither an adapter nor quantize=: leave them out")
            options |= {"dtype": weights, "device": place, **({"lossy": True} if lossy else {})}
            made = module.load(_source(name), revision=revision, **options)
        else:
            checkpoint = checkpoint or Checkpoint.open(_source(name), revision, adapter=adapter, **placing)
            checkpoint.expect_room()
            codec = _codec(checkpoint, tokenizer, None if held is not None else about.tokenizer, lossy)
            made = module.load(checkpoint, codec, **options, **({} if length is None else {"length": length}))
    made.name = called
    if compile == "static":
        made = compile_static(made)
    elif compile:
        made.compile()
    loaded: TextModel = made  # a model of images is a `TextModel` whose texts are images
    return loaded


def _found(
    name: str | Path, revision: str | None, base: str | Path | None, place: torch.device | DeviceMap
) -> tuple[str | Path, str | None, Adapter | None, Mapping[str, Any]]:
    """The checkpoint that a name stands for, as its name, revision, adapter and configuration: for an adapter's name it
    is that of the base. Raises `FileNotFoundError` where either is not there, and `ValueError` on a device map."""
    try:
        where = fetched(_source(name), (PIPELINE, "config.json", ADAPTER), revision=revision)
    except FileNotFoundError as error:
        meant = registry.did_you_mean(str(name), registry.bundled("models"))
        raise FileNotFoundError(f"{error}{meant if '?' in meant else ''}") from None
    adapter = adapter_in(where, str(name), base)
    if adapter is not None:
        if isinstance(place, DeviceMap):
            raise ValueError(f"{name} is an adapter, which is merged on one device: say device= for device_map")
        adapter = adapter.fetched(revision)
        name, revision = (base, None) if base is not None else adapter.base()
        where = adapter.at(_source(name), (PIPELINE, "config.json"), revision)
    pipeline = (where / PIPELINE).is_file()
    return name, revision, adapter, read_json(where / (PIPELINE if pipeline else "config.json"), str(name))


def _place(
    device: str | None, device_map: Any, max_memory: Any, offload_folder: str | Path | None, compile: bool | str
) -> torch.device | DeviceMap:
    if device_map is None:
        if max_memory is not None or offload_folder is not None:
            raise ValueError("max_memory and offload_folder belong to a device map: say device_map='auto', too")
        return device_of(device or "cpu")
    if device is not None:
        raise ValueError(f"device={device!r} is one device and device_map spreads a network over several: say one")
    if compile:
        raise ValueError("a network that a device map spreads is moved about between its layers: leave compile out")
    return DeviceMap.checked(device_map, max_memory, offload_folder)


@contextmanager
def _undisturbed(name: str | Path, place: torch.device | DeviceMap) -> Iterator[None]:
    """Keeps the caller's state of torch out of a load, and says what to do where a device runs out of memory."""
    accelerated = isinstance(place, DeviceMap) and torch.cuda.is_available()
    device = torch.device("cuda" if accelerated else "cpu") if isinstance(place, DeviceMap) else place
    try:
        with torch.inference_mode(False), fenced(device), hushed():
            yield
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        where, other = f"on {place}", "on another device, or with a device_map"
        if isinstance(place, DeviceMap):
            where, other = "where device_map puts it", "or say less in max_memory"
        raise ValueError(f"{name} does not fit {where}: load it with dtype='bfloat16', {other}") from None


def _checked(options: Mapping[str, Any], kind: str, title: str) -> dict[str, Any]:
    """The options of a family. Raises `TypeError` for one that it does not have, and for what is neither true nor
    false where that is asked."""
    known = registry.entry("models", kind).options
    every = [*known, *signature(load).parameters][:-1]
    for name in options:
        if name not in known:
            meant = registry.did_you_mean(name, every)
            raise TypeError(f"load takes no {name}= for {title}{meant} It takes {', '.join(every)}")
    return {
        name: flag(name, value) if isinstance(known[name], bool) or name == "chat" and value is not None else value
        for name, value in options.items()
    }


def family_of(config: Mapping[str, Any], name: str) -> str:
    """The family that a configuration belongs to, a file in `iterref.models`. Raises `ValueError` for another."""
    kind = registry.family_of(config)
    if kind is None or not _agrees(kind, config):
        guessing = (name for name, one in registry.entries("models").items() if one.facts.get("recognises"))
        kind = next((name for name in guessing if _agrees(name, config)), None)
    if kind is None:
        titles = (family.facts["title"] for family in registry.entries("models").values())
        written = ", ".join(registry.kinds_of(config)) or "that its config.json does not name"
        told = f"{name} is of the architecture {written}: this library reads {', '.join(titles)}"
        how = "say family= if it is one of these under another name, or wrap it in a denoiser of your own"
        raise ValueError(f"{told}; {how} (iterref.denoiser.Denoiser)")
    return kind


def _agrees(kind: str, config: Mapping[str, Any]) -> bool:
    """Whether a family that looks at more than names (`Family.recognises`) takes a configuration; any other does."""
    recognises = registry.entry("models", kind).facts.get("recognises")
    return recognises is None or bool(getattr(import_module(f"iterref.models.{kind}"), recognises)(config))


def _source(name: str | Path) -> str | Path:
    """A bundled model's folder, unless a folder has its name, and any other name as it is."""
    return name if Path(name).is_dir() else registry.bundled("models").get(str(name), name)


def _beside(folder: Path) -> Path | None:
    own = any(file.name in VOCABULARIES or file.suffix == ".model" for file in folder.iterdir())
    return folder if own else None


def _codec(checkpoint: Checkpoint, asked: Any, usual: str | None, lossy: bool) -> Codec | None:
    """The tokenizer that was asked for, the checkpoint's own, or its family's."""
    if asked is not None and not isinstance(asked, str | Path):
        with TemporaryDirectory() as folder:
            instances.save(asked, Path(folder))
            return Codec.load(folder, lossy)
    if asked is not None:
        return None if str(asked) == "none" else Codec.load(asked, lossy)
    return Codec.load(_beside(checkpoint.folder) or usual or checkpoint.folder, lossy)
