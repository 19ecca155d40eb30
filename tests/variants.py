"""Small variants of every method, for the tests that hold all methods to the same promises."""

from __future__ import annotations

from dataclasses import fields

from iterref.kernels import KERNELS
from iterref.registry import get

SMALL = {"steps": 2, "moves": 2, "tries": 2, "n": 2, "particles": 2}

# Options written on top of the small ones, under both noises.
VARIANTS: dict[str, list[str]] = {
    "iterref": [
        "late=1,moves=3",
        "guided=false,late=0.7",
        "blocks=2,late=0.5",
        "spacing=0,span=0.5",
        "denoise_steps=2,late=0.5",
        "span=0.5+1+1.0,moves=3",
        "objective=maximise,anneal=0.5",
        "tries=1",
        *(f"kernel={kernel}" for kernel in KERNELS),
        "kernel=independent,balance=0.5,late=0.5",
        "kernel=published,denoise_steps=2,late=0.5",
        "kernel=independent,denoise_steps=2,span=1",
        "kernel=trajectory,span=2+0.3",
    ],
}

# Under absorbing noise alone.
MASKED: dict[str, list[str]] = {
    "ancestral": ["order=confidence"],
    "best_of_n": ["order=confidence"],
    "iterref": ["kernel=trajectory,order=confidence", "guided=false,order=confidence,late=0.5"],
    "metropolis": ["order=confidence"],
}


def small(name: str, written: str = "") -> str:
    """A method with small options, and some written on top."""
    given = dict(part.split("=", 1) for part in written.split(",") if part)
    known = {f.name for f in fields(get(name))}
    options = {option: str(value) for option, value in SMALL.items() if option in known} | given
    return f"{name}:" + ",".join(f"{option}={value}" for option, value in options.items())
