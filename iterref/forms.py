"""Forms: the rows of a file, read as the form that it is in, or refused; never a table as plain text.

    text        one text a line                  CSV, TSV    a header names the fields, all values are strings
    JSON lines  one object a line                Parquet     one column a field (needs pyarrow)
    JSON        an array of objects or texts     .gz         any of these, packed

A form is known by its first bytes, its suffix, or its header. What looks like another form is refused.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader, BytesIO, TextIOWrapper
from itertools import chain, islice
from pathlib import PurePath
from typing import Any, BinaryIO

from iterref.lines import KEPT, MOST, Place, objects, parsed, readable
from iterref.optional import require

Row = tuple[Place, dict[str, Any]]

# What begins so is refused, whatever it is called.
MAGIC = {
    b"PK\x03\x04": "a zip archive (as of Excel or Word)",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"%PDF": "a PDF",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x93NUMPY": "an array of numpy",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"SQLite format 3": "a data base",
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "XML",
}
OTHERS = {
    "arrow", "bz2", "doc", "docx", "feather", "htm", "html", "npy", "npz", "ods", "orc", "parquet", "pdf", "pickle",
    "pkl", "pt", "safetensors", "toml", "xls", "xlsx", "xml", "xz", "yaml", "yml", "zip", "zst",
}  # fmt: skip
FORMS = "save it as UTF-8 text, JSON lines, CSV or Parquet"
DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
ARRAY = re.compile(r"""\[\s*(\{|$|"([^"\\]|\\.)*"\s*(,|$))""")  # how an array of objects or texts begins
WORD = re.compile(r"[A-Za-z_][\w .-]*")


def rows(file: BinaryIO, name: str, fields: Sequence[str]) -> list[Row] | list[str]:
    """The rows of an open file called `name`: places with fields, or texts alone, one a line. A table's header is known
    by `fields`. Raises `ValueError` for other forms and for what cannot be read, naming the line."""
    reader: Any = file if hasattr(file, "peek") else BufferedReader(file)
    suffixes = [suffix.lower().removeprefix(".") for suffix in PurePath(name).suffixes]
    try:
        if reader.peek(2)[:2] == b"\x1f\x8b":
            reader = gzip.GzipFile(fileobj=reader)
            suffixes = suffixes[:-1] if suffixes[-1:] == ["gz"] else suffixes
        start = reader.peek(16)[:16]
        if start.startswith(b"PAR1"):
            return _parquet(reader.read(), name)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name} is no whole gzip file ({error}): get it again") from None
    suffix = suffixes[-1] if suffixes else ""
    told = next((told for magic, told in MAGIC.items() if start.upper().startswith(magic.upper())), None)
    if told is not None or suffix in OTHERS:
        raise ValueError(f"{name} is {told or f'named .{suffix} and holds something else'}: {FORMS}")
    text = TextIOWrapper(reader, "utf-8-sig", errors=KEPT, newline="")
    try:
        return _of_text(text, name, suffix, fields)
    finally:
        text.detach()  # which does not close what was opened elsewhere


def _of_text(text: TextIOWrapper, name: str, suffix: str, fields: Sequence[str]) -> list[Row] | list[str]:
    """The rows of a text file, whose first line that is not blank says which form it has."""
    if suffix == "json":
        return _json("".join(readable(text, "the input", long=True)), name, must=True)
    lines, blank = readable(text, "the input"), list[str]()
    while (head := next(lines, "")) and not head.strip():
        blank.append(head)
    begin, lines = head.lstrip(), chain([head] if head else [], lines)
    if suffix in ("jsonl", "ndjson") or begin.startswith("{"):
        return list(objects(chain(blank, lines)))
    if begin.startswith("["):
        rest = list(lines)
        found = _json("".join(rest), name, must=ARRAY.match(begin.rstrip()) is not None)
        return found or [*map(_plain, blank + rest)]
    known = [sign for sign in DELIMITERS if set(_cells(head, sign)) & set(fields) and len(_cells(head, sign)) > 1]
    if suffix in ("csv", "tsv", "tab") or known:
        sign = "\t" if suffix in ("tsv", "tab") else known[0] if known else ","
        return list(_table(lines, sign, len(blank)))
    if head.strip() in fields:
        told = f"{name} begins with the word {head.strip()!r} alone, as the header of a table"
        raise ValueError(f"{told}: name the file .csv, or leave that line out")
    texts = [*map(_plain, chain(blank, lines))]
    if suffix != "txt":
        _expect_no_table(texts, name)
    return texts


def _plain(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _json(text: str, name: str, must: bool) -> list[Row] | list[str]:
    """The entries of a JSON array, all objects or all texts; without `must`, nothing where the text is no such array.
    A file of JSON lines is read as that."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if not must:
            return []
        if text.lstrip().startswith("{"):
            return list(objects(re.split("\r\n|\r|\n", text)))
        found = parsed(text, name, "write an array of objects, or one object a line")
    if isinstance(found, dict) and "\n" in text.strip():
        raise ValueError(f"{name} holds one JSON object over several lines: write an array of objects, or one a line")
    kinds = {type(entry) for entry in found} if isinstance(found, list) else set()
    if kinds in ({dict}, {str}):
        found = parsed(text, name)  # refuses halves of surrogate pairs
        return found if kinds == {str} else [(f"entry {at}", row) for at, row in enumerate(found, 1)]
    if isinstance(found, dict):
        return [("line 1", found)]
    if must:
        raise ValueError(f"{name} is JSON and no array of objects or texts: write one of these, or one object a line")
    return []


def _table(lines: Iterator[str], delimiter: str, skipped: int) -> Iterator[Row]:
    """The rows of a table whose first line names its columns; an empty cell is no value."""
    before = csv.field_size_limit(MOST)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _expect_once(header)
        begun = reader.line_num
        for cells in reader:
            place, begun = f"line {skipped + begun + 1}", reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                told = f"{place} has {len(cells)} cells and the header {len(header)}"
                raise ValueError(f"{told}: put cells that hold {DELIMITERS[delimiter]} into quotes")
            yield place, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise ValueError(f"line {skipped + reader.line_num} is no line of a table ({error}): fix it") from None
    finally:
        csv.field_size_limit(before)


def _parquet(content: bytes, name: str) -> list[Row]:
    require("pyarrow", "data", f"{name}, a Parquet file,")
    from pyarrow import ArrowException, parquet

    try:
        _expect_once(parquet.read_schema(BytesIO(content)).names)
        found = parquet.read_table(BytesIO(content)).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{name} is no whole Parquet file ({str(error).splitlines()[0]}): get it again") from None
    return [(f"row {at}", row) for at, row in enumerate(found)]


def _expect_once(names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the table names the column {twice!r} twice: rename one")


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([_plain(line)], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _expect_no_table(texts: list[str], name: str) -> None:
    """Refuses lines that stand in columns, and whose header names none that is known."""
    for sign in DELIMITERS:
        table = [_cells(line, sign) for line in islice((line for line in texts if line.strip()), 64)]
        header = table[0] if table else []
        if len(table) < 2 or len(header) < 2 or any(len(cells) != len(header) for cells in table):
            continue
        data = [cell.strip() for cells in table[1:] for cell in cells]
        marked = '"' in "".join(texts[1:2]) or any(cell.replace(".", "", 1).isdecimal() for cell in data)
        if sign == "\t" or marked and all(WORD.fullmatch(cell) for cell in header):
            told = f"{name} looks like a table with the columns {', '.join(map(repr, header[:4]))}"
            how = "name one of them as the help says, or write one text a line without columns (a file called .txt)"
            raise ValueError(f"{told}: {how}")
