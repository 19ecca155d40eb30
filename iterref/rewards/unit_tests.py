"""Unit tests: the share of given tests that a program passes, run in a jail that it cannot speak out of.

r(x) = 1 if code(x) passes every test else 0             (`value="share"`: the share of them)

The program runs under limits in namespaces of its own (`iterref.rewards.sandbox`): without a network, without files but
the system's and one empty folder in memory, without sight of other processes. The tests run in another process and get
plain data from it, so expected results, assertions and the verdict are out of its reach: what passes a test has
returned, or printed, the right values. A program that takes too long has not passed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf
from textwrap import dedent
from typing import Any, Literal

from iterref.columns import needed_column
from iterref.rewards.algebra import TextComposable
from iterref.rewards.base import expect_choice
from iterref.rewards.memory import Memory
from iterref.rewards.sandbox import runs
from iterref.rewards.sandbox.asker import PLAIN
from iterref.rewards.sandbox.jail import Limits

Value = Literal["all", "share"]
FENCE = re.compile(
    r"^[ \t]*(```|~~~)[ \t]*(python3?\b[^\n`]*|py\b[^\n`]*|)[ \t]*\r?\n(.*?)(?:^[ \t]*\1|\Z)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Verdict:
    """What came of each test of a program: "passed", "failed", "error: ...", "timed out", or "not run" behind that."""

    outcomes: tuple[str, ...]

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return self.outcomes.count("passed")

    @property
    def timed_out(self) -> bool:
        """Whether the time was over before the tests were."""
        return "timed out" in self.outcomes


@dataclass(eq=False, repr=False)
class UnitTests(TextComposable):
    """1 where the code of a completion passes all its tests, else 0: `UnitTests()`, `"unit_tests"`.

    The code is the last block fenced as Python, else the last fenced one, or the whole text; `given` names a column
    that stands before it ("prompts" where completions go on with a function that the prompt begins). An entry of the
    column `tests` is Python code with assertions, or a list of such (each counts), as in MBPP; with a column
    `entry_point` beside it a function `check(candidate)`, as in HumanEval; or {"input": ..., "output": ...}, a list of
    these, or {"inputs": [...], "outputs": [...]} for programs that read and print. Tests of code call the program's
    functions with plain data and get plain data, copies both; other objects are stand-ins that can be called and
    iterated and equal nothing.

    A process has `seconds` of processor and `memory` MiB; `processes` with their threads run at once; a program with
    all its tests has `timeout` seconds, three times `seconds` unless given. `workers` programs run side by side.
    `packages` lets programs import what is installed here. `isolate=False` leaves the limits of time and memory alone
    and is for code that is trusted with this user's files, network and processes, the tests and the verdict included.

    Raises ValueError for numbers out of range, a column that is missing or has no tests, and, unless `isolate=False`,
    where the system gives no namespaces. `timed_out` counts programs; the first is warned about."""

    value: Value = "all"
    tests: str = "tests"
    given: str | None = None
    seconds: float = 5.0
    timeout: float | None = None
    memory: int = 512
    processes: int = 16
    workers: int = 4
    packages: bool = False
    isolate: bool = True

    def __post_init__(self) -> None:
        expect_choice(self.value, Value, "unit tests have no value")
        wall = 3 * self.seconds if self.timeout is None else self.timeout
        if not (0 < self.seconds < inf and 0 < wall < inf) or min(self.memory - 63, self.processes, self.workers) < 1:
            told = f"seconds={self.seconds:g}, timeout={wall:g}, memory={self.memory}, processes={self.processes}"
            raise ValueError(f"{told}, workers={self.workers}: give more than 0, and memory of at least 64 MiB")
        if not hasattr(os, "fork"):
            raise ValueError(f"programs cannot be run under limits on {sys.platform}: use Linux, or macOS unisolated")
        if self.isolate and (why := runs.obstacle()):
            told = f"programs cannot be isolated here ({why})"
            raise ValueError(f"{told}: isolate=False runs them with your files and network, or use another machine")
        bytes_ = self.memory * 2**20
        self._limits = Limits(ceil(self.seconds), bytes_, self.processes, isolate=self.isolate)
        self._wall, self.timed_out, self._warned = wall, 0, False
        self._memory: Memory[tuple[str, str], Verdict] = Memory(20_000)

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        found = self.verdicts(completions, **columns)
        if self.value == "share":
            return [one.passed / len(one.outcomes) for one in found]
        return [float(one.passed == len(one.outcomes)) for one in found]

    def verdicts(self, completions: Sequence[str], **columns: Any) -> list[Verdict]:
        """What came of every test of R texts."""
        size = len(completions)
        entries = needed_column(columns, self.tests, size, "a reward by unit tests")
        before = [""] * size if self.given is None else needed_column(columns, self.given, size, "the code")
        names = columns.get("entry_point") or [None] * size
        tests = [read_tests(*pair, f"row {row}") for row, pair in enumerate(zip(entries, names, strict=True))]
        found = map(code_of, completions)
        codes = [f"{head}{code}" if head else dedent(code) for head, code in zip(before, found, strict=True)]

        def judge(new: list[int]) -> list[Verdict]:
            with ThreadPoolExecutor(min(self.workers, len(new))) as pool:
                found = list(pool.map(lambda at: self._judge(codes[at], tests[at]), new))
            late = sum(one.timed_out for one in found)
            if late and not self.timed_out:
                told = f"UnitTests: a program took more than {self._wall:g} s, or {self.seconds:g} s of processor"
                warnings.warn(f"{told}, and counts as failed (said once; counted in `timed_out`)", stacklevel=2)
            self.timed_out += late
            unasked = [told for one in found for told in one.outcomes if told.endswith(PLAIN)]
            if unasked and not self._warned:  # no program could pass, and none is at fault
                told = f"UnitTests: a test failed by itself ({unasked[0]})"
                warnings.warn(f"{told}: write it without (said once; `verdicts` has them all)", stacklevel=2)
                self._warned = True
            return found

        return self._memory.fetch([(code, repr(some)) for code, some in zip(codes, tests, strict=True)], judge)

    @property
    def isolation(self) -> str:
        """What keeps a program in here, and what does not, in words."""
        kept = f"{self.seconds:g} s of processor and {self.memory} MiB of address space a process, "
        kept += f"{self._wall:g} s in all, {self._limits.file // 2**20} MiB a file"
        if not self.isolate:
            return f"{kept}; not isolated: files, network, processes, the tests and the verdict"
        kept += f", {self.processes} processes and threads, no network, no other processes, no files of this user"
        return f"{kept}; not isolated: the kernel itself, processor caches, and memory in all but as processes x memory"

    def _judge(self, code: str, tests: list[dict[str, Any]]) -> Verdict:
        return Verdict(tuple(runs.run(code, tests, self._limits, self._wall, self.packages)))


def code_of(text: str) -> str:
    """The code in a text: its last block that is fenced as Python, else its last fenced one, or the whole of it."""
    blocks = FENCE.findall(text)
    tagged = [one for one in blocks if one[1]] or blocks
    return str(tagged[-1][2]) if tagged else text


def read_tests(entry: Any, entry_point: Any, where: str) -> list[dict[str, Any]]:
    """The tests in an entry of the column, in one form. Raises ValueError for one that has none, or asks nothing."""
    if isinstance(entry, str) and entry.lstrip()[:1] in ("{", "["):  # as data sets keep what is no text
        with suppress(ValueError):
            entry = json.loads(entry)
    if isinstance(entry, Mapping) and entry.get("fn_name"):
        told = f"{where} has tests that call {entry['fn_name']!r} by its name"
        raise ValueError(f"{told}: write them as code, such as assert {entry['fn_name']}(1) == 2")
    if isinstance(entry, Mapping) and {"inputs", "outputs"} <= {*entry}:
        if len(entry["inputs"]) != len(entry["outputs"]):
            told = f"{where} has tests of {len(entry['inputs'])} inputs and {len(entry['outputs'])} outputs"
            raise ValueError(f"{told}: give one output for each input")
        entry = [{"input": one, "output": two} for one, two in zip(entry["inputs"], entry["outputs"], strict=True)]
    several = [entry] if isinstance(entry, str | Mapping) or not isinstance(entry, Sequence) else list(entry)
    found: list[dict[str, Any]] = []
    for one in several:
        if isinstance(one, Mapping) and {"input", "output"} <= {*one}:
            found.append({"input": _lines(one["input"]), "output": _lines(one["output"])})
        elif isinstance(one, str) and one.strip():
            checks = bool(entry_point) and re.search(r"^def check\(", one, re.MULTILINE) is not None
            found.append({"code": f"{one}\ncheck({entry_point})\n" if checks else one})
    if not found or len(found) < len(several) or len({tuple(one) for one in found}) > 1:
        told = f"{where} has the tests {str(entry)[:60]!r}"
        raise ValueError(f'{told}: give code with assertions, or {{"input": ..., "output": ...}}, one kind a row')
    codes = [one["code"] for one in found if "code" in one]
    if codes and not any([_asks(code, where) for code in codes]):
        told = f"{where} has tests that ask nothing, so that every program would pass: {codes[0].strip()[:60]!r}"
        raise ValueError(f"{told}: add the column entry_point, whose function check() is called with, or an assertion")
    return found


def _lines(value: Any) -> str:
    """What is read or printed: a text, or a list of its lines."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@lru_cache(maxsize=4096)
def _asks(code: str, where: str) -> bool:
    """Whether a test of code does more than to define: something in it is run, or is a function test_... Raises
    ValueError for what is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(code).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{where} has tests that are no Python ({error}): {code[:60]!r}") from None
    functions = [one.name for one in body if isinstance(one, ast.FunctionDef)]
    runs = any(name.startswith("test_") for name in functions)
    defines = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    acts = [one for one in body if not isinstance(one, defines) and "__name__" not in ast.dump(one)]
    return runs or any(isinstance(one, ast.Assert | ast.Call | ast.Raise) for act in acts for one in ast.walk(act))


REWARD = UnitTests
TRUSTED = True  # runs programs
