"""Worlds: runs are those of the library within their budget, verdicts follow the figures, the report shows them all."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.__main__ import main
from benchmarks.frame import paired, plan, report
from benchmarks.frame.budgets import ACCOUNTS, REWARD_CALLS, budget
from benchmarks.frame.ledger import Row, cross
from benchmarks.frame.paired import Cell, Entry
from benchmarks.frame.plan import Plan, Work
from benchmarks.tasks import world
from benchmarks.tasks.world import PUBLISHED, SINGLE, World, Worlds
from iterref.paired import Mean
from iterref.registry import names
from iterref.report.plots import Panel, Point, panels
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

TINY = "masked-6-3-pairs-a0.5"
ODD = "ancestral:order=confidence"  # not for uniform noise
METHODS = ("iterref", "best_of_n", "metropolis", PUBLISHED, ODD, "iterref:steps=64")
TASK = Worlds()


@pytest.mark.slow
def test_several_processes_find_the_same(tmp_path):
    asked = Plan("world", tmp_path / "one", (), (TINY,), ("metropolis", "best_of_n"), (1,), rows=8, seeds=2)
    one, two = plan.measure(asked)[0], plan.measure(replace(asked, out=tmp_path / "two", jobs=2))[0]
    assert [row | {"seconds": 0} for row in one] == [row | {"seconds": 0} for row in two]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Plan:
    folder = tmp_path_factory.mktemp("bench")
    return Plan("world", folder, (), (TINY, "uniform-6-3-rare-a1"), METHODS, (1,), rows=12, seeds=2)


@pytest.fixture(scope="module")
def found(asked) -> tuple[list[Row], list[Row]]:
    return plan.measure(asked)


def test_runs_are_those_of_the_library_within_their_budget(asked, found):
    rows, facts = found
    assert len(rows) == 2 * len(METHODS) * 2 * 2 and [fact["case"] for fact in facts] == list(asked.cases)
    for row in rows:
        where = World.read(str(row["case"]))
        limit = budget(str(row["account"]), row["budget"] * where.plain)
        if row["note"] is not None:
            assert row["reward"] is None and row["method"] in ("iterref:steps=64", ODD)
            continue
        fitted = sampler_from_string(row["fitted"])
        assert limit is not None and limit.allows(fitted.cost())
        assert (row["nfe"], row["reward_calls"]) == (fitted.cost().nfe, fitted.cost().reward_calls)
    row = next(row for row in rows if row["method"] == "metropolis" and row["seed"] == 1)
    where = World.read(str(row["case"]))
    again = sample(sampler_from_string(row["fitted"]), where.problem(12), seed=1)
    assert float(again.rewards.mean()) == pytest.approx(row["reward"], rel=1e-5)
    assert float(again.rewards.std()) == pytest.approx(row["reward_sd"], rel=1e-5)
    model, tilted = where.made()[0].model, where.made()[0].tilted
    assert float(model.log_prob(again.tokens).mean()) / 6 == pytest.approx(row["log_likelihood"], rel=1e-5)
    assert tilted.mean_reward() == pytest.approx(facts[0]["exact_reward"], rel=1e-5)
    assert row["tv_pair_sd"] > 0 and row["nfe_made"] == pytest.approx(again.cost.nfe, rel=1e-5)


def test_parts_change_nothing_of_a_run():
    cell = cross(case=[TINY], method=["best_of_n"], account=["nfe"], budget=[2], rows=[24], seed=[1])[0]
    whole, parts = Work("world")(cell), Work("world", side_by_side=10)(cell)  # parts of 5 rows
    assert parts.pop("seconds") != whole.pop("seconds")
    # rows that ask the same are asked once a part, and more of them meet in the whole
    assert parts.pop("nfe_made") >= whole.pop("nfe_made")
    assert parts == pytest.approx(whole, nan_ok=True)
    assert parts["reward"] == whole["reward"] and parts["tv_pair"] == whole["tv_pair"]


def test_nothing_is_measured_twice(asked, found, monkeypatch):
    monkeypatch.setattr(world, "sample", None)
    assert plan.measure(asked) == found
    with pytest.raises(ValueError, match="holds runs of 12 rows"):
        plan.measure(replace(asked, rows=13))
    with pytest.raises(TypeError):  # negative control: a new seed is new work
        plan.measure(replace(asked, seeds=3))


def test_the_report_shows_every_world_and_method(asked, found):
    paths = report.write(asked, *found)
    assert all(path.stat().st_size > 0 for path in paths) and sum(path.suffix == ".png" for path in paths) == 4
    text = paths[0].read_text()
    for name in asked.cases:
        assert text.count(f"## {name}\n") == 1
    for method in METHODS[:-1]:
        assert f"| `{method}` |" in text
    assert f"Refused: `{ODD}` (uniform-6-3-rare-a1); the column" in text
    assert f"too small for one run: `iterref:steps=64` ({TINY})" in text and "exact reward " in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block
    with open(paths[1], encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    brought = paired.entries(TASK, found[0], [], found[1])
    assert len(lines) == len(brought) and float(lines[0]["reward_half"]) > 0 and "inf" not in lines[0].values()
    assert "| reward | nfe | `best_of_n` | 2 |" in report.brief(TASK, brought)


def made_up(method: str, reward: float, tv: float = 0.5, budget: int = 1, half: float = 0.1, **more: Any) -> Entry:
    means = {"reward": Mean(reward, half), "tv_pair": Mean(tv, 0.01), "tv_pooled": Mean(tv / 2, 0.01)}
    means |= {"reward_calls": Mean(1), "nfe": Mean(8)}
    account = more.pop("account", "nfe")
    return replace(Entry(Cell(TINY, account, budget), method, method, means, {}, 10.0), **more)


def duels(group: list[Entry], measure: str = "reward") -> dict[str, paired.Duel]:
    return {duel.against: duel for duel in paired.duels(TASK, group, measure)}


def test_verdicts_follow_the_figures():
    ours = made_up("iterref", 9.0, 0.2)
    group = [ours, made_up("smc", 5.0, 0.1), made_up("smc:steps=16", 9.05, 0.3), made_up("iterref:decisions=1", 8.0)]
    reward = duels(group)
    assert set(reward) == {"smc", "iterref:decisions=1"}
    assert reward["smc"].theirs.method == "smc:steps=16" and reward["smc"].ahead.value == pytest.approx(-0.05)
    assert not reward["smc"].ahead.significant and reward["iterref:decisions=1"].ahead.significant
    distance = duels(group, "tv_pair")
    assert distance["smc"].theirs.method == "smc" and distance["smc"].ahead.value == pytest.approx(-0.1)
    lines = report.lost(TASK, group)
    assert "it is worse in tv pooled: 0.15 against 0.1" in lines[2]
    assert len(lines) == 3 and "within the interval" in lines[2] and "**" not in lines[2]
    # beyond the exact mean of 10 there is nothing to win, and whoever gets there is told so
    over = duels([ours, made_up("svdd", 14.0)])["svdd"]
    assert over.ahead.value == pytest.approx(-1.0) and "tilts too much" in report.why(TASK, over)
    assert duels([made_up("iterref", 11.0), made_up("svdd", 14.0)])["svdd"].ahead.value == 0
    # a cell that ours does not fit is no win; the same options under another name are no rival
    small = duels([made_up("smc", 1.0)])["smc"]
    assert small.ours is None and small.ahead is None
    twin = made_up("iterref:tries=16", 9.0, fitted="iterref")
    assert duels([ours, twin]) == {}
    assert "| reward | nfe | `smc` | 1 | 0% | 0 | 1 | 0 | 0 |" in report.dominance(TASK, group)


def test_moves_are_shares_of_the_largest_gain():
    rewards = {0: 2.0, 1: 4.0, 3: 5.5, 10: 6.0}
    group = [made_up(f"iterref:steps=8,moves={8 * m}", r, budget=m, account="moves") for m, r in rewards.items()]
    shares = paired.gains(group, "reward")[(TINY, "iterref:steps=8")]
    assert {moves: round(share.value, 3) for moves, share in shares.items()} == {1: 0.5, 3: 0.875, 10: 1.0}
    assert "| **mean** | `iterref:steps=8` | **50%** | **88%** | **100%** |" in report.moves(TASK, group)
    flat = [made_up(f"iterref:steps=8,moves={m}", 2.0, budget=m, account="moves") for m in (0, 10)]
    assert paired.gains(flat, "reward") == {} and report.moves(TASK, flat) == []


def test_all_methods_take_part_and_every_budget_is_asked_for(tmp_path):
    for plain in (16, 32):
        texts = world.methods(plain)
        assert set(names()) <= set(texts) and len(set(texts)) == len(texts)
        assert {PUBLISHED, SINGLE} <= set(texts)
        for text in texts:
            sampler_from_string(text)
    cells = Plan("world", tmp_path, seeds=1).cells()
    assert {str(World.read(name)) for name in world.WORLDS} == set(world.WORLDS) == {cell["case"] for cell in cells}
    assert {cell["account"] for cell in cells} == set(ACCOUNTS) and {cell["rows"] for cell in cells} == {128}
    assert {cell["budget"] for cell in cells if cell["account"] == "moves"} == set(world.MOVES)
    twice = Plan("world", tmp_path, (), (TINY, TINY + "0"), ("iterref", "iterref"), (2, 2), seeds=1)
    assert len(twice.cells()) == 2
    total, cheap = budget("total", 32), budget("nfe", 2)
    assert total and total.total == 32 and cheap and cheap.reward_calls == 2 * REWARD_CALLS
    assert budget("moves", 3) is None


def test_panels_draw_what_there_is(tmp_path):
    points = [Point(1, 2.0, 0.1), Point(4, 3.0, inf)]
    series = {f"method {i}": points for i in range(9)}
    parts = [Panel(series, "reward", {"exact law": 3.5}, "a world"), Panel({}, "none")]
    path = panels(parts, tmp_path / "a.png", "rows")
    assert path.stat().st_size > 10_000
    with pytest.raises(ValueError, match="no runs to draw"):
        panels([Panel({"a": []}, "reward")], tmp_path / "b.png", "rows")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["world", *arguments])


def test_the_command_writes_rows_as_json_and_does_not_start_again(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "pictures", lambda *given: [])
    out, file = tmp_path / "out", tmp_path / "rows.json"
    options = ["--case", TINY, "--sampler", "iterref", "--sampler", "best_of_n", "--budget", "1,2", "--rows", "8"]
    options += ["--seeds", "1", "--jobs", "1", "--account", "nfe", "--out", str(out), "--json", str(file)]
    done = call(*options)
    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())
    assert len(rows) == 4 and "best_of_n" in done.stdout and str(out / "report.md") in done.stdout
    wanted = "case method nfe reward_calls depth reward reached tv_pair log_likelihood"
    for row in rows:
        assert {*wanted.split(), "seconds"} <= set(row) and None not in [row[name] for name in wanted.split()]
    monkeypatch.setattr(world, "sample", None)
    assert call(*options).stdout == done.stdout


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--case", "masked-24-8-pears-a0.5"], "did you mean 'masked-24-8-pairs-a0.5'"),
        (["--case", "masked-24-8-pairs-a0"], "unknown world 'masked-24-8-pairs-a0'"),
        (["--case", "masked-1-8-pairs-a1"], "unknown world"),
        (["--sampler", "iteref"], "did you mean 'iterref'"),
        (["--sampler", "iterref:tris=2"], "did you mean 'tries'"),
        (["--model", "tiny-news"], "worlds make their own models"),
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


def test_the_option_of_before_still_works_with_a_warning(tmp_path):
    done = call("--out", str(tmp_path / "out"), "--method", "iteref")
    assert done.exit_code == 2 and "did you mean 'iterref'" in done.stderr
    assert done.stderr.startswith("the option --method is called sampler now: use that\n")
