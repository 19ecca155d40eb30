"""Records: every format gives the same rows, and what cannot be used is refused with its line and what to do."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.records import Records, read

ROWS = [
    {"document": "The mill was sold,\nat last, on “Monday”.", "summary": "The mill was sold."},
    {"document": 'A "quiet" year\tfor the harbour.', "summary": "A quiet year."},
    {"document": "Rain is due.\u2028And wind.", "summary": "Rain, wind."},
]
EXPECTED = (tuple(row["document"] for row in ROWS), tuple(row["summary"] for row in ROWS))


def lines(file: Path, rows: Sequence[object] = ROWS, end: str = "\n") -> Path:
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def table(file: Path, rows: Sequence[Sequence[str]], delimiter: str = ",") -> Path:
    packed = file.suffix == ".gz"
    with (gzip.open if packed else open)(file, "wt", encoding="utf-8-sig", newline="") as opened:
        csv.writer(opened, delimiter=delimiter).writerows(rows)
    return file


def as_table() -> list[list[str]]:
    return [["id", "document", "summary"], *([str(i), row["document"], row["summary"]] for i, row in enumerate(ROWS))]


def found(records: Records) -> tuple[tuple[str, ...], object]:
    return records.documents, records.references


def test_all_formats_give_the_same_rows(tmp_path):
    files = [
        lines(tmp_path / "a.jsonl"), lines(tmp_path / "b.json"), lines(tmp_path / "c.jsonl.gz"),
        lines(tmp_path / "d.ndjson", end="\r\n\r\n"), table(tmp_path / "e.csv", as_table()),
        table(tmp_path / "f.CSV.gz", as_table()), table(tmp_path / "g.tsv", as_table(), "\t"),
    ]  # fmt: skip
    for file in files:
        assert found(read(file)) == EXPECTED, file.name
        assert read(str(file)).name == file.name and len(read(file)) == 3
    assert found(read(files[0], limit=2)) == tuple(column[:2] for column in EXPECTED)
    assert read(files[0], limit=9).documents == EXPECTED[0]
    assert read(files[0], lead=3).documents == ("The mill was", 'A "quiet" year', "Rain is due.")


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip), min_size=1))
def test_any_text_comes_back_as_it_was_written(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    assert read(lines(folder / "a.jsonl", [{"document": text} for text in texts])).documents == tuple(texts)
    written = [["document"], *([text] for text in texts)]
    if not any("\0" in text for text in texts):  # which a table cannot hold
        assert read(table(folder / "a.csv", written)).documents == tuple(texts)


def test_columns_are_named_and_references_may_be_missing_or_several(tmp_path):
    rows = [{"article": "One two.", "highlights": ["one", "two"]}, {"article": "Three.", "highlights": "three"}]
    file = lines(tmp_path / "a.jsonl", rows)
    named = read(file, document="article", summary="highlights")
    assert found(named) == (("One two.", "Three."), (("one", "two"), "three"))
    assert read(file, document="article").references is None  # no column "summary" at all
    assert read(file, document="article", summary=None).references is None
    with pytest.raises(ValueError, match="line 1 of a.jsonl has no column 'highlight', but 'article', 'highlights'"):
        read(file, document="article", summary="highlight")
    with pytest.raises(ValueError, match="line 1 of a.jsonl has no column 'document'"):
        read(file)


GOOD = '{"document": "a", "summary": "b"}'


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ('{"document": "a"', "is no JSON .*: write one object a line"),
        ('["a", "b"]', "is a JSON list and no object"),
        ('{"summary": "b"}', "has no column 'document', but 'summary'"),
        ('{"document": "a"}', "has no column 'summary', but 'document'"),
        ('{"document": 7, "summary": "b"}', "has a int in 'document': give a text"),
        ('{"document": null, "summary": "b"}', "has a NoneType in 'document'"),
        ('{"document": ["a"], "summary": "b"}', "has a list in 'document'"),
        ('{"document": " \\t", "summary": "b"}', "has an empty text in 'document': fill it in"),
        ('{"document": "a", "summary": ""}', "has an empty text in 'summary'"),
        ('{"document": "a", "summary": {}}', "has a dict in 'summary'"),
        ('{"document": "a", "summary": []}', "has an empty list in 'summary'"),
        ('{"document": "a", "summary": ["b", 1]}', "has a int in 'summary'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, second, said):
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{GOOD}\n\n{second}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"^line 3 of bad.jsonl {said}") as caught:
        read(file)
    assert "\n" not in str(caught.value)
    assert len(read(file, limit=1)) == 1  # negative control: what is not read is not refused


def test_a_wrong_row_of_a_table_is_named_by_the_line_it_begins_on(tmp_path):
    rows = [["document", "summary"], ["two\nlines", "a"], ["b"]]
    with pytest.raises(ValueError, match="line 4 of a.csv has 1 fields and the first line names 2 columns"):
        read(table(tmp_path / "a.csv", rows))
    with pytest.raises(ValueError, match="line 4 of b.csv has an empty text in 'summary'"):
        read(table(tmp_path / "b.csv", [*rows[:2], ["b", ""]]))
    torn = tmp_path / "c.csv"
    torn.write_text('document,summary\na,"b" c\n', encoding="utf-8")
    with pytest.raises(ValueError, match="c.csv cannot be read as a table at line 2"):
        read(torn)
    assert read(table(tmp_path / "d.csv", rows[:2])).documents == ("two\nlines",)


def test_files_that_are_not_what_they_say_are_refused(tmp_path):
    whole = lines(tmp_path / "a.jsonl.gz").read_bytes()
    for content in (whole[:-12], b"plain text", whole[:40] + b"\xff" * 12 + whole[52:]):
        (tmp_path / "a.jsonl.gz").write_bytes(content)
        with pytest.raises(ValueError, match="a.jsonl.gz is no whole gzip file: get it again"):
            read(tmp_path / "a.jsonl.gz")
    for name in ("latin.jsonl", "latin.csv"):
        (tmp_path / name).write_bytes('{"document": "café"}'.encode("latin-1"))
        with pytest.raises(ValueError, match=f"{name} is no UTF-8 text"):
            read(tmp_path / name)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="empty.jsonl holds no rows"):
        read(tmp_path / "empty.jsonl")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="a.txt is of no kind that is read here: give JSON lines, CSV"):
        read(tmp_path / "a.txt")
    for options in ({"limit": 0}, {"lead": 0}):
        with pytest.raises(ValueError, match="leaves nothing"):
            read(lines(tmp_path / "b.jsonl"), **options)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "a/nowhere.csv", "./nowhere", "a/b/c", "/nowhere"])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(FileNotFoundError, match="there is no (folder or )?file .*: give one that exists"):
        read(name)


def test_a_data_set_is_read_by_datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "news"
    folder.mkdir()
    lines(folder / "test.jsonl")
    lines(folder / "train.jsonl", ROWS[:1])
    assert found(read(folder)) == EXPECTED
    assert len(read(folder, limit=2)) == 2 and len(read(str(folder), split="train")) == 1
    packed = tmp_path / "a.parquet"
    datasets.Dataset.from_list([*ROWS, {"document": " ", "summary": "a"}]).to_parquet(packed)
    assert found(read(packed, limit=3)) == EXPECTED
    with pytest.raises(ValueError, match="^row 3 of .*a.parquet has an empty text in 'document'"):
        read(packed)
    with pytest.raises(ValueError, match="cannot be read .*: check what it holds and the split 'dev'") as caught:
        read(folder, split="dev")
    assert "\n" not in str(caught.value)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="bare cannot be read"):
        read(tmp_path / "bare")


def test_a_name_that_the_hub_cannot_give_is_refused_offline(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    asked = []

    def refuse(*names: object, **options: object) -> None:
        asked.append((names, options))
        raise ConnectionError("no connection\nand more")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(FileNotFoundError, match="'abisee/cnn_dailymail:3.0.0' is no file here.*HF_HUB_OFFLINE is set"):
        read("abisee/cnn_dailymail:3.0.0", limit=5)
    assert asked == [(("abisee/cnn_dailymail", "3.0.0"), {"split": "test[:5]"})]
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(FileNotFoundError, match="no data set .* gave .ConnectionError: no connection.: check the name"):
        read("xsum")
    assert asked[1] == (("xsum", None), {"split": "test"})
    assert not datasets.are_progress_bars_disabled()
