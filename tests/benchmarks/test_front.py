"""Reward against log-likelihood, and texts side by side: by hand."""

from __future__ import annotations

from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image

from benchmarks.frame import plan as plans
from benchmarks.frame.front import Place, front, line, picture, table
from benchmarks.frame.plan import GRID_ROWS, SHOWN, Plan, measure
from benchmarks.frame.task import load
from benchmarks.frame.texts import Sample, kept, ranked
from benchmarks.frame.texts import table as shown
from iterref.paired import Mean


def place(method: str, reward: float, likely: float) -> Place:
    return Place(method, Mean(reward, 0.1), Mean(likely, 0.2))


PLACES = [
    place("ancestral", -4.0, -1.0), place("smc:x0_samples=8", -1.0, -3.0), place("smc", -2.0, -3.5),
    place("iterref", 0.0, -2.0), place("auto", -1.0, -1.5), place("beam", -1.0, -1.5),
]  # fmt: skip


def test_the_front_is_what_no_other_beats_and_equals_do_not_beat_each_other() -> None:
    assert [one.method for one in front(PLACES)] == ["iterref", "auto", "beam", "ancestral"]
    assert not PLACES[4].beats(PLACES[5]) and PLACES[3].beats(PLACES[1]) and not PLACES[3].beats(PLACES[0])
    assert front([]) == []


def test_a_line_says_where_ours_stands() -> None:
    assert line("a", PLACES, "auto") == "| a | 6 | `iterref`, `auto`, `beam`, `ancestral` | on the front, beats 2 |"
    assert line("a", PLACES, "smc").endswith("| beaten by 4, beats 0 |") and line("a", PLACES, "mtm").endswith("|  |")
    assert table({"a": PLACES}, "auto:n=2")[0].endswith("| `auto` |")


def test_the_picture_is_small_and_nothing_is_refused(tmp_path: Path) -> None:
    file = picture({"a": PLACES, "b": PLACES[:4], "c": PLACES}, tmp_path / "new" / "front.png", "auto", "log p")
    with Image.open(file) as image:
        assert image.mode == "P" and image.width > 700
    assert file.stat().st_size < 60_000
    with pytest.raises(ValueError, match="nothing to draw"):
        picture({}, tmp_path / "none.png", "auto", "log p")


SAMPLES = [Sample(1.0, -3.0, "a | b"), Sample(1.0, -2.0, "likelier"), Sample(-2.0, -1.0, "*w*"), Sample(0.0, -9.0, "m")]


def test_best_median_and_worst_by_reward_then_judge_then_likelihood() -> None:
    assert [one.text for one in ranked(SAMPLES).values()] == ["likelier", "m", "*w*"]
    assert ranked([Sample(0.0, -inf, "wrong", 0.0), Sample(0.0, -inf, "right", 1.0)])["best"].text == "right"


def test_texts_cannot_break_the_table() -> None:
    lines = shown({"smc:n=2": SAMPLES, "auto": [Sample(-0.0, -1.0, "a | b\n<c>")]}, "log p")
    assert lines[2] == "| smc | best | 1 | -2 | likelier |" and lines[4] == "|  | worst | -2 | -1 | \\*w\\* |"
    assert lines[5] == "| auto | best | 0 | -1 | a \\| b \\<c\\> |"
    both = shown({"smc:n=2": SAMPLES, "smc": SAMPLES}, "")
    assert both[2].startswith("| smc:n=2 |") and both[0] == "| method | of its texts | reward | text |"


def test_a_run_keeps_its_first_texts_beside_their_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the budget that is shown alone, and from the file again."""
    rows = GRID_ROWS + 2
    texts, likely = [f"t{n}" for n in range(rows)], -torch.arange(float(rows))
    written = plans.kept(cast(Any, SimpleNamespace(texts=texts, log_likelihood=likely)))
    assert plans.kept(cast(Any, SimpleNamespace(texts=None))) == {}
    monkeypatch.setattr(plans, "kept", lambda result: written)
    account, budget, _ = SHOWN
    asked = Plan(
        "constraints", tmp_path, cases=("sudoku4",), methods=("ancestral",), budgets=(1, budget), accounts=(account,),
        rows=rows, seeds=2,
    )  # fmt: skip
    measure(asked)
    assert asked.runs.texts is not None
    [line] = asked.runs.texts.rows()
    assert (line["account"], line["budget"], line["seed"]) == SHOWN
    [samples] = kept(asked, "sudoku4").values()
    assert [one.text for one in samples] == [f"t{n}" for n in range(GRID_ROWS)] and samples[3].likely == -3
    assert all(one.judge in (0, 1) for one in samples) and kept(asked, "brackets") == {}


def test_texts_made_from_others_data_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"document": "a dog ran home .", "summary": "a dog ran ."}\n')
    assert load("summarization").keeps and not load("summarization", data=file).keeps
