"""The algebra: sums, bounds, conditions and standardisation, of tokens, of texts and of both."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref import generate, sample
from iterref.problem import Problem
from iterref.rewards import Lexical, Remembered, RewardError, Rouge, TextCombined, TextReward, checked
from iterref.rewards.algebra import Composable
from iterref.rewards.calling import plan
from iterref.rewards.text import bind_reward
from iterref.samplers.strings import sampler_from_string
from tests.support.bundled import tiny_news
from tests.support.worlds import random_reward, random_table

TOKENS = torch.tensor([[1, 2], [3, 4], [5, 6]])
ROWS = torch.tensor([7, 8, 9])
VALUES = st.floats(-5, 5) | st.just(-inf)


class Fixed(Composable):
    """Answers by the first token of a text; keeps which rows it was asked for."""

    def __init__(self, *values: float) -> None:
        self.values = values
        self.asked: list[list[int]] = []

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        self.asked.append(rows.tolist())
        return torch.tensor(self.values, dtype=torch.float64)[(tokens[:, 0] - 1) // 2]


def decode(tokens: Tensor) -> list[str]:
    return [" ".join("abcdefgh"[token] for token in row) for row in tokens.tolist()]


def values(reward: Any) -> list[float]:
    return checked(reward, TOKENS, ROWS).tolist()


def length(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def scores(texts: list[str], score: list[float]) -> list[float]:
    return score


# --- rewards of tokens ------------------------------------------------------------------------------------------------


def test_sums_are_flat_and_exact() -> None:
    a, b = Fixed(1, 2, 3), Fixed(10, 20, 30)
    assert values(a + b * 2 - a / 2 + (-b)) == [10.5, 21, 31.5]
    combined = 0.7 * a + 0.3 * (b + 2 * a)
    assert [part for part in combined.parts] == [a, b, a]
    assert combined.rule.weights == (0.7, 0.3, 0.6)
    assert combined == 0.7 * a + 0.3 * (b + 2 * a)
    with pytest.raises(TypeError, match="3 is no reward"):
        a - 3
    with pytest.raises(TypeError, match="scaled by a number, got 'x'"):
        a * "x"
    with pytest.raises(ValueError, match="scaled by inf: give a finite number"):
        a * float("inf")
    with pytest.raises(TypeError, match="scaled by a number, got nan"):
        a * float("nan")


@settings(max_examples=25, deadline=None)
@given(st.tuples(VALUES, VALUES, VALUES), st.floats(-3, 3), st.floats(0, 3))
def test_bounds_keep_what_is_forbidden(given_values: tuple[float, ...], low: float, width: float) -> None:
    high = low + width
    assert values(Fixed(*given_values).clip(low, high)) == [
        value if value == -inf else min(max(value, low), high) for value in given_values
    ]


def test_a_bound_on_one_side_and_an_empty_one() -> None:
    assert values(Fixed(-9, 0, 9).clip(high=1)) == [-9, 0, 1]
    assert values(Fixed(-9, -inf, 9).clip(low=-1)) == [-1, -inf, 9]
    with pytest.raises(ValueError, match="between 2 and 1"):
        Fixed(0, 0, 0).clip(2, 1)


def test_where_asks_only_what_it_needs() -> None:
    a, b, c = Fixed(1, 2, 3), Fixed(-1, 0, 1), Fixed(7, 8, 9)
    assert values(a.where(b >= 0)) == [-inf, 2, 3] and a.asked == [[8, 9]]
    assert values(a.where(b > 0, -5)) == [-5, -5, 3]
    assert values(a.where(b > 0, c)) == [7, 8, 3] and c.asked == [[7, 8]]
    a.asked.clear()
    assert values(a.where(b > 5)) == [-inf] * 3 and a.asked == []
    with pytest.raises(TypeError, match="needs a condition such as b > 0, got True"):
        a.where(True)
    with pytest.raises(TypeError, match="compared with a number, got None"):
        a.where(a > None)


@settings(max_examples=25, deadline=None)
@given(st.tuples(VALUES, VALUES, VALUES), st.tuples(VALUES, VALUES, VALUES), st.floats(-5, 5))
def test_conditions_are_their_truth_tables(one: tuple[float, ...], two: tuple[float, ...], bound: float) -> None:
    a, b, zero = Fixed(*one), Fixed(*two), Fixed(0, 0, 0)
    pairs = list(zip(one, two, strict=True))

    def held(condition: Any) -> list[bool]:
        return [value == 0 for value in values(zero.where(condition))]

    assert held(a > bound) == [x > bound for x in one]
    assert held(bound < a) == [x > bound for x in one]
    assert held(a <= b) == [x <= y for x, y in pairs]
    assert held((a >= bound) & (b < bound)) == [x >= bound and y < bound for x, y in pairs]
    assert held((a >= bound) | ~(b < a)) == [x >= bound or not y < x for x, y in pairs]
    assert held(~((a > b) | (b > bound)) & (a <= bound)) == [not (x > y or y > bound) and x <= bound for x, y in pairs]


def test_a_condition_is_no_truth_value() -> None:
    a = Fixed(1, 2, 3)
    with pytest.raises(TypeError, match="join two with & or |"):
        bool((a > 0) and (a < 1))


def test_standardised_by_a_pilot() -> None:
    a = Fixed(1, 4, -inf)
    pilot = [1.0, 2.0, 6.0, -inf]
    assert values(a.standardised(pilot)) == pytest.approx([(1 - 3) / 7**0.5, 1 / 7**0.5, -inf])
    assert values(a.standardised(torch.tensor(pilot))) == values(a.standardised(pilot))
    for few in ([1.0], [-inf, 2.0], [3.0, 3.0]):
        with pytest.raises(ValueError, match="no spread to standardise by"):
            a.standardised(few)
    with pytest.raises(ValueError, match="holds no rewards"):
        a.standardised([])
    with pytest.raises(ValueError, match=r"NaN or \+inf"):
        a.standardised([0.0, float("nan")])


def test_a_pilot_run_gives_mean_zero_and_variance_one() -> None:
    table, reward = random_table("absorbing", 3, 3, 0, 1.0), random_reward(3, 3, 0)
    problem = Problem(table, 1.0 * Remembered(reward), torch.zeros(400, 3, dtype=torch.long))
    pilot = sample(sampler_from_string("ancestral"), problem, seed=1)
    standard = problem.reward.standardised(pilot)
    again = checked(standard, pilot.tokens, torch.arange(400))
    assert float(again.mean()) == pytest.approx(0, abs=1e-12) and float(again.std()) == pytest.approx(1)
    with pytest.raises(ValueError, match="pilot was guided .*best_of_n"):
        problem.reward.standardised(sample(sampler_from_string("best_of_n:n=4"), problem, seed=1))


def test_numbers_of_other_libraries_and_the_sum_of_a_list() -> None:
    one, two = Fixed(1, 2, 3), Fixed(4, 5, 6)
    assert values(sum([one, two])) == values(one + two)
    assert values(one * np.float32(2)) == values(2 * one)
    with pytest.raises(ValueError, match="cannot be divided by 0"):
        one / 0


def test_what_a_sum_cannot_mean_is_refused() -> None:
    with pytest.raises(RewardError, match=r"\+inf for row 7"):
        values(-Fixed(-inf, 0, 0))
    with pytest.raises(RewardError, match="NaN for row 8"):
        values(Fixed(0, float("nan"), 0).clip(0, 1))


# --- functions of texts -----------------------------------------------------------------------------------------------


def test_texts_compose_as_tokens_do() -> None:
    rouge, rules = Rouge(), Lexical(required=["b"])
    both = 0.5 * rouge + 0.25 * rules
    assert isinstance(both, TextCombined) and not both.mixed
    assert both(["a b", "c d"], reference=["a b", "c d"]) == [0.5, -inf]
    assert (rouge + length)(["a b"], reference=["a b"]) == (length + rouge)(["a b"], reference=["a b"]) == [4.0]
    assert (length - rouge)(["a b"], reference=["a b"]) == [2.0]
    assert rouge.where(rules >= 0, -1)(["a b", "c d"], reference=["a b", "c d"]) == [1.0, -1.0]
    assert (rouge * 4).clip(high=2)(["a b"], reference=["a b"]) == [2.0]
    assert rouge.standardised([0.0, 2.0])(["a b"], reference=["a b"]) == [0.0]
    assert both([], reference=[]) == []


def test_every_part_gets_its_columns_and_its_rows() -> None:
    seen: dict[str, Any] = {}

    def watching(completions: list[str], score: list[float], rows: list[int], **columns: Any) -> list[float]:
        seen.update(columns, rows=rows, texts=completions)
        return score

    reward = Lexical(words=(2, None), hard=False).where(Rouge() > 2, 1.0 * Rouge() + watching)
    table = {"reference": ["a", "b", "c"], "score": [1.0, 2.0, 3.0], "prompts": ["p", "q", "r"]}
    tokens = TextReward(
        reward, decode, columns={k: v for k, v in table.items() if k != "prompts"}, prompts=["p", "q", "r"]
    )
    assert tokens(TOKENS, torch.tensor([2, 0, 1])).tolist() == pytest.approx([3, 1, 2], abs=1)
    assert seen["rows"] == [2, 0, 1] and seen["prompts"] == ["r", "p", "q"] and seen["texts"] == decode(TOKENS)


def test_the_convention_of_trainers() -> None:
    reward = 1.0 * Rouge() + scores
    assert reward.__name__ == "TextCombined" and Rouge().__name__ == "Rouge"
    # what trainers pass beside the columns is no list of one entry a text
    extras = {"trainer_state": object(), "completion_ids": [[1], [2]], "log_metric": print}
    assert reward(prompts=["p", "q"], completions=["a", "b"], reference=["a", "a"], score=[1, 2], **extras) == [
        2.0,
        2.0,
    ]


def test_a_missing_column_is_found_before_a_run() -> None:
    reward = 1.0 * Rouge() + scores
    assert plan(reward, {"score", "other"}).names == {"score", "other", "rows"}  # Rouge takes any column
    with pytest.raises(ValueError, match="needs score, but there is only"):
        TextReward(reward, decode, ["p"], {"reference": ["a"]})


def test_mistakes_inside_name_the_text() -> None:
    with pytest.raises(RewardError, match="NaN for row 1, text 'b'"):
        (Rouge() + (lambda completions: [0.0, float("nan")]))(["a", "b"], reference=["a", "b"])
    with pytest.raises(RewardError, match=r"\+inf for row 5, text 'a'"):
        (-1 * Lexical(required=["b"]))(["a"], rows=[5])
    with pytest.raises(RewardError, match="1 values where 2"):
        (Rouge() + (lambda completions: [0.0]))(["a", "b"], reference=["a", "b"])


# --- both together ----------------------------------------------------------------------------------------------------


def test_a_mixture_is_bound_where_texts_can_be_decoded() -> None:
    mixture = (Lexical(required=["b"], hard=False) + 2 * Fixed(1, 2, 3)).clip(high=4)
    assert isinstance(mixture, TextCombined) and mixture.mixed
    with pytest.raises(RewardError, match="pass it to generate"):
        mixture(["a"])

    bound = bind_reward(mixture, partial(TextReward, decode=decode), None)
    assert isinstance(bound, Composable) and values(bound) == [2.0, 3.0, 4.0]


def test_a_mixture_runs() -> None:
    class Calm(Composable):
        def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
            return -tokens.double().std(1)

    prompts = ["police arrested a man in the city on monday after a long chase ."]
    rules, calm = Lexical(words=(3, None), hard=False), Calm()
    result = generate(tiny_news(), prompts, reward=rules + 0.001 * calm, sampler="best_of_n:n=2", seed=3)
    assert result.texts is not None
    expected = rules(result.texts)[0] + 0.001 * float(calm(result.tokens, torch.tensor([0])))
    assert float(result.rewards[0]) == pytest.approx(expected, abs=1e-12)
