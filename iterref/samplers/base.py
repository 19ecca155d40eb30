"""What a method is: a frozen dataclass of options with `init`, `step -> (state, info)` and `cost`.

A method sees a `Problem` and a random stream; no text, no network, no reward function of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from iterref.budget import FAR, Budget, Cost, most
from iterref.decode import Decoder, advance, grid
from iterref.kernels import Entry, Info, Move, State
from iterref.kernels.base import descend
from iterref.noise import Schedule
from iterref.particles import Particles
from iterref.problem import Problem
from iterref.random import Rng

if TYPE_CHECKING:
    from typing import Self

LINEAR = Schedule()
OBJECTIVES = ("sample", "maximise")


@dataclass(frozen=True)
class Sampler(ABC):
    """A method: options that print, compare and parse (`registry.parse`), and the steps that they mean.

    `objective` says what it is for: "sample" returns the chain's last state, "maximise" the best finished text seen.
    """

    name: ClassVar[str]
    knob: ClassVar[str]
    least: ClassVar[int] = 1

    @property
    @abstractmethod
    def iterations(self) -> int:
        """How many times `step` is called."""

    @abstractmethod
    def init(self, problem: Problem, rng: Rng) -> State:
        """The state before the first step, for B rows."""

    @abstractmethod
    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One step of B rows."""

    @abstractmethod
    def cost(self) -> Cost:
        """Rows that a sample takes, as asked for; the meter may count fewer where work could be spared."""

    def spend(self, budget: Budget) -> Sampler:
        """The same method with options that use a budget a sample as fully as it can; it may not fit (see `fit`).

        Unless a method knows better, the largest value of its option `knob`, as it stands where no bound touches it.
        """
        return self._most(budget, self.knob, self.least)

    @property
    def maximises(self) -> bool:
        """Whether the result is the best text seen rather than the last state: what its `objective` says, if any."""
        return getattr(self, "objective", "sample") == "maximise"

    def refining(self) -> Sampler:
        """The same method without its draft, to start from finished texts.

        Raises `ValueError` for a method that has no moves on a finished text.
        """
        raise ValueError(f"{self.name} cannot start from given texts: it has no moves on a finished text, iterref has")

    def resume(self, problem: Problem, tokens: Tensor) -> State:
        """The state of `refining()` at finished texts (B, L)."""
        return State(0, 0.0, tokens, tokens)

    def __str__(self) -> str:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        options = ",".join(f"{name}={_written(getattr(self, name))}" for name in changed)
        return f"{self.name}:{options}" if options else self.name

    def _most(self, budget: Budget, option: str, least: int) -> Self:
        """The same method with the largest value of a whole-numbered option that a budget allows, from `least` on."""
        value = most(lambda n: budget.allows(replace(self, **{option: n}).cost()), least)
        return self if value >= FAR else replace(self, **{option: value})

    def _require(self, **at_least: float) -> None:
        """Refuses options below a minimum, by name."""
        for option, least in at_least.items():
            if getattr(self, option) < least:
                raise ValueError(f"{self.name}: {option} must be at least {least}, got {getattr(self, option)}")

    def _among(self, **known: Iterable[str]) -> None:
        """Refuses options that are none of the known words, by name."""
        for option, words in known.items():
            if getattr(self, option) not in words:
                raise ValueError(
                    f"{self.name}: {option} must be one of {', '.join(words)}, got {getattr(self, option)!r}"
                )


@dataclass(frozen=True)
class Decoded(Sampler):
    """A method that runs a base decoder: in `steps` grid steps, unmasking in `order`, `block` tokens at a time, or as
    many as the entropy `bound` allows (`iterref.decode`)."""

    steps: int = 8
    order: str = "random"
    block: int = 0
    bound: float = 0.1

    def __post_init__(self) -> None:
        try:
            Decoder(self.order, self.block, self.bound)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @property
    def decoder(self) -> Decoder:
        """The base decoder."""
        return Decoder(self.order, self.block, self.bound)

    def _beside(self, problem: Problem, n: int, rng: Rng) -> State:
        """Pure noise for n copies of every row."""
        x = problem.widened(n).prior(rng.repeat(n)).unflatten(0, (n, -1))
        return State(0, 1.0, x[0], particles=Particles.equal(x))

    def _advanced(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Tensor | None]:
        """One grid step of all copies by the base decoder, and their rewards (N, B) once they are finished."""
        assert state.particles is not None
        n, times = state.particles.n, grid(self.steps)
        wide, t, u = problem.widened(n), times[state.step], times[state.step + 1]
        x_u = advance(wide, state.particles.x_t.flatten(0, 1), t, u, self.decoder, wide.rows, rng.repeat(n))
        x = x_u.unflatten(0, (n, -1))
        reward = wide.score(x_u, wide.rows, final=True).view(n, -1) if u == 0 else None
        return State(state.step + 1, u, x[0], particles=replace(state.particles, x_t=x)), reward


@dataclass(frozen=True)
class Chain(Decoded):
    """A method that is a list of moves of one kernel: drafts on the way down the grid, refinement where planned.

    `steps` are the grid steps of the draft; none at all start from finished texts (`run.sample(start=...)`).
    """

    @abstractmethod
    def plan(self, schedule: Schedule, alpha: float) -> tuple[Move, ...]:
        """The moves under a noise schedule and a reward temperature."""

    @property
    @abstractmethod
    def entry(self) -> Entry:
        """The kernel, with its cost."""

    @property
    def iterations(self) -> int:
        """One step a move."""
        return len(plan_of(self))

    def init(self, problem: Problem, rng: Rng) -> State:
        """Pure noise at the free positions, and no guess yet."""
        if not self.steps:
            raise ValueError(f"{self.name}: steps=0 drafts nothing: give texts to start from, or steps of at least 1")
        return State(0, 1.0, problem.prior(rng))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """One move, at its own time; after the last one the chain comes down to t = 0."""
        plan = self._planned(problem)
        move = plan[state.step]
        if state.x_0 is not None and move.t < state.t:
            state = descend(problem, state, move.t, rng.fork("descend"))
            if not state.t and state.x_0 is not None and state.reward is not None and problem.best is not None:
                problem.best.see(state.x_0, state.reward, problem.rows)  # a finished text now, which moves may leave
        state, info = self._move(problem, state, move, rng.fork("move"))
        state = replace(state, step=state.step + 1)
        if state.step == len(plan) and state.t > 0:
            state = descend(problem, state, 0.0, rng.fork("end"))
        return state, info

    def _planned(self, problem: Problem) -> tuple[Move, ...]:
        """The moves on a problem."""
        return plan_of(self, problem.noise.schedule, problem.alpha)

    def _move(self, problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
        """One planned move, made by the kernel."""
        state, info = self.entry.move(problem, state, move, rng)
        return state, replace(info, span=move.span)

    def refining(self) -> Sampler:
        """No draft: every row goes into moves on the finished text."""
        return replace(self, steps=0)

    def cost(self) -> Cost:
        """The sum over the plan, and one reward row wherever a guess comes without one and needs it."""
        total, scored = Cost(), self.steps > 0
        for move in plan_of(self):
            if move.until is not None:
                scored = move.until > 0
            elif move.redraw and not move.guided:
                scored = False
            elif not scored:
                total, scored = total + Cost(0, 1), True
            total += self.entry.cost(move)
        return total if scored else total + Cost(0, 1)


def plan_of(chain: Chain, schedule: Schedule = LINEAR, alpha: float = 1.0) -> tuple[Move, ...]:
    """The plan, made once. How many moves and what they cost depends on neither schedule nor alpha."""
    return _made(repr(chain), chain, schedule, alpha)


@lru_cache(maxsize=64)
def _made(written: str, chain: Chain, schedule: Schedule, alpha: float) -> tuple[Move, ...]:
    """As `plan_of`. The key holds the `written` options too: 1 == 1.0, yet span=1 is one step and span=1.0 is all."""
    return chain.plan(schedule, alpha)


def _written(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
