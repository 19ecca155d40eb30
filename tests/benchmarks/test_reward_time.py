"""Time to a reward: runs are made once, methods stop at the larger target, and the table says what the file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.frame.task import load
from benchmarks.tasks import reward_time


def row(method: str, k: int, reward: float, seconds: float, seed: int = 0) -> dict[str, str | int | float | None]:
    return {"case": "a b", "method": method, "budget": k, "rows": 4, "seed": seed, "reward": reward, "seconds": seconds}


def test_the_table_has_the_least_budget_that_reaches_the_target() -> None:
    rows = [
        row("best_of_n", 8, 1.0, 2.0), row("best_of_n", 32, 3.0, 8.0), row("auto", 1, 0.0, 0.5),
        row("auto", 2, 1.0, 1.0), row("auto", 4, 5.0, 4.0), row("smc:steps=4", 32, 2.0, 9.0),
    ]  # fmt: skip
    lines = reward_time.table(rows)
    assert lines[2].startswith("| a b, 8x | 1 | 2 s | 0.50 (2x) | - | 4.50 (32x) |")
    assert lines[3].startswith("| a b, 32x | 3 | 8 s | 0.50 (4x) | - | - |")
    assert reward_time.curve([*rows, row("auto", 4, 6.0, 6.0, seed=1)], "a b", "auto")[4] == (5.5, 5.0)


def test_a_method_is_written_as_its_task_seeks_the_best() -> None:
    task = load("constraints")
    assert reward_time.variant(task, "sudoku4", "iterref") == "iterref:objective=maximise"
    assert reward_time.variant(task, "sudoku4", "auto") == "auto"


def test_runs_are_made_once_and_stop_at_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_time, "BUDGETS", (1, 8, 32))
    monkeypatch.setattr(reward_time, "METHODS", ("auto",))
    file, page = tmp_path / "runs.csv", tmp_path / "page.md"
    asked = ["reward_time", "--case", "constraints sudoku4", "--rows", "2", "--seeds", "1", "--out", str(file)]
    run = CliRunner().invoke(main, asked)
    assert run.exit_code == 0, run.output
    made = file.read_text()
    assert made.count("best_of_n") == 3 and 1 <= made.count(",auto,") <= 3
    assert "| constraints sudoku4, 32x |" in run.output
    assert CliRunner().invoke(main, asked).exit_code == 0 and file.read_text() == made
    page.write_text("before\n<!-- reward_time -->\nold\n<!-- end -->\nbehind\n")
    assert CliRunner().invoke(main, [*asked, "--page", str(page)]).exit_code == 0
    written = page.read_text()
    assert "old" not in written and "sudoku4, 8x" in written and written.endswith("<!-- end -->\nbehind\n")


def test_the_page_has_the_table_of_the_committed_runs() -> None:
    page = (Path(reward_time.__file__).parents[2] / "docs" / "performance.md").read_text()
    assert "\n".join(reward_time.table(reward_time.ledger(reward_time.FILE).rows())) in page
