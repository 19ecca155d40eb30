"""Every example runs, offline and from any folder, and prints something; so does the notebook, cell by cell."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.support.packages import needs

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOUBLED = {"sentiment": "tour"}  # slow ones, and where the same calls are made
NEEDS = {"meaning": [needs("minilm")]}  # checkpoints inside packages
NOTEBOOK = ROOT / "examples" / "tour.ipynb"
# A notebook's kernel is a process of its own, and so is its client here: what they open and warn of is not ours.
KERNEL = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text") or output.data.get("text/html", ""))
"""


def run(script: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script prints. In this process, which has torch already; every warning is an error."""
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(file, id=file.stem, marks=[pytest.mark.slow] * (file.stem in DOUBLED) + NEEDS.get(file.stem, []))
        for file in EXAMPLES
    ],
)
def test_example_runs(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(run(script, capsys).splitlines()) >= 3
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60


def test_there_are_examples_and_a_broken_one_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = "quickstart sentiment summaries infilling keywords new_reward new_sampler new_model digits".split()
    assert set(wanted) <= {script.stem for script in EXAMPLES}
    broken = tmp_path / "broken.py"
    broken.write_text("import iterref\niterref.generate(None, [])\n")
    with pytest.raises(ValueError, match="there are no prompts"):
        run(broken, capsys)


def execute(notebook: Path) -> None:
    """Runs the cells in this process, and prints what a kernel would show of the last expression of each."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, str(notebook), "exec"), names)
            shown = eval(compile(ast.Expression(last.value), str(notebook), "eval"), names) if last else None
            if shown is not None:
                print(getattr(shown, "_repr_html_", shown.__repr__)())


def test_the_notebook_runs_from_its_first_cell_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    execute(NOTEBOOK)
    shown = capsys.readouterr().out
    assert "exactly    mean reward" in shown and "<table" in shown
    assert (tmp_path / "tour.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", KERNEL, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exactly    mean reward" in done.stdout and "<table" in done.stdout


def test_the_notebook_is_stored_without_outputs_and_a_broken_one_is_noticed(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 5
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    notebook.cells = [nbformat.v4.new_code_cell("raise ValueError('broken on purpose')")]
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    with pytest.raises(ValueError, match="broken on purpose"):
        execute(tmp_path / "broken.ipynb")
