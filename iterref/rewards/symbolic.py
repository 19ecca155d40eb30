"""Symbolic: whether two formulas are equal, by math-verify in a process of its own that can be ended.

sympy may take hours or all memory for a text of a few characters, such as 9^{9^{9^{9}}}. So it runs beside the caller,
with a bound on its memory, and is ended and started anew after `seconds` for one pair.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

from iterref.optional import require

WORKER = Path(__file__).with_name("symbolic_worker.py")
START = 60.0  # seconds in which sympy must have been imported
MEMORY = 4 * 2**30  # bytes of address space


class Symbolic:
    """Compares formulas; `timed_out` counts pairs that took too long, which are held to be different."""

    def __init__(self, seconds: float) -> None:
        require("math_verify", "math", "comparing formulas")
        if sys.platform == "win32":
            raise ValueError("comparing formulas needs a process with limits, which win32 lacks: say symbolic=False")
        self.seconds, self.timed_out = seconds, 0
        self._lock, self._process, self._owner = Lock(), None, 0
        self._finalizer: finalize | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "timed_out": self.timed_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["seconds"])  # type: ignore[misc]
        self.timed_out = state["timed_out"]

    def equal(self, answer: str, reference: str) -> bool:
        """Whether two answers are the same, as formulas of LaTeX."""
        with self._lock:
            process = self._started()
            try:
                process.stdin.write(json.dumps([answer, reference]).encode() + b"\n")
                process.stdin.flush()
                line = self._line(process, self.seconds)
            except OSError:  # it was ended from outside, for its memory perhaps
                line = b""
            if line.strip() not in (b"true", b"false"):
                self.timed_out += 1
                self._end()
            return line.strip() == b"true"

    def _started(self) -> Any:
        """The process; a fork of the caller has one of its own."""
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._end()
            command = [sys.executable, "-P", str(WORKER), str(MEMORY)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process, self._owner = subprocess.Popen(command, **pipes), os.getpid()  # type: ignore[call-overload]
            self._finalizer = finalize(self, _ended, self._process, self._owner)
            if self._line(self._process, START).strip() != b"ready":
                self._end()
                raise RuntimeError("math-verify does not start: install iterref[math] anew, or say symbolic=False")
        return self._process

    @staticmethod
    def _line(process: Any, seconds: float) -> bytes:
        """The next line, what there is of it after so many seconds."""
        found, until = b"", time.monotonic() + seconds
        while not found.endswith(b"\n") and (left := until - time.monotonic()) > 0:
            if select.select([process.stdout], [], [], left)[0]:
                if not (part := os.read(process.stdout.fileno(), 4096)):
                    break
                found += part
        return found

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None


def _ended(process: Any, owner: int) -> None:
    """Ends a process; a fork of its owner leaves it alone."""
    if owner == os.getpid():
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()
