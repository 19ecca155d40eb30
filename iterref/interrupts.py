"""Interrupts: Ctrl-C held back until a step is whole, so that what is saved then is what an uninterrupted run has.

    with held_back() as asked:
        while not asked():  ...one step...

A second Ctrl-C breaks off at once. Away from the main thread, where Python takes no signals, nothing is held back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed since. The way in which it was handled before comes back."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
