"""The frame of all tasks: what is run, once; comparisons row by row, by hand; reports; the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from math import isinf, sqrt

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks.__main__ import main
from benchmarks.frame import paired, report
from benchmarks.frame import plan as plans
from benchmarks.frame.paired import Cell, Entry
from benchmarks.frame.plan import QUICK, Plan, Work, grids, joined, measure, quick_methods
from benchmarks.frame.task import Task, load, names
from iterref.paired import Mean

SMALL = {"cases": ("brackets",), "methods": ("ancestral", "iterref"), "budgets": (1, 2), "rows": 6, "quick": True}


def plan(out, **changes) -> Plan:
    return Plan("constraints", out, **(SMALL | changes))


# Runs


def test_the_cells_are_all_combinations_once(tmp_path):
    cells = plan(tmp_path, seeds=2, methods=("iterref", "iterref", "smc")).cells()
    assert len(cells) == 2 * 2 * 2 * 2 and {cell["account"] for cell in cells} == {"nfe", "total"}
    whole = Plan("constraints", tmp_path, quick=True, **QUICK).cells()
    assert {cell["case"] for cell in whole} == {"sudoku4", "brackets"} and {cell["budget"] for cell in whole} == {1, 4}


def test_quick_methods_are_plain_sampling_the_rivals_and_ours():
    texts = ["ancestral:steps=3", "ancestral", "remdm", "smc", "smc:x0_samples=8", "svdd", "iterref:tries=3"]
    assert quick_methods(texts, "iterref") == ["ancestral:steps=3", "smc", "svdd", "iterref"]


def test_tasks_that_list_moves_are_run_with_them(tmp_path, monkeypatch):
    made = load("constraints", quick=True)
    monkeypatch.setattr(type(made), "moves", lambda self, case: [(0, "ancestral"), (3, "iterref:moves=3")])
    cells = plan(tmp_path, methods=(), quick=False, cases=("brackets",)).cells()
    assert [(c["budget"], c["method"]) for c in cells if c["account"] == "moves"] == [
        (0, "ancestral"), (3, "iterref:moves=3"),
    ]  # fmt: skip


def test_a_run_is_made_once_and_its_scores_are_kept(tmp_path, monkeypatch):
    asked = plan(tmp_path)
    rows, facts = measure(asked)
    assert len(rows) == 8 and facts == [] and all(row["note"] is None for row in rows)
    scores = asked.runs.scores()
    assert {row["measure"] for row in scores} == {"reward", "solved", "j"} and len(scores) == 24
    for row in rows:
        own = next(s for s in scores if s["measure"] == "reward" and all(s[key] == row[key] for key in plans.KEY))
        values = [float(text) for text in str(own["values"]).split()]
        assert len(values) == 6 and np.mean(values) == pytest.approx(row["reward"], rel=1e-3)
        assert row["nfe"] + (row["account"] == "total") * row["reward_calls"] <= row["budget"] * 16
    monkeypatch.setattr(plans, "measured", None)  # whoever runs anything again fails
    assert measure(asked) == (rows, [])
    with pytest.raises(ValueError, match="holds runs of 6 rows"):
        measure(replace(asked, rows=7))


def test_parts_of_a_batch_are_the_batch():
    made, rows = load("constraints", quick=True), torch.arange(7)
    whole = made.sample("brackets", "iterref:steps=2,moves=2,decisions=2", None, rows, 0)
    results = [made.sample("brackets", "iterref:steps=2,moves=2,decisions=2", None, part, 0) for part in rows.split(3)]
    parts = joined(results, [3 / 7, 3 / 7, 1 / 7])
    assert torch.equal(parts.tokens, whole.tokens) and torch.equal(parts.best.reward, whole.best.reward)
    assert torch.equal(parts.rewards, whole.rewards) and parts.asked == whole.asked and parts.texts is None
    assert parts.cost.nfe == pytest.approx(whole.cost.nfe, abs=1)
    cell = {"case": "brackets", "method": "iterref", "account": "nfe", "budget": 1, "rows": 4, "seed": 0}
    narrow, wide = Work("constraints", (), True, side_by_side=2)(cell), Work("constraints", (), True)(cell)
    assert {**narrow, "seconds": 0, "acceptance": 0} == {**wide, "seconds": 0, "acceptance": 0}


def test_a_refusal_is_a_note():
    cell = {"case": "brackets", "method": "best_of_n:steps=64", "account": "total", "budget": 1, "rows": 2, "seed": 0}
    assert "too small" in Work("constraints", (), True)(cell)["note"]


# Comparisons


def test_intervals_cover_the_truth():
    """95 % of them, over 400 made-up sets of three runs of 50 rows; half the spread, and they do not."""
    numbers, hits, narrow = np.random.default_rng(0), 0, 0
    for _ in range(400):
        runs = numbers.normal(3.0, 2.0, (3, 50))
        one = paired.over_seeds([run.mean() for run in runs], [run.std(ddof=1) for run in runs], 50)
        hits += abs(one.value - 3) < one.half
        narrow += abs(one.value - 3) < one.half / 2
    assert 0.92 < hits / 400 < 0.98 and narrow / 400 < 0.8
    seconds = paired.over_seeds([1.0, 3.0], [None, None], 50)
    assert seconds.value == 2 and seconds.half == pytest.approx(12.706, abs=1e-3)  # t of one degree of freedom
    assert isinf(paired.over_seeds([1.0], [None], 50).half)


class Two(Task):
    """A task whose measures are a reward and a judge."""

    name, main = "two", "judge"
    measures = {"reward": "higher", "judge": "higher", "solved": "higher", "worse": "lower"}
    cases = ("a",)

    def ours(self, case: str) -> str:
        return "iterref"

    plain = methods = sample = judge = whole = None


TWO = Two()


def entry(method: str, budget: int, scores: list[float], account: str = "nfe", note: float = 0.0) -> Entry:
    values = np.array(scores)
    means = {"reward": Mean(values.mean(), 0.1), "judge": Mean(values.mean() + note, 0.1)}
    return Entry(Cell("a", account, budget), method, method, means, {"reward": values, "judge": values + note})


def test_seeds_are_brought_together_and_rows_compared_by_hand():
    runs = [
        {"case": "a", "account": "total", "budget": 2, "method": m, "seed": s, "rows": 3, "fitted": m, "note": None,
         "reward": r, "reward_sd": 2.0, "solved": None, "nfe": 4.0}
        for m, s, r in (("smc", 0, 1.0), ("smc", 1, 2.0), ("iterref", 0, 3.0), ("iterref", 1, 5.0))
    ]  # fmt: skip
    told = {("smc", 0): "0 1 2", ("smc", 1): "1 2 3", ("iterref", 0): "2 3 4", ("iterref", 1): "4 5 6"}
    samples = [
        {"case": "a", "account": "total", "budget": 2, "method": m, "seed": s, "measure": "reward", "values": text}
        for (m, s), text in told.items()
    ]
    smc, ours = paired.entries(TWO, [*runs, {**runs[0], "method": "svdd", "note": "no"}], samples)
    assert smc.means["reward"].value == 1.5 and smc.means["reward"].half == pytest.approx(1.96 * 2 / sqrt(6))
    assert "solved" not in smc.means and smc.means["nfe"] == (4.0, 0.0)
    assert smc.scores["reward"].tolist() == [0.5, 1.5, 2.5] and ours.scores["reward"].tolist() == [3, 4, 5]
    by = paired.ahead(TWO, ours, smc, "reward")
    assert (by.value, by.half) == (2.5, 0) and by.significant
    one, other = (replace(each, scores={"worse": each.scores["reward"]}) for each in (ours, smc))
    assert paired.ahead(TWO, one, other, "worse").value == -2.5


def test_pairing_finds_what_two_means_hide():
    """Rows differ by far more than methods do; and where nothing is to be found, nothing is."""
    hard = np.random.default_rng(0).normal(0, 10, 200)
    noise = np.random.default_rng(1).normal(0, 1, 200)
    one, other, same = (entry("m", 1, list(hard + add)) for add in (0.5 + noise, 0 * hard, noise - noise.mean()))
    assert paired.ahead(TWO, one, other, "reward").significant
    assert not paired.ahead(TWO, same, other, "reward").significant
    assert 1.96 * one.scores["reward"].std() / sqrt(200) > 1  # of a mean by itself


def test_a_rival_is_its_best_variant_by_the_reward():
    scores = {
        "smc": [1, 2], "smc:x0_samples=8": [2, 3], "iterref": [0, 9], "iterref:tries=2": [9, 9],
        "drafts+iterref:moves=1": [9, 9], "ancestral@0.1": [0, 1], "mbr": [1, 1],
    }  # fmt: skip
    group = [entry(method, 1, own) for method, own in scores.items()]
    best = paired.rivals(TWO, group, "iterref")
    assert {name: one.method for name, one in best.items()} == {
        "smc": "smc:x0_samples=8", "ancestral": "ancestral@0.1", "mbr": "mbr", "iterref:tries=2": "iterref:tries=2",
        "drafts+iterref:moves=1": "drafts+iterref:moves=1",
    }  # fmt: skip
    found = paired.duels(TWO, [*group, entry("smc", 2, [1, 1])], "reward")
    assert [(duel.cell.budget, duel.against) for duel in found] == [
        (1, "ancestral"), (1, "drafts+iterref:moves=1"), (1, "iterref:tries=2"), (1, "mbr"), (1, "smc"), (2, "smc"),
    ]  # fmt: skip
    assert found[4].ahead.value == 2.0 and found[5].ours is None and found[5].ahead is None


def test_a_case_may_be_without_a_measure():
    """It is compared where it is measured, and a run of before it came is no rival in it."""
    bare = [replace(one, means={"reward": one.means["reward"]}, scores={"reward": one.scores["reward"]})
            for one in (entry("smc", 1, [1, 2]), entry("iterref", 1, [2, 3]))]  # fmt: skip
    known = [entry("smc", 2, [1, 2]), entry("iterref", 2, [2, 4])]
    assert [duel.cell.budget for duel in paired.duels(TWO, bare + known, "reward")] == [1, 2]
    assert [duel.ahead.value for duel in paired.duels(TWO, bare + known, "judge")] == [1.5]
    without = [bare[0], replace(known[1], cell=bare[0].cell)]
    assert paired.duels(TWO, without, "judge") == []
    [left] = paired.duels(TWO, [replace(known[0], cell=bare[1].cell), bare[1]], "judge")
    assert left.ours is not None and left.ahead is None


def test_the_budget_that_reaches_a_level():
    found = [entry("iterref", budget, [value] * 2) for budget, value in ((1, 0.0), (2, 1.0), (4, 3.0))]
    asked = (found, "iterref", "nfe", "reward")
    assert paired.needed(*asked, 1.0, True) == 2 and paired.needed(*asked, -5.0, True) == 1
    assert paired.needed(*asked, 2.0, True) == pytest.approx(2 * sqrt(2))
    assert paired.needed(*asked, 3.1, True) is None
    falling = [entry("iterref", budget, [-value] * 2) for budget, value in ((1, 0.0), (2, 1.0), (4, 3.0))]
    assert paired.needed(falling, "iterref", "nfe", "reward", -2.0, False) == pytest.approx(2 * sqrt(2))


# Reports


def test_the_report_says_who_is_ahead(tmp_path):
    asked = plan(tmp_path, accounts=("nfe",), methods=("ancestral", "smc", "iterref:objective=maximise"))
    paths = report.write(asked, *measure(asked))
    told = paths[0].read_text()
    for part in ("## brackets", "| `smc` |", "Ours ahead in solved", "claims are about reward, solved"):
        assert part in told
    assert paths[2].suffix == ".png" and paths[2].stat().st_size > 10_000
    header, *lines = paths[1].read_text().splitlines()
    assert len(lines) == 6 and header.startswith("case,account,budget,method,fitted,nfe,nfe_half")
    summary = report.brief(asked.task, paired.entries(asked.task, asked.runs.rows(), asked.runs.scores()))
    assert "| reward | nfe | `smc` |" in summary and "`iterref`" not in summary


# Commands


def call(name: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [name, *arguments])


TASKS = ("constraints", "images", "steering", "summarization")


@pytest.mark.parametrize("name", TASKS)
def test_a_few_rows_of_every_task(tmp_path, name, monkeypatch):
    monkeypatch.setattr(report, "pictures", lambda *given: [])  # drawn in tests of their own
    monkeypatch.setattr(plans, "grids", lambda asked: [])
    file = tmp_path / "runs.json"
    made = plans._task(name, (), True)  # the command's own, loaded once
    case, ours = made.cases[0], made.ours(made.cases[0])
    few = ["--case", case, "--rows", "2", "--budget", "1", "--sampler", "ancestral", "--sampler", ours]
    done = call(name, "--quick", *few, "--out", str(tmp_path / "out"), "--json", str(file))
    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())
    assert [row["method"] for row in rows] == ["ancestral", ours] and {row["case"] for row in rows} == {case}
    for row in rows:
        assert row["reward"] is not None and row[made.main] is not None and row["nfe"] > 0
    assert (tmp_path / "out" / "report.md").exists() and f"## {case}" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_quick_version_of_every_task(tmp_path, name):
    file = tmp_path / "runs.json"
    done = call(name, "--quick", "--out", str(tmp_path / "out"), "--json", str(file))
    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())
    made = load(name, quick=True)
    assert {row["case"] for row in rows} == set(made.cases) and {row["budget"] for row in rows} == {1, 4}
    ours = [row for row in rows if row["budget"] == 4 and row["method"] == made.ours(row["case"])]
    plain = [row for row in rows if row["budget"] == 4 and row["method"].startswith("ancestral")]
    assert np.mean([row["reward"] for row in ours]) > np.mean([row["reward"] for row in plain])


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("constraints", "--case", "sudoku5"), "constraints has no case 'sudoku5'"),
        (("constraints", "--budget", "2,x"), "the budgets '2,x' cannot be read"),
        (("constraints", "--set", "limit"), "the option 'limit' cannot be read"),
        (("constraints", "--set", "lmit=3"), "constraints does not take that"),
        (("constraints", "--data", "nowhere.txt"), "there is no file nowhere.txt"),
        (("summarization", "--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("images", "--data", "x"), "images reads no data"),
    ],
)
def test_wrong_use_exits_with_2_and_a_sentence(tmp_path, arguments, sentence):
    done = call(*arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() and done.stdout == ""


def test_an_unknown_task_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'constraints'"):
        load("constrants")
    assert "there is no task 'wrld': did you mean 'world'?" in call("wrld").stderr
    with pytest.raises(ValueError, match="speed compares no methods: run it by python -m benchmarks speed"):
        load("speed")


def test_the_list_of_tasks_is_that_of_the_files_and_needs_no_torch():
    script = "import sys\nfrom benchmarks.__main__ import main\ntry:\n    main(['--help'])\nfinally:\n    "
    script += "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and all(f"\n  {name} " in done.stdout for name in names()), done.stderr


@pytest.mark.parametrize("name", names())
def test_every_task_has_help_and_refuses_what_it_does_not_know(name):
    shown = call(name, "--help")
    assert shown.exit_code == 0 and shown.stdout.startswith("Usage:")
    refused = call(name, "--nonsense")
    assert refused.exit_code == 2 and "No such option" in refused.stderr


def test_what_is_written_lies_in_out_of_the_current_folder_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "pictures", lambda *given: [])
    monkeypatch.chdir(tmp_path)
    small = ["--quick", "--case", "brackets", "--sampler", "ancestral:steps=1", "--budget", "1", "--rows", "2"]
    done = call("constraints", *small, "--json", "-")
    assert done.exit_code == 0 and {run["method"] for run in json.loads(done.stdout)} == {"ancestral:steps=1"}
    assert "written: out/constraints-quick/runs.csv" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error, code, told", [
    (RuntimeError("the device is gone"), 1, "Error: the device is gone"),
    (KeyboardInterrupt(), 1, "interrupted; finished runs are kept in out/images: rerun the command to resume"),
])  # fmt: skip
def test_a_failure_on_the_way_is_1_and_ctrl_c_says_how_to_go_on(error, code, told, monkeypatch):
    def raised(*given: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(plans, "measure", raised)
    done = call("images")
    assert done.exit_code == code and told in done.stderr and "Traceback" not in done.stderr


def test_grids_of_samples_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "GRID", 1)
    asked = Plan("images", tmp_path, quick=True, cases=("masked",), rows=10)
    assert grids(asked) == [tmp_path / "masked-grid.png"]
    drawn = (tmp_path / "masked-grid.png").read_bytes()
    assert drawn[:4] == b"\x89PNG" and len(drawn) > 5_000
    (tmp_path / "masked-grid.png").write_bytes(b"kept")
    assert grids(asked) and (tmp_path / "masked-grid.png").read_bytes() == b"kept"
    assert grids(plan(tmp_path)) == []  # words have no pictures
