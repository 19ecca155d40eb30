"""The code on the pages: every Python block runs alone in an empty folder and prints what is shown below it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from iterref.rewards.sandbox import runs
from tests.support.blocks import DOCS, STAND_INS, agrees, blocks, output
from tests.support.packages import needs
from tests.support.shown import texts_of, without_rewards

PAGES = ("quickstart", "recipes", "methods", "models", "rewards", "editing", "decoders", "extending", "migration")
NEEDS = {  # by a name in the block
    "antiberty": needs("antiberty"),
    "UnitTests": pytest.mark.skipif(bool(runs.obstacle()), reason="this system isolates nothing"),
}


def cases() -> list[Any]:
    """Every block of the pages, by its page and number."""
    return [
        pytest.param(code, shown, id=f"{page}-{at}", marks=[mark for name, mark in NEEDS.items() if name in code])
        for page in PAGES
        for at, (code, shown) in enumerate(blocks(f"{page}.md"))
    ]


@pytest.mark.parametrize("code, shown", cases())
def test_a_block_runs_alone_and_prints_what_is_shown(code: str, shown: str) -> None:
    printed = output(code)
    assert shown and agrees(printed, shown), printed


SEARCHES = re.compile(r"iterref\.(generate|refine|infill|sample|edit)\(")


def searching() -> list[Any]:
    """The blocks that search under a reward, on weights that have learned something."""
    known = [case for case in cases() if not any(name in case.values[0] for name in STAND_INS)]
    return [case for case in known if SEARCHES.search(case.values[0])]


@pytest.mark.parametrize("code, shown", searching())
def test_a_block_shows_other_texts_without_its_reward(code: str, shown: str) -> None:
    try:
        with without_rewards():
            printed = output(code)
    except ValueError as error:  # some say that a reward of 0 is none
        assert re.search("all rewards|declares none", str(error))
    else:
        assert texts_of(printed.strip()) != texts_of(shown.strip())


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
