"""Options that do something: every option of every method, changed, changes the texts or the cost, or is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from iterref.budget import Cost
from iterref.decoding import ORDERS
from iterref.exact.markov import world
from iterref.problem import Problem
from iterref.registry import get, names
from iterref.samplers.base import Sampler
from iterref.sampling import sample
from tests.support.partial import ByContent

SMALL = {"steps": 4, "moves": 6, "sweeps": 2, "particles": 4, "n": 4, "keep": 2, "loops": 2, "denoise_steps": 2}
# What an option needs beside it before it can say anything.
NEEDS: dict[str, dict[str, object]] = {
    "adapt": {"spacing": 0},  # or how many sites fit says more than the span
    "anneal": {"objective": "maximise"},
    "ancestors": {"fresh": True},
    "block_length": {"reward_draft": False},
    "bound": {"order": "bounded", "reward_draft": False},
    "decisions": {"denoise_steps": 1},
    "dependence": {"early": 0.0},  # or too few moves are left to measure it
    "held": {"schedule": "loop"},
    "least_steps": {"steps": 12, "nfe": 24},  # as many as the beam has, and more than two arms have
    "off": {"schedule": "loop"},
    "on": {"schedule": "loop"},
    "order": {"reward_draft": False},
    "span": {"nfe": 128},  # room for moves beside the race
    "span_steps": {"spacing": 0},
    "weak": {"cooling": "geometric"},
}
# Other values than those that the kind of an option suggests.
OTHERS: dict[str, tuple[Any, ...]] = {
    "anneal": (0.01,),
    "block_lengths": (2, (1, 3)),
    "bound": (2.0,),
    "dependence": (1.0,),
    "early": (0.0, 0.9),
    "least_steps": (12,),
    "levels": (1, 2),
    "probes": (0,),
    "order": ORDERS,
    "ratio": (4.0,),
    "span": (0.25, (0.25, 1.0)),
    "span_steps": (3, (1, 3)),
}
OPTIONS = [(name, f.name) for name in names() for f in fields(get(name))]


def base(name: str, option: str) -> dict[str, object]:
    """Small options of a method, with what an option needs."""
    known = {f.name for f in fields(get(name))}
    plain = {"denoise_steps": 1} if name == "iterref" else {}
    options = SMALL | plain | NEEDS.get(option, {})
    return {key: value for key, value in options.items() if key in known}


def others(name: str, option: str) -> list[object]:
    """Values that an option may have instead."""
    method, now = get(name), base(name, option)
    value = now.get(option, method.__dataclass_fields__[option].default)
    kind = get_type_hints(method)[option]
    values: tuple[object, ...]
    if option in OTHERS:
        values = tuple(value for value in OTHERS[option] if not isinstance(value, tuple) or kind is not float)
    elif get_origin(kind) is Literal:
        values = get_args(kind)
    elif isinstance(value, bool):
        values = (not value,)
    elif isinstance(value, int):
        values = (value + 1,)
    else:
        assert isinstance(value, float)
        values = (value / 2,) if value >= 0.5 else (0.4,)
    return [other for other in values if other != value]


@cache
def outcome(noise: str, method: Sampler) -> tuple[list[list[int]], Cost]:
    problem = Problem(world(6, 4, 3, noise)[0], ByContent(), torch.zeros(12, 6), alpha=0.3, finds_alpha=True)
    result = sample(method, problem, seed=1)
    return result.tokens.tolist(), result.asked


def says_something(name: str, option: str, value: object) -> bool:
    """Whether the option's value is refused, or gives other texts or another cost, under one of the noises at least."""
    options = base(name, option)
    try:
        changed = get(name)(**options | {option: value})
    except ValueError:
        return True
    plain = get(name)(**options)
    for noise in ("absorbing", "uniform"):
        try:
            if outcome(noise, changed) != outcome(noise, plain):
                return True
        except ValueError:  # without a meaning under this noise
            continue
    return False


@pytest.mark.parametrize("name, option", OPTIONS)
def test_every_option_of_every_method_does_something(name, option):
    assert others(name, option)
    silent = [value for value in others(name, option) if not says_something(name, option, value)]
    assert not silent


@dataclass(frozen=True)
class Idle(get("ancestral")):
    """A method with an option that nothing reads."""

    patience: int = 3


def test_an_option_that_does_nothing_is_seen():
    """Negative control."""
    assert outcome("absorbing", Idle(steps=4, patience=3)) == outcome("absorbing", Idle(steps=4, patience=4))
    assert not outcome("absorbing", Idle(steps=4)) == outcome("absorbing", Idle(steps=5))


NUMBERS = [
    (name, f.name, value)
    for name in names()
    for f in fields(get(name))
    for default in [f.default[0] if isinstance(f.default, tuple) else f.default]
    for value in (math.nan, math.inf, "8", True, *((2.5,) if type(default) is int else ()))
    if type(default) in (int, float)
]


@pytest.mark.parametrize(("name", "option", "value"), NUMBERS)
def test_what_is_no_number_is_refused_by_name(name, option, value):
    infinite = isinstance(value, float) and not math.isfinite(value)
    default = get(name).__dataclass_fields__[option].default
    real = type(default[0] if isinstance(default, tuple) else default) is float
    with pytest.raises((TypeError, ValueError), match=f"{name}: {option} is .*: give a") as told:
        get(name)(**{option: value})
    assert told.type is (ValueError if infinite and real else TypeError)
