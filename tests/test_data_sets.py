"""Data sets: prompts, texts and columns by name, in every call of Python, and results as a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

import iterref
from iterref.data_sets import dataset_rows
from iterref.optional import MissingExtra
from tests.support.fakes import SMALL, FakeModel

ROWS = [
    {"question": "one", "draft": "alpha beta", "answer": "alpha", "level": 1},
    {"question": "one two", "draft": "beta", "answer": "beta", "level": 2},
    {"question": "one two three", "draft": "gamma", "answer": "gamma", "level": 3},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data sets of every kind: files, one that was saved, and one with two splits."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = datasets.Dataset.from_list(ROWS)
    (tmp_path / "files").mkdir()
    made.to_json(str(tmp_path / "files" / "train.jsonl"))
    made.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "empty").mkdir()
    made.select([]).to_parquet(str(tmp_path / "empty" / "train.parquet"))
    datasets.DatasetDict({"train": made, "test": made.select([2])}).save_to_disk(str(tmp_path / "splits"))
    return tmp_path


def has_answer(completions: list[str], answer: list[str], level: list[int]) -> list[float]:
    return [one * (word in text) for text, word, one in zip(completions, answer, level, strict=True)]


def test_a_data_set_is_read_by_the_names_of_its_columns(folder: Path) -> None:
    for kind in ("files", "saved", "splits"):
        found = iterref.read_dataset(str(folder / kind), prompt="question", text="draft")
        assert found["prompts"] == [row["question"] for row in ROWS]
        assert found["texts"] == [row["draft"] for row in ROWS]
        assert found["columns"] == {name: [row[name] for row in ROWS] for name in ("answer", "level")}
    assert iterref.read_dataset(str(folder / "splits"), prompt="question", split="test")["prompts"] == ["one two three"]
    for kind in ("files", "saved", "splits"):
        part = iterref.read_dataset(str(folder / kind), prompt="question", columns=["level"], split="train[1:]")
        assert part == {"prompts": ["one two", "one two three"], "columns": {"level": [2, 3]}}
    both = iterref.read_dataset(str(folder / "splits"), prompt="question", columns=["level"], split="test+train[:50%]")
    assert both["columns"] == {"level": [3, 1, 2]}


def test_a_format_that_was_saved_with_a_data_set_is_none_of_its_values(folder: Path) -> None:
    """"torch" makes tensors of numbers, and hides the columns that it is not for."""
    made = datasets.Dataset.from_list(ROWS).with_format("torch", columns=["level"])
    made.save_to_disk(str(folder / "formatted"))
    assert dataset_rows(str(folder / "formatted")) == ROWS


def test_every_call_takes_what_is_read(folder: Path) -> None:
    given = iterref.read_dataset(str(folder / "saved"), prompt="question")
    told: dict[str, Any] = {"reward": has_answer}
    made = iterref.generate(FakeModel(), sampler=SMALL, **given, **told)
    by_hand = iterref.generate(
        FakeModel(), [row["question"] for row in ROWS], sampler=SMALL, reward=has_answer,
        columns={name: [row[name] for row in ROWS] for name in ("draft", "answer", "level")},
    )  # fmt: skip
    assert made.texts == by_hand.texts and made.rewards.tolist() == by_hand.rewards.tolist()
    table = iterref.compare(FakeModel(), samplers=["ancestral", "iterref:steps=2"], budgets=[8], **given, **told)
    assert {entry.name.partition(":")[0] for entry in table.entries} == {"ancestral", "iterref"}
    both = iterref.read_dataset(str(folder / "saved"), prompt="question", text="draft")
    refined = iterref.refine(FakeModel(), sampler=SMALL, **both, **told)
    assert refined.history[0].texts == [row["draft"] for row in ROWS]
    marked = [f"[{row['draft']}]" for row in ROWS]
    datasets.load_from_disk(str(folder / "saved")).add_column("marked", marked).save_to_disk(str(folder / "marked"))
    both = iterref.read_dataset(str(folder / "marked"), prompt="question", text="marked")
    assert len(iterref.infill(FakeModel(), sampler=SMALL, **both, **told).texts) == 3


def test_a_result_becomes_a_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = iterref.read_dataset(str(folder / "saved"), prompt="question")
    result = iterref.generate(FakeModel(), sampler=SMALL, reward=has_answer, log_likelihood=True, **given)
    made = result.to_dataset()
    frame = result.to_pandas()
    assert isinstance(made, datasets.Dataset) and made.column_names == list(frame.columns)
    assert made.to_list() == frame.to_dict("records")
    assert list(made["text"]) == result.texts and made["row"][:] == [0, 1, 2]
    joined = datasets.concatenate_datasets([datasets.Dataset.from_list(ROWS), made], axis=1)
    assert {"question", "reward"} <= set(joined.column_names)  # beside the data set that it came from
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"to_dataset needs datasets: pip install 'iterref\[data\]', or write"):
        result.to_dataset()
    with pytest.raises(MissingExtra, match=r"the data set x needs datasets: pip install"):
        iterref.read_dataset("x", prompt="question")


@pytest.mark.parametrize(
    "kind, given, error, sentence",
    [
        ("saved", {}, ValueError, "has the columns 'question', 'draft', 'answer', 'level': say which holds"),
        ("saved", {"prompt": "questions"}, ValueError, "has no column 'questions': it has 'question'"),
        ("saved", {"prompt": "question", "columns": ["x"]}, ValueError, "has no column 'x'"),
        ("saved", {"prompt": "level"}, ValueError, r"row 0 .* has an int \(1\) in 'level' and no text"),
        ("files", {"prompt": "question", "split": "test"}, ValueError, "check its configuration and its split"),
        ("splits", {"prompt": "question", "split": "dev"}, ValueError, "check its configuration and its split"),
        ("saved", {"prompt": "question", "split": "test"}, ValueError, "was saved without splits, and test is none"),
        ("saved", {"prompt": "question", "split": "train[1:1]"}, ValueError, r"there is no row in train\[1:1\]"),
        ("empty", {"prompt": "question"}, ValueError, "check its configuration and its split"),
        ("nowhere", {"prompt": "question"}, FileNotFoundError, "there is no data set"),
    ],
)
def test_what_a_data_set_lacks_is_one_sentence(
    folder: Path, kind: str, given: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as told:
        iterref.read_dataset(str(folder / kind), **given)
    assert "\n" not in str(told.value)


def test_a_name_that_the_hub_does_not_give_is_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no data set 'nobody/nothing:main' here"):
        dataset_rows("nobody/nothing:main")
