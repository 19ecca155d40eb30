"""What all kernels share: the state of a chain, one planned move, and the note of what happened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from iterref.decode import REVERSE, Decoder
from iterref.kernels.decision import Decision
from iterref.particles import Particles
from iterref.problem import Problem, Time
from iterref.random import Rng


@dataclass(frozen=True)
class State:
    """Where B chains stand: the noisy tokens, and the clean guess that came with them and its reward.

    `x_t` (B, L) long at time `t`; `x_0` (B, L) long, None before the first guess; `reward` (B,) float64 of `x_0`,
    None while nobody has asked for it. The reward travels with the state and is never estimated again. `path`
    (K + 1, B, L) is the recorded trajectory, noise first, for methods that keep one; `particles` are the weighted
    copies of methods that keep several a row; the other fields then show one of them. `wide` is the state of chains
    that run side by side on a widened problem, `span` (B,) a span that every chain adapts.
    """

    step: int
    t: float
    x_t: Tensor
    x_0: Tensor | None = None
    reward: Tensor | None = None
    path: Tensor | None = None
    particles: Particles | None = None
    wide: State | None = None
    span: Tensor | None = None

    def scored(self, problem: Problem) -> State:
        """This state with the reward of its guess, which is asked for if nobody has."""
        if self.reward is not None or self.x_0 is None:
            return self
        return replace(self, reward=problem.score(self.x_0, problem.rows, final=self.t == 0))


@dataclass(frozen=True)
class Info:
    """What one step did, a row: `accepted` (B,) share of its decisions, `stuck` (B,) bool, `changed` (B,) tokens.

    `decisions` are those of a chain's move, one after the other. `proposals` (N, B, L) with `proposed` (N, B) are the
    candidates of a method that weighs them in place of deciding, and their rewards; `ess` (B,) is the effective number
    of particles before they were resampled. `span` is the share of tokens that the move made noise, or (B,) of them.
    """

    accepted: Tensor | None = None
    stuck: Tensor | None = None
    changed: Tensor | None = None
    proposals: Tensor | None = None
    proposed: Tensor | None = None
    ess: Tensor | None = None
    span: Time | None = None
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Move:
    """One planned move: at time `t`, to the noise level of time `s` and back (s = t redraws the guess alone).

    `a_t` and `a_s` are the shares of clean tokens at both times and `times` the noisy times of the `denoise_steps`
    evaluations on the way back, s first. `spacing` > 0 opens a state-independent set of positions at least that far
    apart instead of independent ones; `tries` candidates compete, in each of `blocks` parts of the open positions;
    `balance` is the g of the locally balanced weights. `start` is the grid index that a redrawn tail begins at,
    `decoder` the base sampler of tails and of plain drafts; a plain step of it goes down to time `until`. `s`, `a_s`,
    `times` and `alpha` are numbers, or (B,) float64 tensors where chains differ.
    """

    t: float
    s: Time
    a_t: float
    a_s: Time
    times: tuple[Time, ...]
    alpha: Time
    tries: int = 1
    blocks: int = 1
    spacing: int = 0
    balance: float = 0.0
    guided: bool = True
    start: int = 0
    decoder: Decoder = REVERSE
    until: float | None = None

    @property
    def redraw(self) -> bool:
        """Whether the move stays at its noise level."""
        return not isinstance(self.s, Tensor) and self.s == self.t

    @property
    def span(self) -> Time | None:
        """The share of tokens that the move makes noise, of the grid that a redrawn tail covers, or None."""
        if self.until is not None or self.redraw:
            return None
        return 1 - self.start / (len(self.times) - 1) if self.start else self.a_t - self.a_s


class Kernel(Protocol):
    """A move of the chain: problem, state, move and random stream -> the next state and what happened."""

    def __call__(self, problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]: ...


def several(value: Time, n: int) -> Time:
    """The value of every one of n copies of the chains."""
    return value.repeat(n) if isinstance(value, Tensor) else value


def descend(problem: Problem, state: State, t: float, rng: Rng) -> State:
    """The state at a cleaner time: x_u ~ q(x_u | x_t, x_0). Free of cost, and exact: Pi_t becomes Pi_u.

    At t = 0 the guess itself is the state.
    """
    assert state.x_0 is not None
    if t == 0:
        x_u = state.x_0
    else:
        a_s, a_t = float(problem.noise.a(state.t)), float(problem.noise.a(t))
        x_u = problem.forth(state.x_t, state.x_0, a_s, a_t, problem.rows, rng)
    return replace(state, t=t, x_t=x_u)
