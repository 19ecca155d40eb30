"""Mathematical answers: what a text's answer is, when two are equal, and that no text holds a run up."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterref.optional import MissingExtra
from iterref.rewards import MathAnswer
from iterref.rewards.answers import equal, final_answer, number_of
from iterref.rewards.strings import reward_from_string
from iterref.rewards.symbolic import Symbolic

symbolic = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="iterref[math] is not installed")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7+6=13 3+5+1=9 answer: 933", "933"),
        ("The answer is 42 apples.", "42"),
        ("the answer is $12.50.", "$12.50"),
        ("He has 3+4 = 7 apples.\n#### 7", "7"),
        ("#### 1,458", "1,458"),
        ("Answer: 1,458 and not 7", "1,458"),
        ("**Final answer:** 3/4", "3/4"),
        ("The answer is $x + 1$.", "x + 1"),
        ("The answer is (1, 2).", "(1, 2)"),
        ("the final answer is: 2 + 3 = 5", "5"),
        (r"so \boxed{\frac{3}{4}} it is, answer: 5", r"\frac{3}{4}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\text{a {b}} c}", r"\text{a {b}} c"),
        (r"answer: 4 \boxed{5", r"4 \boxed{5"),
        ("3-2=1", "1"),
        ("so x = -3.", "-3"),
        ("so x = \u22123.", "\u22123"),
        ("it takes 3\u00bd cups", "3\u00bd"),
        ("answer: `7`", "7"),
        ("it costs 1,234.50 in all", "1,234.50"),
        ("north", "north"),
        ("", None),
        (" \n ", None),
    ],
)
def test_where_the_answer_of_a_text_stands(text: str, answer: str | None) -> None:
    found = final_answer(text)
    assert (None if found is None else found.strip()) == answer


def test_one_place_alone_may_be_looked_at() -> None:
    text = r"\boxed{1} and the answer is 2, of 3"
    assert [final_answer(text, take) for take in ("auto", "boxed", "label", "last")] == ["1", "1", "2", "3"]
    assert final_answer("3", "boxed") is None and final_answer("3", "label") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.5", "1/2"), (r"1\frac12", "3/2"), ("2 1/2", "2.5"), ("1,000", "1000"), ("12.0", "12"), (r"\$12", "12"),
        (r"50\%", "50"), (r"12\text{ cm}", "12"), (r"1.5\times 10^{3}", "1500"), (r"-\frac{3}{4}", "-0.75"),
        ("3\u00bd", "7/2"), ("-\u2153", "-1/3"), ("\u00a55", "5"),
        ("\u22125", "-5"), ("5.", "5"), ("1e3", "1000"), ("(1,2)", "(1, 2.0)"), ("1, 2", "1,2"), (r"\{1,2\}", "{1, 2}"),
        ("x+1", "x + 1"), (r"\text{North}", "north"), (r"\dfrac{x}{2}", r"\frac{x}{2}"), ("90^\\circ", "90"),
    ],
)  # fmt: skip
def test_one_answer_in_two_forms(one: str, other: str) -> None:
    assert equal(one, other) and equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.33", "1/3"), ("12,34", "1234"), ("(1,2)", "(2,1)"), ("[1,2]", "(1,2)"), ("(1,2)", "(1,2,3)"), ("1", "2"),
        ("-1", "1"), ("x", "y"), ("", ""), ("1/2", "1"), ("1e400000", "1"), ("9" * 5000, "8" * 5000), ("12", "1 2"),
    ],
)  # fmt: skip
def test_two_answers_are_two(one: str, other: str) -> None:
    assert not equal(one, other) and not equal(other, one)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_numbers_are_exact(one: Fraction, other: Fraction) -> None:
    written = rf"\frac{{{one.numerator}}}{{{one.denominator}}}" if one >= 0 else str(one)
    assert number_of(written) == one and equal(written, str(other)) == (one == other)


@given(st.text(max_size=200))
def test_any_text_is_read_and_is_equal_to_itself_at_most(text: str) -> None:
    found = final_answer(text)
    assert found is None or found.strip() == "" or isinstance(equal(found, "1"), bool)


def test_long_texts_take_little_time() -> None:
    begun = time.process_time()
    for text in (r"\boxed{" * 2000, "answer is " * 2000, "1," * 5000, "(" * 5000, "$" * 5000, "-" * 5000, "1/" * 3000):
        equal(final_answer(text) or "", "(1, 2)")
    assert time.process_time() - begun < 2


def test_rewards_are_0_or_1_against_answers_solutions_and_several() -> None:
    reward = MathAnswer(symbolic=False)
    texts = ["answer: 7", "so 7.0", "8", r"\boxed{7}", "", "seven"]
    assert reward(texts, reference=[7, "He has 3+4=7 of them #### 7", "7", ["6", "7"], "7", 7.0]) == [1, 1, 0, 1, 0, 0]
    assert reward.against([7, "8"])(["7", "7", "8"], rows=[0, 1, 1]) == [1, 0, 1]
    assert MathAnswer(tolerance=0.01, symbolic=False)(["0.333", "0.3"], reference=["1/3"] * 2) == [1, 0]
    assert MathAnswer("boxed", symbolic=False)(["7", r"\boxed{7}"], reference=[7, 7]) == [0, 1]


@symbolic
def test_formulas_are_compared_by_math_verify_and_without_it_by_their_form() -> None:
    texts = [r"\boxed{\frac{\sqrt{2}}{2}}", r"\boxed{(x+1)^2}", r"\boxed{x+2}", r"\boxed{\{2, 1\}}"]
    keys = [r"\frac{1}{\sqrt{2}}", "x^2+2x+1", "x+1", r"\{1, 2\}"]
    assert MathAnswer()(texts, reference=keys) == [1, 1, 0, 1]
    assert MathAnswer(symbolic=False)(texts, reference=keys) == [0, 0, 0, 0]  # the control


@symbolic
def test_a_formula_that_never_ends_is_ended_and_told(tmp_path: Any) -> None:
    reward = MathAnswer(seconds=0.5)
    mine = tmp_path / "mine"
    texts = [r"\boxed{9^{9^{9^{9}}}}", rf"\boxed{{__import__('os').system('touch {mine}')}}", r"\boxed{\sqrt{9+x-x}}"]
    begun = time.monotonic()
    with pytest.warns(UserWarning, match=r"^MathAnswer: '9\^.* took more than 0.5 s and counts as different"):
        assert reward(texts, reference=[r"\sqrt{2}", r"\sqrt{3}", r"\sqrt{9}"]) == [0, 0, 1]
    assert reward.timed_out >= 1 and not mine.exists() and time.monotonic() - begun < 60
    before = reward.timed_out
    assert reward(texts[:1], reference=[r"\sqrt{2}"]) == [0] and reward.timed_out == before  # it is remembered
    assert copy.deepcopy(reward).answer("7") == pickle.loads(pickle.dumps(reward)).answer("7") == "7"


def test_without_the_extra_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iterref.rewards.math_answer.find_spec", lambda name: None)
    assert MathAnswer()([r"\boxed{x+1}"], reference=["1+x"]) == [0]
    monkeypatch.setattr("iterref.optional.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"^comparing formulas needs math_verify: pip install 'iterref\[math\]'$"):
        Symbolic(1.0)


def test_names_and_columns_of_the_command_line() -> None:
    reward = reward_from_string("math_answer", columns=["prompts", "summary"])
    assert (reward.references, reward.take) == ("summary", "auto")
    assert reward_from_string("math_answer:boxed,symbolic=false", columns=["reference"]).take == "boxed"
    with pytest.raises(ValueError, match="the reward math_answer needs a column `reference`"):
        reward_from_string("math_answer", columns=["prompts"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"take": "first"}, "an answer cannot be taken by 'first': use one of auto, boxed, label, last"),
        ({"tolerance": -1}, "tolerance=-1, seconds=2: give at least 0 and more than 0"),
        ({"seconds": 0}, "seconds=0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MathAnswer(**options)


@pytest.mark.parametrize("reference", ["", [], [""], None, "   "])
def test_a_reference_without_an_answer_is_refused(reference: Any) -> None:
    with pytest.raises(ValueError, match="row 1 has the reference .*, in which there is no answer"):
        MathAnswer(symbolic=False)(["1", "1"], reference=["1", reference])


def test_a_missing_column_and_row_are_named() -> None:
    with pytest.raises(ValueError, match="the comparison of answers needs the column 'reference'"):
        MathAnswer(symbolic=False)(["1"])
    with pytest.raises(ValueError, match="row 2 has no reference, there are 1"):
        MathAnswer(symbolic=False).against([1])(["1"], rows=[2])
