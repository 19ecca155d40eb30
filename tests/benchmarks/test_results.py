"""Results: the pages say what the CSV files say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from click.testing import CliRunner

from benchmarks.rewards.germline import SOURCE
from benchmarks.tasks import results
from tests.support.packages import needs

ROOT = Path(__file__).parents[2]
FOLDERS = Path("benchmarks") / "results"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the pages and of the runs, in which the command writes."""
    copytree(ROOT / "docs", tmp_path / "docs")
    copytree(ROOT / FOLDERS, tmp_path / FOLDERS, ignore=ignore_patterns("*.png", "world", "world512", "defaults"))
    monkeypatch.setattr(results, "HOME", tmp_path)
    yield tmp_path


def test_lines_are_put_between_the_marks_of_a_page_and_nowhere_else(home: Path) -> None:
    page = home / "docs" / "page.md"
    page.write_text("a\n<!-- results: one two -->\nold\n<!-- end -->\nb\n<!-- results: one -->\nkept\n<!-- end -->\n")
    assert results.put("page", "one two", ["new"]) and not results.put("page", "three", ["new"])
    told = page.read_text()
    assert "old" not in told and "<!-- results: one two -->\n\nnew\n\n<!-- end -->\nb\n" in told and "kept" in told


@needs("antiberty", "sapiens-vh", SOURCE)  # whose task cannot be reported without it
def test_the_pages_are_what_the_command_makes_of_the_committed_runs(home: Path) -> None:
    done = CliRunner().invoke(results.command, [str(home / FOLDERS), "--no-pictures"])
    assert done.exit_code == 0, done.output
    pages = [page.name for page in (ROOT / "docs").glob("*.md")]
    changed = [name for name in pages if (ROOT / "docs" / name).read_text() != (home / "docs" / name).read_text()]
    assert changed == [], "run: make results"
    assert (ROOT / FOLDERS / "behind.csv").read_text() == (home / FOLDERS / "behind.csv").read_text()
