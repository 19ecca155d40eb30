"""Lexical rules: each by hand, hard and soft, columns, and every mistake."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref import generate
from iterref.rewards import Lexical
from tests.support.bundled import tiny_news


@pytest.mark.parametrize(
    ("rules", "text", "violation"),
    [
        ({"required": ["orchard"]}, "The Orchard, again.", 0),
        ({"required": ["orchard"]}, "the orchards", 1),  # whole words only
        ({"required": ["orchard", "prize"]}, "nothing", 2),
        ({"required": ["Orchard"], "case": True}, "the orchard", 1),
        ({"required": ["national prize"]}, "a national\n prize", 0),
        ({"required": ["c++", "u.s."]}, "C++ in the U.S.", 0),
        ({"required": ["u.s."]}, "uxs.", 1),  # a point is a point
        ({"forbidden": ["man"]}, "a woman, a Man and a man", 2),
        ({"matches": [r"\d{4}", "^A"]}, "A year, 1999", 0),
        ({"matches": [r"\d{4}", "^A"]}, "a year, 199", 2),
        ({"rejects": [r"(\w+) \1"]}, "the the cat sat sat", 2),
        ({"words": (3, 5)}, "one two three", 0),
        ({"words": (4, 5)}, "one two", 0.5),
        ({"words": (None, 4)}, "a b c d e f", 0.5),
        ({"words": (None, 0)}, "a b", 2),
        ({"characters": (2, 4)}, "abcdef", 0.5),
        ({"characters": (2, None)}, "", 1),
        ({"required": ["x"], "forbidden": ["y"], "words": (None, 1)}, "y y", 1 + 2 + 1),
    ],
)
def test_violations_by_hand(rules: dict[str, Any], text: str, violation: float) -> None:
    assert Lexical(**rules, hard=False)([text]) == [-violation]
    assert Lexical(**rules)([text]) == [-inf if violation else 0.0]
    assert str(Lexical(**rules, hard=False)([text])[0]) != "-0.0"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab", "."]), max_size=6), st.sampled_from(["a", "b"]))
def test_words_are_found_as_words(words: list[str], wanted: str) -> None:
    text = " ".join(words)
    assert Lexical([wanted])([text]) == [0.0 if wanted in words else -inf]
    assert Lexical(forbidden=[wanted], hard=False)([text]) == [-words.count(wanted)]


def test_columns_hold_for_their_row_alone() -> None:
    rules = Lexical(required_column="keep", forbidden_column="avoid", hard=False)
    texts = ["a b", "a b", "a b"]
    assert rules(texts, keep=["a", ["a", "c"], []], avoid=[(), "b", ["a", "b"]]) == [0, -2, -2]
    with pytest.raises(ValueError, match="needs the column 'keep'"):
        rules(texts, avoid=["a"] * 3)
    with pytest.raises(ValueError, match="column 'keep' has 1 entries for 3"):
        rules(texts, keep=["a"], avoid=["a"] * 3)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "there is no rule"),
        ({"required": "orchard"}, "is one string: pass a list"),
        ({"required": ["a", " "]}, "' ' is no word"),
        ({"required": ["A  b"], "forbidden": ["a b"]}, "'a b' is both required and forbidden"),
        ({"matches": ["("]}, r"'\(' is no regular expression"),
        ({"words": (5, 4)}, "between 5 and 4 words"),
        ({"words": 5}, r"words=5 is no band.*words=\(4, 9\)"),
        ({"characters": (-1, 4)}, "between -1 and 4 characters"),
    ],
)
def test_mistakes_are_named(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lexical(**rules)


def test_cases_may_differ_where_case_counts() -> None:
    assert Lexical(["A"], ["a"], case=True)(["A", "a", "A a"]) == [0.0, -inf, -inf]


def test_a_run_obeys_a_hard_rule_that_drafts_break() -> None:
    prompts = ["police arrested a man in the city on monday after a long chase ."]
    options = {"sampler": "best_of_n:n=8", "seed": 1, "alpha": 0.01}
    rules = Lexical(required_column="keep", words=(2, 9))
    result = generate(tiny_news(), prompts, reward=rules, columns={"keep": ["arrested"]}, **options)
    assert result.texts and "arrested" in result.texts[0].split() and float(result.rewards[0]) == 0.0
