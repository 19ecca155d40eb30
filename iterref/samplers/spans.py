"""Spans: how far a move renoises, a share of the free positions or a number of grid steps; several take turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from iterref.noise import Schedule

if TYPE_CHECKING:
    from iterref.samplers.base import Sampler

Spans = float | tuple[float, ...]
GridSpans = int | tuple[int, ...]


def check_spans(method: Sampler, span: Spans, span_steps: GridSpans, steps: int) -> None:
    """Refuses shares outside (0, 1], numbers of grid steps outside 1 .. steps, and both at once."""
    shares, numbers = turns(span), turns(span_steps)
    if not shares or any(isinstance(share, bool) or not 0 < share <= 1 for share in shares):
        raise ValueError(f"{method.name}: span is a share in (0, 1], or several, got {span}")
    if span_steps != 0 and any(number != int(number) or not 1 <= number <= steps for number in numbers):
        raise ValueError(f"{method.name}: span_steps is a number of grid steps in 1..{steps}, got {span_steps}")
    if span_steps != 0 and span != type(method).__dataclass_fields__["span"].default:
        raise ValueError(f"{method.name}: span={span} and span_steps={span_steps} are two answers: give one of them")


def clean_share(
    span: Spans, span_steps: GridSpans, steps: int, schedule: Schedule, t: float, index: int
) -> float:
    """The share of clean tokens that the `index`-th move from time t goes back to."""
    if span_steps != 0:
        numbers = turns(span_steps)
        s = min(t + numbers[index % len(numbers)] / steps, 1.0)
        return float(schedule.a(torch.tensor(s, dtype=torch.float64)))
    shares = turns(span)
    a_t = float(schedule.a(torch.tensor(t, dtype=torch.float64)))
    return max(a_t - shares[index % len(shares)], 0.0)


def turns(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """One or several values as a tuple."""
    return value if isinstance(value, tuple) else (value,)
