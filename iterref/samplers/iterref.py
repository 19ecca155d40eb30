"""IterRef: refine the current state in place, inside a multiple-try Metropolis chain.

    draft     at every grid time t: redraw the clean sample at x_t, N candidates weighed by reward; then descend
    refine    x_t -> x_s noisier -> N candidates back at t from one evaluation, weigh by reward, accept or reject

Lee, Kim, Kim, Park, Park (2025), arXiv:2511.05562; the shared kernel (`iterref.moves.shared`) is this library's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Self

import torch

from iterref import chains
from iterref.budget import Budget
from iterref.moves.renoise import Excursion
from iterref.moves.shared import Candidates, Shared, knows_conditionals
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import Aimed, Drafted, Info, Paired, State
from iterref.samplers.dependence import Stages
from iterref.samplers.refining import Refine, Refining, unfinished
from iterref.samplers.spans import turns

# Decisions a move where they cost reward calls alone, and no number is given.
DECISIONS = 8
# Tries that a budget in total calls buys at the most, where reward calls are nearly free.
MOST_TRIES = 32
# Adaptive spans: the acceptance aimed at, the power that the steps fall with, and the least span.
ADAPT_TARGET, ADAPT_POWER, ADAPT_LEAST = 0.5, 0.6, 0.02


@dataclass(frozen=True)
class Adapting(Paired):
    """Pairs of chains that each steer a `span` (R,) float64 of their own."""

    span: torch.Tensor


@dataclass(frozen=True)
class RewardGuided(Aimed, Refining):
    """What `iterref` and `mtm` share.

    tries: candidates N of a decision. reward_draft: whether the draft's clean samples compete by reward. early: the
    share of the moves that is made before the text is finished, spread over the grid times. denoise_steps: evaluations
    on the way back from s to t. anneal: the factor that alpha reaches at the last move (to maximise). chains: of a row
    side by side, resampled by weight after a first clean sample chosen by reward: NFE bought without depth; the last
    state of one of them is returned, all are in `Result.particles`. adapt: every chain steers its span towards an
    acceptance of one half, by steps that vanish."""

    spare: ClassVar[str] = "chains"

    tries: int = 2
    reward_draft: bool = True
    early: float = 0.25
    denoise_steps: int = 1
    anneal: float = 1.0
    chains: int = 1
    adapt: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(tries=1)
        if self.adapt and (self.span_steps != 0 or isinstance(self.span, tuple)):
            raise ValueError(f"{self.name}: adapt steers one span, a share in (0, 1]")

    def in_blocks(self, block: int, blocks: int) -> Self:
        """With a plain draft and all moves behind it: what competes at an unfinished text is drawn in all blocks."""
        plain = self if self.block_length or not self.steps else replace(self, reward_draft=False, early=0.0)
        return super(RewardGuided, plain).in_blocks(block, blocks)

    def _alpha(self, run: Run, index: int | None) -> Time:
        return run.alpha if index is None else run.alpha * self.anneal ** (index / max(self.moves - 1, 1))

    def _excursion(self, run: Run, state: State, now: Refine) -> Excursion:
        """As planned, or with every chain's own span."""
        if not self.adapt:
            return super()._excursion(run, state, now)
        a_t = float(run.noise.schedule.a(torch.tensor(now.t, dtype=torch.float64)))
        a_s, masked = a_t - self._span_of(state), run.noise.mask is not None
        return Excursion.planned(run.noise.schedule, now.t, a_s, self.denoise_steps, masked)

    def _after(self, run: Run, before: State, state: State, info: Info, rng: Rng) -> tuple[State, Info]:
        """Spans adapt; chains meet when they have their first clean sample, and one is drawn after the last step."""
        if self.adapt and info.span is not None and info.accepted is not None and isinstance(state, Paired):
            # Robbins and Monro (1951): the steps vanish, and with them the dependence of a move on the chain's past
            step = (before.step + 1.0) ** -ADAPT_POWER
            span = (self._span_of(before).log() + step * (info.accepted - ADAPT_TARGET)).exp().clamp(ADAPT_LEAST, 1.0)
            state = Adapting(state.step, state.t, state.x_t, state.x_0, state.reward, span)
        begun = not isinstance(before, Drafted) and bool(info.decisions)
        log_w = info.decisions[0].reward / run.alpha if begun else None
        return chains.met(state, info, self.chains, log_w, state.step == self.iterations, rng)

    def _span_of(self, state: State) -> torch.Tensor:
        """The span of every chain, the option's at first."""
        if isinstance(state, Adapting):
            return state.span
        return torch.full((len(state.x_t),), turns(self.span)[0], dtype=torch.float64, device=state.x_t.device)


@dataclass(frozen=True)
class IterRef(RewardGuided):
    """Reward-guided refinement by the shared kernel: one evaluation serves all candidates of a move.

    decisions: how many share an evaluation, each over its own part of the open positions (with one denoising step; 0 is
    8 there and 1 elsewhere). dependence: where the first moves on the finished text find more of it than that among the
    positions that they open, in total variation, the later ones open fewer, down to one (`samplers.dependence`; to
    sample, by spaced moves of one denoising step); 1 never does."""

    name: ClassVar[str] = "iterref"

    decisions: int = 0
    dependence: float = 0.01  # rounding is far below it, what biases a chain above

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(decisions=0)
        self._require_share("dependence")
        if self.dependence != IterRef.dependence and not self._samples_spaced:
            told = f"iterref: dependence={self.dependence} is for objective=sample with a spacing"
            raise ValueError(f"{told}, denoise_steps=1 and adapt=false: leave it out")
        if self.decisions > 1 and self.denoise_steps > 1:
            raise ValueError("iterref: decisions > 1 needs denoise_steps=1: they share one evaluation")

    @property
    def kernel(self) -> Shared:
        return Shared(self.tries, self._decisions, self.spacing)

    @property
    def draft_kernel(self) -> Shared | None:
        return Shared(self.tries, self._decisions) if self.reward_draft else None

    def spend(self, budget: Budget) -> IterRef:
        """Moves for the NFE, candidates for reward calls, chains for what a bound on depth leaves over.

        Where candidates cost reward calls alone, the reward calls that go with an NFE buy decisions first (up to
        `decisions`) and tries then; a draft takes no more than half of any bound, if fewer decisions can help it."""
        if self.denoise_steps > 1:
            fitted = super().spend(budget)
            assert isinstance(fitted, IterRef)
            return fitted
        fitted = self._balanced(budget)._most(budget, "moves", 0)
        if budget.depth < inf:
            fitted = fitted._most(budget, "chains", self.chains)
        if budget.reward_calls == inf:
            return fitted
        if not fitted.moves and not (self.reward_draft and self.steps):  # nothing is decided: candidates have no price
            return replace(self, moves=0)
        return fitted._most(budget, "tries", 1)

    @property
    def _decisions(self) -> int:
        return self.decisions or (DECISIONS if self.denoise_steps == 1 else 1)

    @property
    def _samples_spaced(self) -> bool:
        """Whether moves on the finished text measure the dependence of what they open."""
        return self.objective == "sample" and self.spacing > 0 and self.denoise_steps == 1 and not self.adapt

    def _stages(self, run: Run, now: Refine) -> tuple[Stages, int] | None:
        """What the moves on the finished text do one after the other, and the number of this one among them; None where
        they do not measure.

        A text under a constraint is one draw, which one position alone could not change."""
        measures = self._samples_spaced and self.dependence < 1 and run.problem.constraint is None
        if now.t > 0 or not measures or not (run.noise.mask is not None or knows_conditionals(run)):
            return None
        first = unfinished(self._plan(run))
        return Stages(self.moves - first, self.dependence), now.move - first

    def _proposed(self, run: Run, state: Paired, now: Refine, rng: Rng) -> tuple[Candidates, Excursion]:
        """As planned; to sample, moves on the finished text measure first, and then thin out where they must."""
        if (found := self._stages(run, now)) is None:
            return super()._proposed(run, state, now, rng)
        return found[0].propose(self.kernel, run, state, self._excursion(run, state, now), found[1], rng)

    def _compared(self, run: Run, before: Paired, state: Paired, new: Candidates, now: Refine) -> Paired:
        """The state with what the moves so far say of dependence."""
        found = self._stages(run, now)
        return state if found is None else found[0].compare(before, state, new, found[1])

    def _balanced(self, budget: Budget) -> IterRef:
        """Decisions and tries a move for a budget that bounds reward calls, alone or in the total."""
        if budget.total < inf:
            ratio = self._decisions / budget.price if budget.price else inf
        elif budget.reward_calls < inf:
            ratio = budget.reward_calls / budget.nfe if budget.nfe < inf else self._decisions
        else:
            return self
        decisions = int(min(max(ratio, 1), self._decisions))
        tries = int(min(max(ratio / decisions, 1), MOST_TRIES)) if budget.total < inf else 1
        least = replace(self, moves=0, tries=tries, decisions=decisions, chains=1)
        while least.decisions > 1 and not budget.allows(least.cost() * 2):
            least = replace(least, decisions=least.decisions // 2)
        return replace(least, chains=self.chains)
