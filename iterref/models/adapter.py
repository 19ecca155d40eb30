"""Adapters: what PEFT trained beside a checkpoint, merged into its weights before the network is built.

    W' = W + (alpha / r) B A        LoRA (Hu et al. 2021, arXiv:2106.09685), of every weight that the adapter names

folder/adapter_config.json   folder/adapter_model.safetensors        the base: `base=`, or base_model_name_or_path

The names are those of the base's own files, so one mechanism serves every family. `peft` does the arithmetic (rsLoRA,
DoRA, IA3, LoHa, LoKr ...) in float32, on bare layers with the names and weights which the adapter changes. Whole
weights that were trained along (`modules_to_save`, biases) take the place of the base's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from iterref import hub
from iterref.hub import first_line
from iterref.optional import require

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What a tokenizer is in.
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
    "merges.txt", "vocab.txt", "added_tokens.json", "*.model",
)  # fmt: skip
BEFORE = "base_model.model."  # stands before every name in an adapter's file
MERGE = "merge it where it was trained (merge_and_unload), and save the whole model"
OTHER = f"it belongs to another model: say base=, or, where it changes tokens or a head that is tied to them, {MERGE}"
# Keys of PEFT's configurations that choose layers, which the adapter's own weights name one by one.
CHOOSING = ("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "task_type")


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder and what the user called it."""

    name: str
    folder: Path

    def fetched(self, revision: str | None) -> Adapter:
        """The same with all of its files here, where it is a hub name."""
        files = (CONFIG, WEIGHTS, *TOKENIZER)
        return replace(self, folder=hub.fetched(self.name, files, revision=revision))

    def at(self, base: str | Path, files: Sequence[str], revision: str | None) -> Path:
        """Where a base is. Raises `FileNotFoundError` where it is not, saying whose base it is."""
        try:
            return hub.fetched(base, files, revision=revision)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"the base of the adapter {self.name} is missing, say base=: {error}") from None

    def base(self) -> tuple[str, str | None]:
        """The name of the model that it was trained on, and its revision. Raises `ValueError` where nothing says it."""
        written = hub.read_json(self.folder / CONFIG, self.name)
        base = written.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise ValueError(f"{self.name} is an adapter whose {CONFIG} does not name its model: say base=")
        revision = written.get("revision")
        return base, revision if isinstance(revision, str) and revision else None

    def merged(self, weights: Mapping[str, Tensor], base: str) -> dict[str, Tensor]:
        """The weights of `base` by name with the adapter in them. Raises `ValueError` for an adapter of another network
        or kind, and `MissingExtra` without `peft`."""
        require("peft", "peft", f"the adapter {self.name}")
        config = self._config(base)
        file = self.folder / WEIGHTS
        if not file.is_file():
            raise FileNotFoundError(f"{self.name} has {CONFIG} and no {WEIGHTS}: save the adapter as safetensors")
        with hub.reading(file, self.name):
            found = {name.removeprefix(BEFORE): weight for name, weight in load_file(file).items()}
        whole = {name: weight for name, weight in found.items() if name in weights}
        for name, weight in whole.items():
            if weight.shape != weights[name].shape:
                told = f"{self.name} replaces {name!r} by one of shape {tuple(weight.shape)}"
                raise ValueError(f"{told}, and that of {base} has {tuple(weights[name].shape)}: {OTHER}")
        layers = {name: self._layer(name, weights, base) for name in sorted(found.keys() - whole.keys())}
        self._expect_targets({*layers.values(), *(name.rpartition(".")[0] for name in whole)})
        config.target_modules = sorted(set(layers.values()))
        changed = self._changed(config, {name: found[name] for name in layers}, weights, base) if layers else {}
        return {**weights, **whole, **changed}

    def _config(self, base: str) -> Any:
        """PEFT's configuration, whose layers are still to be named."""
        with hub.quiet():
            try:
                from peft import PeftConfig

                config: Any = PeftConfig.from_pretrained(str(self.folder))
            except Exception as error:  # whatever peft objects to
                raise ValueError(f"{self.name} cannot be merged into {base} ({first_line(error)})") from None
        if config.is_prompt_learning:
            told = f"{self.name} is of the kind {config.peft_type.value}, which changes no weights"
            raise ValueError(f"{told}: only what can be merged into them is read")
        for key in CHOOSING:
            if hasattr(config, key):
                setattr(config, key, None)
        config.inference_mode = True
        return config

    def _layer(self, name: str, weights: Mapping[str, Tensor], base: str) -> str:
        parts = name.split(".")
        layers = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
        layer = next((one for one in layers if f"{one}.weight" in weights), None)
        if layer is None:
            raise ValueError(f"{self.name} changes {name!r}, and {base} has no such layer: {OTHER}")
        if weights[f"{layer}.weight"].dim() != 2 or "embedding" in name.removeprefix(layer):
            # A table may be the head as well, and of the two PEFT changes one while it is not merged.
            raise ValueError(f"{self.name} changes {layer!r}, which is no linear layer: {MERGE}")
        return layer

    def _expect_targets(self, layers: set[str]) -> None:
        """Raises `ValueError` where a layer that the configuration lists has no weights in the adapter."""
        written = hub.read_json(self.folder / CONFIG, self.name)
        for key in ("target_modules", "modules_to_save"):
            listed = written.get(key)
            for name in listed if isinstance(listed, list) else ():
                if not any(f".{name}." in f".{layer}." for layer in layers):
                    told = f"{CONFIG} of {self.name} lists {name!r} among its {key}, and {WEIGHTS} holds nothing of it"
                    raise ValueError(f"{told}: get both files from one place")

    def _changed(
        self, config: Any, found: Mapping[str, Tensor], weights: Mapping[str, Tensor], base: str
    ) -> dict[str, Tensor]:
        """The weights of the layers that a configuration names with those of the adapter, `found`, in them."""
        from peft import PeftModel, set_peft_model_state_dict

        with hub.quiet():
            try:
                tuned = PeftModel(_bare(config.target_modules, weights), config)
                info: Any = set_peft_model_state_dict(tuned, {BEFORE + name: found[name] for name in found})
                if info.unexpected_keys:
                    raise ValueError(f"{sorted(info.unexpected_keys)[0]!r} is nothing that its configuration makes")
                held: nn.Module = tuned.merge_and_unload()
            except Exception as error:  # whatever peft or a shape objects to
                shapes = (line.strip().rstrip(".") for line in str(error).splitlines() if "size mismatch" in line)
                told = f"{self.name} cannot be merged into {base} ({next(shapes, first_line(error))})"
                raise ValueError(f"{told}: {OTHER}") from None
        return {name: weight.detach() for name, weight in held.state_dict().items()}


def adapter_in(folder: Path, name: str, base: str | Path | None) -> Adapter | None:
    """The adapter in a folder, None for a whole model. Raises `ValueError` for both in one, and for a base alone."""
    if not (folder / CONFIG).is_file():
        if base is not None:
            raise ValueError(f"base={str(base)!r} is for adapters, and {name} has no {CONFIG}: leave it out")
        return None
    own = [file.name for file in folder.glob("*.safetensors") if not file.name.startswith("adapter")]
    if own and base is None:
        told = f"{name} holds an adapter and {own[0]} besides"
        raise ValueError(f"{told}: say base={name!r} if these are the weights that it was trained on, or which are")
    return Adapter(name, folder)


def _bare(layers: Iterable[str], weights: Mapping[str, Tensor]) -> nn.Module:
    """Linear layers with these names and weights in float32, and nothing else."""
    root = nn.Module()
    for layer in layers:
        matrix, bias = weights[f"{layer}.weight"].float(), weights.get(f"{layer}.bias")
        above, _, own = layer.rpartition(".")
        place = root
        for part in above.split(".") if above else ():
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        made = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta")
        made.weight = nn.Parameter(matrix, requires_grad=False)
        if bias is not None:
            made.bias = nn.Parameter(bias.float(), requires_grad=False)
        place.add_module(own, made)
    return root
