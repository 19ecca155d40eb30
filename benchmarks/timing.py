"""Timing: seconds of some work, and the very same calls of denoiser and reward made again, in one process and in turns.

On a CPU seconds are the process's own (what others do on the machine would be in the clock's), on a GPU the clock's,
which waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

Range = dict[str, float]
Q = ("min", "median", "max")


@dataclass
class Recorder:
    """Keeps what a denoiser or a reward was asked, to ask it again; it is both."""

    asked: Any
    calls: list[tuple[Callable[..., Any], tuple[Tensor, ...]]] = field(default_factory=list)

    def __call__(self, *given: Tensor, **named: Tensor) -> Any:
        return self._noted(self.asked)(*given, *named.values())

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.asked, name)
        return self._noted(found) if name == "probabilities" else found

    def again(self) -> None:
        """All calls once more."""
        for ask, given in self.calls:
            ask(*given)

    def _noted(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Tensor) -> Any:
            self.calls.append((ask, tuple(one.clone() for one in given)))
            return ask(*given)

        return noted


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that some work takes, to the end of what it leaves the device to do, and its result."""
    with torch.inference_mode():
        clock = process_time if device.type == "cpu" else perf_counter
        settle(device)
        start = clock()
        made = work()
        settle(device)
        return clock() - start, made


def settle(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ranged(values: Sequence[float]) -> Range:
    """Least, median and largest of some figures."""
    return dict(zip(Q, (min(values), median(values), max(values)), strict=True))


def told(value: Range, before: Range | None = None) -> str:
    """A median with its range, at three digits, and the median `before` it where there is one."""
    low, middle, high = (f"{value[key]:.3g}" if value[key] < 1e4 else f"{value[key]:,.0f}" for key in Q)
    text = middle if low == high else f"{middle} ({low} to {high})"
    return text if before is None else f"{text}, before {told(before).split()[0]}"
