"""What goes wrong in training: losses that are not finite, other options on resuming, full disks, damaged folders, data
that cannot be used. Each is refused or stops in one sentence, and what was good before is kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from iterref.cli import main
from iterref.files import write_whole
from iterref.models.tiny_news import Summarizer
from iterref.training import Diverged, TrainConfig, loop, train
from iterref.training.data import MASK, read_pairs
from iterref.training.folder import claimed, read_checkpoint
from iterref.training.trainer import Trainer
from tests.support.training import small_run, write_pairs, write_sentences

ONCE = {"validation": None, "steps": 2, "cooldown": 2, "precision": "float32", "optimizer": "adamw"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps, whose folder a test copies before it harms it."""
    folder = tmp_path_factory.mktemp("run")
    train(small_run(folder, **ONCE))
    return folder


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def again(folder: Path, **changes: Any) -> TrainConfig:
    return small_run(folder, **{**ONCE, **changes})


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "weights.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# --- what is not finite -----------------------------------------------------------------------------------------------


def sick(kind: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A loss that fails at step 3: in its value, or in its gradient alone."""
    whole = Trainer.loss

    def loss(trainer: Trainer, batch: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        value, side = whole(trainer, batch, generator)
        if trainer.step != 3:
            return value, side
        if kind == "gradient":
            return value + (value * 0).sqrt(), side  # 0, whose slope is infinite
        if kind == "side":
            return value, side * torch.nan
        return value * float(kind), side

    return loss


FIVE = {**ONCE, "steps": 5, "checkpoint_minutes": 0.0}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run of five steps in which nothing failed."""
    return weights(train(small_run(tmp_path_factory.mktemp("healthy"), **FIVE)))


@pytest.mark.parametrize("kind", ["nan", "inf", "-inf", "gradient", "side"])
def test_what_is_not_finite_stops_and_the_last_good_checkpoint_stays(
    kind: str, healthy: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "loss", sick(kind))
    with pytest.raises(
        Diverged, match=r"stopped at step 3: the loss is .* the checkpoint of step 3 is kept in .* rate"
    ):
        train(small_run(tmp_path, **FIVE))
    assert read_checkpoint(tmp_path / "out")["state"]["step"] == 3
    assert all(bool(weight.isfinite().all()) for weight in weights(tmp_path / "out").values())
    Summarizer.load(tmp_path / "out")
    monkeypatch.undo()
    assert same(weights(train(small_run(tmp_path, **FIVE))), healthy)


def test_rates_that_are_far_too_high_end_the_command_with_1(tmp_path: Path) -> None:
    own = write_sentences(tmp_path)
    flags = (
        "--steps 4 --cooldown 0 --warmup 0 --batch 8 --length 10 --vocab 80 --width 8 --heads 2 --hidden 8 --threads 1"
    )
    command = ["train", own, "--out", str(tmp_path / "out"), "--rate", "1e30", "--optimizer", "adamw", *flags.split()]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 1 and "this run has no checkpoint yet" in found.output
    assert not (tmp_path / "out" / "weights.safetensors").exists()


@pytest.mark.parametrize("name", ["vocab_bias", "table.weight"])
def test_weights_that_float16_cannot_hold_are_not_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer.update

    def update(trainer: Trainer, batch: Any) -> float:
        value = whole(trainer, batch)
        trainer.average[name].flatten()[0] = 1e6
        return value

    monkeypatch.setattr(Trainer, "update", update)
    with pytest.raises(Diverged, match=f"the weights {name} hold numbers beyond those of float16"):
        train(small_run(tmp_path, **ONCE))
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_a_validation_loss_that_is_not_finite_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Trainer.loss

    def loss(trainer: Trainer, batch: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        value, side = whole(trainer, batch, generator)
        return (value if torch.is_grad_enabled() else value * torch.nan), side

    monkeypatch.setattr(Trainer, "loss", loss)
    with pytest.raises(Diverged, match="the validation loss is nan"):
        train(small_run(tmp_path))


# --- resuming ---------------------------------------------------------------------------------------------------------

OTHER: dict[str, Any] = {
    "rate": 1e-3, "matrix_rate": 0.1, "vocab": 61, "seed": 1, "batch": 4, "length": 7, "source_length": 90, "width": 32,
    "copies": 1, "ema": 0.9, "precision": "bfloat16", "optimizer": "muon", "warmup": 1, "end_weight": 0.5, "clip": 2.0,
    "keep_weight": 0.1, "weight_decay": 0.0, "normalise": False, "hidden": 8, "decoder_layers": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_option_is_refused_by_name(name: str, done: Path) -> None:
    before = (done / "out" / "config.json").read_bytes()
    with pytest.raises(ValueError, match=rf"holds a run with {name} .* and not .*: give the options it was begun with"):
        train(again(done, **{name: OTHER[name]}))
    assert (done / "out" / "config.json").read_bytes() == before


def test_all_other_options_are_named_at_once(done: Path) -> None:
    with pytest.raises(ValueError, match="seed 0 and not 3, batch 8 and not 4: give"):
        train(again(done, seed=3, batch=4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 1, "cooldown": 0}, "holds a run of 2 steps, and steps is 1"),
        ({"steps": 9, "cooldown": 3}, "at step 2 the learning rates would not be those"),  # the fall had begun
        ({"steps": 3, "cooldown": 3}, "at step 2 the learning rates would not be those"),
    ],
)
def test_steps_that_would_have_changed_the_past_are_refused(changes: dict[str, int], said: str, done: Path) -> None:
    with pytest.raises(ValueError, match=said):
        train(again(done, **changes))


def test_other_texts_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match="holds a run on other texts: give another folder to write, or begin anew"):
        train(again(run, train=(write_sentences(run),), length=10))


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What training warns of, whatever other tests of the process have done to the levels and handlers of logging."""
    lines: list[str] = []
    monkeypatch.setattr(loop.logger, "warning", lambda form, *values: lines.append(form % values))
    return lines


def test_what_may_change_is_reported_and_recorded(run: Path, warned: list[str]) -> None:
    kept = weights(run / "out")
    train(again(run, validation_every=1, checkpoint_minutes=9.0))
    assert "goes on with validation_every 1, until now 3, checkpoint_minutes 9.0, until now 5.0" in " ".join(warned)
    record = json.loads((run / "out" / "config.json").read_text())
    assert record["changes"] == [{"step": 2, "validation_every": [3, 1], "checkpoint_minutes": [5.0, 9.0]}]
    assert same(kept, weights(run / "out"))
    train(again(run, batch=4), resume=False)
    assert json.loads((run / "out" / "config.json").read_text())["changes"] == []


def test_a_lost_tokenizer_does_not_begin_the_run_anew(run: Path) -> None:
    kept, words = weights(run / "out"), (run / "out" / "tokenizer.json").read_bytes()
    (run / "out" / "tokenizer.json").unlink()
    train(again(run))
    assert same(kept, weights(run / "out")) and (run / "out" / "tokenizer.json").read_bytes() == words


# --- options ----------------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": "8000"}, "steps is a whole number, got '8000'"),
    ({"batch": 8.0}, "batch is a whole number, got 8.0"),
    ({"threads": True}, "threads is a whole number, got True"),
    ({"rate": "1e-3"}, "rate is a finite number, got '1e-3'"),
    ({"rate": float("nan")}, "rate is a finite number, got nan"),
    ({"clip": float("inf")}, "clip is a finite number, got inf"),
    ({"ema": 10**400}, "ema is a finite number"),
    ({"normalise": 1}, "normalise is True or False, got 1"),
    ({"form": "verse"}, "unknown form 'verse': choose 'news' or 'plain'"),
    ({"form": "plain", "normalise": False}, "plain text is read as it stands: leave normalise out"),
    ({"optimizer": None}, "optimizer is a string, got None"),
    ({"optimizer": "sgd"}, "unknown optimizer 'sgd': choose 'muon' or 'adamw'"),
    ({"precision": "int8"}, "unknown precision 'int8'"),
    ({"cooldown": 20_000}, "cooldown 20000 must be between 0 and the 8000 steps"),
    ({"steps": 0, "cooldown": 0}, "steps must be at least 1, got 0"),
    ({"batch": 0}, "batch must be at least 1"),
    ({"length": 1}, "length must be at least 2"),
    ({"vocab": 4}, "vocab must be at least 5"),
    ({"seed": -1}, "seed must be at least 0"),
    ({"seed": 2**32}, "seed must be at most 4294967295"),
    ({"ema": 1.0}, "ema must be below 1"),
    ({"rate": 0.0}, "rate must be above 0"),
    ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
    ({"validation_rows": 0}, "validation_rows must be at least 1"),
    ({"checkpoint_minutes": -1}, "checkpoint_minutes must be at least 0"),
    ({"width": 30, "heads": 4}, "width 30 must be a multiple of twice the 4 heads"),
    ({"train": "a.txt"}, "train is a list of files, got 'a.txt'"),
    ({"train": ()}, "train names no file"),
    ({"train": ("a.txt", "./a.txt")}, "train names a.txt twice"),
    ({"train": (3,)}, "train is a path, got 3"),
    ({"out": ""}, "out is a path, got ''"),
    ({"validation": 3}, "validation is a path, got 3"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[said[:40] for _, said in BAD])
def test_a_bad_option_is_refused_before_anything_is_read(change: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        TrainConfig(**{"train": ("a.txt",), "out": "out", **change})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_of_other_libraries_are_numbers() -> None:
    config = TrainConfig(
        train=[Path("a.txt")], out=Path("out"), steps=np.int64(9000), rate=np.float32(0.5), clip=2
    )  # fmt: skip
    assert (config.train, config.steps, config.rate, config.clip) == (("a.txt",), 9000, 0.5, 2.0)
    assert [type(value) for value in (config.out, config.steps, config.rate, config.clip)] == [str, int, float, float]


# --- disks and signals ------------------------------------------------------------------------------------------------


def fails(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    """Lets the renaming of a finished file number `call` fail, as a full disk or a second Ctrl-C would."""
    rename, calls = os.replace, iter(range(1000))

    def replace(begun: Any, path: Any) -> None:
        if next(calls) == call:
            raise error
        rename(begun, path)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("write", [0, 1, 2, 3, 4])
def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_there(
    write: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the checkpoint and the four files of the export cannot be written."""
    before = weights(run / "out")
    fails(monkeypatch, write, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match=r"stopped at step 2: .* cannot be written \(the disk is full\): make room"):
        train(again(run))
    monkeypatch.undo()
    assert not [file for file in (run / "out").iterdir() if file.name.startswith(".")]
    Summarizer.load(run / "out")
    train(again(run))
    assert same(before, weights(run / "out"))


@pytest.mark.parametrize("file", [1, 2, 3, 4])
def test_an_export_that_broke_off_is_known_as_such_and_mended_by_the_same_command(
    file: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks off a run with other weights before each file: the folder is the old export, or says so."""
    old = weights(run / "out")
    fails(monkeypatch, file, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(again(run, seed=5), resume=False)
    monkeypatch.undo()
    if file == 4:  # all but config.json
        with pytest.raises(ValueError, match="is not the file that config.json was written with"):
            Summarizer.load(run / "out")
    else:
        Summarizer.load(run / "out")
        assert same(old, weights(run / "out"))
    train(again(run, seed=5))
    Summarizer.load(run / "out")
    assert not same(old, weights(run / "out"))


def test_a_file_that_reads_back_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", "good")
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"something else")
    with pytest.raises(OSError, match="reads back otherwise"):
        write_whole(tmp_path / "a", "new")
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "good"


@pytest.mark.parametrize("place", ["/dev/full/out", "/proc/out", "file/out", "file"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_first_step(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made a folder"):
        train(again(tmp_path, out=str(tmp_path / place)))


def test_two_runs_do_not_train_in_one_folder(run: Path) -> None:
    with claimed(run / "out"), pytest.raises(ValueError, match="another run is training in .*: wait for it"):
        train(again(run))
    train(again(run))  # the control: it is free again


# --- damaged folders --------------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 64
    file.write_bytes(bytes(data))


def edited(**changes: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        record = {k: v for k, v in (json.loads(file.read_text()) | changes).items() if v is not None}
        file.write_text(json.dumps(record))

    return change


def poisoned(file: Path) -> None:
    found = load_file(file)
    save_file({name: weight * torch.nan for name, weight in found.items()}, file)
    edited(sha256=None)(file.parent / "config.json")


def unhashed(harm: Callable[[Path], None]) -> Callable[[Path], None]:
    """The harm in a folder of an earlier version, which has no digests."""

    def change(file: Path) -> None:
        harm(file)
        edited(sha256=None)(file.parent / "config.json")

    return change


HARM: list[tuple[str, Callable[[Path], None], str]] = [
    ("weights.safetensors", Path.unlink, "has no weights.safetensors"),
    ("weights.safetensors", cut, "is not the file that config.json was written with"),
    ("weights.safetensors", flip, "is not the file that config.json was written with"),
    ("weights.safetensors", unhashed(cut), "no complete safetensors file"),
    ("weights.safetensors", unhashed(lambda file: file.write_bytes(b"")), "no complete safetensors file"),
    ("weights.safetensors", unhashed(lambda file: save_file({"a": torch.ones(2)}, file)), "is damaged"),
    ("weights.safetensors", poisoned, "weights that are not finite"),
    ("tokenizer.json", Path.unlink, "has no tokenizer.json"),
    ("tokenizer.json", unhashed(cut), "is damaged"),
    ("tokenizer.json", unhashed(lambda file: file.write_text("{}")), "is damaged"),
    ("config.json", Path.unlink, "has no config.json"),
    ("config.json", cut, "is no JSON"),
    ("config.json", lambda file: file.write_text("[1]"), "is no JSON object"),
    ("config.json", edited(format="iterref-summarizer-9"), "is no iterref-summarizer-1 folder"),
    ("config.json", edited(transformer=None), "is damaged"),
    ("config.json", edited(transformer={"vocab": "many"}), "is damaged"),
    ("config.json", edited(length="long"), "is damaged"),
]


@pytest.mark.parametrize(("name", "harm", "said"), HARM)
def test_a_damaged_model_is_refused_in_one_sentence(
    name: str, harm: Callable[[Path], None], said: str, run: Path
) -> None:
    harm(run / "out" / name)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        Summarizer.load(run / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", [cut, flip, lambda file: file.write_bytes(b""), lambda file: file.write_text("{}")])
def test_a_damaged_checkpoint_is_refused_and_left(harm: Callable[[Path], None], run: Path) -> None:
    harm(run / "out" / "checkpoint.pt")
    left = (run / "out" / "checkpoint.pt").read_bytes()
    with pytest.raises(
        ValueError, match="checkpoint.pt is damaged, or of another version: bring back a copy of it, give"
    ):
        train(again(run))
    assert (run / "out" / "checkpoint.pt").read_bytes() == left


def with_digest(record: Any) -> bytes:
    buffer = BytesIO()
    torch.save(record, buffer)
    return buffer.getvalue() + sha256(buffer.getvalue()).digest()


@pytest.mark.parametrize("kind", ["an older one", "a list", "another format", "another network", "no state"])
def test_a_checkpoint_of_something_else_is_refused(kind: str, run: Path) -> None:
    path = run / "out" / "checkpoint.pt"
    record = read_checkpoint(run / "out")
    if kind == "an older one":
        torch.save(record | {"format": None}, path)
    elif kind == "another network":
        record["state"]["network"].popitem()
        path.write_bytes(with_digest(record))
    elif kind == "no state":
        del record["state"]["average"]
        path.write_bytes(with_digest(record))
    else:
        path.write_bytes(with_digest([1] if kind == "a list" else record | {"format": "iterref-checkpoint-9"}))
    with pytest.raises(ValueError, match="checkpoint.pt is damaged, or of another version"):
        train(again(run))


# --- data -------------------------------------------------------------------------------------------------------------


def test_lines_end_where_files_end_them_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_bytes("one\r\ntwo\u2028still two\rthree\x85and\x0bon\n\n".encode())
    assert [text for _, text in read_pairs([file])] == ["one", "two\u2028still two", "three\x85and\x0bon"]


def test_special_tokens_spelled_out_in_texts_are_text(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("a cat <eos> sleeps\na <mask> dog\na <pad> bird\n" * 9)
    folder = train(again(tmp_path, train=(str(file),), length=24, vocab=80))
    model = Summarizer.load(folder)
    tokens = model.encode(["a <mask> dog <eos> sleeps"])
    assert not bool((tokens == MASK).any()) and model.decode(tokens) == ["a < mask > dog < eos > sleeps"]


@pytest.mark.parametrize(
    "text", ["The Cat sleeps.", "a cat  sleeps", "in 1987 a dog", "a caf\u00c9", "it 's \u201cfine\u201d"]
)
def test_text_that_the_model_would_read_otherwise_needs_to_be_normalised(text: str, tmp_path: Path) -> None:
    """The control: it is fine when it is normalised."""
    file = tmp_path / "own.txt"
    file.write_text(f"a cat\n{text}\n" * 9, encoding="utf-8")
    options = {"train": (str(file),), "length": 30}
    with pytest.raises(
        ValueError, match="9 texts are not in the form in which the model will read them, .*: leave out"
    ):
        train(again(tmp_path, **options, normalise=False))
    model = Summarizer.load(train(again(tmp_path, **options)))
    assert not bool((model.encode([text]) == 3).any())


UNUSABLE: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (lambda at: {"train": (str(at / "none.txt"),)}, "there is no file .*none.txt"),
    (lambda at: {"validation": str(at / "none.txt")}, "there is no file .*none.txt"),
    (lambda at: {"validation": str(at / "empty.txt")}, "empty.txt hold no text"),
    (lambda at: {"validation": write_sentences(at)}, "own.txt has documents where the training texts have none"),
    (lambda at: {"validation": str(at / "long.jsonl")}, "of .*long.jsonl, no pair fits: a text needs 1 to 5 tokens"),
    (lambda at: {"length": 2}, r"no pair fits: a text needs 1 to 1 tokens \(length\)"),
    (lambda at: {"vocab": 12}, "vocab is 12, and the texts' characters take"),
]


@pytest.mark.parametrize(("options", "said"), UNUSABLE, ids=[said[:30] for _, said in UNUSABLE])
def test_data_that_cannot_be_used_are_refused_before_the_first_step(
    options: Callable[[Path], dict[str, Any]], said: str, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "pairs.jsonl.gz")
    (tmp_path / "empty.txt").write_text("\r\n \n")
    (tmp_path / "long.jsonl").write_text(json.dumps({"document": "a cat", "summary": "a dog " * 9}) + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train(again(tmp_path, **options(tmp_path)))
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_plain_text_is_read_and_written_as_it_stands(tmp_path: Path) -> None:
    """Numbers, capitals, signs and blanks; the control is the test above, whose form has none of them."""
    file = tmp_path / "sums.jsonl"
    rows = [{"document": f"What is {n}+3?", "summary": f"{n}+3={n + 3}  So <eos> it's {n + 3}."} for n in range(40)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    model = Summarizer.load(train(again(tmp_path, train=(str(file),), length=40, vocab=80, form="plain")))
    texts = [row["summary"] for row in rows]
    tokens = model.encode(texts)
    assert model.decode(tokens) == texts and not bool((tokens[:, 0] == 1).any())
    digits = [model.tokenizer.encode(text).tokens for text in ("12", "120")]
    assert digits == [["1", "2"], ["1", "2", "0"]]
    assert model.prepare(["What is 7+3?"])[1].shape == (1, 40)
    with pytest.raises(ValueError, match="text 0 holds 'é', which its tokenizer does not know: take it out"):
        model.encode(["é"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(config | {"form": "verse"}))
    with pytest.raises(ValueError, match="reads texts in the form 'verse', unknown to this version"):
        Summarizer.load(tmp_path / "out")


def test_plain_text_keeps_the_blanks_at_its_ends(tmp_path: Path) -> None:
    """The indents of a program; the control is the form that has none."""
    file, texts = tmp_path / "own.txt", ["    return x", "\tif y:  "]
    file.write_text("\r\n".join([*texts, "   ", ""]) * 9, newline="")
    assert read_pairs([file], "plain") == [("", text) for text in texts] * 9
    assert read_pairs([file]) == [("", text.strip()) for text in texts] * 9
    model = Summarizer.load(train(again(tmp_path, train=(str(file),), length=24, vocab=60, form="plain")))
    assert model.decode(model.encode(texts)) == texts


def test_a_run_of_before_the_form_was_an_option_goes_on(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a cat sleeps\na red dog runs\n" * 9)  # one text in either form
    own = str(tmp_path / "own.txt")
    folder = train(again(tmp_path, train=(own,), length=30, vocab=40))
    data = (folder / "checkpoint.pt").read_bytes()
    record = torch.load(BytesIO(data[:-32]), weights_only=True)
    del record["options"]["form"]
    buffer = BytesIO()
    torch.save(record, buffer)
    (folder / "checkpoint.pt").write_bytes(buffer.getvalue() + sha256(buffer.getvalue()).digest())
    train(again(tmp_path, train=(own,), length=30, vocab=40))
    with pytest.raises(ValueError, match="holds a run with form 'news' and not 'plain'"):
        train(again(tmp_path, train=(own,), length=30, vocab=40, form="plain"))


def test_a_run_that_is_stopped_on_purpose_is_the_beginning_of_the_whole(tmp_path: Path) -> None:
    options = {"steps": 6, "cooldown": 4}
    for name in ("part", "whole", "other"):
        (tmp_path / name).mkdir()
    part = train(again(tmp_path / "part", **options), stop=4)
    config = json.loads((part / "config.json").read_text())
    assert config["steps_done"] == 4 and config["training"]["steps"] == 6
    begun = weights(part)
    whole = weights(train(again(tmp_path / "whole", **options)))
    assert not same(begun, whole) and same(weights(train(again(tmp_path / "part", **options))), whole)
    train(again(tmp_path / "other", steps=4, cooldown=4))
    assert not same(weights(tmp_path / "other" / "out"), begun)  # the control: a shorter run has other rates


@pytest.mark.parametrize(("stop", "said"), [(0, "stop must be at least 1"), (-3, "at least 1"), (1.5, "whole number")])
def test_a_stop_that_is_none_is_refused(stop: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        train(again(tmp_path), stop=stop)
    assert not (tmp_path / "out").exists()


def test_a_model_without_its_checkpoint_is_not_written_over(run: Path) -> None:
    (run / "out" / "checkpoint.pt").unlink()
    before = weights(run / "out")
    with pytest.raises(ValueError, match="holds a model and no checkpoint to go on from, .*--no-resume"):
        train(again(run))
    assert same(before, weights(run / "out"))
    train(again(run, seed=1), resume=False)
    assert not same(before, weights(run / "out"))


def test_texts_that_are_left_out_are_told(tmp_path: Path, warned: list[str]) -> None:
    own, held = write_sentences(tmp_path), tmp_path / "held.txt"
    held.write_text("The Cat runs.\n" + "The Cat sleeps, and sings, and runs, and is no dog. \u4e2d\n" * 2)
    train(again(tmp_path, train=(own,), validation=str(held), length=20))
    assert "1 of 3 validation texts fit: the others are too long" in " ".join(warned)
    assert "training texts fit" not in " ".join(warned)


def test_a_few_texts_in_another_form_are_reported(tmp_path: Path, warned: list[str]) -> None:
    file = tmp_path / "own.txt"
    file.write_text("a cat sleeps\n" * 40 + "A dog\n")
    train(again(tmp_path, train=(str(file),), normalise=False, vocab=30))
    assert "1 texts are not in the form in which the model will read them, as 'A dog'" in " ".join(warned)


def test_what_is_doubtful_about_the_data_is_said(tmp_path: Path, warned: list[str]) -> None:
    own = write_sentences(tmp_path)
    held = tmp_path / "held.txt"
    held.write_text("the cat sleeps , here .\na red cat runs .\n")
    train(again(tmp_path, train=(own,), validation=str(held), length=30, vocab=900))
    assert "1 of 2 validation texts are among the training texts" in " ".join(warned)
    assert "tokens, vocab allows 900" in " ".join(warned)


# --- torch's state ----------------------------------------------------------------------------------------------------


class Double(AbstractContextManager[None]):
    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *given: object) -> None:
        torch.set_default_dtype(torch.float32)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "nothing": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode, "double": Double,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16), "meta": lambda: torch.device("meta"),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_the_callers_torch_state_does_not_reach_training_and_stays_as_it_is(
    state: str, done: Path, tmp_path: Path
) -> None:
    config, threads, torch_random = again(tmp_path), torch.get_num_threads(), torch.get_rng_state()
    with STATES[state]():
        dtype = torch.get_default_dtype()
        folder = train(config)
        assert torch.get_default_dtype() == dtype
    assert same(weights(done / "out"), weights(folder))
    assert torch.get_num_threads() == threads and torch.equal(torch_random, torch.get_rng_state())
