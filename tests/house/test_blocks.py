"""The code on the pages: every Python block runs alone, prints what is shown below it, and shows something else where
its reward is taken away. The blocks of docs/serving.md need a server: tests/serving/test_page.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iterref.cli import main
from iterref.rewards.sandbox import runs
from tests.support.blocks import DOCS, agrees, blocks, output, run, steers
from tests.support.packages import needs

PAGES = (
    "quickstart recipes methods models rewards verifiers editing decoders extending migration structure results "
    "acceptability arithmetic digits"
).split()
NEEDS = {"antiberty": needs("antiberty")}  # by a name in the block
RUNS = re.compile(r"\b(?:generate|refine|infill|sample|edit|compare)\(")
STEADY = {  # blocks that show the same without their reward, and why
    "recipes-1": "no program of random bytes passes a test",
    "methods-0": "a pilot of plain samples, from which a reward of 0 calibrates nothing",
    "decoders-0": "plain decoding, which only reports its reward",
}


def cases() -> list[Any]:
    """Every block of the pages, by its page and number."""
    return [
        pytest.param(name, *block, id=name, marks=[mark for part, mark in NEEDS.items() if part in block[0]])
        for page in PAGES
        for name, block in ((f"{page}-{at}", block) for at, block in enumerate(blocks(f"{page}.md")))
    ]


@pytest.mark.parametrize("name, code, shown", cases())
def test_a_block_runs_alone_shows_what_it_prints_and_something_else_without_its_reward(
    name: str, code: str, shown: str
) -> None:
    if "UnitTests" in code and runs.obstacle():
        pytest.skip("this system isolates nothing")
    found = run(code)
    assert shown and agrees(found.printed, shown), found.printed
    assert not RUNS.search(code) or name in STEADY or steers(code, found)


@pytest.mark.parametrize("name", STEADY)
def test_the_exceptions_are_needed(name: str) -> None:
    """The controls, too: what is not steered is noticed."""
    [code] = [case.values[1] for case in cases() if case.id == name]
    assert RUNS.search(code)
    try:
        assert not steers(code, run(code))
    except ValueError as error:  # some say that a reward of 0 is none
        assert "all rewards of the pilot are equal" in str(error)


def test_every_block_with_python_is_found() -> None:
    for page in PAGES:
        text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
        assert len(re.findall(r"^```python$", text, re.MULTILINE)) == len(list(blocks(f"{page}.md"))) > 0


def test_what_is_shown_is_compared() -> None:
    """The control: other text, other numbers, more and fewer lines are seen; seconds and what is left out are not."""
    assert agrees("a 1.25 s\nb\nc\n", "a 0.50 s\n...\nc") and agrees("[0.5]", "[0.5]")
    for other in ("a 1.25 s\nb", "a 1.25 s\nb\nd", "a\nb\nc", "z 1.25 s\nb\nc"):
        assert not agrees("a 1.25 s\nb\nc\n", other)
    assert output("print(1)") == "1\n"


FIGURES = 'print(result.texts[0], f"{result.rewards[0]:g} {result.log_likelihood[0]:.1f}")'


def test_the_readme_s_plain_text_is_what_plain_decoding_gives() -> None:
    """Beside its example, with reward and log-likelihood of both."""
    page = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    said = r"\*(police.*?)\* Reward (.*?) against (.*?), log-likelihood (.*?) against (.*?)\.\n"
    told = re.search(said, page, re.DOTALL)
    assert told is not None
    text, *shown = (" ".join(part.split()) for part in told.groups())
    call = "reward=eight_words_with_the_town, budget=128"
    plain, best = (
        output(code.replace(call, f'{call}, log_likelihood=True, sampler="{sampler}"') + FIGURES).splitlines()[-1]
        for sampler in ("ancestral:order=confidence", "auto")
    )
    assert plain == f"{text} {shown[0]} {shown[2]}" and best.endswith(f" {shown[1]} {shown[3]}")


def test_the_commands_on_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need nothing but prompts: a pipe hands on what the command before wrote."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("A fire destroyed a warehouse near the harbour, officials said.\n", encoding="utf-8")
    [listed] = re.findall(r"^```\n(iterref .*?)^```$", (DOCS / "command_line.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for line in listed.replace("\\\n", "").splitlines() if "FOLDER" not in line]
    for line in lines:
        written = ""
        for part in line.partition(" > ")[0].split(" | "):
            done = CliRunner().invoke(main, part.split()[1:], input=written)
            assert done.exit_code == 0, f"{part}: {done.output}"
            written = done.stdout
        assert "warehouse" in written or "best_of_n" in written
    assert len(lines) == 3 and Path("run.html").is_file()
