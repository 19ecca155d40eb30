"""Asker: runs tests of code in a jail of their own, and asks the program, which is in another one, by plain data.

So what is expected, the tests and the verdict are in a process that no line of the program ever runs in, and tests from
a data set run under the same limits. An outcome a line goes to the tester.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

from iterref.rewards.sandbox.candidate import ANSWERED, ASKED, MOST, decode, encode, framed, put

VERDICT = 5  # the jail's end of the pipe to the tester, beside those of the program
BROKEN = "error: the program"  # an outcome that begins so is the last of its program
PLAIN = "tests pass plain data"  # an outcome that ends so is the fault of its test


class Broken(BaseException):
    """The program's process ended, or said what is no answer; no test catches it as an error of its own."""


class SolutionError(Exception):
    """An error of a kind that only the program knows."""


class Remote:
    """Stands for an object of the program that is no plain data: it can be called, looked into and iterated. It is
    equal to itself alone, so that nothing that the program defines decides a comparison."""

    def __init__(self, key: int) -> None:
        self.__dict__["_key"] = key

    def __call__(self, *given: Any, **named: Any) -> Any:
        return call("call", self._key, "", given, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return ask("get", self._key, name, ["t"], ["d"])

    def __iter__(self) -> Iterator[Any]:
        made = call("special", self._key, "__iter__", (), {})
        while (one := ask("next", made._key, "", ["t"], ["d"])) is not STOP:
            yield one

    def __next__(self) -> Any:
        if (one := ask("next", self._key, "", ["t"], ["d"])) is STOP:
            raise StopIteration
        return one

    def __len__(self) -> int:
        try:
            return int(call("special", self._key, "__len__", (), {}))
        except AttributeError as error:
            raise TypeError(str(error)) from None  # as of an object without a length

    def __getitem__(self, key: Any) -> Any:
        return call("special", self._key, "__getitem__", (key,), {})

    def __str__(self) -> str:
        return str(call("special", self._key, "__str__", (), {}))


STOP = object()


def call(what: str, key: int, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A call of a function, on copies of its arguments."""
    return ask(what, key, name, encode(given, _refused), encode(named, _refused))


def ask(*message: Any) -> Any:
    """What came of one request. Raises what the program raised, if that is an error of Python's own."""
    _send(message)
    status, *found = _hear()
    if status == "stop":
        if message[0] == "next":
            return STOP
        raise SolutionError("StopIteration")  # or it would end a loop of the test's
    if status == "error":
        kind = getattr(builtins, str(found[0]), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            raise kind(found[1])
        raise SolutionError(f"{found[0]}: {found[1]}")
    return _data(found[0])


def _data(found: Any) -> Any:
    try:
        return decode(found, lambda key: Remote(int(key)))
    except Exception as error:
        raise Broken(f"{BROKEN} said what is no data ({type(error).__name__})") from None


def _refused(value: Any) -> Any:
    if isinstance(value, Remote):
        return ["o", value._key]
    raise TypeError(f"a {type(value).__name__} cannot be handed to the program: {PLAIN}")


def _send(message: Any) -> None:
    try:
        put(ANSWERED, framed(message))
    except OSError:
        raise Broken(f"{BROKEN} ended") from None


def _hear() -> list[Any]:
    size = struct.unpack("<I", _exactly(4))[0]
    if size > MOST:
        raise Broken(f"{BROKEN} said too much")
    try:
        found = json.loads(_exactly(size))
        if found[0] == "ok" and len(found) == 2 or found[0] in ("stop", "error") and len(found) == 3:
            return list(found)
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    raise Broken(f"{BROKEN} said what is no answer")


def _exactly(size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        if not (part := os.read(ASKED, min(size - len(found), 2**16))):
            raise Broken(f"{BROKEN} ended")
        found += part
    return bytes(found)


def outcome(test: str, names: dict[str, Any]) -> str:
    """What came of one test of code."""
    try:
        # what the program calls like a function of Python's own is not taken for it
        scope = {name: one for name, one in names.items() if not hasattr(builtins, name)}
        exec(compile(test, "tests.py", "exec"), scope)
        for name, one in [*scope.items()]:
            if name.startswith("test_") and callable(one) and not isinstance(one, Remote):
                one()
    except AssertionError:
        return "failed"
    except Exception as error:
        return told(error)
    return "passed"


def told(error: Exception) -> str:
    """An error as an outcome."""
    return f"error: {type(error).__name__}: {error}"[:200]


def main() -> None:
    """Reads the program and its tests, and writes what came of each, as far as the program lives."""
    job = json.load(sys.stdin)

    def say(said: str) -> None:
        put(VERDICT, json.dumps(said).encode() + b"\n")

    try:
        _send(job["code"])
        try:
            status, *found = _hear()
            if status != "ok":
                raise SolutionError(f"{found[0]}: {found[1]}")
            names = {str(name): _data(one) for name, one in found[0].items()}
        except Exception as error:  # every test would find the same
            for _ in job["tests"]:
                say(told(error))
            return
        for test in job["tests"]:
            say(outcome(test["code"], names))
    except Broken as error:
        say(str(error))
