"""Expressions: regular expressions of whole texts, compiled to automata of bytes by `outlines-core`."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from iterref.constraint.strings import Strings
from iterref.optional import require

# Stands behind every text while it is compiled: outlines-core 0.2.14 loses the steps from a state that a text may end
# in to one that it may not (`[0-9]+(\\.[0-9]+)?` had no decimals). It is no character, and stands in no text.
BEHIND = "\U0010ffff"


def escaped(text: str) -> str:
    """A regular expression of a text itself."""
    return re.sub(r"[\\.+*?()|\[\]{}^$#&\-~]", lambda sign: "\\" + sign.group(), text)


def whole(regex: str) -> str:
    """A regular expression of whole texts without a ^ at its beginning and a $ at its end, which say nothing there."""
    regex = regex.removeprefix("^")
    escapes = len(regex[:-1]) - len(regex[:-1].rstrip("\\"))
    return regex[:-1] if regex.endswith("$") and escapes % 2 == 0 else regex


@lru_cache(maxsize=64)
def compiled(regex: str) -> Strings:
    """The smallest automaton of a regular expression. Raises `ValueError` for what is none."""
    require("outlines_core", "structure", "a constraint")
    from outlines_core import Index, Vocabulary

    alphabet = Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})  # 256 is the end
    try:
        index = Index(f"(?:{whole(regex)}){BEHIND}", alphabet)
    except (ValueError, RuntimeError) as error:
        shown = regex if len(regex) <= 60 else regex[:57] + "..."
        raise ValueError(f"the regular expression {shown!r} cannot be compiled ({told(error)})") from None
    number = {state: at for at, state in enumerate(index.get_transitions())}
    for to in [to for row in index.get_transitions().values() for to in row.values()]:
        number.setdefault(to, len(number))
    step = np.full((len(number), 256), -1)
    for state, row in index.get_transitions().items():
        for byte, to in row.items():
            if byte < 256:
                step[number[state], byte] = number[to]
    over = np.isin(list(number), list(index.get_final_states()))
    behind = Strings(step, over).walked(np.arange(len(number)), BEHIND.encode())
    return Strings(step, (behind >= 0) & over[behind], number[index.get_initial_state()]).least()


def told(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200]
