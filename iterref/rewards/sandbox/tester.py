"""Tester: runs the tests of one program, which itself runs in a jail, and says how many passed.

    tests of code         run here; the program's functions are stand-ins that ask the jail by plain data
    tests of in and out   the program runs in a jail for each; its output is compared here

So what is expected, the tests and the verdict are in a process that no line of the program ever runs in. A script: one
job as JSON in, one verdict as JSON out.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from iterref.rewards.sandbox import candidate, jail

HERE = Path(candidate.__file__)


class Late(BaseException):
    """The job's time is over; no test catches it as an error of its own."""


class Broken(Exception):
    """The program's process ended, or said what is no answer."""


class SolutionError(Exception):
    """An error of a kind that only the program knows."""


class Remote:
    """Stands for an object of the program that is no plain data: it can be called, looked into and iterated. It is
    equal to itself alone, so that nothing that the program defines decides a comparison."""

    def __init__(self, program: Program, key: int) -> None:
        self.__dict__.update(_program=program, _key=key)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._program.call("call", self._key, "", given, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("get", self._key, name, ["t"], ["d"])

    def __iter__(self) -> Iterator[Any]:
        made = self._program.call("special", self._key, "__iter__", (), {})
        while (one := self._program.ask("next", made._key, "", ["t"], ["d"])) is not STOP:
            yield one

    def __next__(self) -> Any:
        if (one := self._program.ask("next", self._key, "", ["t"], ["d"])) is STOP:
            raise StopIteration
        return one

    def __len__(self) -> int:
        try:
            return int(self._program.call("special", self._key, "__len__", (), {}))
        except AttributeError as error:
            raise TypeError(str(error)) from None  # as of an object without a length

    def __getitem__(self, key: Any) -> Any:
        return self._program.call("special", self._key, "__getitem__", (key,), {})

    def __str__(self) -> str:
        return str(self._program.call("special", self._key, "__str__", (), {}))


STOP = object()


class Program:
    """A program that serves its functions from a jail, until it is ended."""

    def __init__(self, code: str, command: list[str], limits: jail.Limits, until: float) -> None:
        self.until, self.limits = until, limits
        asked, self._to = os.pipe()
        self._from, answered = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        self._folder = tempfile.TemporaryDirectory() if not limits.isolate else None
        where = self._folder.name if self._folder else ""
        source = HERE.read_text(encoding="utf-8")
        self.process = jail.start([*command, "-c", source], limits, [null, null, null, asked, answered], where)
        for number in (asked, answered, null):
            os.close(number)
        self.names = {}
        try:
            self._send(code)
            status, *found = self._hear()
            if status != "ok":
                raise SolutionError(f"{found[0]}: {found[1]}")
            self.names = {str(name): candidate.decode(one, self._remote) for name, one in found[0].items()}
        except BaseException:
            self.end()
            raise

    def ask(self, *message: Any) -> Any:
        """What came of one request. Raises what the program raised, if that is an error of Python's own."""
        found = self._asked(message)
        return found if found is STOP else self._data(found)

    def call(self, what: str, key: int, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A call of a function, on copies of its arguments."""
        return self.ask(what, key, name, candidate.encode(given, _refused), candidate.encode(named, _refused))

    def end(self) -> None:
        """Ends the process and all that it began."""
        if self.process:
            end(self.process)
        for pipe in (self._to, self._from):
            os.close(pipe)
        if self._folder:
            self._folder.cleanup()

    def _asked(self, message: Any) -> Any:
        self._send(message)
        status, *found = self._hear()
        if status == "stop":
            if message[0] == "next":
                return STOP
            raise SolutionError("StopIteration")  # or it would end a loop of the test's
        if status == "error":
            kind = getattr(builtins, str(found[0]), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                raise kind(found[1])
            raise SolutionError(f"{found[0]}: {found[1]}")
        return found[0]

    def _data(self, found: Any) -> Any:
        try:
            return candidate.decode(found, self._remote)
        except Exception as error:
            raise Broken(f"the program said what is no data ({type(error).__name__})") from None

    def _remote(self, key: Any) -> Remote:
        return Remote(self, int(key))

    def _send(self, message: Any) -> None:
        data = candidate.framed(message)
        while data:
            self._wait([], [self._to])
            try:
                data = data[os.write(self._to, data[: select.PIPE_BUF]) :]
            except OSError:
                raise self._over() from None

    def _hear(self) -> list[Any]:
        size = struct.unpack("<I", self._exactly(4))[0]
        if size > candidate.MOST:
            raise Broken("the program said too much")
        try:
            found = json.loads(self._exactly(size))
            if found[0] == "ok" and len(found) == 2 or found[0] in ("stop", "error") and len(found) == 3:
                return list(found)
        except (ValueError, RecursionError, LookupError, TypeError):
            pass
        raise Broken("the program said what is no answer")

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait([self._from], [])
            if not (part := os.read(self._from, min(size - len(found), 2**16))):
                raise self._over()
            found += part
        return bytes(found)

    def _over(self) -> BaseException:
        """Why the program says no more: its time is over, or it ended itself."""
        until = min(self.until, time.monotonic() + 0.5)
        while (done := waited(self.process, os.WNOHANG)) is None and time.monotonic() < until:
            time.sleep(0.002)
        if done is None:
            return Broken("the program closed its pipe")
        self.process = 0
        return Late() if out_of_time(done, self.limits) else Broken("the program's process ended")

    def _wait(self, reading: list[int], writing: list[int]) -> None:
        left = self.until - time.monotonic()
        if left <= 0 or not any(select.select(reading, writing, [], left)):
            raise Late


def _refused(value: Any) -> Any:
    if isinstance(value, Remote):
        return ["o", value._key]
    raise TypeError(f"a {type(value).__name__} cannot be handed to the program: tests pass plain data")


def end(process: int) -> None:
    """Ends a jail and what it began."""
    for kill in (os.killpg, os.kill):
        with suppress(OSError):
            kill(process, signal.SIGKILL)
    waited(process, 0)


def out_of_time(done: tuple[int, float], limits: jail.Limits) -> bool:
    """Whether a jail was ended for the time that it took."""
    code, spent = done
    return code != 0 and spent > 0.8 * limits.cpu


def waited(process: int, options: int) -> tuple[int, float] | None:
    """The exit code of a jail that is over and the seconds of processor that it took."""
    done, status, used = os.wait4(process, options)
    return (os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime) if done else None


def tested(code: str, tests: list[dict[str, Any]], command: list[str], limits: jail.Limits, until: float) -> list[str]:
    """What came of each test of code: "passed", or why not. A program that ended is begun anew for the next test."""
    found = list[str]()
    program: Program | None = None
    try:
        for test in tests:
            try:
                program = program or Program(code, command, limits, until)
            except Exception as error:  # the next test would find the same
                return found + [_told(error)] * (len(tests) - len(found))
            try:
                # what the program calls like a function of Python's own is not taken for it
                scope = {name: one for name, one in program.names.items() if not hasattr(builtins, name)}
                exec(compile(test["code"], "tests.py", "exec"), scope)
                for name, one in [*scope.items()]:
                    if name.startswith("test_") and callable(one) and not isinstance(one, Remote):
                        one()
                found.append("passed")
            except AssertionError:
                found.append("failed")
            except Exception as error:
                found.append(_told(error))
                if isinstance(error, Broken):
                    program.end()
                    program = None
    except Late:
        found.append("timed out")
    finally:
        if program is not None:
            program.end()
    return found + ["not run"] * (len(tests) - len(found))


def _told(error: Exception) -> str:
    return f"error: {type(error).__name__}: {error}"[:200]


def printed(code: str, test: dict[str, Any], command: list[str], limits: jail.Limits, until: float) -> str:
    """What came of a test of in and out: "passed" where the program ends well and its output is what is expected, up to
    blanks at the ends of lines and of the whole."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "input"
        given.write_text(test["input"], encoding="utf-8")
        asked, to = os.pipe()
        out, written = os.pipe()
        null, read = os.open(os.devnull, os.O_RDWR), os.open(given, os.O_RDONLY)
        (Path(folder) / "work").mkdir()
        source = HERE.read_text(encoding="utf-8")
        pipes = [read, written, null, asked, null]
        process = jail.start([*command, "-c", source, "run"], limits, pipes, str(Path(folder) / "work"))
        for number in (asked, written, null, read):
            os.close(number)
        said, late, status = bytearray(), False, 0
        with suppress(OSError):
            os.write(to, candidate.framed(code))
        os.close(to)
        try:
            while len(said) <= candidate.MOST:
                left = until - time.monotonic()
                if left <= 0 or not select.select([out], [], [], left)[0]:
                    late = True
                    break
                if not (part := os.read(out, 2**16)):
                    break
                said += part
            else:
                return "failed: the program wrote too much"
            done = None
            while not late and (done := waited(process, os.WNOHANG)) is None:  # it has closed its output; is it over?
                late = time.monotonic() > until
                time.sleep(0.002)
            if done is not None:
                process, status, late = 0, done[0], out_of_time(done, limits)
        finally:
            os.close(out)
            if process:
                end(process)
    if late:
        return "timed out"
    same = lines(said.decode("utf-8", "replace")) == lines(test["output"])
    return "passed" if same and status == 0 else "failed" if status == 0 else f"failed: exit code {status}"


def lines(text: str) -> list[str]:
    """A text's lines as they are compared."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def main() -> None:
    """Reads a job, and writes what came of its tests."""
    job, verdict = json.load(sys.stdin), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # tests that print or ask say nothing
        os.dup2(null, number)
    limits, until = jail.Limits(**job["limits"]), time.monotonic() + job["timeout"]
    if hasattr(os, "pidfd_open"):  # on Linux: what loses its parent is waited for here
        jail.adopt()

    def over(*_: Any) -> None:
        raise Late

    signal.signal(signal.SIGALRM, over)  # for a test that never ends itself
    signal.setitimer(signal.ITIMER_REAL, job["timeout"])
    code, tests, found = job["code"], job["tests"], list[str]()
    try:
        if all("code" in test for test in tests):
            found = tested(code, tests, job["command"], limits, until)
        else:
            for test in tests:
                found.append(printed(code, test, job["command"], limits, until))
                if found[-1] == "timed out":
                    break
    except Late:
        found.append("timed out")
    found += ["not run"] * (len(tests) - len(found))
    os.write(verdict, json.dumps(found).encode())


if __name__ == "__main__":
    main()
