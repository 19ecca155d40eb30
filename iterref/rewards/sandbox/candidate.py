"""Candidate, what runs inside of a jail: a program whose functions are called from outside, or one on its own.

    functions    -> [code]  <- names    then  -> [what to do, with which plain data]  <- what came of it
    a program    -> [code], stdin  <- stdout

Only this file and the standard library are there. What passes is plain data (None, bool, numbers, str, bytes, lists,
tuples, sets, dicts) as JSON, and numbers that stand for other objects: an object's own methods never run outside.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

ASKED, ANSWERED = 3, 4  # the jail's ends of two pipes
MOST = 4 * 2**20  # bytes of a message
LONG = 2000  # bits of a number that JSON holds as it is: Python writes no more than 640 digits where it is told so
KINDS: dict[str, Callable[..., Any]] = {"l": list, "t": tuple, "s": set, "f": frozenset}


def encode(value: Any, handle: Callable[[Any], Any]) -> Any:
    """Plain data as what JSON can hold; `handle` makes that of any other object."""
    if type(value) is int and value.bit_length() > LONG:
        return ["i", hex(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    for plain in (int, float, str):  # a class derived from one
        if isinstance(value, plain):
            return encode(plain(value), handle)
    if isinstance(value, dict):
        return ["d", *([encode(key, handle), encode(one, handle)] for key, one in value.items())]
    for mark, kind in KINDS.items():
        if isinstance(value, kind):  # type: ignore[arg-type]
            return [mark, *(encode(one, handle) for one in value)]
    if isinstance(value, bytes | bytearray):
        return ["b", value.hex()]
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    return handle(value)


def decode(found: Any, handle: Callable[[Any], Any]) -> Any:
    """The data in an answer of `encode`. Raises `ValueError`, `TypeError` or a like error for what is none."""
    if not isinstance(found, list):
        return found
    mark, rest = found[0], found[1:]
    if mark == "d":
        return {decode(key, handle): decode(one, handle) for key, one in rest}
    if mark in KINDS:
        return KINDS[mark](decode(one, handle) for one in rest)
    if mark == "i":
        return int(rest[0], 16)
    if mark == "b":
        return bytes.fromhex(rest[0])
    return complex(*rest) if mark == "c" else handle(rest[0])


def framed(message: Any) -> bytes:
    """A message as bytes behind their number."""
    data = json.dumps(message).encode()
    return struct.pack("<I", len(data)) + data


def _read(size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = os.read(ASKED, size - len(found))
        if not part:
            os._exit(0)
        found += part
    return found


def _heard() -> Any:
    return json.loads(_read(struct.unpack("<I", _read(4))[0]))


def put(pipe: int, data: bytes) -> None:
    """Writes all of some data."""
    while data:
        data = data[os.write(pipe, data) :]


def _say(message: Any) -> None:
    put(ANSWERED, framed(message))


def _module(code: str, name: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, "solution.py", "exec"), module.__dict__)
    return module


def serve() -> None:
    """Runs a program and does what it is asked with its functions, until the pipe is closed."""
    objects: list[Any] = []

    def keep(value: Any) -> Any:
        objects.append(value)
        return ["o", len(objects) - 1]

    def look_up(key: Any) -> Any:
        return objects[key]

    def answer(what: str, key: Any, name: str, given: Any, named: Any) -> Any:
        target = objects[key]
        if what == "get":
            return encode(getattr(target, name), keep)
        if what == "next":
            return encode(next(target), keep)
        arguments, keywords = decode(given, look_up), decode(named, look_up)
        return encode((target if what == "call" else getattr(target, name))(*arguments, **keywords), keep)

    def attempt(do: Callable[[], Any]) -> None:
        try:
            _say(["ok", do()])
        except BaseException as error:  # SystemExit too: the pipe is how it is told
            _say(["stop" if isinstance(error, StopIteration) else "error", type(error).__name__, str(error)[:500]])

    def names() -> dict[str, Any]:
        module = _module(code, "solution")
        return {name: encode(one, keep) for name, one in vars(module).items() if not name.startswith("__")}

    code = _heard()
    attempt(names)
    while True:
        asked = _heard()
        attempt(lambda: answer(*asked))  # noqa: B023  (it is called at once)


def run() -> None:
    """Runs a program as the main one, on its own input and output."""
    code = _heard()
    os.close(ASKED)
    os.close(ANSWERED)
    sys.argv = ["solution.py"]
    _module(code, "__main__")


if __name__ == "__main__":
    run() if sys.argv[-1] == "run" else serve()
