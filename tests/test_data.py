"""The shipped news sentences: enough of them, of the right lengths, each summary an ordered subset of its document."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest


def words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def ordered_subset(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(word in rest for word in short)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    text = files("iterref").joinpath("data/news.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_there_are_enough_different_rows(rows: list[dict[str, str]]) -> None:
    assert len(rows) >= 24
    for field in ("document", "summary"):
        assert len({row[field] for row in rows}) == len(rows)
    assert all(set(row) == {"document", "summary"} for row in rows)


def test_lengths(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert 15 <= len(row["document"].split()) <= 35, row
        assert 6 <= len(row["summary"].split()) <= 14, row


def test_sentences_are_cased_punctuated_ascii(rows: list[dict[str, str]]) -> None:
    for text in (text for row in rows for text in row.values()):
        assert text.isascii() and text[0].isupper() and text.endswith(".") and text == " ".join(text.split())


def test_summaries_are_ordered_subsets(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert ordered_subset(words(row["summary"]), words(row["document"])), row


def test_the_subset_check_sees_order_and_strange_words(rows: list[dict[str, str]]) -> None:
    document = words(rows[0]["document"])
    assert not ordered_subset(document[::-1], document)
    assert not ordered_subset(["zebra"], document)
    assert not ordered_subset([*document, document[-1]], document)
