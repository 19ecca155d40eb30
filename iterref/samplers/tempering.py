"""Parallel tempering: chains of a row side by side at rising temperatures of the reward, which swap states.

    alpha_k = alpha ratio^k,  k = 0 .. W - 1;     target   prod_k Pi_k(x^k),   Pi_k(x) ~ p(x) exp(r(x) / alpha_k)
    every round, each chain makes a move of the shared kernel at its own alpha_k; then neighbours i, j = i + 1 swap with

        min(1, exp((1 / alpha_i - 1 / alpha_j) (r(x^j) - r(x^i))))

Hot chains cross between distant texts, and what they find comes down the ladder to chain 0, the result. The prior
cancels from the ratio, the noise level too (all chains are at the same t), and rewards travel with the states: a swap
costs nothing. Even pairs (0, 1), (2, 3), ... and odd ones (1, 2), ... are tried in turn, which is not reversible and
takes a text up and down the ladder in O(W) rounds instead of O(W^2); two chains have one pair, tried every round.

Swaps leave the product invariant whatever the model; the moves do under the conditions of the shared kernel, and then
the whole does. A ladder shares its NFE among the chains: it pays where the tilted distribution has modes that one chain
does not cross between, and costs where there are none.

Swendsen and Wang (1986); Geyer (1991); Okabe, Kawata, Okamoto, Mikami (2001); Syed, Bouchard-Cote, Deligiannidis,
Doucet (2022), arXiv:1905.02939.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from iterref import chains
from iterref.moves.shared import Shared
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import Aimed, Info, Output, Paired, State
from iterref.samplers.refining import Kernel, Refining


@dataclass(frozen=True)
class Tempering(Aimed, Refining):
    """Replica exchange of `chains` chains.

    Each drafts in `steps` grid steps, its clean samples competing at its own alpha (`reward_draft`) or plainly, and
    then makes `moves` moves of the shared kernel on the finished text; tries and decisions as in `iterref`. ratio:
    alpha of a chain over that of the next cooler one. The last state of chain 0 is returned to `sample`."""

    name: ClassVar[str] = "tempering"

    chains: int = 3
    ratio: float = 2.0
    tries: int = 2
    decisions: int = 8
    reward_draft: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(chains=2, tries=1, decisions=1)
        if not 1 < self.ratio < float("inf"):
            raise ValueError(f"tempering: ratio must be above 1 and finite, got {self.ratio}: chains get hotter by it")

    def in_blocks(self, block: int, blocks: int) -> Self:
        plain = self if self.block_length or not self.steps else replace(self, reward_draft=False)
        return super(Tempering, plain).in_blocks(block, blocks)

    @property
    def kernel(self) -> Kernel:
        return Shared(self.tries, self.decisions, self.spacing)

    @property
    def draft_kernel(self) -> Shared | None:
        return Shared(self.tries, self.decisions) if self.reward_draft else None

    def ladder(self, alpha: float) -> Tensor:
        """alpha_k of every chain, (W,) float64."""
        return alpha * self.ratio ** torch.arange(self.chains, dtype=torch.float64)

    def output(self, run: Run, state: State) -> Output:
        """Chain 0, which has all the weight: the others sample distributions of their own."""
        output = super().output(run, state)
        assert output.particles is not None
        output.particles.log_w[1:] = -torch.inf
        return output

    def _alpha(self, run: Run, index: int | None) -> Time:
        return self.ladder(run.problem.alpha).to(run.canvas.device).repeat_interleave(run.batch)

    def _after(self, run: Run, before: State, state: State, info: Info, rng: Rng) -> tuple[State, Info]:
        """One round of swaps; what is said of the moves is of chain 0."""
        if isinstance(state, Paired) and info.decisions:
            # Which pairs are tried depends on the round alone.
            first = before.step % min(2, self.chains - 1)
            reward = state.reward.view(self.chains, -1)
            places = exchange(reward, self.ladder(run.problem.alpha), first, rng.fork("swap"))
            state = state.take(chains.sequences(places))
        cold = slice(run.batch)  # chain 0
        shown = {name: x[cold] for name in ("accepted", "stuck", "changed") if (x := getattr(info, name)) is not None}
        return state, replace(info, **shown, decisions=tuple(decision.of(cold) for decision in info.decisions))


def exchange(reward: Tensor, alpha: Tensor, first: int, rng: Rng) -> Tensor:
    """One round of swaps: who stands at every place afterwards, (W, B) long, from rewards (W, B) and alphas (W,).

    Tried are the pairs (first, first + 1), (first + 2, first + 3), ... A text of density zero always gives way to one
    that is possible; two of them stay where they are."""
    width = len(reward)
    inverse = 1 / alpha.to(reward.device)
    log_ratio = (inverse[:-1] - inverse[1:])[:, None] * reward.diff(dim=0)  # -inf less -inf is undefined: no swap
    place = torch.arange(width, device=reward.device)[:, None]
    tried = place[:-1] % 2 == first
    chance = torch.where(tried, log_ratio.nan_to_num(nan=-torch.inf).clamp_max(0).exp(), 0.0)
    swaps = rng.bernoulli(chance.T.contiguous()).T.long()
    nobody = torch.zeros_like(swaps[:1])
    return place + torch.cat([swaps, nobody]) - torch.cat([nobody, swaps])
