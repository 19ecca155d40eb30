"""Tests of the progress bar: what it tells, when it asks for it, and that it ends its line."""

from __future__ import annotations

import io
import time

import pytest
import torch

from benchmarks.shapes import Case
from iterref import progress
from iterref.drafts import OwnDrafts
from iterref.generation import generate
from iterref.progress import Bar, told_reward
from iterref.result import Interrupted
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.fakes import PROMPTS, SMALL, FakeModel, beta
from tests.support.waits import Waits


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


def test_a_bar_tells_steps_nfe_reward_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    result = generate(FakeModel(), PROMPTS, reward=beta, sampler=SMALL, progress=True)
    shown = lines(capsys.readouterr().err)
    steps = result.sampler.iterations
    rows = f"{result.asked.nfe:.0f}/{result.sampler.cost().nfe:.0f} NFE"
    best = f"reward {float(result.best.reward.mean()):.3f}"
    assert shown[0].startswith("iterref:   0%") and "reward" not in shown[0]  # nothing is finished yet
    for told in ("iterref: 100%", f"{steps}/{steps} [00:00<00:00", rows, best):
        assert told in shown[-1]


def test_a_pool_has_a_bar_of_its_own_and_nothing_is_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    pool = OwnDrafts(n=2, steps=3)
    generate(FakeModel(), PROMPTS, reward=pool, sampler=SMALL, progress=True)
    err = capsys.readouterr().err
    assert "drafts: 100%" in err and "3/3" in err and "6/6 NFE" in err
    generate(FakeModel(), PROMPTS, reward=pool, sampler=SMALL)
    assert capsys.readouterr() == ("", "")


def asked(interval: float, seconds: float, shown: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often 40 steps of some seconds in all are told of."""
    monkeypatch.setattr(progress, "INTERVAL", interval)
    calls = []
    with Bar(range(40), "run", lambda: str(calls.append(1)), shown=shown, file=io.StringIO()) as bar:
        for _ in bar:
            time.sleep(seconds / 40)
    return len(calls)


def test_it_is_asked_for_when_the_bar_is_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(60, 0.0, True, monkeypatch) == 2  # the first drawing and the last
    assert 3 <= asked(0.1, 0.4, True, monkeypatch) <= 7
    assert asked(0, 0.4, True, monkeypatch) > 10  # the control: drawn at every step
    assert asked(0, 0.0, False, monkeypatch) == 0


def waits(moves: int, shown: bool) -> int:
    method = sampler_from_string(f"iterref:steps=1,moves={moves},tries=2,decisions=1,span=1.0,spacing=0,early=0")
    problem = Case("random-2").problem(2)
    sample(method, problem)  # the plan of levels is made once, on the host
    with Waits() as count:
        sample(method, problem, progress=shown)
    return count.seen.total()


def test_a_bar_makes_no_move_wait_for_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 60)
    some, more = (waits(moves, True) - waits(moves, False) for moves in (1, 4))
    assert some == more <= 2  # at the beginning and at the end, whatever number of moves
    assert "100%" in capsys.readouterr().err
    with Waits() as count:
        told_reward(torch.zeros(3))
    assert count.seen.total() == 1  # the control: telling does wait


def test_forbidden_rows_are_left_out() -> None:
    assert told_reward(torch.tensor([-torch.inf, 1.0, 2.0])) == ", reward 1.500"
    assert told_reward(torch.tensor([-torch.inf])) == ""


def test_an_interrupted_run_ends_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    def stopping(completions: list[str]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        generate(FakeModel(), PROMPTS, reward=stopping, sampler=SMALL, progress=True)
    assert capsys.readouterr().err.endswith("\n")
