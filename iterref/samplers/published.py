"""Published: IterRef's procedure as its authors describe it, kept to reproduce the paper.

    y_n ~ T(x, .), n = 1 .. N;   in uniform random order, take the first with  u_n < exp((r(y_n) - r(x)) / alpha)

**Biased for N > 1**: testing a rejected pool again makes the acceptance of a state depend on how many rivals it had,
which detailed balance forbids. `docs/correctness.md` derives the distribution that it is stationary for, and measures
how far off that is. With N = 1 it is Metropolis' rule, and exact. A move costs N NFE and N reward calls.

Lee et al. (2025), arXiv:2511.05562.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from iterref.budget import Cost
from iterref.moves.independent import InTurn
from iterref.samplers.base import Aimed, Sampler
from iterref.samplers.refining import Kernel, Refining


@dataclass(frozen=True)
class Published(Aimed, Refining):
    """A plain draft with a new clean sample at every grid time, and moves whose `tries` are tested one after the other.

    early: the share of the moves that is made before the text is finished. denoise_steps: evaluations on the way back.
    """

    name: ClassVar[str] = "published"
    draws_anew: ClassVar[bool] = True

    tries: int = 2
    early: float = 0.25
    denoise_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(tries=1)
        if self.order != "random" or self.block_length:
            raise ValueError("published: its draft has no order: leave order and block_length as they are")

    def in_blocks(self, block: int, blocks: int) -> Self:
        """Refused: its draft has no blocks."""
        return Sampler.in_blocks(self, block, blocks)

    @property
    def kernel(self) -> Kernel:
        return InTurn(self.tries, self.spacing)

    def cost(self) -> Cost:
        """One NFE a grid step, a reward call for each clean sample that a move begins with or that is the result."""
        early, slots = self.slots()
        scored = min(early, len(slots))  # the last grid time comes first, and what it scores goes down to t = 0
        return Cost(self.steps, max(scored, 1), self.steps) + self.kernel.cost(self.denoise_steps) * self.moves
