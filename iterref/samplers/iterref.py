"""IterRef: refine the current state in place, inside a multiple-try Metropolis chain.

    draft     at every grid time t: redraw the guess at x_t, N candidates weighed by reward; then x_u ~ q(. | x_t, x_0)
    refine    x_t -> x_s noisier -> N candidates back at t, weigh by reward, accept or reject, before going on

The chain is at the law Pi_t when a move begins and stays there (`iterref.kernels` says under which conditions each
kernel is exact), and going down the grid is exact and free.

Lee, Kim, Kim, Park, Park (2025), arXiv:2511.05562; the shared kernel is this library's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal

import torch

from iterref.budget import Budget
from iterref.decode import grid
from iterref.kernels import KERNELS, Entry, Move
from iterref.noise import Schedule
from iterref.samplers.base import Chain


@dataclass(frozen=True)
class IterRef(Chain):
    """Reward-guided refinement.

    steps: grid steps of the draft, one denoiser row each; 0 starts from given texts. moves: refinement moves in
    all. tries: candidates N of a decision. blocks: decisions that share one evaluation, each over its own part of
    the open positions (`shared` only). span: how far a move re-noises, a share of the free positions in (0, 1] or a
    whole number of grid steps; several of them take turns (all laws stay invariant, small moves mix with large
    ones). spacing: least distance of the positions that a move opens; 0 opens independent ones. late: moves run at
    grid times t <= late; 0 is the finished text only, 1 everywhere. guided: whether the draft's guesses compete by
    reward. kernel: `shared`, `independent`, `trajectory` or `published`. denoise_steps: evaluations on the way back
    from s to t. balance: g of the independent kernel's weights. order, block, bound: the base decoder, of
    `trajectory`'s paths and of a draft that is not guided. objective: `sample` returns the last state, `maximise` the
    best text seen; then `anneal` is the factor that alpha reaches at the last move.
    """

    name: ClassVar[str] = "iterref"
    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0

    moves: int = 24
    tries: int = 16
    blocks: int = 1
    span: float | int | tuple[float | int, ...] = 0.25
    spacing: int = 2
    late: float = 0.0
    guided: bool = True
    kernel: Literal["shared", "independent", "trajectory", "published"] = "shared"
    denoise_steps: int = 1
    balance: float = 0.0
    objective: Literal["sample", "maximise"] = "sample"
    anneal: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, moves=0, tries=1, blocks=1, spacing=0, denoise_steps=1)
        _among("kernel", self.kernel, tuple(KERNELS))
        _among("objective", self.objective, ("sample", "maximise"))
        if not self.spans or any(not self._is_span(span) for span in self.spans):
            raise ValueError(
                f"iterref: span is a share in (0, 1] or a number of grid steps in 1..{self.steps}, got {self.span}"
            )
        if not 0 <= self.late <= 1 or not 0 <= self.balance <= 1:
            raise ValueError(f"iterref: late and balance must lie in [0, 1], got {self.late} and {self.balance}")
        if not 0 < self.anneal <= 1 or (self.anneal != 1 and self.objective == "sample"):
            raise ValueError("iterref: anneal must lie in (0, 1], and only objective=maximise may lower alpha")
        if self.kernel == "trajectory" and not self.steps:
            raise ValueError("iterref: kernel=trajectory redraws a path that it recorded: it needs steps of at least 1")
        if self.order != "random" and (self.guided or self.kernel == "published") and self.kernel != "trajectory":
            raise ValueError(
                f"iterref: a guided draft settles its tokens by reward, so order={self.order} needs guided=false, or "
                "kernel=trajectory"
            )
        if self.blocks > 1 and (self.kernel != "shared" or self.denoise_steps > 1):
            raise ValueError("iterref: blocks > 1 needs kernel=shared and denoise_steps=1: they share one evaluation")

    @property
    def entry(self) -> Entry:
        """The kernel, with its cost."""
        return KERNELS[self.kernel]

    @property
    def spans(self) -> tuple[float | int, ...]:
        """The spans that take turns."""
        return self.span if isinstance(self.span, tuple) else (self.span,)

    @property
    def maximises(self) -> bool:
        """Whether the best text seen is returned."""
        return self.objective == "maximise"

    def plan(self, schedule: Schedule, alpha: float) -> tuple[Move, ...]:
        """A draft down the grid; refinement moves spread over the times t <= late, the rest on the finished text."""
        times = grid(self.steps)
        if self.kernel == "trajectory":
            return self._paths(times, alpha)
        slots = [i for i in range(1, self.steps) if times[i] <= self.late] if self.moves else []
        slots.append(self.steps)
        moves: list[Move] = []
        done = 0
        for i in range(len(times)):
            moves += self._draft(schedule, times, i, slots[0], alpha)
            if i in slots:
                place = slots.index(i)
                share = (self.moves + place) // len(slots)  # whole numbers that add up to `moves`, the rest late
                moves += [self._refinement(schedule, times, i, done + j, alpha) for j in range(share)]
                done += share
        return tuple(moves)

    def spend(self, budget: Budget) -> IterRef:
        """More moves for more denoiser rows; where candidates cost reward rows alone, as many of them as then fit."""
        if self.kernel != "shared" or self.denoise_steps > 1 or budget.reward == inf:
            return self._most(budget, "moves", 0)
        fitted = replace(self, tries=1)._most(budget, "moves", 0)
        if not fitted.moves and not (self.guided and self.steps):  # nothing is decided, so candidates have no price
            return replace(self, moves=0)
        return fitted._most(budget, "tries", 1)

    def _draft(
        self, schedule: Schedule, times: tuple[float, ...], i: int, first: int, alpha: float
    ) -> list[Move]:
        """What the draft does at grid time i; the moves begin at time `first`, with a guess.

        Guided, the guess at every time is redrawn under the reward. Else the base decoder goes down to the first move,
        and from there on the state goes down by its own guess; the published procedure makes a new guess each time.
        """
        if i == self.steps:
            return []
        a_t = float(schedule.a(torch.tensor(times[i])))
        here = Move(times[i], times[i], a_t, a_t, (times[i],), alpha, self.tries, self.blocks, decoder=self.decoder)
        if self.kernel == "published":
            return [replace(here, guided=False)]
        if self.guided:
            return [here]
        if i < first:
            return [replace(here, until=times[i + 1])]
        return [replace(here, tries=1, blocks=1)] if i == first else []

    def _refinement(self, schedule: Schedule, times: tuple[float, ...], i: int, index: int, alpha: float) -> Move:
        span = self.spans[index % len(self.spans)]
        a_t = float(schedule.a(torch.tensor(times[i])))
        if isinstance(span, int):
            s = times[max(i - span, 0)]
            a_s = float(schedule.a(torch.tensor(s)))
        else:
            a_s = max(a_t - span, 0.0)
            s = float(schedule.time(torch.tensor(a_s)))
        h = self.denoise_steps
        levels = torch.tensor([a_s + (a_t - a_s) * k / h for k in range(h)], dtype=torch.float64)
        return Move(
            times[i], s, a_t, a_s, tuple(schedule.time(levels).tolist()), self._alpha(alpha, index), self.tries,
            self.blocks, self.spacing, self.balance,
        )  # fmt: skip

    def _paths(self, times: tuple[float, ...], alpha: float) -> tuple[Move, ...]:
        """The base sampler's run, then redrawn tails."""
        moves = [Move(0.0, 1.0, 1.0, 0.0, times, alpha, 1, decoder=self.decoder)]
        for index in range(self.moves):
            span = self.spans[index % len(self.spans)]
            tail = span if isinstance(span, int) else max(1, round(span * self.steps))
            now = self._alpha(alpha, index)
            start = self.steps - tail
            moves.append(Move(0.0, 1.0, 1.0, 0.0, times, now, self.tries, start=start, decoder=self.decoder))
        return tuple(moves)

    def _alpha(self, alpha: float, index: int) -> float:
        return alpha * self.anneal ** (index / max(self.moves - 1, 1))

    def _is_span(self, span: float | int) -> bool:
        return 1 <= span <= self.steps if isinstance(span, int) else 0 < span <= 1


def _among(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"iterref: {option} must be one of {', '.join(known)}, got {value!r}")


SAMPLER = IterRef
