"""Rewards: what is accepted and refused, text functions, weighted sums and the memory of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.rewards import Composable, Consensus, Memory, Remembered, Reward, RewardError, Rouge, TextReward, checked

TOKENS = torch.tensor([[1, 2], [3, 4], [1, 2]])
ROWS = torch.tensor([7, 8, 9])


def decode(tokens: Tensor) -> list[str]:
    return [" ".join(map(str, row)) for row in tokens.tolist()]


def returning(answer: object) -> Callable[[Tensor, Tensor], Any]:
    return lambda tokens, rows: answer


class Total(Composable):
    """Sum of the tokens plus the row; keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        self.calls.append((tokens, rows))
        return tokens.sum(dim=1).double() + 0.1 * rows.double()


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2.5, True],
        (1, 2.5, 1),
        np.array([1, 2.5, 1], dtype=np.float32),
        [np.float32(1), torch.tensor(2.5), np.int64(1)],
        torch.tensor([1, 2.5, 1], dtype=torch.bfloat16, requires_grad=True),
        torch.tensor([1, 2.5, 1]).to_sparse(),
        np.array([1, 2.5, 1], dtype=object),
    ],
)
def test_numbers_of_every_kind_become_float64(answer: object) -> None:
    values = checked(returning(answer), TOKENS, ROWS)
    assert values.dtype == torch.float64 and not values.requires_grad
    assert values.tolist() == [1.0, 2.5, 1.0]


def test_generators_and_hard_constraints_are_accepted() -> None:
    values = checked(lambda tokens, rows: (-float("inf") if row == 8 else 0.0 for row in rows), TOKENS, ROWS)
    assert values.tolist() == [0.0, -float("inf"), 0.0]


def test_no_rows_no_numbers() -> None:
    assert checked(returning([]), TOKENS[:0], ROWS[:0]).shape == (0,)
    assert Remembered(Total())(TOKENS[:0], ROWS[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, 2.0], "2 values where 3 numbers were expected, for rows 7, 8, 9"),
        (torch.zeros(3, 1), r"shape \(3, 1\) where \(3,\) was expected"),
        (np.zeros(()), r"shape \(\) where \(3,\) was expected"),
        ([0.0, float("nan"), 0.0], r"NaN for row 8, tokens \[3, 4\]"),
        (np.array([0.0, 0.0, np.inf]), r"\+inf for row 9, tokens \[1, 2\]"),
        ([0.0, None, 0.0], "None for row 8, .*not a number"),
        (["1.0", 0.0, 0.0], "'1.0' for row 7, .*not a number"),
        ([0.0, 0.0, 1j], "1j for row 9, .*not a number"),
        (torch.zeros(3, dtype=torch.complex64), "0j for row 7, .*not a number"),
        ([torch.zeros(2), 0.0, 0.0], "row 7, .*not a number"),
        (None, "gave NoneType where 3 numbers were expected"),
        (1.0, "gave float where 3 numbers were expected.*: return a list with one number for each text that it gets"),
        ("abc", "gave str where 3 numbers were expected"),
        ({1: 0.0, 2: 0.0, 3: 0.0}, "gave dict where 3 numbers were expected"),
        ({1.0, 2.0, 3.0}, "gave set where 3 numbers were expected"),  # in which order?
        (pandas.DataFrame({0: [0.5], 1: [0.5], 2: [0.5]}), "gave DataFrame where 3"),  # whose columns have these names
        (bytearray(b"123"), "gave bytearray where 3"),
    ],
)
def test_what_is_no_reward_is_refused(answer: object, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        checked(returning(answer), TOKENS, ROWS)


def test_an_exception_is_the_cause_and_rows_are_named() -> None:
    def broken(tokens: Tensor, rows: Tensor) -> Tensor:
        raise KeyError("lexicon")

    with pytest.raises(RewardError, match=r"KeyError \('lexicon'\) in a call for rows 0, .* 7 and 4 more") as caught:
        checked(broken, torch.zeros(24, 2), torch.arange(12).repeat(2))
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_exception_inside_a_generator_is_caught_too() -> None:
    def lazy(tokens: Tensor, rows: Tensor) -> Iterator[float]:
        yield 0.0
        raise ZeroDivisionError

    with pytest.raises(RewardError, match="ZeroDivisionError"):
        checked(lazy, TOKENS, ROWS)

    def cancelled(tokens: Tensor, rows: Tensor) -> Tensor:
        raise asyncio.CancelledError

    with pytest.raises(RewardError, match="CancelledError"):
        checked(cancelled, TOKENS, ROWS)


def test_interrupts_pass() -> None:
    def interrupted(tokens: Tensor, rows: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked(interrupted, TOKENS, ROWS)


# --- functions of texts -----------------------------------------------------------------------------------------------

PROMPTS = ["p0", "p1", "p2"]
COLUMNS = {"label": [10, 11, 12], "reference": ["1 2", "3 4", "9"]}


def by_name(completions: list[str], label: list[int], **other: Any) -> list[float]:
    trainers = {"completion_ids", "trainer_state", "log_extra", "log_metric"}
    assert set(other) == {"prompts", "rows", "reference", *trainers}
    return [float(value) for value in label]


def prompts_first(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    return [float(prompt[1]) + 10 for prompt in prompts]


def everything(**kwargs: Any) -> list[float]:
    assert len(kwargs["completions"]) == 3
    return [float(value) for value in kwargs["label"]]


def keyword_only(texts: list[str], /, *, rows: list[int], completion_ids: list[list[int]]) -> list[float]:
    assert completion_ids == [[1, 2], [3, 4], [1, 2]]
    return [row + 10.0 for row in rows]


class Callme:
    def __call__(self, completions: list[str], label: list[int], scale: float = 1.0) -> list[float]:
        return [value * scale for value in label]


@pytest.mark.parametrize(
    "function",
    [
        by_name,
        prompts_first,
        everything,
        keyword_only,
        Callme(),
        lambda completions, label: label,
        lambda texts, label: label,
        lambda words, **columns: columns["label"],
    ],
)
def test_a_function_gets_what_its_signature_names(function: Callable[..., Any]) -> None:
    reward = TextReward(function, decode, PROMPTS, COLUMNS)
    assert checked(reward, TOKENS, torch.tensor([2, 0, 1])).tolist() == [12.0, 10.0, 11.0]


@pytest.mark.parametrize(
    "function", [lambda completions: map(len, completions), lambda t: [len(x) for x in t], lambda *a: map(len, a[0])]
)
def test_a_function_of_texts_alone_needs_nothing_else(function: Callable[..., Any]) -> None:
    for reward in (TextReward(function, decode), TextReward(function, decode, PROMPTS, COLUMNS)):
        assert checked(reward, torch.tensor([[1, 2], [33, 4]]), torch.tensor([0, 1])).tolist() == [3.0, 4.0]


@dataclass
class Data:
    words: list[str]

    def __call__(self, completions: list[str]) -> list[float]:
        return [float(sum(text.count(word) for word in self.words)) for text in completions]


@dataclass(frozen=True)
class Frozen:
    words: list[str]

    def __call__(self, completions: list[str]) -> list[float]:
        return Data(self.words)(completions)


@pytest.mark.parametrize("function", [Data(["1"]), 2 * Rouge() + Data(["1"]) - 2 * Rouge(), Frozen(["1"])])
def test_objects_that_cannot_be_hashed_are_functions_too(function: Callable[..., Any]) -> None:
    reward = TextReward(function, decode, columns={"reference": ["1 2", "3 4", "1 2"]})
    assert reward(TOKENS, torch.arange(3)).tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_a_callable_without_signature_gets_the_texts() -> None:
    assert TextReward(dict.fromkeys, decode, PROMPTS)._columns == {}


def test_texts_are_decoded_once() -> None:
    calls: list[int] = []

    def counting(tokens: Tensor) -> list[str]:
        calls.append(len(tokens))
        return decode(tokens)

    TextReward(lambda completions: [0.0] * len(completions), counting)(TOKENS, ROWS)
    assert calls == [3]


def test_a_column_never_stands_in_for_the_texts() -> None:
    """Whatever other columns a data set brings along, a function judges the texts."""
    columns = {"text": ["gold"] * 3}
    with pytest.raises(ValueError, match="begins with 'text', which is a column, and has none called completions"):
        TextReward(lambda text, **other: map(len, text), decode, PROMPTS, columns)
    for function in (lambda completions, text: map(len, completions), lambda text, /, **other: map(len, text)):
        reward = TextReward(function, decode, PROMPTS, columns)
        assert checked(reward, TOKENS, torch.arange(3)).tolist() == [3.0] * 3


def test_mistakes_of_construction_are_named() -> None:
    with pytest.raises(ValueError, match="needs sources, but there is only .*label"):
        TextReward(lambda completions, sources: [], decode, PROMPTS, COLUMNS)
    with pytest.raises(ValueError, match="needs prompts"):
        TextReward(lambda completions, prompts: [], decode)
    with pytest.raises(ValueError, match="no parameter for the texts"):
        TextReward(lambda: [], decode)
    with pytest.raises(ValueError, match="lengths are .*'prompts': 3"):
        TextReward(lambda completions: [], decode, PROMPTS, {"label": [1]})
    with pytest.raises(ValueError, match="may not be called 'rows'"):
        TextReward(lambda completions: [], decode, columns={"rows": [1]})


def test_mistakes_of_a_call_are_named() -> None:
    rows = torch.tensor([0, 1, 2])
    with pytest.raises(RewardError, match="NaN for row 1, text '3 4'"):
        TextReward(lambda completions: [0.0, float("nan"), 0.0], decode)(TOKENS, rows)
    with pytest.raises(RewardError, match="1 values where 3"):
        checked(TextReward(lambda completions: [0.0], decode), TOKENS, rows)
    with pytest.raises(RewardError, match="row 3 was asked for, but prompts and columns hold 3 rows"):
        TextReward(by_name, decode, PROMPTS, COLUMNS)(TOKENS, rows + 1)
    with pytest.raises(RewardError, match="decode gave 1 texts for 3 rows"):
        TextReward(lambda completions: [0.0], lambda tokens: ["a"])(TOKENS, rows)
    with pytest.raises(RewardError, match="ValueError .*needs the column 'gold'"):
        checked(TextReward(Rouge(references="gold"), decode, PROMPTS, COLUMNS), TOKENS, rows)


def test_the_shipped_text_rewards_fit() -> None:
    rows = torch.tensor([0, 1, 2])
    column = TextReward(Rouge(), decode, PROMPTS, COLUMNS)
    bound = TextReward(Rouge().against(COLUMNS["reference"]), decode)
    pools = TextReward(Consensus([["1 2"], ["3 4", "5"], ["9"]]), decode)
    assert column(TOKENS, rows).tolist() == bound(TOKENS, rows).tolist() == [1.0, 1.0, 0.0]
    assert pools(TOKENS, rows).tolist() == [1.0, 0.5, 0.0]


# --- sums -------------------------------------------------------------------------------------------------------------


def test_weighted_sums() -> None:
    one, two = Total(), returning([1.0, 2.0, 3.0])
    expected = 0.7 * one(TOKENS, ROWS) + 0.3 * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close((0.7 * one + 0.3 * (two + 0 * one))(TOKENS, ROWS), expected)
    torch.testing.assert_close((one * 2 - two)(TOKENS, ROWS), 2 * one(TOKENS, ROWS) - torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close((-one)(TOKENS, ROWS), -one(TOKENS, ROWS))
    assert isinstance(0.5 * one, Reward)
    with pytest.raises(TypeError, match="3 is no reward"):
        one + 3


def test_weights_and_hard_constraints() -> None:
    forbid = 1.0 * Remembered(returning([-float("inf"), 0.0, 0.0]))
    assert (Total() + forbid)(TOKENS, ROWS)[0] == -float("inf")
    with pytest.raises(RewardError, match=r"\+inf for row 7"):
        checked(Total() - forbid, TOKENS, ROWS)
    called = Total()
    (0.0 * called + forbid)(TOKENS, ROWS)
    assert not called.calls


# --- memory -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 6))
def test_memory_changes_no_answer(data: st.DataObject, limit: int) -> None:
    plain, counted = Total(), Total()
    remembered = Remembered(counted, limit=limit)
    asked, seen = 0, set()
    for _ in range(4):
        count = data.draw(st.integers(0, 8))
        cells = st.lists(st.integers(0, 2), min_size=3 * count, max_size=3 * count)
        table = torch.tensor(data.draw(cells), dtype=torch.long).view(count, 3)
        tokens, rows = table[:, :2], table[:, 2]
        asked += count
        seen |= set(map(tuple, table.tolist()))
        assert torch.equal(remembered(tokens, rows), plain(tokens, rows))
        assert len(remembered._memory) <= limit
    assert remembered.asked == asked
    assert len(seen) <= remembered.evaluated == sum(len(rows) for _, rows in counted.calls) <= asked


def test_each_pair_is_asked_once() -> None:
    inner = Total()
    reward = Remembered(inner)
    tokens, rows = TOKENS[[0, 1, 2, 0]], torch.tensor([0, 0, 0, 1])
    first = reward(tokens, rows)
    assert (reward.asked, reward.evaluated) == (4, 3)  # the third is the first; the fourth is of another row
    assert torch.equal(inner.calls[0][0], tokens[[0, 1, 3]]) and inner.calls[0][1].tolist() == [0, 0, 1]
    assert torch.equal(reward(tokens.flip(0), rows.flip(0)), first.flip(0))
    assert (reward.asked, reward.evaluated, len(inner.calls)) == (8, 3, 1)


def test_a_key_that_forgot_the_row_would_be_wrong() -> None:
    tokens = TOKENS[[0, 0]]
    values = Remembered(Total())(tokens, torch.tensor([0, 1]))
    assert values[0] != values[1]


def test_lengths_and_large_numbers_are_not_confused() -> None:
    reward = Remembered(Total())
    reward(torch.tensor([[1, 0]]), torch.tensor([0]))
    reward(torch.tensor([[1]]), torch.tensor([0]))
    reward(torch.tensor([[1 + 2**32, 0]]), torch.tensor([0]))
    assert reward.evaluated == 3


def test_the_entry_used_longest_ago_is_forgotten() -> None:
    memory: Memory[str, int] = Memory(2)
    asked: list[str] = []

    def fetch(*keys: str) -> list[int]:
        return memory.fetch(keys, lambda new: [asked.append(keys[i]) or ord(keys[i]) for i in new])

    assert fetch("a", "b", "a") == [97, 98, 97]
    fetch("a")
    fetch("c")  # b goes, a was used later
    fetch("a")
    assert asked == ["a", "b", "c"]
    assert fetch("b", "x", "y", "z") == [98, 120, 121, 122]  # more than it can hold
    assert len(memory) == 2
    with pytest.raises(ValueError, match="limit of at least 1"):
        Memory(0)


def test_a_failed_call_is_not_remembered() -> None:
    answers = iter([[float("nan")], [2.0]])
    reward = Remembered(lambda tokens, rows: next(answers))
    with pytest.raises(RewardError, match="NaN"):
        reward(TOKENS[:1], ROWS[:1])
    assert reward.evaluated == 0
    assert reward(TOKENS[:1], ROWS[:1]).tolist() == [2.0]
