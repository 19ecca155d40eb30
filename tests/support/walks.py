"""Random strings of an automaton of bytes."""

from __future__ import annotations

import random

from iterref.constraint.strings import Strings


def walk(strings: Strings, choice: random.Random, stop: float = 0.3) -> bytes:
    """A random string of a language: where it may end it does so with a chance."""
    state, text = strings.start, bytearray()
    while True:
        steps = (strings.step[state] >= 0).nonzero()[0].tolist()
        if strings.final[state] and (not steps or choice.random() < stop):
            return bytes(text)
        closing = [byte for byte in steps if byte in b'"}],:']
        byte = choice.choice(closing if closing and choice.random() < 0.5 else steps)
        text.append(byte)
        state = int(strings.step[state, byte])
