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
from torch import Tensor

from iterref.budget import Budget, Cost
from iterref.decode import grid
from iterref.kernels import KERNELS, Entry, Info, Move, State
from iterref.noise import Schedule
from iterref.particles import Particles, pick
from iterref.problem import Problem
from iterref.random import Rng
from iterref.resample import systematic
from iterref.samplers.base import OBJECTIVES, Chain, plan_of

# Decisions a move where they cost reward rows alone, and no number is given.
DECISIONS = 8
# Tries that a budget in total rows buys at the most, where reward rows are nearly free.
MOST_TRIES = 32
# Adaptive spans: the acceptance aimed at, the power that the steps fall with, and the least span.
ADAPT_TARGET, ADAPT_POWER, ADAPT_LEAST = 0.5, 0.6, 0.02


@dataclass(frozen=True)
class IterRef(Chain):
    """Reward-guided refinement.

    steps: grid steps of the draft, one denoiser row each; 0 starts from given texts. order, block, bound: the base
    decoder, of `trajectory`'s paths and of a draft that is not guided. guided: whether the draft's guesses compete by
    reward. moves: refinement moves in all. early: the share of them that is made before the text is finished, at grid
    times t <= late; but spaced moves need to see what is noise, so without a mask all wait for the finished text.

    kernel: `shared`, `independent`, `trajectory` or `published`. tries: candidates N of a decision. blocks: decisions
    that share one evaluation, each over its own part of the open positions (`shared` with one denoising step; 0 is 8
    there and 1 elsewhere). span: how far a move re-noises, a share of the free positions in (0, 1] or a whole number of
    grid steps; several of them take turns (all laws stay invariant, small moves mix with large ones). spacing: least
    distance of the positions that a move opens; 0 opens independent ones. denoise_steps: evaluations on the way back
    from s to t. balance: g of the independent kernel's weights.

    objective: `sample` returns the last state, `maximise` the best text seen; then `anneal` is the factor that alpha
    reaches at the last move. width: chains of a row side by side, resampled by weight after a guided first guess: rows
    bought without depth; the last state of one of them is returned, all are in `Result.particles`. adapt: every row
    steers its span towards an acceptance of one half, by steps that vanish.
    """

    name: ClassVar[str] = "iterref"
    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0

    steps: int = 4
    moves: int = 24
    tries: int = 2
    blocks: int = 0
    span: float | int | tuple[float | int, ...] = 0.5
    spacing: int = 2
    early: float = 0.25
    late: float = 1.0
    guided: bool = True
    kernel: Literal["shared", "independent", "trajectory", "published"] = "shared"
    denoise_steps: int = 1
    balance: float = 0.0
    objective: Literal["sample", "maximise"] = "sample"
    anneal: float = 1.0
    width: int = 1
    adapt: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, moves=0, tries=1, blocks=0, spacing=0, denoise_steps=1, width=1)
        self._among(kernel=KERNELS, objective=OBJECTIVES)
        if not self.spans or any(not self._is_span(span) for span in self.spans):
            raise ValueError(
                f"iterref: span is a share in (0, 1] or a number of grid steps in 1..{self.steps}, got {self.span}"
            )
        if not all(0 <= value <= 1 for value in (self.early, self.late, self.balance)):
            raise ValueError(
                f"iterref: early, late and balance must lie in [0, 1], got {self.early}, {self.late} and {self.balance}"
            )
        if not 0 < self.anneal <= 1 or (self.anneal != 1 and self.objective == "sample"):
            raise ValueError("iterref: anneal must lie in (0, 1], and only objective=maximise may lower alpha")
        if self.kernel == "trajectory" and not self.steps:
            raise ValueError("iterref: kernel=trajectory redraws a path that it recorded: it needs steps of at least 1")
        plain = self.order == "random" and not self.block
        if not plain and (self.guided or self.kernel == "published") and self.kernel != "trajectory":
            raise ValueError(
                f"iterref: a guided draft settles its tokens by reward, so order={self.order} with block={self.block} "
                "needs guided=false, or kernel=trajectory"
            )
        if self.blocks > 1 and not self.shares:
            raise ValueError("iterref: blocks > 1 needs kernel=shared and denoise_steps=1: they share one evaluation")
        if self.adapt and (self.kernel == "trajectory" or len(self.spans) > 1 or isinstance(self.spans[0], int)):
            raise ValueError("iterref: adapt steers one span, a share in (0, 1], of a kernel that re-noises")

    @property
    def entry(self) -> Entry:
        """The kernel, with its cost."""
        return KERNELS[self.kernel]

    @property
    def shares(self) -> bool:
        """Whether all candidates of a move come from one evaluation, so that they cost reward rows alone."""
        return self.kernel == "shared" and self.denoise_steps == 1

    @property
    def decisions(self) -> int:
        """Decisions a move."""
        return self.blocks or (DECISIONS if self.shares else 1)

    @property
    def spans(self) -> tuple[float | int, ...]:
        """The spans that take turns."""
        return self.span if isinstance(self.span, tuple) else (self.span,)

    def plan(self, schedule: Schedule, alpha: float) -> tuple[Move, ...]:
        """A draft down the grid; the early moves spread over the times t <= late, the rest on the finished text."""
        times = grid(self.steps)
        if self.kernel == "trajectory":
            return self._paths(times, alpha)
        early = round(self.early * self.moves)
        slots = [i for i in range(1, self.steps) if times[i] <= self.late] if early else []
        early = early if slots else 0
        moves: list[Move] = []
        done = 0
        for i in range(len(times)):
            moves += self._draft(schedule, times, i, slots[0] if slots else self.steps, alpha)
            if i in slots:
                share = (early + slots.index(i)) // len(slots)  # whole numbers that add up to `early`, the rest late
            else:
                share = self.moves - early if i == self.steps else 0
            moves += [self._refinement(schedule, times, i, done + j, alpha) for j in range(share)]
            done += share
        return tuple(moves)

    def _planned(self, problem: Problem) -> tuple[Move, ...]:
        """Spaced moves need to see what is noise: without a mask, all of them are made on the finished text."""
        blind = self.spacing > 0 and self.kernel == "shared" and problem.noise.mask is None
        return plan_of(replace(self, early=0.0) if blind else self, problem.noise.schedule, problem.alpha)

    def init(self, problem: Problem, rng: Rng) -> State:
        """Pure noise, for every chain of a row."""
        state = super().init(problem.widened(self.width), rng.repeat(self.width))
        return state if self.width == 1 else self._shown(state)

    def resume(self, problem: Problem, tokens: Tensor) -> State:
        """Every chain begins at the given text."""
        state = super().resume(problem, tokens.repeat(self.width, 1))
        return state if self.width == 1 else self._shown(state)

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One move of every chain; chains meet when they have their first guess, and one is drawn after the last."""
        if self.width == 1:
            return super().step(problem, state, rng)
        assert state.wide is not None
        before, n = state.wide, self.width
        wide, info = super().step(problem.widened(n), before, rng.repeat(n))
        if before.x_0 is None and info.decisions:
            wide = self._meet(wide, info.decisions[0].reward / problem.alpha, rng.fork("meet"))
        last = wide.step == self.iterations
        chosen = rng.fork("one").choose(torch.zeros(len(rng), n, dtype=torch.float64)) if last else None
        return self._shown(wide, chosen), _told(info, n, chosen)

    def _move(self, problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
        """As planned, or with every chain's own span."""
        if not self.adapt or move.redraw or move.until is not None:
            return super()._move(problem, state, move, rng)
        planned = torch.full((len(state.x_t),), float(self.spans[0]), dtype=torch.float64, device=state.x_t.device)
        span = planned if state.span is None else state.span
        a_s = (move.a_t - span).clamp_min(0.0)
        levels = self._levels(problem.noise.schedule, move.a_t, a_s)
        state, info = super()._move(problem, state, replace(move, s=levels[0], a_s=a_s, times=levels), rng)
        assert info.accepted is not None
        # Robbins and Monro (1951): the steps vanish, and with them the dependence of a move on the chain's past
        step = (state.step + 1.0) ** -ADAPT_POWER
        span = (span.log() + step * (info.accepted - ADAPT_TARGET)).exp().clamp(ADAPT_LEAST, 1.0)
        return replace(state, span=span), info

    def _meet(self, wide: State, log_w: Tensor, rng: Rng) -> State:
        """Resamples the chains of a row by the mean weight of their first candidates, (N, W * B)."""
        assert wide.x_0 is not None and wide.reward is not None
        n = self.width
        log_w = log_w.T.contiguous().logsumexp(1).view(n, -1).T.contiguous()
        rows = torch.arange(len(log_w), device=log_w.device)
        index = (systematic(log_w, rng).T * len(rows) + rows).flatten()
        path = None if wide.path is None else wide.path[:, index]
        return replace(wide, x_t=wide.x_t[index], x_0=wide.x_0[index], reward=wide.reward[index], path=path)

    def _shown(self, wide: State, chosen: Tensor | None = None) -> State:
        """The state of all chains, showing one of every row: the first, unless one was chosen."""

        def one(x: Tensor | None) -> Tensor | None:
            parts = None if x is None else x.unflatten(0, (self.width, -1))
            return parts if parts is None else parts[0] if chosen is None else pick(parts, chosen)

        x_t = one(wide.x_t)
        assert x_t is not None
        shown = State(wide.step, wide.t, x_t, one(wide.x_0), one(wide.reward), wide=wide)
        if chosen is None or wide.x_0 is None:
            return shown
        x = wide.x_0.unflatten(0, (self.width, -1))
        reward = None if wide.reward is None else wide.reward.view(self.width, -1)
        return replace(shown, particles=replace(Particles.equal(x), x_0=x, reward=reward))

    def cost(self) -> Cost:
        """The rows of all chains, at the depth of one."""
        one = super().cost()
        return Cost(one.denoiser * self.width, one.reward * self.width, one.depth)

    def spend(self, budget: Budget) -> IterRef:
        """Moves for denoiser rows, candidates for reward rows, chains for what a bound on depth leaves over.

        Where candidates cost reward rows alone, the reward rows that go with a denoiser row buy decisions first (up to
        `blocks`) and tries then; a draft takes no more than half of any bound, if fewer decisions can help it.
        """
        fitted = self._balanced(budget) if self.shares else self
        fitted = fitted._most(budget, "moves", 0)
        if budget.depth < inf:
            fitted = fitted._most(budget, "width", self.width)
        if not self.shares or budget.reward == inf:
            return fitted
        if not fitted.moves and not (self.guided and self.steps):  # nothing is decided, so candidates have no price
            return replace(self, moves=0)
        return fitted._most(budget, "tries", 1)

    def _balanced(self, budget: Budget) -> IterRef:
        """Decisions and tries a move for a budget that bounds reward rows, alone or in the total."""
        if budget.total < inf:
            ratio = self.decisions / budget.price if budget.price else inf
        elif budget.reward < inf:
            ratio = budget.reward / budget.denoiser if budget.denoiser < inf else self.decisions
        else:
            return self
        blocks = int(min(max(ratio, 1), self.decisions))
        tries = int(min(max(ratio / blocks, 1), MOST_TRIES)) if budget.total < inf else 1
        least = replace(self, moves=0, tries=tries, blocks=blocks, width=1)
        while least.blocks > 1 and not budget.allows(least.cost() * 2):
            least = replace(least, blocks=least.blocks // 2)
        return replace(least, width=self.width)

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
        here = Move(times[i], times[i], a_t, a_t, (times[i],), alpha, self.tries, self.decisions, decoder=self.decoder)
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
            a_s = float(schedule.a(torch.tensor(times[max(i - span, 0)])))
        else:
            a_s = max(a_t - span, 0.0)
        levels = self._levels(schedule, a_t, torch.tensor(a_s, dtype=torch.float64))
        return Move(
            times[i], levels[0].item(), a_t, a_s, tuple(level.item() for level in levels), self._alpha(alpha, index),
            self.tries, self.decisions, self.spacing, self.balance,
        )  # fmt: skip

    def _levels(self, schedule: Schedule, a_t: float, a_s: Tensor) -> tuple[Tensor, ...]:
        """The noisy times of the way back from a_s to a_t, a_s first."""
        h = self.denoise_steps
        return tuple(schedule.time(a_s + (a_t - a_s) * k / h) for k in range(h))

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


def _told(info: Info, width: int, chosen: Tensor | None) -> Info:
    """What all chains of a row did: shares and changes in the mean, stuck where all of them were; the decisions are
    those of the chain that is shown."""

    def mean(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.double().view(width, -1).T.contiguous().mean(1)

    stuck = None if info.stuck is None else info.stuck.view(width, -1).all(0)
    span = mean(info.span) if isinstance(info.span, Tensor) else info.span
    batch = 0 if info.accepted is None else len(info.accepted) // width
    shown = slice(batch) if chosen is None else chosen * batch + torch.arange(batch, device=chosen.device)
    decisions = tuple(decision.of(shown) for decision in info.decisions)
    return Info(mean(info.accepted), stuck, mean(info.changed), span=span, decisions=decisions)


SAMPLER = IterRef
