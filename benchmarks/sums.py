"""Worked sums: three-digit additions and word problems of two steps, how they are written out, and a rule for steps.

    What is 347+586?                                              7+6=13 4+8+1=13 3+5+1=9 answer: 933
    Ann has 34 eggs, buys 8 and gives away 5. How many are left?            34+8=42 42-5=37 answer: 37

Every problem is made here; those whose CRC-32 is a multiple of `HELD` are never trained on. `broken_steps` reads the
working of a text without knowing the answer: what a person can check who has no key.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

HELD = 16
NAMES = "Ann Ben Cleo Dan Eve Finn Gus Hana Ida Jon".split()
THINGS = "apples beads books cards coins eggs pears pens shells stamps".split()
STORIES = (
    ("+-", "{name} has {a} {things}, buys {b} and gives away {c}. How many are left?"),
    ("-+", "{name} has {a} {things}, sells {b} and then buys {c}. How many are there now?"),
    ("++", "{name} has {a} {things}, {other} has {b} more than that. How many have both?"),
    ("*+", "{name} fills {a} boxes with {b} {things} each and has {c} more. How many in all?"),
    ("*-", "{name} fills {a} bags with {b} {things} each and loses {c}. How many are left?"),
)
STEP = re.compile(r"(\d+)([+*-])(\d+)(?:\+(\d+))?=(\d+)")
WORKING = re.compile(r"(\S+=\d+ )+answer: (\d+)")


@dataclass(frozen=True)
class Sum:
    """A problem, its working as the model learns to write it, its answer, and its kind: "addition" or "story"."""

    prompt: str
    working: str
    answer: int
    kind: str

    @property
    def held(self) -> bool:
        """Whether it is kept out of training."""
        return zlib.crc32(self.prompt.encode()) % HELD == 0


def addition(draw: random.Random) -> Sum:
    """a + b of three digits each, worked from the ones to the hundreds; a carry is a third term."""
    a, b = draw.randint(100, 999), draw.randint(100, 999)
    steps, carry = [], 0
    for place in (1, 10, 100):
        x, y = a // place % 10, b // place % 10
        steps.append(f"{x}+{y}{'+1' if carry else ''}={x + y + carry}")
        carry = (x + y + carry) // 10
    return Sum(f"What is {a}+{b}?", f"{' '.join(steps)} answer: {a + b}", a + b, "addition")


def story(draw: random.Random) -> Sum:
    """Two steps by one digit each; no result is below 1."""
    signs, told = draw.choice(STORIES)
    name, other = draw.sample(NAMES, 2)
    if signs[0] == "*":
        a, b = draw.randint(2, 9), draw.randint(2, 9)
    else:
        a, b = draw.randint(11, 60), draw.randint(2, 9)
    first = {"+": a + b, "-": a - b, "*": a * b}[signs[0]]
    c = a if "{c}" not in told else draw.randint(1, min(9, first - 1)) if signs[1] == "-" else draw.randint(2, 9)
    last = first + c if signs[1] == "+" else first - c
    prompt = told.format(name=name, other=other, things=draw.choice(THINGS), a=a, b=b, c=c)
    return Sum(prompt, f"{a}{signs[0]}{b}={first} {first}{signs[1]}{c}={last} answer: {last}", last, "story")


def sums(seed: int, held: bool) -> Iterator[Sum]:
    """An addition, two stories, and so on without end: those that are held out, or the others."""
    draw, made = random.Random(seed), (addition, story, story)
    for turn in range(10**9):
        while (one := made[turn % 3](draw)).held != held:
            pass
        yield one


def broken_steps(completions: Sequence[str], **_: Any) -> list[float]:
    """Minus the faults of a working: steps that do not add up, carries and results that the next step or the answer
    does not take up; -4 for what is no working. It knows neither the problem nor the answer."""
    return [0.0 - _faults(text) for text in completions]


def _faults(text: str) -> int:
    if not WORKING.fullmatch(text):
        return 4
    read = [STEP.fullmatch(step) for step in text.split(" answer: ")[0].split()]
    if len(read) not in (2, 3) or any(one is None for one in read):
        return 4
    steps = [one.groups() for one in read if one is not None]
    results = [int(one[4]) for one in steps]
    wrong = sum(
        {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] + int(carry or 0) != int(result)
        for a, sign, b, carry, result in steps
    )
    answer = int(text.rpartition(" ")[2])
    if len(steps) == 2:
        return wrong + (int(steps[1][0]) != results[0]) + (answer != results[1])
    carries = [int(one[3] or 0) for one in steps]
    wrong += sum(carry != before // 10 for carry, before in zip(carries, [0, *results[:2]], strict=True))
    return wrong + (answer != 100 * results[2] + 10 * (results[1] % 10) + results[0] % 10)
