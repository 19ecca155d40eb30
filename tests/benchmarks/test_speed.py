"""The speed benchmark: its figures mean what they say, on models small enough to be timed in a second."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import overheads, shapes
from benchmarks.__main__ import main
from benchmarks.tasks import speed
from iterref.denoiser import Wrapped
from iterref.estimation import peak_memory
from iterref.models.dit import DitOptions

SMALL = speed.Plan(rows=4, tries=3, repeats=2, steps=1, moves=4, batches=(2, 4))
GROWN = overheads.growths
KEYS = {"overhead", "tries_64_over_1", "tries_128_over_64", "rows_per_second", "reward_over_denoiser",
        "head_rows_saved", "peak_bytes"}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.DITS, "random-2", DitOptions(vocab=50, width=16, blocks=1, heads=2, condition=8))
    monkeypatch.setitem(shapes.LENGTHS, "random-2", 6)
    monkeypatch.setattr(speed, "DRAWN", (2, 16, 5000))
    monkeypatch.setattr(shapes, "LLADA", {**shapes.LLADA, "vocab_size": 200, "hidden_size": 8,
                        "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                        "num_key_value_heads": 1})  # fmt: skip


@pytest.mark.parametrize("name", ["random-2", "llada-8b"])
def test_all_figures_are_there(name: str) -> None:
    found = speed.measure(shapes.Case(name, 6), SMALL)
    for key in {*KEYS, "batch_4_over_2", "seconds_a_row_2", "seconds_a_row_4"}:
        value = found[key]
        assert 0 <= value["min"] <= value["median"] <= value["max"], key
    assert found["rows_per_second"]["min"] > 0 and found["peak_bytes"]["max"] > 1000
    assert 0 < found["head_rows_saved"]["median"] < 1
    assert found["case"] == name and found["positions"] == 6 and found["threads"] == torch.get_num_threads()


class Slow(Wrapped):
    """A denoiser that is busy for some time, so that its share of it is known."""

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        begun = process_time()
        while process_time() < begun + 0.03:
            pass
        return self.denoiser(*given)


def test_overhead_is_what_is_no_call() -> None:
    problem = shapes.Case("random-2").problem(4)
    slow = speed.replace(problem, denoiser=Slow(problem.denoiser))
    assert speed.overhead(slow, SMALL)["overhead"]["median"] < 1.5  # next to 30 ms a call, little is left
    asked: list[int] = []

    def reward(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(tokens))
        return tokens.sum(1).double()

    recorded = speed.Recorder(reward)
    assert recorded(torch.ones(3, 2), rows=torch.arange(3)).tolist() == [2, 2, 2]
    recorded.again()
    assert asked == [3, 3] and len(recorded.calls) == 1


def test_the_peak_is_that_of_known_work() -> None:
    def work() -> None:
        one = torch.zeros(1000, dtype=torch.float64)
        two = one + 1
        del one
        (two * 2).sum()

    assert peak_memory(work, torch.device("cpu")) == pytest.approx(16_000, abs=200)


def test_draws_are_faster_than_passes_of_gumbel() -> None:
    found = speed.draws(torch.device("cpu"), 2)
    assert found["gumbel_over_draws"]["median"] > 3


def test_the_command_writes_a_table_and_json(tmp_path: Any) -> None:
    file = tmp_path / "speed.json"
    run = CliRunner().invoke(
        main, ["speed", "--quick", "--case", "random-2", "--rows", "4", "--repeats", "1", "--json", str(file)]
    )
    assert run.exit_code == 0, run.output
    found = json.loads(file.read_text())
    assert set(found["cases"][0]) >= KEYS and set(found["draws"]) == {"gumbel_over_draws", "draw_seconds"}
    assert "| overhead |" in run.output


def test_methods_are_timed_and_stand_beside_an_earlier_commit(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("iterref:tries=2,steps=1,moves=2", "svdd:tries=2,steps=2")
    monkeypatch.setattr(overheads, "METHODS", few)
    monkeypatch.setattr(overheads, "QUICK", ((50, 6, (1, 2)),))
    grows = ("tries", lambda n: f"iterref:tries={n},steps=1,moves=2", (2, 4), overheads.fixed(50, 6, 2))
    monkeypatch.setattr(overheads, "growths", lambda repeats: GROWN(repeats, [grows]))
    file = tmp_path / "speed.json"
    arguments = ["speed", "--quick", "--methods", "--repeats", "1"]
    run = CliRunner().invoke(main, [*arguments, "--json", str(file)])
    assert run.exit_code == 0, run.output
    found = json.loads(file.read_text())
    assert [(row["method"], row["rows"]) for row in found["methods"]] == [(text, n) for n in (1, 2) for text in few]
    assert all(row["overhead"]["median"] > 0 for row in found["methods"]) and found["growth"][0]["ratio"]["median"] > 0
    found["methods"][0]["overhead"] = {"min": 7.5, "median": 7.5, "max": 7.5}
    file.write_text(json.dumps(found))
    run = CliRunner().invoke(main, [*arguments, "--baseline", str(file)])
    assert run.exit_code == 0 and "before 7.5 |" in run.output, run.output


def test_cases_stand_beside_an_earlier_commit() -> None:
    row = {"case": "random-2", "positions": 6, "overhead": {"min": 1.0, "median": 1.5, "max": 2.0}}
    line = speed.table([row], [{**row, "overhead": {"min": 3.0, "median": 3.0, "max": 3.0}}]).splitlines()[-1]
    assert line == "| overhead | 1.5 (1 to 2), before 3 |"
    assert speed.table([row], [{**row, "case": "another"}]).endswith("| overhead | 1.5 (1 to 2) |")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--case", "random-3"], "no shape 'random-3' to time: choose one of random-2"),
        (["--case", "random-2", "--reward", "rouge"], "random weights and no texts"),
        (["--case", "tiny-news", "--length", "9"], "its own length"),
        (["--device", "nowhere"], "there is no device 'nowhere'"),
        (["--dtype", "int8"], "unknown precision 'int8'"),
        (["--rows", "0"], "0 is not in the range"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], sentence: str) -> None:
    run = CliRunner().invoke(main, ["speed", *arguments])
    assert run.exit_code == 2 and sentence in run.output
    with pytest.raises(ValueError, match="nothing can be timed"):
        speed.Plan(rows=0)
