"""Metropolis: one try a move, the standard that every multiple-try kernel must beat at equal NFE.

    x_s ~ q(x_s | x_t);  x_0 ~ p(. | x_s);  accept with min(1, exp((r(x_0) - r(current)) / alpha))

A plain draft, then a chain on the finished text. Exact under the same conditions as the shared kernel with N = 1,
which it is. Metropolis et al. (1953); Hastings (1970).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iterref.moves.shared import Shared
from iterref.samplers.refining import Kernel, Refining
from iterref.samplers.spans import Spans


@dataclass(frozen=True)
class Metropolis(Refining):
    """A plain draft, then `moves` single-try moves."""

    name: ClassVar[str] = "metropolis"

    steps: int = 8
    span: Spans = 0.25

    @property
    def kernel(self) -> Kernel:
        """One try of the shared kernel is Metropolis' rule."""
        return Shared(1, 1, self.spacing)
