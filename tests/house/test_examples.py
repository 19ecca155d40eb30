"""Every example runs, offline and from any folder, and prints what is stored; so does the notebook, cell by cell.

Without its reward an example shows other texts, and with it texts that its model finds likely: within `MARGIN` nats a
text of plain decoding's. Nothing is left behind in the folder but what git ignores.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.support.packages import needs
from tests.support.shown import (
    BASELINES,
    OUTPUTS,
    behind_plain,
    output,
    recorded,
    texts_of,
    without_rewards,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SLOW = {"sentiment", "summaries", "meaning"}  # whose calls others make, too
NO_TEXT = {"new_sampler", "value"}  # which show figures of a world without texts: their tokens are compared
UNLIKELY = {"json_schema"}  # a form that its model has never seen
MARGIN = 6.0  # nats a text
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


def marked(file: Path, *more: Any) -> Any:
    return pytest.param(file, id=file.stem, marks=[*more, *NEEDS.get(file.stem, [])])


@pytest.mark.parametrize("script", [marked(file, *[pytest.mark.slow] * (file.stem in SLOW)) for file in EXAMPLES])
def test_an_example_shows_what_is_stored_in_likely_texts_and_leaves_nothing_behind(
    script: Path, tmp_path: Path
) -> None:
    with recorded() as found:
        shown = output(script, tmp_path)
    stored = OUTPUTS / f"{script.stem}.txt"
    assert shown == stored.read_text(encoding="utf-8"), f"python -m tests.support.shown {script.stem} stores it anew"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60
    left = [path.name for path in tmp_path.iterdir()]
    known = [line.removeprefix("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()]
    assert all(name in known for name in left), left
    for problem, result in found:
        if script.stem not in UNLIKELY and result.sampler.name not in BASELINES and result.show is not None:
            assert behind_plain(problem, result.tokens) < MARGIN, result.texts


@pytest.mark.parametrize(
    "script",
    [marked(file, *[pytest.mark.slow] * (file.stem in SLOW)) for file in EXAMPLES if file.stem not in NO_TEXT],
)
def test_an_example_shows_other_texts_without_its_reward(script: Path, tmp_path: Path) -> None:
    with without_rewards():
        shown = output(script, tmp_path)
    assert texts_of(shown) != texts_of((OUTPUTS / f"{script.stem}.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["new_sampler", pytest.param("value", marks=pytest.mark.slow)])
def test_an_example_without_texts_draws_other_tokens_without_its_reward(name: str, tmp_path: Path) -> None:
    assert name in NO_TEXT
    with recorded(textual=False) as found:
        output(ROOT / "examples" / f"{name}.py", tmp_path)
    with without_rewards(), recorded(textual=False) as others:
        output(ROOT / "examples" / f"{name}.py", tmp_path)
    first, other = ([result.tokens.tolist() for _, result in runs] for runs in (found, others))
    assert first and first != other


BROKEN = """
import iterref
reward = lambda completions, **columns: [{reward}] * len(completions)
print(iterref.generate("tiny-news", ["A fire destroyed a mill, police said."], reward=reward, budget=8).texts)
"""


def test_a_reward_that_does_nothing_is_noticed(tmp_path: Path) -> None:
    """The negative control: figures alone are no other text."""
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(reward="2.5"))
    with without_rewards():
        without = output(script, tmp_path)
    assert texts_of(without) == texts_of(output(script, tmp_path))
    assert texts_of("reward 2.50 a") == texts_of("reward 0.00 a") != texts_of("reward 0.00 b")


def test_a_text_that_its_model_finds_impossible_is_noticed(tmp_path: Path) -> None:
    """The negative control: letters at any price."""
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(reward="0.0"))
    with recorded() as found:
        output(script, tmp_path)
    [(problem, result)] = found
    assert behind_plain(problem, result.tokens) < MARGIN
    assert behind_plain(problem, result.tokens.flip(1)) > MARGIN


def test_there_are_examples_and_a_broken_one_is_noticed(tmp_path: Path) -> None:
    wanted = "quickstart sentiment summaries infilling keywords new_reward new_sampler new_model digits".split()
    assert set(wanted) <= {script.stem for script in EXAMPLES} == {file.stem for file in OUTPUTS.glob("*.txt")}
    broken = tmp_path / "broken.py"
    broken.write_text("import iterref\niterref.generate(None, [])\n")
    with pytest.raises(ValueError, match="there are no prompts"):
        output(broken, tmp_path)


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
