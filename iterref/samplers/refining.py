"""Refining: what the methods have in common that draft a text and then refine it by moves.

    draft     down the grid: at every time t redraw the clean sample at x_t under the reward, then descend,
              x_u ~ q(. | x_t, x_0); or plain decoding, without the reward, down to the first move
    refine    x_t -> x_s noisier -> candidates back at t; weigh by reward, accept or reject, before going on

The chain is at Pi_t when a move begins and stays there (`iterref.moves` says under which conditions each kernel is
exact), and going down the grid is exact and free.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Protocol

import torch

from iterref import chains
from iterref.budget import Cost
from iterref.decoding import grid
from iterref.moves.renoise import Excursion, descend, one_block
from iterref.moves.shared import Shared
from iterref.noise import Schedule
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import Decoded, Drafted, Drafting, Info, Output, Paired, State
from iterref.samplers.spans import GridSpans, Spans, check_spans, clean_share, turns


class Kernel(Protocol):
    """What proposes candidates and decides among them, at a cost that depends on nothing but the denoising steps."""

    def propose(self, run: Run, state: Paired, trip: Excursion, rng: Rng) -> Any: ...

    def decide(self, run: Run, state: Paired, new: Any, alpha: Time, rng: Rng) -> tuple[Paired, Info]: ...

    def cost(self, steps: int) -> Cost: ...


class Decode(NamedTuple):
    """A step of plain decoding from time t to u."""

    t: float
    u: float


class Draw(NamedTuple):
    """A clean sample at time t, without the reward."""

    t: float


class Redraw(NamedTuple):
    """The clean sample at time t is drawn again by a kernel, at the same noise level."""

    t: float
    kernel: Shared


class Refine(NamedTuple):
    """The `move`-th move that renoises, at time t."""

    t: float
    move: int


Planned = Decode | Draw | Redraw | Refine


@dataclass(frozen=True)
class Refining(Drafting, Decoded):
    """A draft in `steps` grid steps (none at all start from finished texts), then `moves` moves.

    span: how far a move renoises, a share of the free positions in (0, 1]; span_steps: how far in grid steps, in place
    of a share; several of either take turns (every distribution stays invariant, small moves mix with large ones).
    spacing: least distance of the positions that a move opens; 0 opens independent ones."""

    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0

    steps: int = 4
    moves: int = 24
    span: Spans = 0.5
    span_steps: GridSpans = 0
    spacing: int = 2
    # Of methods without such an option.
    early = 0.0
    denoise_steps = 1
    chains = 1
    reward_draft = False
    draws_anew: ClassVar[bool] = False  # whether a plain draft has a new clean sample at every grid time

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, moves=0, spacing=0, denoise_steps=1, chains=1)
        self._require_share("early")
        check_spans(self, self.span, self.span_steps, self.steps)
        if self.reward_draft and (self.order != "random" or self.block_length):
            told = f"{self.name}: a draft whose clean samples compete by reward has no order"
            given = f"order={self.order} with block_length={self.block_length}"
            raise ValueError(f"{told}, so {given} needs reward_draft=false")

    @property
    @abstractmethod
    def kernel(self) -> Kernel:
        """What proposes and decides."""

    @property
    def draft_kernel(self) -> Shared | None:
        """What redraws the draft's clean samples under the reward; None for a plain draft."""
        return None

    @property
    def iterations(self) -> int:
        return len(plan(self, False))

    def init(self, run: Run, rng: Rng) -> State:
        """Pure noise at the free positions for every chain, and no clean sample yet."""
        self._expect_draft()
        return State(0, 1.0, run.repeat(self.chains).prior(rng.repeat(self.chains)))

    def resume(self, run: Run, tokens: torch.Tensor) -> State:
        return super().resume(run.repeat(self.chains), tokens.repeat(self.chains, 1))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One planned step, at its own time; after the last one the chain comes down to t = 0."""
        wide, streams, steps = run.repeat(self.chains), rng.repeat(self.chains), self._plan(run)
        now, moving = steps[state.step], streams.fork("move")
        if isinstance(state, Drafted) and now.t < state.t:
            state = replace(state, t=now.t, x_t=descend(wide, state, now.t, streams.fork("descend")))
            if isinstance(state, Paired) and not state.t:
                wide.see(state.x_0, state.reward)  # a finished text now, which moves may leave
        before, info = state, Info()
        if isinstance(now, Decode):
            x_u = self.decoder.step(wide, state.x_t, now.t, now.u, moving)
            state = State(state.step, now.u, x_u)
            if not now.u:
                state = Paired(state.step, now.u, x_u, x_u, wide.reward_of(x_u, final=True))
        elif isinstance(now, Draw):
            x_0 = wide.samples(state.x_t, now.t, wide.undetermined(state.x_t, now.t), 1, moving.fork("draw"))
            state = Drafted(state.step, now.t, state.x_t, x_0[0])
        elif isinstance(now, Redraw):
            new = now.kernel.redraw(wide, state, moving)
            state, info = now.kernel.decide(wide, state, new, self._alpha(run, None), moving)
        else:
            paired, one = self._paired(wide, state), one_block(wide, now.t, moving)
            new, trip = self._proposed(one, paired, now, moving)
            state, info = self.kernel.decide(one, paired, new, self._alpha(run, now.move), moving)
            state, info = self._compared(wide, paired, state, new, now), replace(info, span=trip.span)
        state = replace(state, step=before.step + 1)
        if state.step == len(steps) and isinstance(state, Drafted) and state.t > 0:
            state = replace(state, t=0.0, x_t=descend(wide, state, 0.0, streams.fork("end")))
        return self._after(run, before, state, info, rng)

    def output(self, run: Run, state: State) -> Output:
        return chains.first(super().output(run.repeat(self.chains), state), self.chains)

    def cost(self) -> Cost:
        """The draft and the moves; one reward call for a text that comes without one."""
        if not self.steps:
            draft = Cost(0, 1)
        elif self.draft_kernel is not None:
            draft = self.draft_kernel.cost(1) * self.steps
        elif self.slots()[0]:  # plain down to the first early move, and a clean sample there
            draft = Cost(2, 1, 2)
        else:
            draft = Cost(self.steps, 1, self.steps)
        return (draft + self.kernel.cost(self.denoise_steps) * self.moves).wide(self.chains)

    def slots(self) -> tuple[int, range]:
        """How many moves are made before the text is finished, and the grid times for them, if there are any."""
        early = round(self.early * self.moves) if self.steps > 1 else 0
        return early, range(1, self.steps if early else 1)

    def _plan(self, run: Run) -> tuple[Planned, ...]:
        """The steps under the noise of a run."""
        kernel = self.kernel
        return plan(self, isinstance(kernel, Shared) and kernel.spacing > 0 and run.noise.mask is None)

    def _proposed(self, run: Run, state: Paired, now: Refine, rng: Rng) -> tuple[Any, Excursion]:
        """The candidates of a move of all chains, and where it goes."""
        trip = self._excursion(run, state, now)
        return self.kernel.propose(run, state, trip, rng), trip

    def _compared(self, run: Run, before: Paired, state: Paired, new: Any, now: Refine) -> Paired:
        """The state after a move, with what a method keeps of it."""
        return state

    def _alpha(self, run: Run, index: int | None) -> Time:
        """The temperature of the reward at the `index`-th move, or at a step of the draft."""
        return run.alpha

    def _excursion(self, run: Run, state: State, now: Refine) -> Excursion:
        turn = now.move % len(turns(self.span_steps or self.span))
        return _excursion(self, run.noise.schedule, run.noise.mask is not None, now.t, turn)

    def _paired(self, run: Run, state: State) -> Paired:
        """The state with the reward of its clean samples, which is asked for if nobody has."""
        if isinstance(state, Paired):
            return state
        assert isinstance(state, Drafted)
        return Paired(state.step, state.t, state.x_t, state.x_0, run.reward_of(state.x_0, final=state.t == 0))

    def _after(self, run: Run, before: State, state: State, info: Info, rng: Rng) -> tuple[State, Info]:
        """What a method does besides, after each step."""
        return state, info


@lru_cache(maxsize=64)
def plan(method: Refining, blind: bool) -> tuple[Planned, ...]:
    """The steps of a method, made once: a draft down the grid, over whose times the early moves spread, and the other
    moves on the finished text; those that are `blind` (spaced, and no mask shows noise) all wait for it."""
    times, draft, steps = grid(method.steps), method.draft_kernel, list[Planned]()
    early, slots = method.slots()
    first, made = slots[0] if slots else method.steps, 0
    for i, t in enumerate(times):
        if i < method.steps and method.draws_anew:
            steps.append(Draw(t))
        elif i < method.steps and draft is not None:
            steps.append(Redraw(t, draft))
        elif i < first and i < method.steps:
            steps.append(Decode(t, times[i + 1]))
        elif i == first and slots:
            steps.append(Redraw(t, Shared(1)))
        share = (early + slots.index(i)) // len(slots) if i in slots and not blind else 0  # these add up to `early`
        end = method.moves if i == method.steps else made + share
        steps += [Refine(t, move) for move in range(made, end)]
        made = end
    return tuple(steps)


@lru_cache(maxsize=256)
def _excursion(method: Refining, schedule: Schedule, masked: bool, t: float, turn: int) -> Excursion:
    a_s = clean_share(method.span, method.span_steps, method.steps, schedule, t, turn)
    return Excursion.planned(schedule, t, a_s, method.denoise_steps, masked)


@lru_cache(maxsize=64)
def unfinished(steps: tuple[Planned, ...]) -> int:
    """How many of the planned moves are made before the text is finished."""
    return sum(isinstance(step, Refine) and step.t > 0 for step in steps)
