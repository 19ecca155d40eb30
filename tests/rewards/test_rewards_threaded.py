"""Threads around a slow reward: the same answers in the same order, sooner."""

from __future__ import annotations

import threading
from time import perf_counter, sleep
from typing import Any

import pytest

from iterref.rewards import Rouge, Threaded
from iterref.rewards.calling import plan

TEXTS = [f"text {number}" for number in range(12)]


@pytest.mark.parametrize("portion", [1, 5, 12, 100])
@pytest.mark.parametrize("workers", [1, 4])
def test_answers_are_those_of_the_function(workers: int, portion: int) -> None:
    sizes = []

    def judge(completions: list[str], tone: list[int], scale: float = 2.0) -> list[float]:
        sizes.append(len(completions))
        return [scale * len(text) + place for text, place in zip(completions, tone, strict=True)]

    threaded = Threaded(judge, workers, portion)
    assert threaded(TEXTS, tone=list(range(12)), rows=list(range(12))) == judge(TEXTS, list(range(12)))
    assert max(sizes[:-1]) <= portion and sum(sizes[:-1]) == 12
    assert threaded([], tone=[]) == []
    assert plan(threaded, {"tone"}).names == {"tone", "rows"}  # a missing column is found before a run
    with pytest.raises(ValueError, match="needs tone"):
        plan(threaded, set())


def test_waits_happen_side_by_side() -> None:
    seen = set()

    def slow(completions: list[str]) -> list[float]:
        seen.add(threading.get_ident())
        sleep(0.05)
        return [float(len(text)) for text in completions]

    start = perf_counter()
    first = Threaded(slow, workers=12)(TEXTS)
    side_by_side = perf_counter() - start
    start = perf_counter()
    assert first == Threaded(slow, workers=1)(TEXTS)
    assert side_by_side < (perf_counter() - start) / 2 and len(seen) > 1


@pytest.mark.parametrize("answer", [{0: 1.0}, {1.0}, 1.0, "1", None])
def test_what_is_no_list_of_numbers_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="the function gave a .* for 1 texts: return one number each, in a list"):
        Threaded(lambda completions: answer)(["a"])


def test_mixtures_and_errors() -> None:
    references = [text[:-1] for text in TEXTS]
    mixture = 0.5 * Threaded(Rouge(), portion=4) + Threaded(lambda completions: [1.0] * len(completions))
    assert mixture(TEXTS, reference=references) == (0.5 * Rouge() + (lambda completions: [1.0] * len(completions)))(
        TEXTS, reference=references
    )

    def fails(completions: list[str]) -> list[float]:
        raise OSError(completions[0])

    with pytest.raises(OSError, match="text 0"):
        Threaded(fails)(TEXTS)
    for wrong in ({"workers": 0}, {"portion": 0}):
        with pytest.raises(ValueError, match="at least 1 of each"):
            Threaded(fails, **wrong)
