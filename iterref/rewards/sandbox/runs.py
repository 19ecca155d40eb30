"""Runs: jobs handed to testers, each in a process of its own, and what this system isolates them by."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from iterref.rewards.sandbox.jail import Limits, python

ROOT = Path(__file__).parents[3]
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from iterref.rewards.sandbox.tester import main; main()"
GRACE = 5.0  # seconds beyond a job's own in which its tester must have said what came of it


def run(code: str, tests: list[dict[str, Any]], limits: Limits, timeout: float, packages: bool = False) -> list[str]:
    """What came of each test of a program: "passed", "failed", "error: ...", "timed out" or "not run"."""
    command, folders = python(packages)
    limits = replace(limits, folders=folders)
    job = {"code": code, "tests": tests, "command": command, "limits": asdict(limits), "timeout": timeout}
    started = [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", START]
    tester = subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        said, wrong = tester.communicate(json.dumps(job).encode(), timeout + GRACE)
    except subprocess.TimeoutExpired:
        return ["timed out"] + ["not run"] * (len(tests) - 1)
    finally:
        tester.kill()
        tester.communicate()
    try:
        found = json.loads(said)
    except ValueError:
        raise RuntimeError(f"the process of the tests ended with {tester.returncode}: {_last(wrong)}") from None
    if wrong:  # of a jail that could not be set up
        raise OSError(_last(wrong))
    return [str(one) for one in found]


def _last(told: bytes) -> str:
    """The last line of what a process complained of."""
    return (told.decode("utf-8", "replace").strip().splitlines() or ["nothing"])[-1]


@cache
def obstacle() -> str:
    """Why this system cannot isolate a program, in a few words; "" where it can."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no namespaces"
    limits = Limits(cpu=10, memory=2**29, processes=4)
    try:
        found = run("def one(): return 1", [{"code": "assert one() == 1"}], limits, 20.0)
    except (OSError, RuntimeError) as error:
        return str(error)
    return "" if found == ["passed"] else found[0]
