"""Where commands read from: data sets and fields by name, wherever prompts and texts are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from iterref import loading
from tests.support.commands import METHOD, call, refused
from tests.support.fakes import FakeModel

ROWS = [
    {"question": "one", "draft": "alpha beta", "answer": "alpha"},
    {"question": "one two", "draft": "beta", "answer": "beta"},
]
RUN = ("--sampler", METHOD, "--reward", "length:2", "--json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set that was saved and the same as JSON lines, and the small exact model in place of the bundled one."""
    monkeypatch.setattr(loading, "load", lambda name=None, **place: FakeModel())
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_data_set_and_a_file_give_the_same(folder: Path) -> None:
    for command, more in (("generate", []), ("refine", ["--text", "draft"])):
        fields = ["--prompt", "question", *more]
        from_set = call(command, "--dataset", str(folder / "saved"), *fields, *RUN)
        from_file = call(command, str(folder / "lines.jsonl"), *fields, *RUN)
        assert from_set.exit_code == 0, from_set.stderr
        assert from_set.stdout == from_file.stdout and len(lines(from_set.stdout)) == 2
        assert [line["answer"] for line in lines(from_set.stdout)] == ["alpha", "beta"]
        assert [line["question"] for line in lines(from_set.stdout)] == ["one", "one two"]


def test_a_split_and_the_columns_reach_the_reward(folder: Path) -> None:
    code = "def has(completions, answer): return [float(b in a) for a, b in zip(completions, answer)]"
    (folder / "found.py").write_text(code, encoding="utf-8")
    run = ("--sampler", METHOD, "--reward", f"{folder}/found.py:has", "--json")
    done = call("generate", "--dataset", str(folder / "saved"), "--split", "test", "--prompt", "question", *run)
    assert done.exit_code == 0 and [line["question"] for line in lines(done.stdout)] == ["one two"]
    again = call("refine", "--prompt", "question", *RUN, text=done.stdout)
    assert again.exit_code == 0 and [line["question"] for line in lines(again.stdout)] == ["one two"]


def test_compare_and_infill_read_them_too(folder: Path) -> None:
    done = call("compare", "--dataset", str(folder / "saved"), "--prompt", "question", "--sampler", "ancestral",
                "--sampler", "iterref:steps=2", "--budget", "8", "--reward", "length:2")  # fmt: skip
    assert done.exit_code == 0 and "iterref" in done.stdout
    (folder / "marked.jsonl").write_text(json.dumps({"question": "one", "draft": "[alpha] beta"}) + "\n")
    done = call("infill", str(folder / "marked.jsonl"), "--prompt", "question", "--text", "draft", *RUN)
    assert done.exit_code == 0, done.stderr
    assert str(lines(done.stdout)[0]["draft"]).endswith(" beta")


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["generate", "--split", "test"], "--split is a data set's: name it by --dataset"),
        (["generate", "{0}/lines.jsonl", "--dataset", "{0}/saved"], "both name an input: leave out FILE, or --dataset"),
        (["generate", "--dataset", "{0}/saved", "--count", "2"], "leave out --dataset and --prompt, or --count"),
        (["generate", "--dataset", "{0}/saved"], "no text in a field `document` (it has 'question', 'draft'"),
        (["generate", "--dataset", "{0}/saved", "--prompt", "x"], "row 0 has no text in a field `x`"),
        (["generate", "--dataset", "{0}/saved", "--prompt", "x", "--split", "dev"], "its configuration and its split"),
        (["generate", "--dataset", "{0}/nowhere", "--prompt", "question"], "there is no data set"),
        (["refine", "{0}/lines.jsonl", "--text", "draft", "--prompt", "x"], "no line has a field 'x'"),
        (["generate", "--prompt", "question"], "plain text without fields: leave out --prompt"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, given: list[str], sentence: str) -> None:
    refused(call(*(part.format(folder) for part in given), text="one\n"), sentence)
