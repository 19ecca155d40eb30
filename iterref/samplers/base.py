"""What a method is: a frozen dataclass of options with `init`, `step -> (state, info)` and `cost`.

A method sees a `Run` and a random stream; no text, no network, no reward function of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cache
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from iterref.budget import FAR, Budget, Cost, most
from iterref.decision import Decision
from iterref.decoding import Decoder, grid
from iterref.noise import Noise
from iterref.particles import Particles
from iterref.random import Rng
from iterref.run import Run, Time

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a word"}
NUMBERS: dict[type, Any] = {int: Integral, float: Real}  # those of numpy too


@dataclass(frozen=True)
class State:
    """What a method needs for its next step: every method adds what it keeps.

    `step` steps were made, and the states `x_t` (R, L) long stand at time `t`; the first B of them are shown, one a
    row, where a method keeps more."""

    step: int
    t: float
    x_t: Tensor

    def clean(self) -> tuple[Tensor, Tensor | None]:
        """The clean samples x_0 (R, L) of the states, or the states themselves, and their rewards (R,) where known."""
        return self.x_t, None

    def take(self, index: Tensor) -> Self:
        """The states in another order, or some of them, index (R',) long, with all that is known of each."""
        taken = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                object.__setattr__(taken, name, value[index])
        return taken


@dataclass(frozen=True)
class Drafted(State):
    """States with the clean samples `x_0` (R, L) that came with them, whose reward nobody has asked for."""

    x_0: Tensor

    def clean(self) -> tuple[Tensor, Tensor | None]:
        return self.x_0, None


@dataclass(frozen=True)
class Paired(Drafted):
    """States with clean samples and their `reward` (R,) float64, which travels along and is never estimated again."""

    reward: Tensor

    def clean(self) -> tuple[Tensor, Tensor]:
        return self.x_0, self.reward


@dataclass(frozen=True)
class Cloud(State):
    """States that show one of a row's `particles`."""

    particles: Particles


@dataclass(frozen=True)
class ScoredCloud(Paired):
    """Pairs that show one of a row's `particles`, which have rewards too."""

    particles: Particles


@dataclass(frozen=True)
class Info:
    """What one step did, a row: `accepted` (B,) share of its decisions, `stuck` (B,) bool, `changed` (B,) tokens.

    `decisions` are what competed, one after the other; `ess` (B,) is the effective number of particles before they
    were resampled, `span` the share of tokens that the move made noise, a number or (B,). None where it has no meaning.
    """

    accepted: Tensor | None = None
    stuck: Tensor | None = None
    changed: Tensor | None = None
    ess: Tensor | None = None
    span: Time | None = None
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Output:
    """What a run ends with: finished texts `tokens` (B, L), their `rewards` (B,), and all `particles`, if any; of
    methods that choose for themselves, the `alpha` (B,) and the method of each row, `chosen`."""

    tokens: Tensor
    rewards: Tensor
    particles: Particles | None = None
    alpha: Tensor | None = None
    chosen: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Sampler(ABC):
    """A method: options that print, compare and parse (`samplers.strings`), and the steps that they mean.

    `knob` is the option that a budget sets, from `least` on, and `spare` the one that takes what a bound on depth
    leaves over, if any."""

    name: ClassVar[str]
    knob: ClassVar[str]
    least: ClassVar[int] = 1
    spare: ClassVar[str] = ""
    steps = 1  # of methods without such an option
    maximises = False  # whether the result is the best text seen rather than the last state

    def __post_init__(self) -> None:
        """Refuses options of another type than their defaults', numbers that are none or infinite, and words that a
        `Literal` does not list; a subclass adds its own checks."""
        for f in fields(self):
            values, kind = getattr(self, f.name), type(f.default[0] if isinstance(f.default, tuple) else f.default)
            for value in values if isinstance(values, tuple) else (values,):
                number = isinstance(value, NUMBERS.get(kind, ())) and not isinstance(value, bool)
                if kind in KINDS and not number and (kind in NUMBERS or type(value) is not kind):
                    raise TypeError(f"{self.name}: {f.name} is {value!r}: give {KINDS[kind]}")
                if number and not isfinite(value):
                    raise ValueError(f"{self.name}: {f.name} is {value!r}: give a finite number")
        for option, words in _words(type(self)).items():
            if (value := getattr(self, option)) not in words:
                raise ValueError(f"{self.name}: {option} must be one of {', '.join(words)}, got {value!r}")

    @property
    def iterations(self) -> int:
        """How many times `step` is called: once a grid step, unless a method says otherwise."""
        return self.steps

    @abstractmethod
    def init(self, run: Run, rng: Rng) -> State:
        """The state before the first step, for B rows."""

    @abstractmethod
    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One step of B rows."""

    @abstractmethod
    def cost(self) -> Cost:
        """What a sample takes, as asked for; the meter may count less where work could be spared."""

    def output(self, run: Run, state: State) -> Output:
        """What the last state gives; the reward is asked for where nobody has."""
        x_0, reward = state.clean()
        reward = run.reward_of(x_0, final=True) if reward is None else reward
        return Output(x_0, reward, state.particles if isinstance(state, ScoredCloud) else None)

    def spend(self, budget: Budget) -> Sampler:
        """The same method with options that use a budget a sample as fully as it can; it may not fit (`fit_budget`).

        Unless a method knows better, the largest values of its options `knob` and `spare`, as they stand where no bound
        touches them."""
        fitted = self._most(budget, self.knob, self.least)
        if not self.spare or budget.depth == inf:
            return fitted
        return fitted._most(budget, self.spare, getattr(self, self.spare))

    def refining(self) -> Sampler:
        """The same method without its draft, to start from finished texts.

        Raises `ValueError` for a method that has no moves on a finished text."""
        raise ValueError(f"{self.name} cannot start from given texts: it has no moves on a finished text, iterref has")

    def in_blocks(self, block: int, blocks: int) -> Self:
        """The method as it writes `blocks` blocks of a model that knows what stands in one behind finished ones alone.

        Raises `ValueError` for a method that opens whole texts, or has fewer steps than there are blocks."""
        told = f"{self.name} opens whole texts, and this model writes them in {blocks} blocks of {block} positions"
        raise ValueError(f"{told}, each behind finished ones: take auto, beam, or a method with a block_length")

    def suited(self, noise: Noise) -> Sampler:
        """The method as it is for a noise process, within the same limits; itself, for most."""
        return self

    def resume(self, run: Run, tokens: Tensor) -> State:
        """The state of `refining()` at finished texts (B, L)."""
        return Paired(0, 0.0, tokens, tokens, run.reward_of(tokens, final=True))

    def __str__(self) -> str:
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        options = ",".join(f"{f.name}={_written(getattr(self, f.name), type(f.default))}" for f in changed)
        return f"{self.name}:{options}" if options else self.name

    def _most(self, budget: Budget, option: str, least: int) -> Self:
        """The same method with the largest value of a whole-numbered option that a budget allows, from `least` on; one
        that would then do nothing at all, without a draft as without a move, gets one, which is too much."""
        value = most(lambda n: budget.allows(replace(self, **{option: n}).cost()), least)
        if not value and not replace(self, **{option: 0}).iterations:
            value = 1
        return self if value >= FAR else replace(self, **{option: value})

    def _require(self, **at_least: float) -> None:
        """Refuses options below a minimum, by name."""
        for option, least in at_least.items():
            if getattr(self, option) < least:
                raise ValueError(f"{self.name}: {option} must be at least {least}, got {getattr(self, option)}")

    def _require_share(self, *options: str) -> None:
        """Refuses options that are no shares in [0, 1], by name."""
        for option in options:
            if not 0 <= getattr(self, option) <= 1:
                raise ValueError(f"{self.name}: {option} is a share in [0, 1], got {getattr(self, option)}")


@dataclass(frozen=True)
class Aimed(Sampler):
    """A method with two uses. objective: `sample` returns the last state, `maximise` the best finished text seen."""

    objective: Literal["sample", "maximise"] = "sample"
    anneal = 1.0  # the factor that alpha reaches at the last move, of methods without such an option

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "maximises", self.objective == "maximise")
        if not 0 < self.anneal <= 1 or (self.anneal != 1 and self.objective == "sample"):
            raise ValueError(f"{self.name}: anneal must lie in (0, 1], and only objective=maximise may lower alpha")


class Drafting(Sampler):
    """A method whose draft of `steps` grid steps may be left out, to start from finished texts."""

    def refining(self) -> Sampler:
        return replace(self, steps=0)  # type: ignore[call-arg]  # an option of all of them

    def _expect_draft(self) -> None:
        if not self.steps:
            raise ValueError(f"{self.name}: steps=0 drafts nothing: give texts to start from, or steps of at least 1")


@dataclass(frozen=True)
class Decoded(Sampler):
    """A method that runs plain decoding: in `steps` grid steps, unmasking in `order`, `block_length` tokens at a time,
    or as many as the entropy `bound` allows (`iterref.decoding`)."""

    steps: int = 8
    order: str = "random"
    block_length: int = 0
    bound: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            Decoder(self.order, self.block_length, self.bound)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        if self.bound != Decoder().bound and self.order != "bounded":
            raise ValueError(f"{self.name}: bound={self.bound} belongs to order=bounded: say order=bounded, too")

    @property
    def decoder(self) -> Decoder:
        return Decoder(self.order, self.block_length, self.bound)

    def init(self, run: Run, rng: Rng) -> State:
        """Pure noise at the free positions."""
        return State(0, 1.0, run.prior(rng))

    def in_blocks(self, block: int, blocks: int) -> Self:
        """With the model's block length, where none is given, and a step a block at the least."""
        if not self.steps or self.block_length not in (0, block):
            return self
        if not self.block_length:
            return replace(self, block_length=block, steps=max(self.steps, blocks))
        if self.steps < blocks:
            told = f"{self.name}: {blocks} blocks of {block} positions take as many steps, and there are {self.steps}"
            raise ValueError(f"{told}: raise the budget or the steps, or ask for shorter texts")
        return self

    def _decode(self, run: Run, state: Cloud, rng: Rng) -> tuple[Cloud, Tensor | None]:
        """One grid step of all copies by plain decoding, and their rewards (N, B) once they are finished."""
        n, times = state.particles.n, grid(self.steps)
        wide, t, u = run.repeat(n), times[state.step], times[state.step + 1]
        x_u = self.decoder.step(wide, state.particles.x_t.flatten(0, 1), t, u, rng.repeat(n))
        x = x_u.unflatten(0, (n, -1))
        reward = wide.reward_of(x_u, final=True).view(n, -1) if u == 0 else None
        return Cloud(state.step + 1, u, x[0], replace(state.particles, x_t=x)), reward


def noise(run: Run, n: int, rng: Rng) -> Cloud:
    """Pure noise for n copies of every row."""
    x = run.repeat(n).prior(rng.repeat(n)).unflatten(0, (n, -1))
    return Cloud(0, 1.0, x[0], Particles.equal(x))


def time_of(run: Run, a: float) -> float:
    """The time at which a token is clean with probability `a`."""
    return float(run.noise.schedule.time(torch.tensor(a, dtype=torch.float64)))


@cache
def _words(kind: type[Sampler]) -> dict[str, tuple[str, ...]]:
    """What the options of a method may be that are one of a few words."""
    hints = get_type_hints(kind)
    return {f.name: get_args(hints[f.name]) for f in fields(kind) if get_origin(hints[f.name]) is Literal}


def _written(value: Any, kind: type) -> str:
    """One or several values; a share of 1 as 1.0, however it was given."""
    values = value if isinstance(value, tuple) else (value,)
    return "+".join(str(float(one) if kind is float else one) for one in values)
