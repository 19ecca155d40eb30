"""Tester: has the tests of one program run, and says how many passed.

    tests of code         in a jail (asker), which asks the program in another (candidate) by plain data
    tests of in and out   the program runs in a jail for each; its output is compared here

No line of the program or of the tests runs in this process. A script: one job as JSON in, one verdict as JSON out.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from iterref.rewards.sandbox import candidate, jail
from iterref.rewards.sandbox.asker import BROKEN

HERE = Path(candidate.__file__)
ROOT = HERE.parents[3]
ASK = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from iterref.rewards.sandbox.asker import main; main()"


def tested(code: str, tests: list[dict[str, Any]], command: list[str], limits: jail.Limits, until: float) -> list[str]:
    """What came of each test of code. A program that ended is begun anew for the tests behind."""
    found = list[str]()
    while len(found) < len(tests) and (not found or found[-1] != "timed out"):
        found += _together(code, tests[len(found) :], command, limits, until)
    return found


def _together(
    code: str, tests: list[dict[str, Any]], command: list[str], limits: jail.Limits, until: float
) -> list[str]:
    """What came of the first tests, one at least, with one program."""
    null = os.open(os.devnull, os.O_RDWR)
    (given, job), (asked, to), (answer, answered), (verdict, say) = (os.pipe() for _ in range(4))
    reading = jail.Limits(**{**vars(limits), "folders": (*limits.folders, str(ROOT / "iterref"))})
    with tempfile.TemporaryDirectory() as folder:
        source = HERE.read_text(encoding="utf-8")
        with (
            jailed([*command, "-c", source], limits, [null, null, null, asked, answered], folder) as program,
            jailed([*command, "-c", ASK], reading, [given, null, null, answer, to, say], folder) as asker,
        ):
            for number in (null, given, asked, to, answer, answered, say):
                os.close(number)
            with suppress(OSError):
                for part in jail.parts(json.dumps({"code": code, "tests": tests}).encode()):
                    os.write(job, part)
            os.close(job)
            said, late = read(verdict, until)
            os.close(verdict)
            found = [str(json.loads(line)) for line in said.splitlines(keepends=True) if line.endswith(b"\n")]
            over = [out_of_time(done, limits) for done in (waited_for(program), waited_for(asker))]
    if late or (any(over) and (not found or len(found) < len(tests) or found[-1].startswith(BROKEN))):
        return [one for one in found if not one.startswith(BROKEN)] + ["timed out"]
    return found if found and (len(found) == len(tests) or found[-1].startswith(BROKEN)) else [*found, ENDED]


ENDED = "error: the tests ended before they were done"


def read(pipe: int, until: float) -> tuple[bytes, bool]:
    """What comes out of a pipe until it is closed, or there is too much of it; and whether time was over first."""
    said = bytearray()
    while len(said) <= candidate.MOST:
        left = until - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return bytes(said), True
        if not (part := os.read(pipe, 2**16)):
            break
        said += part
    return bytes(said), False


@contextmanager
def jailed(command: list[str], limits: jail.Limits, pipes: list[int], folder: str) -> Iterator[list[int]]:
    """A jail, as the list of its process, which is empty once it is waited for, and which is ended behind."""
    process = [jail.start(command, limits, pipes, folder)]
    try:
        yield process
    finally:
        for one in process:
            for kill in (os.killpg, os.kill):
                with suppress(OSError):
                    kill(one, signal.SIGKILL)
            os.waitpid(one, 0)


def waited_for(process: list[int], seconds: float = 0.5) -> tuple[int, float] | None:
    """The exit code of a jail that is over soon, and the seconds of processor that it took."""
    until = time.monotonic() + seconds
    while True:
        done, status, used = os.wait4(process[0], os.WNOHANG)
        if done:
            process.clear()
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def out_of_time(done: tuple[int, float] | None, limits: jail.Limits) -> bool:
    """Whether a jail was ended for the processor that it took."""
    return done is not None and done[0] != 0 and done[1] > 0.8 * limits.cpu


def printed(code: str, test: dict[str, Any], command: list[str], limits: jail.Limits, until: float) -> str:
    """What came of a test of in and out: "passed" where the program ends well and its output is what is expected, up to
    blanks at the ends of lines and of the whole."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "input"
        given.write_text(test["input"], encoding="utf-8")
        (asked, to), (out, written) = os.pipe(), os.pipe()
        null, stdin = os.open(os.devnull, os.O_RDWR), os.open(given, os.O_RDONLY)
        (Path(folder) / "work").mkdir()
        command = [*command, "-c", HERE.read_text(encoding="utf-8"), "run"]
        with jailed(command, limits, [stdin, written, null, asked, null], str(Path(folder) / "work")) as process:
            for number in (asked, written, null, stdin):
                os.close(number)
            with suppress(OSError):
                for part in jail.parts(candidate.framed(code)):
                    os.write(to, part)
            os.close(to)
            said, late = read(out, until)
            os.close(out)
            done = None if late or len(said) > candidate.MOST else waited_for(process, until - time.monotonic())
    if done is None:
        return "failed: the program wrote too much" if len(said) > candidate.MOST else "timed out"
    if out_of_time(done, limits):
        return "timed out"
    same = lines(said.decode("utf-8", "replace")) == lines(test["output"])
    return "passed" if same and done[0] == 0 else "failed" if done[0] == 0 else f"failed: exit code {done[0]}"


def lines(text: str) -> list[str]:
    """A text's lines as they are compared."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def main() -> None:
    """Reads a job, and writes what came of its tests."""
    job = json.load(sys.stdin)
    limits, until = jail.Limits(**job["limits"]), time.monotonic() + job["timeout"]
    if sys.platform == "linux":
        jail.adopt()
    code, tests, command, found = job["code"], job["tests"], job["command"], list[str]()
    if all("code" in test for test in tests):
        found = tested(code, tests, command, limits, until)
    else:
        for test in tests:
            found.append(printed(code, test, command, limits, until))
            if found[-1] == "timed out":
                break
    sys.stdout.write(json.dumps(found + ["not run"] * (len(tests) - len(found))))


if __name__ == "__main__":
    main()
