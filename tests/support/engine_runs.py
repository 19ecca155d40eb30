"""What engines wrote and which of their processes live, for tests; drivers and workers killed at random."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from iterref.engine import jobs
from iterref.generation import generate
from iterref.loading import load
from tests.support.commands import METHOD
from tests.support.engine_work import made, table

VIEWS = ("results.jsonl", "results.parquet")
REAL = ["--sampler", METHOD, "--reward", "length:4", "--job-rows", "1", "--workers", "2"]
NEWS = ["police arrested two men .", "a lorry overturned on the coast road .", "trains run again on tuesday ."]


def views(folder: Path) -> list[bytes]:
    """The merged files."""
    return [(folder / name).read_bytes() for name in VIEWS]


def objects(file: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, file.read_bytes().splitlines()))


def parts(folder: Path) -> list[int]:
    """The rows of all parts."""
    return [line["row"] for file in sorted((folder / "parts").glob("*.jsonl")) for line in objects(file)]


def expected(rows: int, aside: dict[int, str] | None = None) -> list[dict[str, object]]:
    """The records of a run in which some rows were set aside."""
    aside, prompts = aside or {}, table(rows).prompts
    return [
        jobs.record(row, prompts[row], error=aside[row]) if row in aside else made(row, prompts[row])
        for row in range(rows)
    ]


def records(folder: Path) -> list[dict[str, object]]:
    found = objects(folder / "results.jsonl")
    assert found == pq.read_table(folder / "results.parquet").to_pylist()
    return found


def lines(*prompts: str) -> str:
    return "".join(json.dumps({"document": prompt}) + "\n" for prompt in prompts)


def same_as_alone(found: list[dict[str, Any]]) -> None:
    model = load("tiny-news")
    for row, prompt in enumerate(NEWS):
        alone = generate(model, [prompt], reward=near_four, sampler=REAL[1], rows=[row])
        assert [found[row]["text"]] == alone.texts and found[row]["reward"] == float(alone.rewards)


def near_four(completions: list[str]) -> list[float]:
    return [1 - abs(len(text.split()) - 4) / 4 for text in completions]


def disturbed(folder: Path, rows: int, kills: int, seed: int, *ray: str) -> tuple[int, int]:
    """Runs a driver of two workers until it is done, killing it or a worker at random times, so many times in all.

    Returns how often a driver was killed, and how often it was killed with rows missing and others made. With Ray a
    worker is the process that works or the actor above it.
    """
    dice = random.Random(seed)
    diary, out = folder / "diary", folder / "out"
    diary.mkdir()
    drivers = midway = 0

    def done() -> int:
        return len(list((out / "parts").glob("*.jsonl")))

    command = [sys.executable, "-m", "tests.support.engine_work", str(out), str(rows), "3", "2", "0.02", *ray]
    while True:
        driver = subprocess.Popen(command)
        try:
            while kills and driver.poll() is None:
                if dice.random() < 0.5:  # at work: a kill of a driver that only begins tests little
                    begun, end = done(), time.monotonic() + 20
                    while done() == begun and driver.poll() is None and time.monotonic() < end:
                        time.sleep(0.01)
                time.sleep(dice.uniform(0.0, 0.4))
                kills -= 1
                crew = [int(path.name) for path in diary.iterdir() if alive(int(path.name))]
                if crew and dice.random() < 0.5:
                    victim = dice.choice(crew)
                    kill(parent(victim) if ray and dice.random() < 0.5 else victim)
                elif driver.poll() is None:
                    driver.kill()
                    driver.wait()
                    drivers += 1
                    midway += 0 < done() < -(-rows // 3)
            driver.wait()
        finally:
            driver.kill()
            driver.wait()
        assert driver.returncode <= 0, "the driver failed by itself"
        if driver.returncode == 0:
            return drivers, midway


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def parent(pid: int) -> int:
    """The process above another one; itself where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return pid


def alive(pid: int) -> bool:
    """Whether a process is there, and no mere entry of one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether processes end in that time."""
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))
