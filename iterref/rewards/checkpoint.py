"""Checkpoints of reward models: networks and tokenizers in `transformers`' own format, read without running their code.

A checkpoint is a folder, the name of a bundled one, or a name on the hub, with config.json and *.safetensors. A network
is refused when the checkpoint lacks a part of it: a head of random numbers would be a reward too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from iterref import hub
from iterref.registry import bundled

Kind = Literal["SequenceClassification", "TokenClassification", "CausalLM", "encoder", "ImageClassification", "CLIP"]
Source = str | Path
Device = torch.device | str
# What is fetched from the hub: nothing that could run, and of sub-folders only the one that tells how to pool.
WORDLISTS = ("*.json", "*.txt", "*.model")
WANTED = (*WORDLISTS, "*.safetensors")
UNWANTED = ("[!0-9]*/*",)
# By the kind of network: its name in words, the class that reads it, what a checkpoint may lack (nothing looks there).
KINDS: dict[Kind, tuple[str, str, tuple[str, ...]]] = {
    "SequenceClassification": ("a sequence classifier", "AutoModelForSequenceClassification", ()),
    "TokenClassification": ("a token classifier", "AutoModelForTokenClassification", ()),
    "CausalLM": ("a causal language model", "AutoModelForCausalLM", ()),
    "encoder": ("a text encoder", "AutoModel", ("pooler", "position_ids")),
    "ImageClassification": ("an image classifier", "AutoModelForImageClassification", ()),
    "CLIP": ("a CLIP model of images and texts", "CLIPModel", ("position_ids",)),
}


@dataclass(frozen=True)
class Checkpoint:
    """A network on its device, with the folder that it came from, if any; one of the user's may be in training."""

    network: Any
    name: str
    folder: Path | None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return torch.device(next(self.network.parameters()).device)

    @property
    def config(self) -> Any:
        """The configuration in `transformers`' format."""
        return self.network.config

    @property
    def changes(self) -> int:
        """A number that grows with each change of weights in memory."""
        weights = self.network.parameters() if self.folder is None else ()
        return sum(weight._version for weight in weights if not weight.is_inference())

    @contextmanager
    def judging(self) -> Iterator[None]:
        """The network as it answers within: without gradients, and without dropout even where it is being trained."""
        trained = [part for part in self.network.modules() if part.training]
        for part in trained:
            part.training = False
        try:
            with torch.inference_mode():
                yield
        finally:
            for part in trained:
                part.training = True


def load(kind: Kind, source: Any, device: Device = "cpu", dtype: torch.dtype | str = "float32") -> Checkpoint:
    """The network of a kind from a folder or a name on the hub; one that is loaded already stays where it is. Raises
    `FileNotFoundError` for what is missing, and `ValueError` for a checkpoint of pickles, an architecture that
    `transformers` does not have, weights that lack a part, an unknown device, or too little memory."""
    if not isinstance(source, str | Path):
        if not isinstance(source, torch.nn.Module):
            held = hasattr(source, "model") and hasattr(source, "tokenizer")
            how = "its .model, and its .tokenizer as tokenizer=" if held else "a folder, a hub name or a network"
            raise TypeError(f"a {type(source).__name__} is no checkpoint: give {how}")
        name, (words, _, _) = type(source).__name__, KINDS[kind]
        if not (hasattr(source, "config") and hasattr(source, "get_input_embeddings")):
            raise TypeError(f"the {name} is no network of transformers: save it, and give the folder")
        if kind not in ("encoder", "CLIP") and getattr(source, "base_model", None) is source:
            told = f"the {name} has no head, so it is no {words.split(' ', 1)[1]}"
            raise ValueError(f"{told}: give a network that was trained as one")
        return Checkpoint(source, name, None)
    import transformers

    folder, number = located(source), _number_type(dtype)
    config = hub.read_json(folder / "config.json", str(folder))
    _check_architecture(folder, config, kind)
    files = hub.indexed(folder, "model.safetensors", str(folder)) or folder.glob("*.safetensors")
    hub.expect_room(str(folder), hub.shapes(files, str(folder)), number, hub.device_of(device))
    words, name, spare = KINDS[kind]
    safe = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    safe |= {"ignore_mismatched_sizes": True, "output_loading_info": True}  # refused below, by name
    with hub.quiet():
        try:
            network, info = getattr(transformers, name).from_pretrained(folder, **safe)
            if info["mismatched_keys"]:
                told, stored, wanted = sorted(info["mismatched_keys"])[0]
                raise ValueError(f"{told} is of another size, {tuple(stored)} and not {tuple(wanted)}")
        except Exception as error:  # whatever it is, one sentence says what to do
            raise ValueError(f"{folder} cannot be read as {words} ({hub.first_line(error)}): give one") from error
    lacking = sorted(key for key in info["missing_keys"] if not any(part in key for part in spare))
    left = sorted(info["unexpected_keys"])  # other heads may be, whose answers nobody asks for
    why, deeper = hub.foreign(left), _deeper(network, left)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        told = f"{folder} has no weights for {lacking[0]}{more}, so it is no {words.split(' ', 1)[1]}"
        raise ValueError(f"{told}: {why or 'give a checkpoint that was trained as one'}")
    if "lora_" in "".join(left):
        raise ValueError(f"the weights of {folder} hold more than {words} ({left[0]}): {why}")
    if deeper:
        told = f"the weights of {folder} have more layers ({deeper}) than its config.json says"
        raise ValueError(f"{told}: get both from one place")
    return Checkpoint(network.to(device=device, dtype=number).eval().requires_grad_(False), str(source), folder)


def _deeper(network: torch.nn.Module, left: Iterable[str]) -> str | None:
    """A weight among those `left` over that belongs to one layer more than a list of layers of the network has."""
    depth = {name: len(part) for name, part in network.named_modules() if isinstance(part, torch.nn.ModuleList)}
    for name in left:
        for number in re.finditer(r"\.(\d+)\.", name):
            own = f".{name[: number.start()]}"  # with or without the name of what has the layers in front
            for one, size in depth.items():
                if int(number[1]) >= size and (own.endswith(f".{one}") or f".{one}".endswith(own)):
                    return name
    return None


def load_tokenizer(tokenizer: Any, checkpoint: Checkpoint) -> Any:
    """The checkpoint's own tokenizer for None, the one of another folder or hub name, or a loaded one as it is. Raises
    `ValueError` where there is none, or where it writes tokens that the network does not have."""
    if tokenizer is None and checkpoint.folder is None:
        raise ValueError(f"the {checkpoint.name} was given as a loaded network: give its tokenizer=... too")
    if tokenizer is None or isinstance(tokenizer, str | Path):
        folder = checkpoint.folder if tokenizer is None else _folder(tokenizer, WORDLISTS)
        assert folder is not None
        tokenizer = _tokenizer_in(folder)
    known = vocabulary(checkpoint)
    if tokenizer.vocab_size > known:
        told = f"the tokenizer has {tokenizer.vocab_size} tokens"
        raise ValueError(f"{told} and {checkpoint.name} knows {known}: give its own")
    return tokenizer


def _tokenizer_in(folder: Path) -> Any:
    from transformers import AutoTokenizer

    about = folder / "tokenizer_config.json"
    options = hub.casing(folder, hub.read_json(about, str(folder)) if about.is_file() else {})
    local = {"trust_remote_code": False, "local_files_only": True}
    with hub.quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **local, **options)
            reason = "no vocabulary"
        except Exception as error:
            tokenizer, reason = None, hub.first_line(error)
    # without its files, some versions make a tokenizer of nothing but special tokens; one of bytes needs no file
    listed = any(file for pattern in ("tokenizer.json", "vocab.*", "*.model") for file in folder.glob(pattern))
    if tokenizer is None or (not listed and tokenizer.vocab_size < 256):
        raise ValueError(f"{folder} has no tokenizer that can be read ({reason}): give tokenizer=...")
    return tokenizer


def vocabulary(checkpoint: Checkpoint) -> int:
    """How many tokens the network can read."""
    if hasattr(checkpoint.network, "text_model"):  # CLIP's tower of texts, which not all versions let one ask
        return int(checkpoint.config.text_config.vocab_size)
    return int(checkpoint.network.get_input_embeddings().weight.shape[0])


def located(source: Source) -> Path:
    """The folder of a checkpoint; that of a hub name is fetched, or found in the cache when offline. Raises
    `FileNotFoundError` where there is neither, and for a folder without safetensors."""
    folder = _folder(source, WANTED)
    hub.read_json(folder / "config.json", str(folder))
    own = [file.name for file in folder.glob("*.safetensors") if not file.name.startswith("adapter")]
    if not own:
        raise hub.no_safetensors(str(folder), folder)
    if (folder / "adapter_config.json").is_file():
        told = f"{folder} holds an adapter and {own[0]} besides"
        raise ValueError(f"{told}: merge it into its model (merge_and_unload of peft), or take it away")
    return folder


def _folder(source: Source, wanted: tuple[str, ...]) -> Path:
    known = bundled("rewards")  # each with a card that says what it is good for; a folder of the name goes first
    if str(source) in known and not Path(source).is_dir():
        return known[str(source)]
    return hub.fetched(source, wanted, besides=UNWANTED, hint=f", or take a bundled one ({', '.join(known)})")


def _check_architecture(folder: Path, config: dict[str, Any], kind: Kind) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    architecture = config.get("model_type")
    if architecture not in CONFIG_MAPPING:
        told = f"{folder} has the architecture {architecture!r}, which transformers {transformers.__version__} lacks"
        how = "update transformers, or take another checkpoint"
        raise ValueError(f"{told}, and a checkpoint's own code is never run: {how}")
    if kind == "CLIP" and architecture != "clip":
        raise ValueError(f"{folder} has the architecture {architecture!r}, so it is no CLIP model: give one")


def _number_type(dtype: torch.dtype | str) -> torch.dtype:
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"there is no number type {dtype!r} for weights: say 'float32', 'bfloat16' or 'float16'")
    return found
