"""Regret: by hand, and where a difference is noise or below 3 %."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.frame.paired import Cell, Entry
from benchmarks.frame.regret import behind, regrets, rows, table


class One:
    """A task whose own method is auto."""

    name = "one"
    measures = {"reward": "higher", "wrong": "lower"}

    def ours(self, case: str) -> str:
        return "auto"


def entry(method: str, scores: list[float], budget: int = 2) -> Entry:
    values = np.array(scores)
    return Entry(Cell("a", "nfe", budget), method, method, {}, {"reward": values, "wrong": -values})


def found(auto: list[float], best: list[float]) -> list[Any]:
    task: Any = One()
    return regrets(task, [entry("ancestral", [0.0] * 4), entry("smc", best), entry("auto", auto)], ("reward", "wrong"))


def test_the_best_fixed_method_is_found_in_each_measure_and_pairs_are_used() -> None:
    reward, wrong = found([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.5])
    for one in (reward, wrong):
        assert one.best == "smc" and one.lost.value == 1.125 and one.span == 3.625 and not one.level
        assert one.lost.half < 0.3  # of pairs; of two means it would be 1.8
    assert table("one", [reward]) == [["one", "reward", "0/1 (31%)", ""]]
    assert rows("one", [reward])[0][:7] == ["one", "a", "nfe", "2", "reward", "smc", "1.12"]
    assert behind([reward])[2:] == ["| a | NFE | 2x 1.1 |"]


def test_noise_and_little_are_level() -> None:
    assert all(one.level for one in found([0.0, 4.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.5]))
    assert all(one.level for one in found([100.0, 101.0, 102.0, 103.0], [101.0, 102.0, 103.0, 104.0]))  # 1 %
    assert all(one.level for one in found([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0]))  # ahead
    ahead = found([5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0])
    assert rows("one", ahead) == [] and behind(ahead) == ["Nowhere."]


def test_where_ours_did_not_run_nothing_is_said() -> None:
    task: Any = One()
    assert regrets(task, [entry("ancestral", [0.0] * 4), entry("smc", [1.0] * 4)], ("reward",)) == []
