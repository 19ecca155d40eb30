"""Strength: how much of a text one move of a refinement may re-noise, as the options of a method.

    strength s in (0, 1]   ->   spans s and s / 2, in turn: shares of a row's free positions

Small moves are accepted and large ones cross between distant texts; each leaves the distribution as it is, so do both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iterref.numbers import number
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string


def strengthened(sampler: Sampler | str, strength: float) -> Sampler:
    """The method without its draft, whose moves re-noise a share `strength` of the free tokens and half of it in turn.
    A method that adapts its span begins at `strength`. Sites that keep a distance of `spacing` cannot be more than a
    share 1 / spacing of all; a strength above that opens positions independently, `strength` of them in the mean.
    Raises `ValueError` for a strength outside (0, 1], or a method whose moves have no span."""
    method, share = sampler_from_string(sampler).refining(), number("strength", strength, "pass one in (0, 1]")
    if not 0 < share <= 1:
        raise ValueError(f"strength must lie in (0, 1], got {strength}: it is the largest share that a move renoises")
    if not hasattr(method, "span"):
        raise ValueError(f"{method.name} has no span for a strength to set: use iterref or metropolis")
    options: dict[str, Any] = {"span": share if getattr(method, "adapt", False) else (share, share / 2)}
    if share * getattr(method, "spacing", 0) > 1:
        options["spacing"] = 0
    return replace(method, **options)
