"""What rewards print goes to standard error, and rows without any allowed text are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iterref import cli, generate, loading
from tests.support.word_model import WordModel

TALKS = """
import subprocess, sys
print("imported")
def talk(completions):
    print("judging", len(completions))
    sys.stdout.write("more\\n")
    return [float(len(text)) for text in completions]
def never(completions):
    return [-float("inf")] * len(completions)
def second(completions, prompts):
    return [-float("inf") if prompt == "two" else 0.0 for prompt in prompts]
"""
METHOD = "best_of_n:n=2,steps=1"


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loading, "load", lambda name=None, **place: WordModel())
    file = tmp_path / f"talks_{tmp_path.name}.py".replace("-", "_")
    file.write_text(TALKS)
    return file


@pytest.mark.parametrize("command", ["generate", "refine"])
def test_prints_of_a_reward_do_not_reach_the_results(command: str, talks: Path) -> None:
    method = METHOD if command == "generate" else "iterref:moves=2,tries=2"
    lines = "one\ntwo\n" if command == "generate" else '{"text": "alpha"}\n{"text": "beta"}\n'
    found = CliRunner().invoke(
        cli.main, [command, "--reward", f"{talks}:talk", "--sampler", method, "--json"], input=lines
    )
    assert found.exit_code == 0, found.output
    assert [sorted(json.loads(line)) for line in found.stdout.splitlines()]  # every line is JSON
    assert len(found.stdout.splitlines()) == 2
    assert "imported" in found.stderr and "judging" in found.stderr and "more" in found.stderr


def test_prints_of_subprocesses_do_not_reach_them_either(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    from iterref.cli.writing import printing_to_stderr

    with printing_to_stderr():
        os.write(1, b"from below\n")
        print("from here")
    os.write(1, b"result\n")
    assert capfd.readouterr().out == "result\n"


def test_rows_for_which_every_text_is_forbidden_are_told(talks: Path) -> None:
    found = CliRunner().invoke(
        cli.main, ["generate", "--reward", f"{talks}:second", "--sampler", METHOD, "--json"], input="one\ntwo\n"
    )
    assert [json.loads(line)["reward"] for line in found.stdout.splitlines()] == [0.0, None]
    assert "row 1: the reward forbade every text (-inf)" in found.stderr

    def never(completions: list[str]) -> list[float]:
        return [-float("inf")] * len(completions)

    options: dict[str, Any] = {"sampler": "ancestral:steps=2", "reward": never}
    assert "rows 0, 1: the reward forbade every text (-inf)" in repr(generate(WordModel(), ["a", "b"], **options))
    assert "forbade" not in repr(generate(WordModel(), ["a"], reward=len_of, sampler="ancestral:steps=2"))


def len_of(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]
