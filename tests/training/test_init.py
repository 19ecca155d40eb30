"""Runs that start from a model: its weights and tokenizer, what it cannot start, and texts that its tokenizer lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from iterref.cli import main
from iterref.training import TrainConfig, train
from tests.support.training import small_run, write_sentences

STILL = {"matrix_rate": 1e-9, "rate": 1e-9, "steps": 1, "cooldown": 0, "validation": None}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six steps."""
    return train(small_run(tmp_path_factory.mktemp("begun")))


def on(folder: Path, begun: Path, **changes: Any) -> TrainConfig:
    """A run that starts from it."""
    return small_run(folder, init=str(begun), **changes)


def test_a_run_starts_from_the_weights_and_the_tokenizer_of_a_model(begun: Path, tmp_path: Path) -> None:
    """At a rate of almost nothing it ends where it started; the control starts from chance."""
    old = load_file(begun / "weights.safetensors")
    near = load_file(train(on(tmp_path, begun, **STILL)) / "weights.safetensors")
    assert all(torch.allclose(near[name].float(), old[name].float(), atol=2e-3) for name in old)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["training"]["init"] == begun.name and str(begun) not in json.dumps(config)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (begun / "tokenizer.json").read_bytes()
    chance = load_file(train(small_run(tmp_path, out=str(tmp_path / "new"), **STILL)) / "weights.safetensors")
    assert not torch.allclose(chance["table.weight"].float(), old["table.weight"].float(), atol=2e-3)


def test_it_may_read_and_write_longer_texts(begun: Path, tmp_path: Path) -> None:
    folder = train(on(tmp_path, begun, length=9, source_length=200))
    assert json.loads((folder / "config.json").read_text())["length"] == 9


def test_an_interrupted_run_goes_on_without_the_model(begun: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in begun.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    whole = train(on(tmp_path, copy, out=str(tmp_path / "whole")))
    train(on(tmp_path, copy), stop=3)
    (copy / "weights.safetensors").unlink()
    parts = train(on(tmp_path, copy))
    one, other = (load_file(folder / "weights.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="holds a run with init .* and not None: give the options it was begun with"):
        train(small_run(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 32, "encoder_layers": 2}, "other sizes than this run: say width=16, encoder_layers=1"),
        ({"vocab": 90}, "other sizes than this run: say vocab=\\d+"),
        ({"form": "plain"}, "has another form or other sizes than this run: say form='news'"),
        ({"init": "tiny-books"}, "init names tiny-books, which training did not write: give a folder that it wrote"),
        ({"init": "tiny-new"}, "did you mean 'tiny-news'"),
    ],
)
def test_what_cannot_start_a_run_is_refused(begun: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train(small_run(tmp_path, **{"init": str(begun), **changes}))
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_a_model_with_prompts_starts_no_run_of_texts_alone(begun: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in whether a text has a document: train on its kind"):
        train(on(tmp_path, begun, train=(write_sentences(tmp_path),), validation=None))


def test_texts_that_its_tokenizer_lacks_are_left_out_and_counted(begun: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.jsonl"
    rows = [("red cat", "cat"), ("red cat ж", "cat"), ("red cat", "ж"), ("red <unk> cat", "cat")]
    file.write_text("".join(json.dumps({"document": d, "summary": s}) + "\n" for d, s in rows))
    folder = train(on(tmp_path, begun, train=(str(file),), validation=None))
    facts = json.loads((folder / "config.json").read_text())
    assert (facts["pairs"], facts["pairs_read"]) == (2, 4)


def test_the_command_starts_from_a_model(begun: Path, tmp_path: Path) -> None:
    config = small_run(tmp_path)
    sizes = "--length 6 --vocab 60 --width 16 --heads 2 --hidden 16 --encoder-layers 1 --decoder-layers 1".split()
    run = ["train", config.train[0], "--out", config.out, "--init", str(begun), "--steps", "1", "--cooldown", "0"]
    found = CliRunner().invoke(main, [*run, *sizes])
    assert found.exit_code == 0, found.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["training"]["init"] == begun.name
