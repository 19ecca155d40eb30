"""The demo: stories at one budget, what is printed, drawn and written of them, and texts that do not embarrass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iterref import demo
from iterref.demo import Told, as_json, report, run_demo, save_picture, sentences, verdict
from iterref.demo.puzzles import broken
from iterref.demo.stories import CALLS, METHODS, NFE, OURS, PLAIN, in_its_words, keeps_the_rule, stories_of, words_of
from iterref.samplers.strings import sampler_from_string
from tests.support.bundled import tiny_news

SMALL = 16


@pytest.fixture(scope="module")
def found() -> list[Told]:
    return run_demo(tiny_news(), nfe=SMALL)


def test_no_method_exceeds_the_budget_and_all_meet_the_same_problem(found: list[Told]) -> None:
    assert [one.story.title for one in found] == ["a rule", "a tone", "a puzzle"]
    for one in found:
        assert list(one.runs) == list(one.story.methods) and {*METHODS} <= {*one.runs}
        for name, run in one.runs.items():
            assert 0 < run.result.asked.nfe <= SMALL and run.result.asked.reward_calls <= CALLS * SMALL, name
            assert len(run.judged) == len(run.worth) == len(run.result.tokens)
        assert len({len(run.worth) for run in one.runs.values()}) == 1


def test_worth_is_reward_and_language_together(found: list[Told]) -> None:
    for one in found[:2]:
        run = one.runs[OURS]
        assert run.result.log_likelihood is not None
        expected = run.result.rewards.numpy() / one.story.alpha + run.result.log_likelihood.numpy()
        assert np.allclose(run.worth, expected)
    solved = [broken(grid, 9) == 0 for grid in found[2].runs[PLAIN].result.tokens.tolist()]
    assert (found[2].runs[PLAIN].worth == np.array(solved)).all()


def test_the_rule_counts_words_and_asks_for_the_name() -> None:
    texts = ["ana loredo has signed .", "ana loredo has signed a contract .", "she signed ."]
    assert keeps_the_rule(texts, words=[4, 4, 2], name=["ana"] * 3) == [0, -2, -2]
    assert in_its_words(["the cat sat .", "sat cat", "dog"], ["The old cat sat."] * 3) == [0, -1, -1]
    assert words_of("The mayor's three-year plan.") == ["the", "mayor's", "three-year", "plan"]


def test_a_report_has_a_text_before_and_after_and_a_line_a_method(found: list[Told]) -> None:
    text = report(found)
    for one in found:
        assert one.story.task in text
        for name in one.runs:
            assert any(line.strip().startswith(name) for line in text.splitlines()), name
    for one in found[:2]:
        assert f"before  {one.runs[PLAIN].shown}" in text and f"after   {one.runs[OURS].shown}" in text
    assert max(map(len, text.splitlines())) <= 110 and f"{OURS} ahead" in text
    assert verdict(found).startswith(f"{OURS} is significantly ahead in ")


def test_intervals_are_paired(found: list[Told]) -> None:
    """The half width is that of the differences, and not that of two independent means."""
    one = found[0]
    by = one.ahead()[PLAIN]
    gaps = one.runs[OURS].worth - one.runs[PLAIN].worth
    assert by.value == pytest.approx(gaps.mean())
    assert by.half == pytest.approx(2.4469 * gaps.std(ddof=1) / len(gaps) ** 0.5, rel=1e-3)  # t of 6 degrees


def test_json_holds_plain_numbers_and_texts(found: list[Told]) -> None:
    told = as_json(found)["stories"]
    assert set(told) == {"a rule", "a tone", "a puzzle"}
    for methods in told.values():
        for figures in methods.values():
            assert all(isinstance(value, float | str | None) for value in figures.values())


def test_the_picture_has_a_panel_a_story(found: list[Told], tmp_path: Path) -> None:
    path = save_picture(found, tmp_path / "new" / "demo.svg")
    text = path.read_text(encoding="utf-8")
    assert all(f"<!-- {one.story.title}" in text for one in found)
    assert save_picture(found, tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_budgets_that_are_too_small_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="a budget of 15 NFE is too small for the demo: give at least 16"):
        run_demo(tiny_news(), nfe=15)


def test_options_of_the_demo_can_be_read() -> None:
    for story in stories_of(tiny_news()):
        for written in story.methods.values():
            sampler_from_string(written)
    assert len(sentences()) >= 24


def test_the_texts_that_are_shown_keep_what_was_asked_and_stay_likely() -> None:
    """At the demo's own budget, over seeds: the first story's rule is kept, no word is cut, and the language stays."""
    rule, tone, _ = stories_of(tiny_news())
    for story in (rule, tone):
        columns = {name: values[:1] for name, values in story.columns.items()}
        one = replace(story, prompts=story.prompts[:1], columns=columns)
        plain = one.run(PLAIN, demo.budget_of(NFE), 0)
        for seed in range(2):
            run = one.run(OURS, demo.budget_of(NFE), seed)
            known = {*words_of(one.given)}
            assert set(words_of(run.shown)) <= known, run.shown
            assert float(run.result.rewards[0]) > float(plain.result.rewards[0]), run.shown
            assert run.log_p is not None and plain.log_p is not None
            assert run.log_p / len(words_of(run.shown)) > plain.log_p / len(words_of(plain.shown)) - 1, run.shown
