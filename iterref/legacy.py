"""Legacy: names and strings of before 0.2, which go on working for one release with a warning that says the new one.

    iterref:kernel=trajectory,width=2  ->  trajectory:chains=2            iterref.parse  ->  iterref.sampler_from_string
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import TypeVar

Value = TypeVar("Value")

RENAMED = {
    "Guided": "ClassifierFreeGuidance",
    "fit": "fit_budget",
    "focus": "refine_hardest",
    "parse": "sampler_from_string",
    "tune": "select_sampler",
}
KERNELS = {"shared": "iterref", "independent": "mtm", "trajectory": "trajectory", "published": "published"}
LATER = {"growth"}  # methods that no release wrote otherwise
OPTIONS = {
    "blocks": "decisions", "block": "block_length", "guided": "reward_draft", "guesses": "x0_samples",
    "width": "chains",
}  # fmt: skip
# All that a kernel of `iterref` could be given, read or not.
ONCE = (
    "steps", "order", "block", "bound", "moves", "tries", "blocks", "span", "spacing", "early", "late", "guided",
    "denoise_steps", "balance", "objective", "anneal", "width", "adapt",
)  # fmt: skip


def renamed(old: str, value: Value) -> Value:
    """What an old public name stands for, with a warning."""
    warnings.warn(f"iterref.{old} is called iterref.{RENAMED[old]} now: use that", FutureWarning, stacklevel=3)
    return value


def translated(text: str, options_of: Callable[[str], Collection[str]]) -> tuple[str, str | None]:
    """A method's string as it is written now, and the sentence to warn by; None for a string that is new already.
    `options_of` gives the options of a method by name, none for one that is not there. What its kernel never read is
    left out, and the sentence says so."""
    name, _, written = text.partition(":")
    parts = (item.partition("=") for item in written.split(",") if item.strip())
    old, items = name.strip(), [(option.strip(), equals, value.strip()) for option, equals, value in parts]
    kernel = next((value for option, _, value in items if option == "kernel"), None)
    split = old == "iterref" and kernel in KERNELS and "kernel" not in options_of(old)
    method = KERNELS[str(kernel)] if split else old
    known = options_of(method)
    now, left = list[str](), list[str]()
    for option, equals, value in items:
        if option not in known and OPTIONS.get(option) in known:
            option = OPTIONS[option]
        if option == "span" and "span_steps" in known and method not in LATER:
            now.append(_span(value, next((steps for name, _, steps in items if name == "steps"), "")))
        elif (split or option == "late") and option in ONCE and option not in known:
            left.append(option)
        elif not split or option != "kernel":
            now.append(f"{option}{equals}{'sample' if (option, value) == ('value', 'guess') else value}")
    if not split and now == ["".join(item) for item in items]:
        return text, None
    new = method + (f":{','.join(now)}" if now else "")
    without = f", without {', '.join(left)}, which this kernel never read" if left else ""
    return new, f"{text!r} is written {new!r} now{without}: write that"


def _span(value: str, steps: str) -> str:
    """Shares of the free positions, or numbers of grid steps, which were whole numbers without a point. Where both took
    turns, k of K steps are the share k / K of a finished text."""
    parts = value.split("+")
    if all(part.isdecimal() and int(part) for part in parts):  # 0 was none of them, and `span_steps=0` says nothing
        return f"span_steps={value}"
    grid = int(steps) if steps.isdecimal() and int(steps) else 4
    return f"span={'+'.join(f'{int(part) / grid:g}' if part.isdecimal() else part for part in parts)}"
