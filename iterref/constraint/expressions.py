"""Expressions: regular expressions of whole texts, compiled to automata of bytes by `outlines-core`.

The engine's syntax is that of Rust's `regex`. What Python's `re` reads otherwise is written as Python reads it (\\w,
\\s, anchors of an alternative) or refused (sets in a class, possessive repeats), so that `re.fullmatch` agrees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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


# The parts of an expression: escapes, classes (with those of `PYTHON` in them) and single signs.
ATOMS = re.compile(r"\\.|\[\^?\]?(?:\\.|\[\^?(?:\\.|[^\]\\])*\]|[^\]\\])*\]|.", re.DOTALL)
FLAGS = re.compile(r"(?:\(\?[a-z]+\))*")
# What Python's classes hold, and its names of the two ends.
PYTHON = {
    "w": r"[\p{L}\p{N}_]", "W": r"[^\p{L}\p{N}_]", "s": r"[\t-\r\x1c-\x20\x85\p{Z}]",
    "S": r"[^\t-\r\x1c-\x20\x85\p{Z}]", "A": "^", "Z": "$",
}  # fmt: skip


def whole(regex: str, classes: Mapping[str, str] = PYTHON) -> str:
    """A regular expression of whole texts, with the escapes of `classes` written out, without the ^ that its
    alternatives begin with and the $ that they end with, which say nothing there."""
    found = FLAGS.match(regex)
    assert found is not None  # it may be empty
    alternatives, depth = list[list[str]]([[]]), 0
    for atom in ATOMS.findall(regex[found.end() :]):
        depth += (atom == "(") - (atom == ")")
        if atom == "|" and not depth:
            alternatives.append([])
        else:
            alternatives[-1].append(_written(atom, classes))
    bare = ("".join(one[one[:1] == ["^"] : len(one) - (one[-1:] == ["$"])]) for one in alternatives)
    return found[0] + "|".join(bare)


def _written(atom: str, classes: Mapping[str, str]) -> str:
    """A part of an expression with its escapes as the engine has them; within a class there are no ends."""

    def escape(sign: re.Match[str]) -> str:
        known = classes.get(sign[1], sign[0])
        return sign[0] if atom[0] == "[" and known in ("^", "$") else known

    return re.sub(r"\\(.)", escape, atom)


def expect_one_reading(regex: str) -> None:
    """Raises `ValueError` for signs that Python's `re` and the engine read in two ways."""
    atoms = [re.sub(r"\\.", "x", atom, flags=re.DOTALL) for atom in ATOMS.findall(regex)]
    why = ""
    if any(re.search(r"\[|&&|--|~~", atom[1:]) for atom in atoms if len(atom) > 1):
        why = "a [, &&, -- or ~~ within a class is read in two ways: escape it by a backslash"
    elif re.search(r"[*+?}]\+", "".join(atom if len(atom) == 1 else "x" for atom in atoms)):
        why = "it repeats possessively, as in a*+, which is read in two ways: leave the second sign out"
    if why:
        raise ValueError(f"the regular expression {_shown(regex)} cannot be compiled: {why}")


def _shown(regex: str) -> str:
    return repr(regex if len(regex) <= 60 else regex[:57] + "...")


@lru_cache(maxsize=64)
def compiled(regex: str) -> Strings:
    """The smallest automaton of a regular expression. Raises `ValueError` for what is none."""
    require("outlines_core", "structure", "a constraint")
    from outlines_core import Index, Vocabulary

    alphabet = Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})  # 256 is the end
    try:
        index = Index(f"(?:{whole(regex)}){BEHIND}", alphabet)
    except (ValueError, RuntimeError) as error:
        refused = f"the regular expression {_shown(regex)} cannot be compiled, or has no text"
        how = "leave out look-around, back references, \\b, {,n}, and ^ or $ within it"
        raise ValueError(f"{refused}: {how} ({told(error)[:80]})") from None
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
