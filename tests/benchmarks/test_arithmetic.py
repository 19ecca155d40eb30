"""Worked sums: the generator against arithmetic, the rule for steps against broken ones, the task on a stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import iterref
from benchmarks.models.tiny_arith import WEIGHTS
from benchmarks.sums import HELD, STORIES, broken_steps, sums
from benchmarks.tasks.arithmetic import METHODS, PLAIN, Arithmetic, elected, table
from iterref.budget import Budget
from iterref.rewards import MathAnswer
from tests.support.fakes import FakeDenoiser, FakeModel

SOME = list(islice(sums(0, held=False), 600))


def test_problems_are_right_by_arithmetic_of_another_hand() -> None:
    for one in SOME:
        assert one.answer > 0 and MathAnswer(symbolic=False)([one.working], reference=[one.answer]) == [1]
        if one.kind == "addition":
            assert eval(one.prompt.removeprefix("What is ").rstrip("?")) == one.answer
        else:
            first, second = one.working.split()[:2]
            for step in (first, second):
                left, _, right = step.partition("=")
                assert eval(left) == int(right)
            assert second.startswith(first.partition("=")[2]) and second.endswith(f"={one.answer}")
    told = {shape for one in SOME for _, shape in STORIES if shape.split("} ")[1].split(" ")[0] in one.prompt}
    assert len(told) >= 3 and {one.kind for one in SOME} == {"addition", "story"}


def test_what_is_held_out_is_apart_and_the_seed_says_which_problems() -> None:
    held = list(islice(sums(0, held=True), 300))
    assert not {one.prompt for one in held} & {one.prompt for one in SOME}
    assert all(one.held for one in held) and not any(one.held for one in SOME)
    assert held == list(islice(sums(0, held=True), 300)) != list(islice(sums(1, held=True), 300))
    share = np.mean([one.held for one in [*islice(sums(2, True), 50), *islice(sums(2, False), 50 * (HELD - 1))]])
    assert share == pytest.approx(1 / HELD)


@pytest.mark.parametrize(
    ("working", "faults"),
    [
        ("7+6=13 4+8+1=13 3+5+1=9 answer: 933", 0),
        ("7+6=13 4+8=13 3+5+1=9 answer: 933", 2),  # a carry that was dropped, and a sum that is wrong then
        ("7+6=13 4+8+1=13 3+5+1=9 answer: 943", 1),
        ("7+6=12 4+8+1=13 3+5+1=9 answer: 933", 2),
        ("34+8=42 42-5=37 answer: 37", 0),
        ("34+8=42 41-5=36 answer: 36", 1),
        ("34+8=41 41-5=36 answer: 36", 1),
        ("34+8=42 42-5=37 answer: 36", 1),
        ("6*7=42 42+1=43 answer: 43", 0),
        ("answer: 933", 4),
        ("7+6=13 answer: 13", 4),
        ("7+6=13 4+8 answer: 13", 4),
        ("", 4),
    ],
)
def test_faults_of_a_working_are_counted(working: str, faults: int) -> None:
    assert broken_steps([working]) == [-faults] and str(broken_steps(["34+8=42 42-5=37 answer: 37"])[0]) == "0.0"


def test_every_working_that_is_taught_holds() -> None:
    assert not any(broken_steps([one.working for one in SOME]))


def test_the_most_frequent_answer_is_elected() -> None:
    assert elected(["answer: 4", "answer: 5", "so 5", "none"]) == 1
    assert elected(["none at all", "", "answer: 4"]) in (0, 2) and elected(["", ""]) == 0
    assert elected(["answer: 4", "answer: 5"]) == 0


class Sums(FakeModel):
    """The words of `FakeModel`, one law for every problem."""

    def prepare(self, prompts: Sequence[str]) -> tuple[FakeDenoiser, Tensor, Tensor]:
        return super().prepare(["word"] * len(prompts))


@pytest.mark.parametrize("budget", [Budget(nfe=16, reward_calls=256), Budget(total=80)])
@pytest.mark.parametrize("case", ["key", "steps"])
def test_every_method_keeps_its_budget_and_every_figure_is_there(case: str, budget: Budget) -> None:
    of, rows = Arithmetic(Sums()), torch.arange(6)
    for method in METHODS:
        result = of.sample(case, method, budget, rows, 0)
        assert budget.allows(result.asked), method
        judged, whole = of.judge(case, result, rows), of.whole(case, result, rows)
        assert {*judged, *whole} == {*of.measures} and all(one.shape == (6,) for one in judged.values())
    assert of.sample(case, "vote", budget, rows, 0).asked.reward_calls == 0
    with pytest.raises(ValueError, match=f"is too small for a draft of {PLAIN} NFE: raise it"):
        of.sample(case, "vote", Budget(nfe=PLAIN - 1), rows, 0)


def test_rows_do_not_know_of_each_other() -> None:
    of, rows, budget = Arithmetic(Sums()), torch.arange(5), Budget(nfe=16, reward_calls=256)
    for method in ("vote", "ancestral:order=confidence", "auto"):
        whole, part = of.sample("steps", method, budget, rows, 1), torch.tensor([3, 1])
        assert torch.equal(of.sample("steps", method, budget, part, 1).tokens, whole.tokens[part])


def test_the_table_shows_what_was_run(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(
        "case,method,account,budget,rows,accuracy,accuracy_sd,note\n"
        "key,auto,nfe,2,100,0.5,0.5,\nkey,vote,nfe,2,100,,,too small\nkey,auto,total,2,100,0.4,0.5,\n"
        "key,auto,nfe,8,100,0.8,0.5,\nsteps,auto,nfe,2,100,0.9,0.1,\n"
    )
    told = table(tmp_path / "runs.csv", "key")
    assert "| method | NFE 2x | NFE + calls 2x |" in told and "| `auto` | 0.50 | 0.40 |" in told
    assert "| `vote` |  |  |" in told


def test_the_bundled_model_writes_sums_and_is_not_always_right() -> None:
    """Problems that it never saw; a model that was always right would leave nothing to search for."""
    of, rows = Arithmetic(iterref.load(WEIGHTS)), torch.arange(60)
    result = of.sample("steps", "ancestral:order=confidence", Budget(nfe=8), rows, 0)
    assert result.texts is not None and sum(" answer: " in text for text in result.texts) >= 57
    assert 0.1 < of.judge("steps", result, rows)["accuracy"].mean() < 0.95
    model = of.model
    texts = [one.working for one in SOME[:50]]
    assert model.decode(model.encode(texts)) == texts  # numbers stay numbers
