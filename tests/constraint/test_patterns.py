"""Patterns: regular expressions, schemas, choices and grammars as automata of strings."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest

from iterref.constraint import Choices, Grammar, JSONSchema, Regex
from iterref.constraint.expressions import escaped
from iterref.constraint.patterns import pattern_of

pytest.importorskip("outlines_core")
POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}, "required": ["x", "y"]}


def test_a_regular_expression_is_of_the_whole_text():
    strings = Regex("[a-z]+é?").strings
    for text, right in [("abc", True), ("abcé", True), ("é", False), ("abc ", False), ("", False)]:
        assert strings.accepts(text.encode()) == right


@pytest.mark.parametrize(
    "regex",
    [
        r"[0-9]+(\.[0-9]+)?", "a(bc)?", "(ab)*", "aé*", ".*", "(a|ab)(c|bcd)?", "", "[^a]*", "(?i)ab?", r"a\|b|c",
        "^ab*$", "^a|b$", r"a\\$", "a[$]", "^a$|^b1*$", "a$|^b", r"\Aab\Z|(?:c|1)", "(?i)^ab$", r"\w+",
        r"[\W1]a", r"[^\W1]+",
    ],
)  # fmt: skip
def test_texts_are_those_that_python_matches(regex):
    """Every string of up to five signs; Python's engine has no part in the automaton."""
    strings = Regex(regex).strings
    for size in range(6 if len(regex) > 3 else 5):
        for text in map("".join, product("abcé.1", repeat=size)):
            assert strings.accepts(text.encode()) == (re.fullmatch(regex, text) is not None), text


def test_classes_hold_what_python_says():
    """Of letters, digits, marks and blanks of many scripts."""
    signs = [chr(code) for code in [*range(0x250), *range(0x300, 0x310), 0x661, 0x93E, 0x2028, 0x3000, 0x4E00, 0x1F600]]
    for escape in (r"\w", r"\W", r"\d", r"\D", r"\s", r"\S", r"[\w-]", r"[^\s\d]"):
        strings = Regex(escape).strings
        assert [strings.accepts(one.encode()) for one in signs] == [bool(re.fullmatch(escape, one)) for one in signs]


def test_a_compiled_expression_keeps_its_flags():
    assert pattern_of(re.compile("^ab.$", re.I | re.S)).strings.accepts(b"aB\n")
    assert pattern_of(re.compile("ab")) == Regex("ab")


def test_a_schema_has_its_documents():
    strings = JSONSchema(POINT).strings
    assert strings.accepts(b'{"x": 1, "y": -20}') and not strings.accepts(b'{"x": 1}')
    assert JSONSchema(json.dumps(POINT)) == JSONSchema(POINT) == pattern_of(POINT)
    tight = JSONSchema(POINT, blanks="").strings
    assert tight.accepts(b'{"x":1,"y":2}') and not tight.accepts(b'{"x": 1,"y":2}')


def test_a_pydantic_model_is_a_schema():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Point", x=(int, ...), y=(int, ...))
    assert pattern_of(model).strings.accepts(b'{"x":1,"y":2}')


def test_choices_are_texts_themselves():
    strange = ["a.b", "(c", "d|e", "f*", "[g]", "^h$", "i\\d", "j-k", "#l", "~m&&n"]
    strings = Choices(*strange).strings
    assert all(strings.accepts(text.encode()) for text in strange)
    assert not any(strings.accepts(text) for text in (b"axb", b"d", b"e", b"ff", b"g", b"h"))
    assert Regex(escaped("".join(strange))).strings.accepts("".join(strange).encode())


def test_a_grammar_is_written_out():
    strings = Grammar('start: "(" start ")" | /[a-z]/', depth=3).strings
    assert strings.accepts(b"((a))") and not strings.accepts(b"(((a)))") and not strings.accepts(b"((a)")


@pytest.mark.parametrize(
    "made, kind, told",
    [
        (lambda: Regex("([").strings, ValueError, "cannot be compiled"),
        (lambda: Regex(r"(?=a)b").strings, ValueError, "cannot be compiled"),
        (lambda: Regex("[a&&b]").strings, ValueError, "cannot be compiled"),
        *((lambda text=text: Regex(text), ValueError, "read in two ways")
          for text in ("[[:alpha:]]+", "[a-z&&[^b]]", "[a--b]", "[b~~a]", "a*+b", "(ab)++", "a{2}+")),
        (lambda: pattern_of(re.compile("a", re.ASCII)), TypeError, "the constraint is Pattern"),
        (lambda: JSONSchema("{"), ValueError, "cannot be turned"),
        (lambda: JSONSchema({"type": "nonsense"}), ValueError, "cannot be turned"),
        (lambda: Choices(), ValueError, "one or more texts"),
        (lambda: Choices("a", ""), ValueError, "one or more texts"),
        (lambda: pattern_of(3), TypeError, "the constraint is int"),
        (lambda: pattern_of(int), TypeError, "the constraint is type"),
    ],
)
def test_what_is_no_pattern_is_refused(made, kind, told):
    with pytest.raises(kind, match=told):
        made()


def test_without_the_engine_one_sentence_names_the_extra(monkeypatch):
    from iterref import optional

    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(optional.MissingExtra, match=r"iterref\[structure\]"):
        JSONSchema(POINT)
    with pytest.raises(optional.MissingExtra, match=r"iterref\[structure\]"):
        Regex("never compiled before").strings  # noqa: B018
