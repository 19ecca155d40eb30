"""Grammars written out to a depth."""

from __future__ import annotations

import re

import pytest

from iterref.constraint.grammar import written_out

SUMS = """
// sums in brackets
start: sum
sum: term ("+" term)*
?term: /[0-9]+/ | "(" sum ")"
"""


def matches(regex: str, text: str) -> bool:
    return re.fullmatch(regex, text) is not None


@pytest.mark.parametrize("text, depth", [("1", 3), ("1+22", 3), ("(1+2)+3", 5), ("((1)+2)", 7)])
def test_a_text_needs_its_depth(text, depth):
    assert matches(written_out(SUMS, "start", depth), text)
    try:
        shallow = written_out(SUMS, "start", depth - 1)
    except ValueError:
        shallow = "(?!)"
    assert not matches(shallow, text)
    assert not matches(written_out(SUMS, "start", 9), text + "+")


def test_signs_of_the_notation():
    rules = 'start: ["a"] ("b" | "cd")+ /x{2}/? "."i "\\n"'
    regex = written_out(rules, "start", 1)
    for text, right in [("ab.\n", True), ("cdbxx.\n", True), ("a.\n", False), ("ab.", False), ("abx.\n", False)]:
        assert matches(regex, text) == right
    assert matches(written_out('start: "yes"i', "start", 1), "YeS")
    assert matches(written_out("start: /yes/i | /^no$/", "start", 1), "YeS")
    assert matches(written_out("start: /yes/i | /^no$/", "start", 1), "no")
    assert matches(written_out(r'start: "\x41\u00e9\U0001f600"', "start", 1), "Aé😀")
    assert matches(written_out('start: "a.b"', "start", 1), "a.b") and not matches(
        written_out('start: "a.b"', "start", 1), "axb"
    )


@pytest.mark.parametrize(
    "rules, told",
    [
        ("", "has no rules"),
        ("start: a", "has no rule 'a'"),
        ('start: "a" start', "no text of a depth of 4"),
        ('start: ("a"', "does not close"),
        ('start: "a" )', "where a rule begins"),
        ('start: * "a"', "nothing stands"),
        ('start: "a"\nstart: "b"', "two rules"),
        ("start: §", "line 1"),
        ("start: /[a&&b]/", "read in two ways"),
        ('begin: "a"', "no rule 'start'"),
    ],
)
def test_what_cannot_be_read_is_refused(rules, told):
    with pytest.raises(ValueError, match=told):
        written_out(rules, "start", 4)


def test_depths_that_make_no_sense():
    with pytest.raises(ValueError, match="at least 1"):
        written_out(SUMS, "start", 0)
    with pytest.raises(ValueError, match="smaller depth"):
        written_out("start: a a a a\na: b b b b\nb: c c c c\nc: d d d d\n" + "d: /" + "x" * 9000 + "/", "start", 9)
