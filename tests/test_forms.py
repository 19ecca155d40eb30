"""Files of every form: read as what they are, or refused in one sentence; never as plain text."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.cli.reading import Input, read_prompts, read_texts
from iterref.forms import rows
from iterref.lines import as_json

DOCUMENTS = ["A lorry, with oranges.", 'She said "no".', "two\nlines", "naïve 中"]
TABLE = [{"document": text, "reference": f"ref {row}"} for row, text in enumerate(DOCUMENTS)]


class Named(io.BytesIO):
    name = ""


def named(content: bytes, name: str = "<stdin>") -> Named:
    file = Named(content)
    file.name = name
    return file


def as_table(entries: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(entries[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(entries)
    return text.getvalue().encode()


def as_parquet(entries: list[dict[str, Any]]) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(entries), held)
    return held.getvalue()


WRITE: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "csv": as_table,
    "tsv": lambda entries: as_table(entries, "\t"),
    "jsonl": lambda entries: "".join(json.dumps(entry) + "\n" for entry in entries).encode(),
    "json": lambda entries: json.dumps(entries, indent=2).encode(),
    "parquet": as_parquet,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", WRITE)
def test_a_form_is_read_with_its_name_and_from_standard_input(form: str, packed: bool) -> None:
    content = WRITE[form](TABLE)
    content = gzip.compress(content) if packed else content
    for name in (f"rows.{form}" + ".gz" * packed, "<stdin>"):
        found = read_prompts(named(content, name))
        assert found.prompts == DOCUMENTS and found.columns == {"reference": [f"ref {row}" for row in range(4)]}
    assert read_prompts(named(b"\xef\xbb\xbf" + WRITE["csv"](TABLE), "excel.csv")).prompts == DOCUMENTS


def test_a_table_s_other_delimiters_and_an_array_of_texts() -> None:
    for sign in ";|":
        assert read_prompts(named(as_table(TABLE, sign), "rows.csv")).prompts == DOCUMENTS
    assert read_prompts(named(json.dumps(DOCUMENTS).encode())).prompts == DOCUMENTS
    one = named(b"document\none\n\"two, three\"\n", "rows.csv")  # a single column
    assert read_prompts(one).prompts == ["one", "two, three"]


def twice() -> bytes:
    """A Parquet file with two columns of one name."""
    columns = [pa.array(["a"]), pa.array(["b"])]
    packed = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=["document", "document"]), packed)
    return packed.getvalue()


# Without the time of now, which would name the case otherwise in each process of a run.
CUT = gzip.compress(json.dumps([{"document": f"{n}"} for n in range(9)]).encode(), mtime=0)[:60]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.csv", b"id,article\n1,foo\n", "line 2 has no text in a field `document` (it has 'id', 'article'): add it"),
        ("x.csv", b"document,b\none,a\ntwo\n", "line 3 has 1 cells and the header 2: put cells that hold a comma"),
        ("x.csv", b"document,document\na,b\n", "the table names the column 'document' twice"),
        ("x.csv", b'document,a\n"one"two,b\n', "line 2 is no line of a table"),
        ("x.csv", b"", "the input is empty"),
        ("x.csv", b"document,a\n", "the input is empty"),
        ("<stdin>", b"id,article\n1,foo\n2,bar\n", "looks like a table with the columns 'id', 'article': name one of"),
        ("<stdin>", b"a\tb\nc\td\n", "looks like a table with the columns 'a', 'b'"),
        ("<stdin>", b"document\none\ntwo\n", "begins with the word 'document' alone, as the header of a table"),
        ("x.json", b'{"document": ["a", "b"]}', "line 1 has a list in `document` and no text"),
        ("x.json", b'{\n "data": []\n}', "holds one JSON object over several lines"),
        ("x.json", b"[1, 2]", "is JSON and no array of objects or texts"),
        ("x.json", b'[{"document": "a"}, "b"]', "is JSON and no array of objects or texts"),
        ("<stdin>", b'[{"document": "a"},\n', "is no JSON ("),
        ("<stdin>", b'["a", "b"\n', "is no JSON ("),
        ("<stdin>", b'[\n"a"\n', "is no JSON ("),
        ("x.jsonl", b'"a text"\n', "line 1 is a JSON str and no object"),
        ("x.json", b'[{"document": "a", "tone": "caf\xe9"}]', "line 1 of the input is no UTF-8 text: save it as UTF-8"),
        ("x.json", b'[{"document": "a"},\n{"document": "\0"}]', "line 2 of the input holds the byte NUL"),
        ("x.json.gz", CUT, "no whole gz"),
        ("x.parquet", b"not that", "x.parquet is named .parquet and holds something else: save it as"),
        ("x.bin", b"PAR1 damaged", "x.bin is no whole Parquet file"),
        ("x.xlsx", b"PK\x03\x04...", "is a zip archive (as of Excel or Word): save it as"),
        ("<stdin>", b"\xff\xfea\0", "is UTF-16 text: save it as UTF-8"),
        ("<stdin>", b"%PDF-1.7", "is a PDF"),
        ("<stdin>", b"<!doctype html>", "is an HTML page"),
        ("<stdin>", b"BZh91AY", "is packed by bzip2"),
        ("x.yaml", b"- one\n", "is named .yaml and holds something else"),
        ("x.txt.gz", b"\x1f\x8b\x08 broken", "is no whole gzip file"),
        ("<stdin>", b'{"document": "a", "tone": "x"}\n{"document": "b"}\n', "line 2 has no field `tone`, which line 1"),
        ("<stdin>", b'{"document": "a"}\n{"document": "b", "tone": "x"}\n', "line 1 has no field `tone`, which line 2"),
        ("<stdin>", b'{"document": "a", "n": null}\n{"document": "b", "n": 1}\n', "line 1 has null `n`, which line 2"),
        ("<stdin>", b'{"document": "a", "n": NaN}\n{"document": "b", "n": 1}\n', "line 1 has null `n`, which line 2"),
        ("<stdin>", b'{"prompt": [{"role": "user", "content": "a"}, {"role": "x", "content": "b"}]}', "has 2 messages"),
        ("<stdin>", b'{"prompt": [{"role": "system", "content": "a"}]}', "'system' in `prompt`, where the user asks"),
        ("<stdin>", b'{"prompt": [{"content": [{"type": "text"}]}]}', "line 1 has a list in `prompt` and no text"),
        ("<stdin>", b'{"prompt": 5}', "line 1 has an int (5) in `prompt` and no text: write a string"),
        ("<stdin>", b'{"document": "a", "prompt": "b"}', "line 1 has both `document` and `prompt`"),
        ("<stdin>", b'{"document": "a", "document": "b"}', "line 1 has the field 'document' twice"),
        ("x.json", b'[{"document": "a", "x": {"y": 1, "y": 2}}]', "has the field 'y' twice"),
        ("x.csv", b'document,tone\none,dry\ntwo,\n', "line 3 has null `tone`, which line 2 has: fill it in"),
        ("x.tsv", b'document\ttone\none\t""\ntwo\tdry\n', "line 2 has null `tone`, which line 3 has"),
        ("x.csv", b'document,tone\n,dry\n', "line 2 has no text in a field `document`"),
        ("x.parquet", twice(), "the table names the column 'document' twice"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_prompts_is_refused(name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_prompts(named(content, name))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        ["[police] arrest two men", "a [cat] sat"],
        ["yes, no", "no, yes"],
        ["[1] first", "[2] second"],
        ["a, b and c", "d, e"],
        ["a\ttab", "none"],
        ['"quoted" at the start', "plain"],
        ["cats,dogs", "birds,fish"],
        ["[]"],
    ],
)
def test_plain_texts_stay_plain_texts(lines: list[str]) -> None:
    """The control: brackets, commas, tabs and quotes that are no form's."""
    for end in ("\n", "\r\n", "\r"):
        assert read_texts(named(end.join([*lines, ""]).encode())).texts == lines


def test_fields_have_trl_s_names_too() -> None:
    chat = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "hello"}]}
    found = read_texts(named(json.dumps(chat).encode()))
    assert (found.prompts, found.texts, found.prompt, found.text) == (["hi"], ["hello"], "prompt", "completion")
    plain = read_prompts(named(b'{"prompt": "hi", "tone": "x"}'))
    assert (plain.prompts, plain.prompt, plain.text, plain.columns) == (["hi"], "prompt", "completion", {"tone": ["x"]})
    data = read_prompts(named(b'{"prompt": "hi", "completion": "gold"}'))  # a data set's own answers stay
    assert data.text == "text" and data.columns == {"completion": ["gold"]}
    ours = read_texts(named(b'{"document": "a", "text": "b", "reward": null, "tokens": [1], "error": null}'))
    assert ours.columns == {} and ours.fields[0]["tokens"] == [1]


def test_an_empty_column_of_a_table_is_no_value_and_bytes_are_written_as_text() -> None:
    found = read_prompts(named(b"document,note\none,\ntwo,\n", "x.csv"))
    assert found.columns == {} and [line["note"] for line in found.fields] == [None, None]
    assert as_json([b"\xc3\xa9", b"\xff", date(2024, 1, 2), float("nan"), {"a": (1, True)}]) == [
        "\u00e9", "/w==", "2024-01-02", None, {"a": [1, True]},
    ]  # fmt: skip


def test_a_line_of_an_engine_without_a_text_says_why() -> None:
    line = {"row": 3, "document": "a", "text": None, "reward": None, "error": "prompt 3 is too long"}
    with pytest.raises(ValueError, match=r"line 1 was set aside and has no text \(prompt 3 is too long\): leave"):
        read_texts(named(json.dumps(line).encode()))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=12)
NAMES = st.sampled_from(["reference", "tone", "a b", "é", "id"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(TEXTS.filter(lambda text: bool(text.strip())), min_size=1, max_size=5),
    st.lists(NAMES, max_size=2, unique=True),
    TEXTS,
    st.sampled_from(sorted(WRITE)),
    st.booleans(),
)
def test_random_files_come_back_as_they_were(
    texts: list[str], names: list[str], cell: str, form: str, packed: bool
) -> None:
    entries = [{"text": text, **dict.fromkeys(names, cell)} for text in texts]
    content = WRITE[form](entries)
    found: Input = read_texts(named(gzip.compress(content) if packed else content, f"x.{form}" + ".gz" * packed))
    assert found.texts == texts and found.columns == {name: [cell] * len(texts) for name in sorted(names)}


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["csv", "tsv", "json", "jsonl", "txt", "parquet", "csv.gz", "x"]))
def test_any_bytes_are_rows_or_one_sentence(content: bytes, suffix: str) -> None:
    for whole in (content, b"document,b\n" + content, b"[" + content, b"PAR1" + content, b"\x1f\x8b" + content):
        try:
            rows(named(whole), f"file.{suffix}", ["document"])
        except ValueError as error:
            assert type(error) is ValueError and str(error) and "\n" not in str(error)


def test_the_command_reads_a_file_by_its_name(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from iterref import cli

    file = tmp_path / "news.csv"
    file.write_bytes(b"id,article\n1,police arrested two men .\n")
    result = CliRunner().invoke(cli.main, ["generate", str(file)])
    assert result.exit_code == 2 and "line 2 has no text in a field `document` (it has 'id'" in result.stderr
