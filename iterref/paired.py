"""Paired comparisons: the mean of a figure over prompts, and of the difference of two methods, with 95 % intervals.

    values (S, B)    a figure of S seeds and B prompts;  a prompt counts once, with its mean over seeds
    interval         mean +- t_{0.975, n - 1} s / sqrt(n), over n prompts (over seeds where there is one prompt)
    difference       the same of the differences prompt by prompt: how hard a prompt is falls out

A difference is *significant* where its interval excludes 0.
"""

from __future__ import annotations

from math import inf, nan, sqrt
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean and half the width of its 95 % interval, infinite where the data cannot tell it."""

    value: float
    half: float = 0.0

    def __sub__(self, other: Mean) -> Mean:
        """The difference of two independent means."""
        return Mean(self.value - other.value, sqrt(self.half**2 + other.half**2))

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.value) > self.half


def interval(values: np.ndarray) -> Mean:
    """The mean of values (S, B), or (B,), with its interval.

    A value that is not finite, as of a forbidden text, takes its prompt out; NaN where no prompt is left."""
    from scipy.special import stdtrit

    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    units = values[0] if len(values) == 1 else values[:, 0] if values.shape[1] == 1 else values.mean(0)
    units = units[np.isfinite(units)]
    if len(units) < 2:
        return Mean(float(units[0]) if len(units) else nan, inf)
    spread = float(stdtrit(len(units) - 1, 0.975)) * units.std(ddof=1) / sqrt(len(units))
    return Mean(float(units.mean()), float(spread))


def difference(one: np.ndarray, other: np.ndarray) -> Mean:
    """By how much `one` is above `other`, both (S, B) of the same seeds and prompts."""
    with np.errstate(invalid="ignore"):  # -inf less -inf: both are forbidden, and the prompt is left out
        return interval(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64))
