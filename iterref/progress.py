"""Progress: a bar of a run's steps, with what is to be told beside it and the time that is left.

    iterref:  40%|####      | 12/30 [00:03<00:05, 48/112 NFE, reward 0.613]

What is told may have to be read from a device, for which the host waits. It is asked for only when the bar is drawn: at
the beginning, at the end, and every half second between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, isnan, nan
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from torch import Tensor

INTERVAL = 0.5  # seconds between two drawings
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Bar(tqdm):
    """The steps of an iterable, shown on standard error where `shown`. A context manager: leaving it ends the line."""

    def __init__(
        self, steps: Iterable[Any], name: str, told: Callable[[], str] | None = None, *, shown: bool, **options: Any
    ) -> None:
        """`told` gives the text behind the times; `options` are those of tqdm."""
        self.told = told if shown else None
        super().__init__(
            steps, desc=name, disable=not shown, mininterval=INTERVAL, bar_format=FORMAT, dynamic_ncols=True, **options
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """What a drawing is made of; tqdm asks for it at every drawing, and only then."""
        drawn: dict[str, Any] = super().format_dict
        if self.told is not None:
            drawn["postfix"] = self.told()
        return drawn


def told_nfe(asked: float, whole: float) -> str:
    """The NFE a sample so far, and that of the whole run."""
    return f"{asked:.0f}/{whole:.0f} NFE"


def told_reward(best: Tensor) -> str:
    """The mean reward of the samples (B,) that have a finished, allowed text, with a comma before it; else nothing."""
    mean = float(best.where(best > -inf, nan).nanmean())
    return "" if isnan(mean) else f", reward {mean:.3f}"
