"""Checkpoints as data: folders, hub names, parts, and one clear sentence for each thing that is not there."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from iterref.hub import PICKLES, device_of, precision
from iterref.loading import load
from iterref.models.checkpoint import DATA, Checkpoint
from tests.support.published import flat_config, weights, write

VOCAB = 12


def test_a_folder_is_read(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path, flat_config("mdlm", VOCAB), weights(VOCAB)))
    assert checkpoint.config["vocab_size"] == checkpoint.size("vocab_size") == VOCAB
    assert torch.equal(checkpoint.weights()["backbone.vocab_embed.embedding"], weights(VOCAB)["vocab_embed.embedding"])
    nested = Checkpoint("x", tmp_path, {"model": {"length": 7, "scale": True}})
    assert nested.size("model_length", "model.length") == 7
    for missing in ("model.scale", "model", "length.deep"):
        with pytest.raises(ValueError, match=f"no whole number '{missing}'"):
            nested.size(missing)


def test_weights_in_parts_are_put_together(tmp_path):
    tensors = weights(VOCAB)
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    (tmp_path / "config.json").write_text("{}")
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = Checkpoint.open(tmp_path).weights()
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in names)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no model-00002-of-00002.safetensors, which its index names"):
        Checkpoint.open(tmp_path).weights()


def test_a_hub_name_is_read_from_the_local_cache(tmp_path, monkeypatch):
    """As `huggingface_hub` lays files out, without a connection."""
    home = tmp_path / "hub" / "models--someone--model"
    snapshot = home / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    write(snapshot, flat_config("mdlm", VOCAB), weights(VOCAB))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(snapshot.name)
    real = huggingface_hub.snapshot_download
    here = partial(real, cache_dir=tmp_path / "hub", local_files_only=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", here)
    checkpoint = Checkpoint.open("someone/model")
    assert checkpoint.name == "someone/model" and checkpoint.folder == snapshot
    assert checkpoint.weights()
    with pytest.raises(FileNotFoundError, match="'someone/other' is no folder here, and no model that the hub"):
        Checkpoint.open("someone/other")


def test_only_data_is_asked_of_the_hub(tmp_path, monkeypatch):
    asked = {}

    def download(name: str, revision: str | None, allow_patterns: list[str], ignore_patterns: None) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(write(tmp_path, flat_config("mdlm", VOCAB), weights(VOCAB)))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    Checkpoint.open("someone/model", revision="refs/pr/1")
    assert asked == {"name": "someone/model", "revision": "refs/pr/1", "patterns": list(DATA)}
    assert not [pattern for pattern in DATA if pattern.endswith((*PICKLES, ".py"))]


@pytest.mark.parametrize("name", ["no/such/folder/here", "a b", "-"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(FileNotFoundError, match="there is no folder|check the name, .* or give a folder"):
        Checkpoint.open(name)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "best.ckpt", "checkpoint.pth"])
def test_a_pickle_is_never_opened(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileNotFoundError, match=rf"holds {file} and no \*.safetensors, and a pickle may run code"):
        Checkpoint.open(tmp_path).weights()
    assert not Path("unpickled").exists()
    pickle.loads((tmp_path / file).read_bytes())  # negative control: it is a pickle that does something
    assert Path("unpickled").exists()


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        Checkpoint.open(tmp_path)
    for text in ("{", "[1]", "\xff"):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match="config.json of .* is no JSON"):
            Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds no \*.safetensors"):
        Checkpoint.open(tmp_path).weights()
    (tmp_path / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match="model.safetensors .* cannot be read"):
        Checkpoint.open(tmp_path).weights()


def test_precisions_and_devices():
    assert precision("bfloat16") is torch.bfloat16 and device_of("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown precision 'int8': choose one of float32, bfloat16, float16"):
        precision("int8")
    for name in ("cuda:99", "nowhere"):
        with pytest.raises(ValueError, match=f"no device '{name}'"):
            device_of(name)


def test_what_the_device_has_no_room_for_is_refused_before_it_is_read(tmp_path, monkeypatch):
    checkpoint = Checkpoint.open(write(tmp_path, flat_config("mdlm", VOCAB), weights(VOCAB)))
    numbers = sum(weight.numel() for weight in checkpoint.weights().values())
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        room = [numbers * size]
        monkeypatch.setattr("iterref.hub.free_memory", lambda device, room=room: room[0])
        replace(checkpoint, dtype=dtype).expect_room()
        room[0] -= 1
        hint = "take dtype='bfloat16', another" if size == 4 else "take another device"
        with pytest.raises(ValueError, match=f"as {str(dtype)[6:]} and cpu has .*: {hint}"):
            replace(checkpoint, dtype=dtype).expect_room()
        with pytest.raises(ValueError, match="another device or a smaller model"):
            load(tmp_path, dtype=str(dtype)[6:], tokenizer="none")
    monkeypatch.setattr("iterref.hub.free_memory", lambda device: None)
    checkpoint.expect_room()
