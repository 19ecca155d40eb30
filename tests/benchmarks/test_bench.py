"""Benchmarks: runs are made once and remembered, intervals cover, verdicts follow the figures, the command refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from math import inf, isinf
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.frame.summary import Mean, Summary
from click.testing import CliRunner, Result
from iterref.bench import matrix, report, summary, world

from benchmarks.frame.budgets import ACCOUNTS, REWARD_ROWS, budget
from benchmarks.frame.ledger import Ledger, Row, cross
from benchmarks.tasks.world import PUBLISHED, SINGLE, Task, World
from iterref import cli
from iterref.plots import Panel, Point, panels
from iterref.registry import names, parse
from iterref.run import sample

TINY = "masked-6-3-pairs-a0.5"
ODD = "ancestral:order=confidence"  # not for uniform noise
METHODS = ("iterref", "best_of_n:steps=4", "best_of_n", "metropolis", PUBLISHED, SINGLE, ODD, "iterref:steps=64")


def square(cell: Row) -> Row:
    return {"square": int(cell["a"] or 0) ** 2, "half": 0.5 if cell["b"] == "x" else float("nan")}


def ledger_of(folder: Path) -> Ledger:
    return Ledger(folder / "deep" / "runs.csv", ("a", "b"), ("square", "half", "note"))


def test_a_run_is_made_once(tmp_path):
    ledger, made = ledger_of(tmp_path), []

    def work(cell: Row) -> Row:
        made.append(cell)
        return square(cell)

    cells = cross(a=[1, 2], b=["x", "y"])
    found = matrix.run(cells[:3], work, ledger)
    assert made == cells[:3]
    assert found[1] == {"a": 1, "b": "y", "square": 1, "half": None, "note": None}
    assert matrix.run(cells[::-1], work, ledger)[0]["square"] == 4 and made == cells
    assert matrix.run(cells, work, ledger) == ledger.rows() and len(made) == 4
    assert matrix.run([cells[0]] * 2, work, ledger_of(tmp_path / "new"))[0]["square"] == 1 and len(made) == 5


def test_what_broke_off_goes_on(tmp_path):
    ledger, cells = ledger_of(tmp_path), cross(a=[1, 2, 3], b=["x"])

    def tired(cell: Row) -> Row:
        if cell["a"] == 3:
            raise OSError("no more")
        return square(cell)

    threads = torch.get_num_threads()
    with pytest.raises(OSError):
        matrix.run(cells, tired, ledger)
    assert torch.get_num_threads() == threads
    assert [row["a"] for row in ledger.rows()] == [1, 2]
    text = ledger.path.read_text()
    ledger.path.write_text(text[:-4])  # as a process that died while writing leaves it
    assert [row["a"] for row in ledger.rows()] == [1]
    assert [row["square"] for row in matrix.run(cells, square, ledger)] == [1, 4, 9]
    ledger.add({"a": 1, "b": "x", "square": 10.25, "note": 'said "so", twice'})
    assert ledger.rows()[0] == {"a": 1, "b": "x", "square": 10.25, "half": None, "note": 'said "so", twice'}
    with pytest.raises(ValueError, match="other columns than this benchmark writes"):
        replace(ledger, measured=("cube",)).rows()


@pytest.mark.slow
def test_several_processes_find_the_same(tmp_path):
    task = Task(tmp_path / "one", (TINY,), ("metropolis", "best_of_n"), (1,), rows=8, seeds=2)
    one, two = world.measure(task)[0], world.measure(replace(task, out=tmp_path / "two", jobs=2))[0]
    assert [row | {"seconds": 0} for row in one] == [row | {"seconds": 0} for row in two]


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Task:
    return Task(tmp_path_factory.mktemp("bench"), (TINY, "uniform-6-3-rare-a1"), METHODS, (1,), rows=24, seeds=2)


@pytest.fixture(scope="module")
def found(task) -> tuple[list[Row], list[Row]]:
    return world.measure(task)


def test_runs_are_those_of_the_library_within_their_budget(task, found):
    rows, facts = found
    assert len(rows) == 2 * len(METHODS) * 2 * 2 and [fact["world"] for fact in facts] == list(task.worlds)
    for row in rows:
        where = World.read(str(row["world"]))
        limit = budget(str(row["account"]), row["budget"] * where.plain)
        if row["note"] is not None:
            assert row["reward"] is None and row["method"] in ("iterref:steps=64", ODD)
            continue
        fitted = parse(row["fitted"])
        assert limit is not None and limit.allows(fitted.cost())
        assert (row["denoiser_rows"], row["reward_rows"]) == (fitted.cost().denoiser, fitted.cost().reward)
    row = next(row for row in rows if row["method"] == "metropolis" and row["seed"] == 1)
    where = World.read(str(row["world"]))
    again = sample(parse(row["fitted"]), where.problem(24), seed=1)
    assert float(again.rewards.mean()) == pytest.approx(row["reward"], rel=1e-5)
    assert float(again.rewards.std()) == pytest.approx(row["reward_sd"], rel=1e-5)
    model, tilted = where.made()[0].model, where.made()[0].tilted
    assert float(model.log_prob(again.tokens).mean()) / 6 == pytest.approx(row["log_likelihood"], rel=1e-5)
    assert tilted.mean_reward() == pytest.approx(row["exact_reward"], rel=1e-5)


def test_parts_change_nothing_of_a_run(monkeypatch):
    cell = cross(world=[TINY], method=["best_of_n"], account=["denoiser"], budget=[2], rows=[24], seed=[1])[0]
    whole = world.measured(cell)
    monkeypatch.setattr(world, "SIDE_BY_SIDE", 5 * 4)  # 4 samples of 8 steps side by side: parts of 5 rows
    parts = world.measured(cell)
    assert parts.pop("seconds") != whole.pop("seconds")
    # rows that ask the same are asked once a part, and more of them meet in the whole
    assert parts.pop("denoiser_rows_made") >= whole.pop("denoiser_rows_made")
    assert parts == pytest.approx(whole, nan_ok=True)
    assert parts["reward"] == whole["reward"] and parts["tv_pair"] == whole["tv_pair"]


def test_nothing_is_measured_twice(task, found, monkeypatch):
    monkeypatch.setattr(world, "sample", None)
    assert world.measure(task) == found
    with pytest.raises(ValueError, match=f"holds runs of 24 rows of {TINY}"):
        world.measure(replace(task, rows=25))
    with pytest.raises(TypeError):  # negative control: a new seed is new work
        world.measure(replace(task, seeds=3))


def test_the_report_shows_every_world_and_method(task, found):
    paths = report.write(*found, task.out)
    assert all(path.stat().st_size > 0 for path in paths) and sum(path.suffix == ".png" for path in paths) == 4
    text, tables = paths[0].read_text(), paths[1].read_text()
    for name in task.worlds:
        assert tables.count(f"## {name}\n") == 1
    for method in METHODS[:-1]:
        assert f"| `{method}` |" in tables
    assert f"Refused: `{ODD}` (uniform-6-3-rare-a1); the column" in text
    assert "too small for one run: `iterref:steps=64` (denoiser)" in text
    assert "What the published procedure loses" in text
    for block in (text + tables).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block
    with open(paths[2], encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(summary.summarised(found[0])) and float(lines[0]["reward_half"]) > 0
    assert "of 2" in report.brief(found[0])


def made_up(method: str, reward: float, tv: float = 0.5, budget: int = 1, half: float = 0.1, **more: object) -> Summary:
    means = {"reward": Mean(reward, half), "tv_pair": Mean(tv, 0.01), "tv_pooled": Mean(tv / 2, 0.01)}
    means |= {"reward_rows": Mean(1), "denoiser_rows": Mean(8)}
    return replace(Summary("w", "denoiser", budget, method, method, means, 10.0, 0.0), **more)


def test_intervals_cover_the_truth():
    """95 % of them, over 400 made-up sets of three runs of 50 rows; half the spread, and they do not."""
    numbers, hits, narrow = np.random.default_rng(0), 0, 0
    for _ in range(400):
        runs = numbers.normal(3.0, 2.0, (3, 50))
        rows = [{"reward": run.mean(), "reward_sd": run.std(ddof=1), "rows": 50, "seconds": 1.0} for run in runs]
        one = summary._mean(rows, "reward")
        hits += abs(one.value - 3) < one.half
        narrow += abs(one.value - 3) < one.half / 2
    assert 0.92 < hits / 400 < 0.98 and narrow / 400 < 0.8
    seconds = summary._mean([{"seconds": 1.0}, {"seconds": 3.0}], "seconds")
    assert seconds.value == 2 and seconds.half == pytest.approx(12.706, abs=1e-3)  # t of one degree of freedom
    assert isinf(summary._mean([{"seconds": 1.0}], "seconds").half)


def test_verdicts_follow_the_figures():
    ours = made_up("iterref", 9.0, 0.2)
    group = [ours, made_up("smc", 5.0, 0.1), made_up("smc:steps=16", 9.05, 0.3), made_up("iterref:blocks=1", 8.0)]
    reward = {duel.against: duel for duel in summary.duels(group, "iterref", "reward", ["denoiser"])}
    assert set(reward) == {"smc", "iterref:blocks=1"}
    assert reward["smc"].theirs.method == "smc:steps=16" and reward["smc"].ahead.value == pytest.approx(-0.05)
    assert not reward["smc"].ahead.clear and reward["iterref:blocks=1"].ahead.clear
    distance = {duel.against: duel for duel in summary.duels(group, "iterref", "tv_pair", ["denoiser"])}
    assert distance["smc"].theirs.method == "smc" and distance["smc"].ahead.value == pytest.approx(-0.1)
    lines = report.lost(list(reward.values()))
    assert "further from the law: pooled distance 0.150 against 0.100" in lines[2]
    assert len(lines) == 3 and "within the interval" in lines[2] and "**" not in lines[2]
    # beyond the exact mean of 10 there is nothing to win, and whoever gets there is told so
    over = summary.duels([ours, made_up("svdd", 14.0)], "iterref", "reward", ["denoiser"])[0]
    assert over.ahead.value == pytest.approx(-1.0) and "tilts too much" in report.why(over)
    assert summary.duels([made_up("iterref", 11.0), made_up("svdd", 14.0)], "iterref", "reward", ["denoiser"])[
        0
    ].ahead.value == 0
    # a cell that ours does not fit is no win; the same options under another name are no rival
    assert summary.duels([made_up("smc", 1.0)], "iterref", "reward", ["denoiser"])[0].ahead.value == -inf
    twin = made_up("iterref:tries=16", 9.0, fitted="iterref")
    assert summary.duels([ours, twin], "iterref", "reward", ["denoiser"]) == []
    assert summary.duels(group, "iterref", "reward", ["total"]) == []
    table = report.dominance(list(reward.values()))
    assert any("`smc` | 1 | 0% | 0 | 1 | 0 | 0 |" in line for line in table)


def test_moves_are_shares_of_the_largest_gain():
    rewards = {0: 2.0, 1: 4.0, 3: 5.5, 10: 6.0}
    group = [made_up(f"iterref:late=1,moves={8 * m}", r, budget=m, account="moves") for m, r in rewards.items()]
    shares = summary.gains(group)[("w", "iterref:late=1")]
    assert {moves: round(share.value, 3) for moves, share in shares.items()} == {1: 0.5, 3: 0.875, 10: 1.0}
    assert "| **mean** | `iterref:late=1` | **50%** | **88%** | **100%** |" in report.moves_a_step(group)
    flat = [made_up(f"iterref:late=1,moves={m}", 2.0, budget=m, account="moves") for m in (0, 10)]
    assert summary.gains(flat) == {} and report.moves_a_step(flat) == []


def test_all_methods_take_part_and_every_budget_is_asked_for(tmp_path):
    for plain in (16, 32):
        texts = world.methods(plain)
        assert set(names()) <= set(texts) and len(set(texts)) == len(texts)
        assert {PUBLISHED, SINGLE} <= set(texts)
        for text in texts:
            parse(text)
    cells = Task(tmp_path, seeds=1).cells()
    assert {str(World.read(name)) for name in world.WORLDS} == set(world.WORLDS) == {cell["world"] for cell in cells}
    assert {cell["account"] for cell in cells} == set(ACCOUNTS)
    assert {cell["budget"] for cell in cells if cell["account"] == "moves"} == set(world.MOVES)
    twice = Task(tmp_path, (TINY, TINY + "0"), ("iterref", "iterref"), (2, 2), seeds=1)
    assert len(twice.cells()) == 2
    total, cheap = budget("total", 32), budget("denoiser", 2)
    assert total and total.total == 32 and cheap and cheap.reward == 2 * REWARD_ROWS and budget("moves", 3) is None


def test_panels_draw_what_there_is(tmp_path):
    points = [Point(1, 2.0, 0.1), Point(4, 3.0, inf)]
    series = {f"method {i}": points for i in range(9)}
    parts = [Panel(series, "reward", {"exact law": 3.5}, "a world"), Panel({}, "none")]
    path = panels(parts, tmp_path / "a.png", "rows")
    assert path.stat().st_size > 10_000
    with pytest.raises(ValueError, match="no runs to draw"):
        panels([Panel({"a": []}, "reward")], tmp_path / "b.png", "rows")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["bench", "world", *arguments])


def test_the_command_writes_rows_as_json_and_does_not_start_again(tmp_path, monkeypatch):
    out, file = tmp_path / "out", tmp_path / "rows.json"
    asked = ["--world", TINY, "--method", "iterref", "--method", "best_of_n", "--budget", "1,2", "--rows", "8"]
    asked += ["--seeds", "1", "--jobs", "1", "--account", "denoiser", "--out", str(out), "--json", str(file)]
    done = call(*asked)
    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())
    assert len(rows) == 4 and "best_of_n" in done.stdout and str(out / "report.md") in done.stdout
    wanted = "world method denoiser_rows reward_rows depth reward exact_reward unguided_reward tv_pair log_likelihood"
    for row in rows:
        assert {*wanted.split(), "seconds"} <= set(row) and None not in [row[name] for name in wanted.split()]
    monkeypatch.setattr(world, "sample", None)
    assert call(*asked).stdout == done.stdout


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--world", "masked-24-8-pears-a0.5"], "did you mean 'masked-24-8-pairs-a0.5'"),
        (["--world", "masked-24-8-pairs-a0"], "unknown world 'masked-24-8-pairs-a0'"),
        (["--world", "masked-1-8-pairs-a1"], "unknown world"),
        (["--method", "iteref"], "did you mean 'iterref'"),
        (["--method", "iterref:tris=2"], "did you mean 'tries'"),
        (["--budget", "1,x"], "the budgets '1,x' cannot be read"),
        (["--budget", "0"], "budgets must be at least 1"),
        (["--account", "depth"], "Invalid value for '--account'"),
        (["--rows", "1"], "not in the range"),
    ],
)
def test_wrong_use_exits_with_2_and_a_sentence(tmp_path, arguments, sentence):
    done = call("--out", str(tmp_path / "out"), *arguments)
    assert done.exit_code == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() and done.stdout == ""


def test_help_does_not_import_torch():
    script = (
        "import sys\nfrom iterref.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
    )
    for arguments in (["bench", "--help"], ["bench", "world", "--help"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr
