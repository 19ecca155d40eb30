"""Folders that are no whole checkpoint: read where they can be, or refused by what is there and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from iterref.loading import load
from tests.support.masked import checkpoint

Change = Callable[[Path], object]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file({name: one.clone() for name, one in change(weights(folder)).items()}, folder / "model.safetensors")


def sharded(folder: Path, count: int = 2, keep: int = 2) -> None:
    held = weights(folder)
    (folder / "model.safetensors").unlink()
    for part in range(keep):
        names = sorted(held)[part::count]
        save_file({name: held[name] for name in names}, folder / f"model-0000{part + 1}-of-0000{count}.safetensors")


def adapter(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "bert-base-uncased"}))
    (folder / "adapter_model.safetensors").touch()


def adapter_beside_config(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "bert-base-uncased"}))


def training_run(folder: Path) -> None:
    inner = folder / "checkpoint-500"
    inner.mkdir()
    for file in [file for file in folder.iterdir() if file.is_file()]:
        file.rename(inner / file.name)
    (folder / "training_args.bin").touch()


def state_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        (folder / name).touch()


def twice(folder: Path) -> None:
    """As two saves leave it, of which the second was cut into parts."""
    held = (folder / "model.safetensors").read_bytes()
    sharded(folder)
    named = {name: file.name for file in folder.glob("model-*") for name in load_file(file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    (folder / "model.safetensors").write_bytes(held)


FOLDERS: dict[str, tuple[Change, str]] = {
    "twice": (twice, "holds its weights twice, in model.safetensors and in model-00001-of-00002.safetensors and the"),
    "two of three parts": (lambda folder: sharded(folder, 3, 2), "has 2 of 3 parts of its weights: get the rest"),
    "adapter": (adapter, "is missing, say base=: 'bert-base-uncased' is no folder here"),
    "adapter with config": (adapter_beside_config, "is missing, say base=: 'bert-base-uncased' is no folder"),
    "training run": (training_run, "has no config.json, and checkpoint-500 in it has: give "),
    "training state": (state_alone, "holds no *.safetensors: give a folder or a hub name of a published checkpoint"),
    "fp16": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.fp16.safetensors"),
        "holds model.fp16.safetensors and no model.safetensors: if these are all its weights, call the file that",
    ),
    "pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "holds pytorch_model.bin and no *.safetensors, and a pickle may run code",
    ),
    "without head": (
        lambda folder: rewritten(folder, lambda held: {name: held[name] for name in held if "cls." not in name}),
        "they were saved by BertForMaskedLM without this part: save them by a BertForMaskedLM",
    ),
    "compiled": (
        lambda folder: rewritten(folder, lambda held: {f"_orig_mod.{name}": held[name] for name in held}),
        "they were saved from a compiled or wrapped network: save_pretrained the network within",
    ),
    "lora": (
        lambda folder: rewritten(folder, lambda held: {**held, "bert.x.lora_A.weight": torch.ones(1)}),
        "they hold an adapter: merge it into its model",
    ),
    "quantised": (
        lambda folder: rewritten(folder, lambda held: {**held, "bert.x.qweight": torch.ones(1)}),
        "they are quantised: get the ones that are not",
    ),
    "other sizes": (
        lambda folder: rewritten(folder, lambda held: {name: one[..., :3] for name, one in held.items()}),
        "config.json is of another network than the weights, or of other sizes: get both from one place",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_says_what_is_there_and_what_to_do(kind: str, tmp_path: Path) -> None:
    checkpoint(tmp_path)
    change, sentence = FOLDERS[kind]
    change(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(tmp_path, length=4)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert "belong to another model" not in str(caught.value)


def test_parts_without_an_index_are_read(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    whole = load(tmp_path, length=4)
    sharded(tmp_path)
    parts = load(tmp_path, length=4)
    for one, other in zip(whole._network.model.parameters(), parts._network.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_index_that_was_left_from_before_is_no_weights(tmp_path: Path) -> None:
    """`save_pretrained` takes the old parts away and leaves their index."""
    network = checkpoint(tmp_path)
    sizes = {name: len(one.reshape(-1)) for name, one in network.state_dict().items()}
    network.save_pretrained(tmp_path, max_shard_size=sum(sizes.values()))
    assert (tmp_path / "model.safetensors.index.json").is_file()
    network.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file() and not list(tmp_path.glob("model-*"))
    model = load(tmp_path, length=4)
    for one, other in zip(model._network.model.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_text_that_is_too_long_names_the_option(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"shorten it, or load with length=5 \(--length\)"):
        load(tmp_path, length=4).encode(["the cat saw a man"])
