"""The device benchmark: it ends in its time, goes on after a cell that fails, and tells agreement from its absence."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import agreement
from benchmarks.__main__ import main
from benchmarks.shapes import Case
from benchmarks.tasks import device
from benchmarks.timing import Recorder

SMALL = device.Sizes({"mdlm-170m": 2, "llada-8b": 2}, (8,), (64,), ("",), tries=2, moves=2, repeats=1)


def case(name: str = "mdlm-170m") -> Case:
    return Case(name, 8, "cpu", "bfloat16", vocab=64, shape=device.TINY[name])


def test_the_command_writes_a_page_that_says_no_gpu_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "QUICK", SMALL)
    run = CliRunner().invoke(main, ["device", "--quick", "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    cells, page = json.loads((tmp_path / "device.json").read_text())["cells"], (tmp_path / "device.md").read_text()
    assert [cell["shape"] for cell in cells] == ["mdlm-170m", "llada-8b"] and all(cell["agrees"] for cell in cells)
    for name in device.COLUMNS:
        assert all(cell[name]["median"] > 0 for cell in cells), name
    assert device.NOBODY in page and page.count("| yes |") == 2 and "not measured" not in page
    kept = device.RESULTS / "device.md"
    assert device.NOBODY in kept.read_text() or "Measured on" in kept.read_text()


def test_a_cell_that_fails_is_a_sentence_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[dict[str, Any]]] = []

    def fails(of: Case, sizes: device.Sizes) -> dict[str, Any]:
        if of.name == "mdlm-170m":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(device, "measure", fails)
    device.measured([case(), case("llada-8b")], SMALL, 60.0, lambda cells: made.append(list(cells)))
    assert [cell["skipped"] for cell in made[-1]] == ["out of memory", "RuntimeError: no compiler"]
    assert len(made) == 2


def test_it_ends_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(device, "measure", lambda of, sizes: sleep(30))
    begun = perf_counter()
    device.measured([case(), case()], SMALL, 0.5, lambda cells: made.__setitem__(slice(None), cells))
    assert perf_counter() - begun < 10
    assert made[0]["skipped"] == "the time was over" and "s were left" in made[1]["skipped"]


def test_agreement_is_told_from_its_absence() -> None:
    problem = case().problem(2)
    given = torch.full((2, 8), 63), torch.ones(2), torch.ones(2, 8, dtype=torch.bool), torch.arange(2)
    denoiser = Recorder(problem.denoiser)
    denoiser.probabilities(*given)
    found = agreement.compared(denoiser.calls[0], problem, 64)
    assert found["agrees"] and found["distance"]["max"] == 0 and found["alike"]["median"] == 1

    def another(*asked: torch.Tensor) -> torch.Tensor:
        return problem.denoiser.probabilities(*asked).flip(1)

    other = agreement.compared((another, given), problem, 64)
    assert other["distance"]["max"] > 0.05 and other["alike"]["median"] < 1  # another model, and its share is foretold
    assert other["alike"]["median"] == pytest.approx(other["expected"]["median"], abs=0.06) and other["agrees"]


def test_a_cpu_is_refused_the_whole_sizes() -> None:
    run = CliRunner().invoke(main, ["device", "--device", "cpu"])
    assert run.exit_code == 2 and "add --quick" in run.output
