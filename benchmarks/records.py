"""Records: documents and their references out of a user's file or a published data set, every row of them checked.

    data                                            read as
    FILE.jsonl, FILE.json, FILE.ndjson  (or .gz)    JSON lines, one object a line
    FILE.csv, FILE.tsv  (or .gz)                    a table whose first line names the columns
    FILE.parquet, a folder, NAME, NAME:CONFIG       what `datasets.load_dataset` makes of it, one split

A document is a text that is not blank; a reference is one, too, or several of which the best counts. What cannot be
used is refused in one sentence that names the line, before anything runs.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from iterref.hub import first_line
from iterref.lines import Place, objects, opened, readable
from iterref.optional import require

LINES = (".jsonl", ".json", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}
SUMMARY = "summary"

Entries = Generator[tuple[Place, Mapping[str, Any]], None, None]


@dataclass(frozen=True)
class Records:
    """What was read: `documents`, and the `references` of each, or None where the data has none; `name` is its own."""

    name: str
    documents: tuple[str, ...]
    references: tuple[str | tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.documents)


def read(
    data: str | Path,
    *,
    document: str = "document",
    summary: str | None = SUMMARY,
    split: str = "test",
    limit: int | None = None,
    lead: int | None = None,
) -> Records:
    """The records of a file, a folder or a data set by its hub name ("xsum", "abisee/cnn_dailymail:3.0.0").

    `document` and `summary` name the columns. Data without a column "summary" has no references, and none are read for
    None; any other name has to be there. A data set has its `split` read, a single file is all read. Of either, only
    the first `limit` rows; `lead` keeps so many first words of a document, for models that read no more.

    Raises `FileNotFoundError` for what is not there, and `ValueError` for what cannot be used, naming the line.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"a limit of {limit} rows leaves nothing to read: say at least 1")
    if lead is not None and lead < 1:
        raise ValueError(f"lead={lead} leaves nothing of a document: keep at least 1 word")
    file = Path(data).expanduser()
    kind = Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()
    own = kind in LINES or kind in TABLES
    if file.is_file() and own:
        name, entries = file.name, _lines(file) if kind in LINES else _table(file, TABLES[kind])
    elif own:
        raise FileNotFoundError(f"there is no file {file}: give one that exists, a folder, or a data set by its name")
    else:
        name, entries = _published(str(data), split, limit)
    with closing(entries):
        rows = list(islice(entries, limit))
    if not rows:
        raise ValueError(f"{name} holds no rows: give one with a document a row")
    documents = tuple(_text(place, row, document) for place, row in rows)
    if lead is not None:
        documents = tuple(" ".join(text.split()[:lead]) for text in documents)
    if summary is None or (summary == SUMMARY and not any(SUMMARY in row for _, row in rows)):
        return Records(name, documents)
    return Records(name, documents, tuple(_reference(place, row, summary) for place, row in rows))


def _lines(file: Path) -> Entries:
    """The objects of JSON lines."""
    with opened(file) as lines:
        yield from objects(readable(lines, file.name), file.name)


def _table(file: Path, delimiter: str) -> Entries:
    """The rows of a table. Fields may hold line ends in quotes, and a row is named by the line on which it begins."""
    with opened(file) as lines:
        try:
            reader = csv.reader(readable(lines, file.name), delimiter=delimiter, strict=True)
            columns: list[str] | None = None
            first = 1
            for fields in reader:
                place, first = f"line {first} of {file.name}", reader.line_num + 1
                if not fields:
                    continue
                if columns is None:
                    columns = fields
                elif len(fields) != len(columns):
                    raise ValueError(
                        f"{place} has {len(fields)} fields and the first line names {len(columns)} columns: "
                        "fix it, with quotes around texts that hold the delimiter"
                    )
                else:
                    yield place, dict(zip(columns, fields, strict=True))
        except csv.Error as error:
            raise ValueError(
                f"{file.name} cannot be read as a table at line {reader.line_num} ({error}): fix it, or write JSON "
                "lines"
            ) from None


def _published(data: str, split: str, limit: int | None) -> tuple[str, Entries]:
    """A split of a data set of the hub, of a folder, or a parquet file."""
    place = Path(data).expanduser()
    if place.is_file() and place.suffix.lower() != ".parquet":
        raise ValueError(f"{place.name} is of no kind that is read here: give JSON lines, CSV, TSV or parquet")
    if not place.exists() and (place.is_absolute() or data.startswith((".", "~")) or data.count("/") > 1):
        raise FileNotFoundError(f"there is no folder or file {place}: give one that exists, or a data set by its name")
    require("datasets", "data", f"the data set {data}")
    import datasets  # slow to import, and rarely asked for

    name, _, config = (data, "", "") if place.exists() else data.partition(":")
    cut = "" if limit is None else f"[:{limit}]"
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if place.is_file():  # one file is one split, which datasets calls so
            found = datasets.load_dataset("parquet", data_files=str(place), split=f"train{cut}")
        else:
            found = datasets.load_dataset(str(place) if place.exists() else name, config or None, split=split + cut)
    except Exception as error:  # whatever datasets objects to: a name, a connection, a split, a file
        reason = first_line(error)
        if place.exists() or isinstance(error, ValueError):
            raise ValueError(
                f"{data} cannot be read ({reason}): check what it holds and the split {split!r}, and name a "
                "configuration as NAME:CONFIG"
            ) from None
        reason = "HF_HUB_OFFLINE is set" if datasets.config.HF_HUB_OFFLINE else reason
        raise FileNotFoundError(
            f"{data!r} is no file here, and no data set that the hub or its cache gave ({reason}): check the name, "
            "fetch it once while online, or give a file"
        ) from None
    finally:
        if bars:
            datasets.enable_progress_bars()
    return data, ((f"row {number} of {data}", row) for number, row in enumerate(found))


def _value(place: Place, row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        there = ", ".join(map(repr, row)) or "nothing"
        raise ValueError(f"{place} has no column {column!r}, but {there}: name the one that holds it")
    return row[column]


def _text(place: Place, row: Mapping[str, Any], column: str) -> str:
    return _checked(place, column, _value(place, row, column))


def _reference(place: Place, row: Mapping[str, Any], column: str) -> str | tuple[str, ...]:
    value = _value(place, row, column)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _checked(place, column, value)
    if not value:
        raise ValueError(f"{place} has an empty list in {column!r}: give at least one text")
    return tuple(_checked(place, column, text) for text in value)


def _checked(place: Place, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place} has a {type(value).__name__} in {column!r}: give a text")
    if not value.strip():
        raise ValueError(f"{place} has an empty text in {column!r}: fill it in, or leave the row out")
    return value
