"""Methods compared at equal cost: what is run, intervals by hand, the table, files, every refusal, the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import inf, isnan, nan, sqrt
from typing import Any

import numpy as np
import pytest

import iterref
from iterref import loading
from iterref.comparison import COLUMNS, Comparison, Entry, compare
from iterref.drafts import OwnDrafts
from iterref.generation import generate
from iterref.paired import Mean, difference, interval
from tests.support.commands import call
from tests.support.disk import expect_whole
from tests.support.fakes import FakeModel

PROMPTS = ["one", "one two", "one two three"] * 4
METHODS = {"plain": "ancestral:steps=2", "best of N": "best_of_n:steps=2"}


def alphas(completions: list[str]) -> list[float]:
    """How often a text says the first word."""
    return [float(text.split().count("alpha")) for text in completions]


def run(methods: Any = METHODS, **options: Any) -> Comparison:
    return compare(FakeModel(), PROMPTS, methods, **({"reward": alphas, "budgets": 16} | options))


@pytest.fixture(scope="module")
def found() -> Comparison:
    return run(budgets=[4, 16], seeds=2)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_students_t_over_prompts() -> None:
    mean = interval(np.array([1.0, 2.0, 3.0]))
    assert mean.value == 2 and mean.half == pytest.approx(4.30265 * 1 / sqrt(3), rel=1e-5)  # t, two degrees of freedom
    assert interval(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])) == (2.0, 0.0)  # a prompt counts once, seeds averaged
    assert interval(np.array([[1.0], [3.0]])).half == pytest.approx(12.7062, rel=1e-5)  # one prompt: its seeds
    assert interval(np.array([1.0])) == (1.0, inf) and not interval(np.array([1.0])).significant
    assert interval(np.array([1.0, -inf, 3.0])).value == 2  # a forbidden text takes its prompt out
    assert isnan(interval(np.array([-inf, -inf])).value)
    assert difference(np.array([5.0, -inf, 7.0]), np.array([4.0, -inf, 6.0])) == (1.0, 0.0)
    assert (Mean(3, 3) - Mean(1, 4)) == (2, 5) and not Mean(2, 2.0).significant and Mean(-2, 1.9).significant


def test_intervals_cover_the_truth() -> None:
    """95 % of them, of six prompts each; with the normal law in place of Student's, fewer."""
    numbers, hits, normal = np.random.default_rng(0), 0, 0
    for _ in range(600):
        one, hard = numbers.normal(0.3, 1, 6), numbers.normal(0, 9, 6)
        by = difference(one + hard, hard)
        hits += abs(by.value - 0.3) < by.half
        normal += abs(by.value - 0.3) < by.half * 1.96 / 2.5706
    assert 0.93 < hits / 600 < 0.97 and normal / 600 < 0.92


# --- runs -------------------------------------------------------------------------------------------------------------


def test_every_run_is_that_of_generate_at_the_budget(found: Comparison) -> None:
    assert [(one.name, one.nfe) for one in found.entries] == [
        ("plain", 4), ("best of N", 4), ("plain", 16), ("best of N", 16),
    ]  # fmt: skip
    one = found.entries[3]
    again = generate(FakeModel(), PROMPTS, reward=alphas, sampler="best_of_n:steps=2", budget=16, seed=1)
    assert one.rewards.shape == (2, 12) and one.rewards[1].tolist() == again.rewards.tolist()
    assert one.texts[1] == again.texts and one.sampler == str(again.sampler)
    assert one.reward_calls == again.asked.reward_calls
    by = difference(one.rewards, found.entries[2].rewards)
    assert one.difference == by and found.entries[2].difference is None and by.significant
    assert [better.nfe for better in found.better()][-1] == 16


def test_a_pool_is_drawn_once_a_seed_and_charged_to_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    import iterref.comparison as home

    drawn, draw = [], home.draw_drafts
    monkeypatch.setattr(home, "draw_drafts", lambda *given, **told: drawn.append(told["seed"]) or draw(*given, **told))
    pool = OwnDrafts(n=2, steps=1)
    ours = "iterref:moves=2,steps=1"
    pooled = run({"plain": "ancestral:steps=2", "ours": ours}, reward=pool, budgets=8, seeds=[3, 5])
    assert drawn == [3, 5] and all(one.nfe <= 8 for one in pooled.entries)
    again = generate(FakeModel(), PROMPTS, reward=pool, sampler=ours, budget=8, seed=5)
    assert pooled.entries[1].rewards[1].tolist() == again.rewards.tolist()
    assert pooled.entries[1].nfe == again.asked.nfe


def test_reward_calls_count_where_the_budget_says_so() -> None:
    equal = run(budgets=iterref.Budget(total=12))
    assert all(one.nfe + one.reward_calls <= 12 for one in equal.entries)


def test_methods_budgets_and_seeds_come_in_any_list(found: Comparison) -> None:
    same = run((one for one in METHODS.values()), budgets=np.array([4, 16]), seeds=np.int64(2))
    assert [one.rewards.tolist() for one in same.entries] == [one.rewards.tolist() for one in found.entries]
    assert run(seeds=np.arange(2)).entries[1].rewards.tolist() == found.entries[3].rewards.tolist()


def test_several_rewards_are_weighed_as_generate_weighs_them() -> None:
    mixed: dict[str, Any] = {"reward": [alphas, lambda completions: [len(text) for text in completions]]}
    mixed["reward_weights"] = [1.0, -0.1]
    again = generate(FakeModel(), PROMPTS, **mixed, sampler="best_of_n:steps=2", budget=16)
    assert run(**mixed).entries[1].rewards[0].tolist() == again.rewards.tolist()


def test_identities_and_columns_reach_every_run() -> None:
    seen: list[list[str]] = []

    def wanted(completions: list[str], word: list[str]) -> list[float]:
        seen.append(word)
        return [float(text.split().count(each)) for text, each in zip(completions, word, strict=True)]

    same = run(reward=wanted, columns={"word": ["beta"] * 12}, rows=[7] * 12)
    assert seen and set(seen[0]) == {"beta"}
    assert len(set(same.entries[0].rewards[0][::3].tolist())) == 1  # one identity and prompt, one text


# --- what is shown ----------------------------------------------------------------------------------------------------


def entry(method: str, values: list[float], by: Mean | None = None) -> Entry:
    return Entry(method, "4 NFE", method, 4, 2, 0.5, np.array([values]), [["x"] * len(values)], by)


def test_the_table_names_the_better_ones_in_words() -> None:
    entries = [
        entry("a", [1.0, 2.0, 3.0]), entry("b", [3.0, 4.0, 5.0], Mean(2, 0.5)), entry("c", [0, 0, 0], Mean(-2, 1)),
        entry("d", [1.0, -inf, 3.0], Mean(0.1, 1)),
    ]  # fmt: skip
    text = str(Comparison(entries, "a", 3, (0,)))
    lines = text.splitlines()
    assert lines[0].split() == ["sampler", "budget", "NFE", "reward", "calls", "reward", "over", "a", "seconds"]
    assert "(baseline)" in lines[1] and "+2 [+1.5, +2.5]" in lines[2]
    assert "b at 4 NFE: better than a (significant, 95 % CI excludes 0)" in lines
    assert "c at 4 NFE: worse than a (significant, 95 % CI excludes 0)" in lines
    assert "d at 4 NFE: no significant difference to a" in lines
    assert lines[-1] == "forbidden texts (reward -inf), left out of means: 1 of d at 4 NFE"
    text = str(Comparison([entry("a", [1.0]), entry("b", [2.0], Mean(1, inf))], "a", 1, (0,)))
    assert "inf" not in text and "1 prompt, 1 seed" in text
    assert "b at 4 NFE: a cannot be told from it (one prompt under one seed)" in text  # and is not called no different
    text = str(Comparison([entry("a", [1.0] * 2), entry("b", [-inf] * 2, Mean(nan, inf))], "a", 2, (0,)))
    assert "a cannot be told from it (no prompt has texts of both that are allowed)" in text
    pair = [entry("a", [-inf, 1.0]), entry("b", [2.0] * 2, Mean(1, inf))]  # the baseline's text is the forbidden one
    assert "told from it (one prompt alone has texts of both that are allowed)" in str(Comparison(pair, "a", 2, (0,)))
    pair = [entry("a", [1.0]), entry("b", [2.0], Mean(1, inf))]  # the other seed's text is forbidden
    assert "told from it (one seed alone has texts of both that are allowed)" in str(Comparison(pair, "a", 1, (0, 1)))
    assert entry("b", [2.0], Mean(1, inf)).row()["significant"] is None


def test_tables_and_pictures_go_to_files(found: Comparison, tmp_path: Any) -> None:
    with open(found.to_csv(tmp_path / "table.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and rows[0]["difference"] == "" and rows[3]["significant"] == "True"
    assert float(rows[3]["difference_low"]) > 0 and float(rows[3]["reward"]) == found.entries[3].reward.value
    picture = found.save_picture(tmp_path / "compared.png")
    assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size > 5_000
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told["baseline"] == "plain" and len(told["entries"][0]["texts"][1]) == 12


@pytest.mark.parametrize("name", ["to_csv", "save_picture"])
def test_files_are_written_whole_or_not_at_all(found: Comparison, name: str, tmp_path: Any) -> None:
    expect_whole(getattr(found, name), getattr(replace(found, entries=found.entries[:2]), name), tmp_path)


def test_data_frames_need_pandas(found: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    frame = found.to_pandas()
    assert [*frame.columns] == [*COLUMNS] and frame["nfe"].tolist() == [4, 4, 16, 16]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_pandas needs pandas: pip install 'iterref\[data\]', or use to_csv"):
        found.to_pandas()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, error, sentence",
    [
        ({"budgets": [16, 1]}, ValueError, "best of N at 1 .*: the budget"),
        ({"methods": ["iteref", "smc"]}, ValueError, "did you mean 'iterref'"),
        ({"methods": ["smc"]}, ValueError, "at least two samplers"),
        ({"methods": ["smc", "smc"]}, ValueError, "different names"),
        ({"methods": "smc"}, TypeError, "one string"),
        ({"methods": {"smc", "svdd"}}, TypeError, "samplers= is a set, which has no order"),
        ({"methods": {1: "smc", 2: "svdd"}}, TypeError, "a sampler is called 1: name every sampler by a string"),
        ({"budgets": {4, 16}}, TypeError, "budgets= is a set, which has no order"),
        ({"seeds": {1, 2}}, TypeError, "a list of them"),
        ({"baseline": "smc"}, ValueError, "the baseline 'smc' is none of the samplers"),
        ({"budgets": []}, ValueError, "there are no budgets"),
        ({"seeds": 0}, ValueError, "at least 1"),
        ({"seeds": [1, 1]}, ValueError, "different seeds"),
        ({"seeds": 1.5}, TypeError, "whole number of seeds"),
        ({"alpha": 0.0}, ValueError, "alpha"),
        ({"columns": {"word": ["a"]}}, ValueError, "column 'word' has 1 entries for 12 prompts"),
        ({"reward": lambda completions, word: []}, ValueError, "word"),
        ({"reward": 3}, TypeError, "the reward is an int"),
        ({"reward_weights": [1.0]}, ValueError, "belong to a list of rewards"),
        ({"reward": [alphas], "reward_weights": [1.0, 2.0]}, ValueError, "2 weights for 1 rewards"),
        ({"rows": [0]}, ValueError, "1 row identities for 12 prompts"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    changes: dict[str, Any], error: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import iterref.comparison as home

    for name in ("generate", "draw_drafts"):
        monkeypatch.setattr(home, name, lambda *given, **options: pytest.fail("something ran"))
    with pytest.raises(error, match=sentence):
        run(**changes)


# --- the command ------------------------------------------------------------------------------------------------------


STDIN = "one\none two\nthree\n"


def test_the_command_writes_a_table_csv_json_and_a_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(loading, "load", lambda name=None, **place: FakeModel())
    (tmp_path / "mine.py").write_text("def long(completions):\n    return [len(text) / 10 for text in completions]\n")
    reward = ["--reward", f"{tmp_path / 'mine.py'}:long"]
    methods = ["--sampler", "ancestral:steps=2", "--sampler", "best_of_n:steps=2"]
    asked = [*reward, *methods, "--budget", "4", "--seeds", "2"]
    files = ["--out", str(tmp_path / "table.csv"), "--picture", str(tmp_path / "compared.png")]
    done = call("compare", *asked, *files, text=STDIN)
    assert done.exit_code == 0, done.output
    assert "best_of_n:steps=2 at 4 " in done.stdout and "3 prompts, 2 seeds" in done.stdout
    assert done.stderr.count("written: ") == 2 and (tmp_path / "compared.png").exists()
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    told = json.loads(call("compare", *asked, "--json", text=STDIN).stdout)
    assert [one["name"] for one in told["entries"]] == ["ancestral:steps=2", "best_of_n:steps=2"]
    assert told["entries"][1]["rewards"][0][0] == len(told["entries"][1]["texts"][0][0]) / 10


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--sampler", "smc", "--sampler", "svdd"], "Missing option '--budget'"),
        (["--sampler", "smc", "--budget", "4"], "at least two samplers"),
        (["--sampler", "smc", "--sampler", "svdd", "--budget", "4", "--out", "nowhere/a.csv"], "cannot be written"),
        (["--sampler", "smc", "--sampler", "svdd", "--budget", "4", "--picture", "a.txt"], ".txt is no format of pict"),
        (["--sampler", "smc", "--sampler", "svdd", "--budget", "x"], "the budget:nfe needs a number, got 'x'"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(loading, "load", lambda name=None, **place: FakeModel())
    monkeypatch.chdir(tmp_path)
    done = call("compare", *arguments, text=STDIN)
    assert done.exit_code == 2 and sentence in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_the_old_command_says_where_the_benchmarks_are() -> None:
    done = call("bench", "world", "--quick")
    assert done.exit_code == 2 and "python -m benchmarks" in done.stderr and done.stdout == ""
    assert "bench" not in call("--help").stdout
