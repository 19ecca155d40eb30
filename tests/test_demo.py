"""The demo and its pictures: every method at one budget, the story's steps, the options of the demo."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
import torch

from iterref import Cost, demo
from iterref.demo import METHODS, Comparison, Score, as_json, compare, marked, sentences, story, table
from iterref.drafts import OwnDrafts
from iterref.report.plots import Point, acceptance, reward_against_budget
from iterref.samplers.base import Info, Paired
from iterref.samplers.metropolis import Metropolis
from iterref.samplers.strings import sampler_from_string
from iterref.trace import Trace
from tests.support.fakes import FakeModel

ROWS = [
    {"document": "one two", "summary": "Alpha beta."},
    {"document": "one", "summary": "Gamma."},
    {"document": "one two three", "summary": "Beta delta gamma."},
]
DRAFTS = OwnDrafts(n=6, steps=2)
BUDGET = 40


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(FakeModel(), ROWS, budget=BUDGET, drafts=DRAFTS)


def test_all_methods_compete_at_one_budget_and_no_one_exceeds_it(found: Comparison) -> None:
    assert list(found.scores) == list(METHODS) == ["ancestral", "best_of_n", "metropolis", "iterref"]
    for name, score in found.scores.items():
        assert BUDGET - 8 <= score.nfe <= BUDGET, name  # best_of_n's runs are 8 rows each
        assert 0 <= score.reward <= 1 and 0 <= score.rouge_l <= 1 and score.seconds > 0
    assert found.scores["ancestral"].acceptance is None and found.scores["best_of_n"].acceptance is None
    assert 0 <= (found.scores["iterref"].acceptance or 0) <= 1
    # the pool is charged to those who use it
    assert found.methods["ancestral"] == f"ancestral:steps={BUDGET}"
    # and a method that refines the best draft spends all the rest on moves
    metropolis = sampler_from_string(found.methods["metropolis"])
    assert isinstance(metropolis, Metropolis) and (metropolis.steps, metropolis.moves) == (0, BUDGET - 12)


def test_points_rise_in_cost_and_end_at_the_full_budget(found: Comparison) -> None:
    for name, points in found.points.items():
        rows = [point.rows for point in points]
        assert rows == sorted(rows) and rows[-1] == found.scores[name].nfe
        assert points[-1].reward == found.scores[name].reward


def test_the_seed_decides(found: Comparison) -> None:
    again = compare(FakeModel(), ROWS, budget=BUDGET, drafts=DRAFTS)
    other = compare(FakeModel(), ROWS, budget=BUDGET, drafts=DRAFTS, seed=1)
    rewards = [[score.reward for score in c.scores.values()] for c in (found, again, other)]
    assert rewards[0] == rewards[1] != rewards[2]


def test_too_small_budgets_are_refused_before_the_pool_is_drawn() -> None:
    with pytest.raises(ValueError, match="leaves no room after the 12 NFE"):
        compare(FakeModel(), ROWS, budget=12, drafts=DRAFTS)
    with pytest.raises(ValueError, match="after the 12 NFE of the drafts, .*too small"):
        compare(FakeModel(), ROWS, budget=14, drafts=DRAFTS)


def test_the_table_is_aligned_and_complete(found: Comparison) -> None:
    lines = table(found).splitlines()
    head, body = lines[0], lines[2 : 2 + len(METHODS)]
    assert {len(line) for line in lines[: 2 + len(METHODS)]} == {len(head)}
    assert [line.split()[0] for line in body] == list(METHODS)
    assert all(len(line.split()) == 7 for line in body)
    assert body[0].split()[-1] == "-"


def test_json_holds_plain_numbers(found: Comparison) -> None:
    methods = as_json(found)["methods"]
    for entry in methods.values():
        assert set(entry) == {"reward", "rouge_l", "nfe", "reward_calls", "seconds", "acceptance"}
        assert all(type(value) in (float, type(None)) for value in entry.values())


def test_the_story_goes_from_the_draft_to_the_result(found: Comparison) -> None:
    text = story(found, FakeModel())
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[0].split()[0] == "document" and lines[1].split()[0] == "reference" and lines[2].split()[0] == "draft"
    *steps, best = [line.split() for line in lines[3:]]
    assert all(step[0] == "NFE" and 12 < int(step[1]) <= BUDGET for step in steps)
    shown = [document.split() for document in found.documents].index(lines[0].split()[1:])
    assert best[0] == "best" and float(best[1]) == pytest.approx(float(found.story.rewards[shown]), abs=1e-4)
    # the best text seen is at least as good as the draft and as every state on the way
    on_the_way = [float(lines[2].split()[1]), *(float(step[2]) for step in steps)]
    assert float(best[1]) >= max(on_the_way) - 1e-4


def test_changes_are_marked() -> None:
    assert marked("a b c", "a x c") == "a [x] c"
    assert marked("a b c", "a c") == "a [...] c"
    assert marked("a b", "a b") == "a b"
    assert marked("", "new") == "[new]"


def test_options_of_the_demo_can_be_read_and_fit_its_budget() -> None:
    for name, written in METHODS.items():
        assert sampler_from_string(written).name == name
    assert demo.BUDGET > demo.DRAFTS.cost().nfe
    assert len(sentences()) >= 24 and len(demo.SHARES) >= 3 and demo.SHARES[-1] == 1.0


def test_a_score_is_plain() -> None:
    score = Score(1.0, 0.5, 8.0, 2.0, 0.1, None)
    assert score.acceptance is None


def test_pictures_are_written_without_touching_global_state(tmp_path: Path) -> None:
    backend = matplotlib.rcParams._get_backend_or_none() if hasattr(matplotlib.rcParams, "_get_backend_or_none") else 0
    points = {"one": [Point(20, 0.6, 0.01), Point(10, 0.5, 0.02)], "two": [Point(10, 0.4)], "none": []}
    path = reward_against_budget(points, tmp_path / "new" / "budget.png", "title", "consensus")
    assert path.read_bytes().startswith(b"\x89PNG")
    after = matplotlib.rcParams._get_backend_or_none() if hasattr(matplotlib.rcParams, "_get_backend_or_none") else 0
    assert backend == after
    assert (reward_against_budget(points, tmp_path / "b.svg")).read_text().startswith("<?xml")


def test_acceptance_is_drawn_from_a_trace(tmp_path: Path) -> None:
    trace = Trace()
    for k in range(3):
        state = Paired(k, 0.0, torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0.1, 0.2]))
        trace.add(state, Info(torch.tensor([0.5, 1.0])), torch.zeros(2), Cost(k + 1.0, k + 1.0), 2)
    assert acceptance(trace, tmp_path / "a.png", "title").read_bytes().startswith(b"\x89PNG")


def test_there_must_be_something_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs to draw"):
        reward_against_budget({"one": []}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="no step"):
        acceptance(Trace(), tmp_path / "x.png")
