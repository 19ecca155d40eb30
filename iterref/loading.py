"""Loading: a text model from a folder or a hub name, whatever family it belongs to.

    load("tiny-books")    load("kuleshov-group/mdlm-owt", length=128)    load("folder", device="cuda", dtype="bfloat16")

The family is the `model_type` or the architecture that config.json names; `FAMILIES` lists the known ones. No code of a
checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from iterref.drafts import TextModel
from iterref.hub import device_of, fetched, precision, read_json
from iterref.models import amused
from iterref.models.checkpoint import Checkpoint
from iterref.models.codec import Codec
from iterref.models.device_map import DeviceMap
from iterref.models.masked_lm import decoder
from iterref.padding import compile_static

# Bundled models of whole texts, in the published format of MDLM. A folder of the name goes first.
BUNDLED = {name: Path(__file__).parent / "models" / "weights" / name for name in ("tiny-books",)}
# A family's name in config.json, in lower case, and its file in `iterref.models`.
FAMILIES = {name: name for name in ("mdlm", "udlm", "duo", "sedd", "llada", "dream", "diffusion_gemma")}
# Families whose network is a class of `transformers`, which a device map may spread.
SPREAD = ("llada", "dream", "masked_lm", "diffusion_gemma")


def load(
    name: str | Path | None = None,
    *,
    length: int | None = None,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    compile: bool | Literal["static"] = False,
    **options: Any,
) -> TextModel:
    """The text model in a folder, of a hub name, or a bundled one: "tiny-news" (None too) and "tiny-books".

    `length` is the number of positions of a canvas, the model's own unless given: those of the answer, or with models
    that know no prompts (MDLM, UDLM, Duo, SEDD) of prompt and text. `tokenizer` is a folder or a hub name, the
    checkpoint's own or else its family's unless given, "none" for token ids alone. `device` is "cpu" unless given; a
    `device_map` ("auto", or {part: place}) spreads a network of `transformers` over several, the host and the disk, of
    which `max_memory` says how much weights may take and `offload_folder` keeps what cannot be read from the
    checkpoint's own files (`iterref.models.device_map`). `dtype` is the precision of the
    weights: "float32", "bfloat16" or "float16" (probabilities are float32 always). `compile` has torch compile the
    network at first use, which takes a minute and pays in long runs; "static" does so for a few sizes of calls, up to
    which they are padded (`iterref.padding`), and records CUDA graphs on a GPU. `options` are the family's own
    (`chat=False`, `label=` of UDLM, `guidance=` of images: docs/models.md).

    Raises `FileNotFoundError` for what is not there and `ValueError` for what cannot be read, each saying what to do.
    """
    weights, place = precision(dtype), _place(device, device_map, max_memory, offload_folder, compile)
    if str(name) in BUNDLED and not Path(str(name)).is_dir():
        name = BUNDLED[str(name)]
    if name is None or str(name) == "tiny-news" or _own(Path(name)):
        from iterref.models.tiny_news import Summarizer

        if length is not None or tokenizer is not None or options or compile or dtype == "float16":
            raise ValueError("a summariser has its own length and tokenizer, and runs in float32 or bfloat16, as it is")
        if isinstance(place, DeviceMap):
            raise _one_device(name or "tiny-news")
        own = None if name is None or str(name) == "tiny-news" else name
        return Summarizer.load(own, place, dtype)  # type: ignore[arg-type]
    model: Any  # a model of images is a `TextModel` whose texts are images
    told = {"dtype": weights, "device": place, **options}
    with _within_memory(name, place):
        if amused.recognised(fetched(name, (amused.INDEX, "config.json"), revision=revision)):
            if length is not None or tokenizer is not None:
                raise ValueError("a model of images has its own size and tokenizer: say height= and width= in pixels")
            if isinstance(place, DeviceMap):
                raise _one_device(name)
            model = amused.load(name, revision=revision, **told)
        else:
            checkpoint = Checkpoint.open(name, revision)
            kind = family_of(checkpoint.config, checkpoint.name)
            family = import_module(f"iterref.models.{kind}")
            if not isinstance(place, DeviceMap):
                checkpoint.fits(weights, place)
            elif kind not in SPREAD:
                raise _one_device(name)
            model = family.load(checkpoint, _codec(checkpoint, tokenizer, family.TOKENIZER), length=length, **told)
    if compile == "static":
        model = compile_static(model)
    elif compile:
        model.compile()
    loaded: TextModel = model
    return loaded


def _place(
    device: str | None,
    device_map: str | Mapping[str, int | str] | None,
    max_memory: Mapping[int | str, int | str] | None,
    offload_folder: str | Path | None,
    compile: bool | Literal["static"],
) -> torch.device | DeviceMap:
    """Where the network goes. Raises `ValueError` for options that contradict each other."""
    if device_map is None:
        if max_memory is not None or offload_folder is not None:
            raise ValueError("max_memory and offload_folder belong to a device map: say device_map='auto', too")
        return device_of(device or "cpu")
    if device is not None:
        raise ValueError(f"device={device!r} is one device and device_map spreads a network over several: say one")
    if compile:
        raise ValueError("a network that a device map spreads is moved about between its layers: leave compile out")
    return DeviceMap.checked(device_map, max_memory, offload_folder)


def _one_device(name: str | Path) -> ValueError:
    return ValueError(
        f"{name} runs in a network that has one device: say device=, for device_map is of LLaDA, Dream, masked "
        "language models and DiffusionGemma"
    )


@contextmanager
def _within_memory(name: str | Path, place: torch.device | DeviceMap) -> Iterator[None]:
    """Says what to do where a device runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        where, other = f"on {place}", "on another device, or with a device_map"
        if isinstance(place, DeviceMap):
            where, other = "where device_map puts it", "or say less in max_memory"
        raise ValueError(f"{name} does not fit {where}: load it with dtype='bfloat16', {other}") from None


def family_of(config: Mapping[str, Any], name: str) -> str:
    """The family that a configuration belongs to, a file in `iterref.models`. Raises `ValueError` for another."""
    named = [config.get("model_type"), *(config.get("architectures") or [])]
    known = [str(one).lower() for one in named if one is not None]
    for one in known:
        if one in FAMILIES:
            return FAMILIES[one]
    if any(one.endswith("formaskedlm") for one in known) or decoder(str(config.get("model_type"))):
        return "masked_lm"
    if not known and {"graph", "noise", "model", "tokens"} <= set(config):
        return "sedd"  # its config.json is the training configuration, which names no architecture
    raise ValueError(
        f"{name} is of the architecture {', '.join(known) or 'that its config.json does not name'}: this library reads "
        f"{', '.join(FAMILIES)}, masked language models of transformers and amused pipelines of diffusers; wrap "
        "another model in a denoiser of your own (iterref.denoise)"
    )


def _own(folder: Path) -> bool:
    """Whether a folder is one that `iterref train` wrote."""
    file = folder / "config.json"
    return file.is_file() and str(read_json(file, str(folder)).get("format")).startswith("iterref-")


def _codec(checkpoint: Checkpoint, asked: str | Path | None, usual: str | None) -> Codec | None:
    """The tokenizer that was asked for, the checkpoint's own, or its family's."""
    if asked is not None:
        return None if str(asked) == "none" else Codec.load(asked)
    if usual is None or (checkpoint.folder / "tokenizer.json").is_file():
        return Codec.load(checkpoint.folder)
    return Codec.load(usual)
