"""MTM: multiple-try Metropolis as in the textbook, every try with its own noisy state and evaluation.

    propose y among N tries with probability proportional to  w(y|x) = exp(((1 - g) r(y) - g r(x)) / alpha)
    accept with  min(1, sum_n w(y_n|x) / sum_m w(x*_m|y)),  N - 1 reference tries x* from y, and x itself

A move costs 2N - 1 NFE and as many reward calls, where `iterref` pays 1 NFE. Exact under the same conditions.

Liu, Liang, Wong (2000); Pandolfi, Bartolucci, Friel (2010); Gagnon, Maire, Zanella (2022), arXiv:2211.11613;
Lee et al. (2025), arXiv:2511.05562.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iterref.moves.independent import Textbook
from iterref.moves.shared import Shared
from iterref.samplers.iterref import RewardGuided
from iterref.samplers.refining import Kernel


@dataclass(frozen=True)
class MTM(RewardGuided):
    """The textbook's multiple-try chain. balance: g of the weights; 0 weighs by reward, 1/2 is locally balanced, 1 the
    paper's lambda, single-try Metropolis-Hastings."""

    name: ClassVar[str] = "mtm"

    balance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_share("balance")

    @property
    def kernel(self) -> Kernel:
        return Textbook(self.tries, self.balance, self.spacing)

    @property
    def draft_kernel(self) -> Shared | None:
        """A draft has one noisy state a step anyway, so its candidates share an evaluation."""
        return Shared(self.tries) if self.reward_draft else None
