"""Ranks as one worker: jobs told by the first, rewards asked by it alone, poison rows, and a rank that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from iterref.engine.group import Group
from iterref.rewards import RewardError
from iterref.rewards.rank_zero import RankZero
from tests.support.commands import call, refused
from tests.support.engine_runs import expected, gone, objects, records, views
from tests.support.engine_work import Here, Words, go
from tests.support.families import folder


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one rank, in this process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_a_led_reward_is_the_reward(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def total(tokens: Tensor, rows: Tensor) -> Tensor:
        if int(tokens.max()) > 8:
            raise OSError("the judge is away")
        return tokens.sum(1) / 3

    led, rows = RankZero(total), torch.arange(2)
    tokens = torch.tensor([[1, 2], [3, 4]])
    assert torch.equal(led(tokens, rows), total(tokens, rows).double())
    with pytest.raises(RewardError, match="raised OSError") as found:
        led(tokens + 5, rows)
    assert isinstance(found.value.__cause__, OSError)

    def told(found: list[object]) -> None:
        found[:] = answer

    # as on another rank, which hears numbers or a sentence and asks nothing
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "broadcast_object_list", told)
    answer: list[object] = [[0.5, -1.0]]
    assert led(tokens + 5, rows).tolist() == [0.5, -1.0]
    answer = ["the reward raised OSError"]
    with pytest.raises(RewardError, match="^the reward raised OSError$"):
        led(tokens, rows)


def test_a_group_of_one_makes_what_one_machine_makes(alone: None, tmp_path: Path) -> None:
    work = Words(fails=frozenset({1}), refuses=frozenset({6}))
    tally = go(tmp_path / "group", 11, 4, Group(work), retries=0)
    assert (tally.made, tally.aside) == (9, 2) and not distributed.is_initialized()
    assert records(tmp_path / "group") == expected(11, {1: "the reward fails on row 1", 6: "prompt 6 is too long"})
    go(tmp_path / "calm", 11, 4, Here(work), retries=0)
    assert views(tmp_path / "group") == views(tmp_path / "calm")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--engine", "local"], "makes all ranks one worker: say --engine rank"),
        (["--engine", "rank", "--workers", "2"], "makes all ranks one worker: say --engine rank"),
        ([], "is for ranks: say generate --engine rank --out FOLDER, under torchrun"),
    ],
)
def test_slices_need_ranks(tmp_path: Path, arguments: list[str], told: str) -> None:
    out = ["--out", str(tmp_path / "out")]
    refused(call("generate", "--device-map", "tensor_parallel", *arguments, *out, text="one\n"), told)


# --- two processes with half of a network each ------------------------------------------------------------------------

JUDGE = """
import os, time
def judge(completions, prompts):
    assert os.environ["RANK"] == "0", "only the first rank is asked"
    if any("dog" in prompt for prompt in prompts):
        raise OSError("the judge is away")
    time.sleep({seconds})
    return [-abs(len(text) - 11.0) for text in completions]
"""
PROMPTS = ["cat", "the dog ran the cat", "the man", "cat cat", *(f"cat {'the ' * k}man" for k in range(6))]
OPTIONS = ["--length", "5", "--sampler", "best_of_n:steps=3,n=2", "--job-rows", "2", "--retries", "0"]


def command(tmp_path: Path, out: str, seconds: float) -> tuple[list[str], list[str]]:
    """What two ranks and what one process are told: a model, prompts, and a judge that fails for one row."""
    (tmp_path / "judge.py").write_text(JUDGE.format(seconds=seconds))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    model = tmp_path / "llada" if (tmp_path / "llada").exists() else folder(tmp_path, "llada")
    told = [str(tmp_path / "prompts.txt"), "--model", str(model), *OPTIONS]
    told += ["--reward", f"{tmp_path / 'judge.py'}:judge", "--out", str(tmp_path / out)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", sys.executable]
    start = [*launch, "-c", "from iterref.cli import main; main()", "generate", "--engine", "rank"]
    return [*start, "--device-map", "tensor_parallel", *told], ["generate", "--engine", "local", *told]


def same(tmp_path: Path) -> None:
    """Both folders have the same texts, and the same row aside."""
    ours, others = (objects(tmp_path / out / "results.jsonl") for out in ("together", "alone"))
    assert len(ours) == len(PROMPTS) and ours == others
    assert [line["row"] for line in ours if line["error"]] == [1] and "the judge is away" in ours[1]["error"]


@pytest.mark.slow
def test_two_ranks_write_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, _ = command(tmp_path, "together", 0)
    told = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(together, env=told, capture_output=True, text=True, timeout=300)
    assert "1 of 10 rows were set aside" in done.stderr and "only the first rank" not in done.stderr
    monkeypatch.setenv("RANK", "0")
    assert call(*command(tmp_path, "alone", 0)[1]).exit_code == 1
    same(tmp_path)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, _ = command(tmp_path, "together", 1.0)
    told, parts = {**os.environ, "OMP_NUM_THREADS": "1"}, tmp_path / "together" / "parts"
    launcher = subprocess.Popen(together, env=told, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while len(list(parts.glob("*.jsonl"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    ranks = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and rank(pid, launcher.pid) is not None]
    assert len(ranks) == 2
    os.kill(next(pid for pid in ranks if rank(str(pid), launcher.pid) == "1"), signal.SIGKILL)
    assert launcher.wait(60) != 0 and gone(ranks)
    made = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.jsonl")}
    assert 2 <= len(made) < 5 and not (tmp_path / "together" / "results.jsonl").exists()
    assert subprocess.run(together, env=told, capture_output=True, timeout=300).returncode == 1  # a row is set aside
    again = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.jsonl")}
    assert made.items() <= again.items()  # none was made twice
    monkeypatch.setenv("RANK", "0")
    call(*command(tmp_path, "alone", 0)[1])
    same(tmp_path)


def rank(pid: str, launcher: int) -> str | None:
    """The rank of a process that a launcher started, None for any other."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        told = dict(one.partition("=")[::2] for one in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    except OSError:
        return None
    return told.get("RANK") if parent == launcher else None


def test_the_judge_of_these_tests_asks_for_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: where another rank asked, the rows would be set aside."""
    names: dict[str, object] = {}
    exec(JUDGE.format(seconds=0), names)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(AssertionError, match="only the first rank is asked"):
        names["judge"](["a"], ["cat"])
    monkeypatch.setenv("RANK", "0")
    assert json.dumps(names["judge"](["a"], ["cat"])) == "[-10.0]"
