"""Trajectory: exact for the sampler that is really run, with no reversibility assumption.

    path x_1, ..., x_0 of plain decoding; a grid index k that does not look at the path; N new tails from x_k;
    choose and accept by `mtm.metropolised` among the recorded tail and the new ones

It leaves P_sampler(path) exp(r(x_0) / alpha) invariant: given x_k, the recorded tail and the new ones are exchangeable
draws of the sampler's own conditional distribution, whatever its unmasking order, temperature or parallelism (iterated
conditional importance resampling on paths; Andrieu, Lee, Vihola 2018, arXiv:1312.6432). What no tail reaches stays as
the first path drew it, so that some moves have to redraw the whole path: every second one does, unless told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from iterref import chains, mtm
from iterref.budget import Cost
from iterref.decision import Decision
from iterref.decoding import grid
from iterref.particles import adopt, pick
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import Aimed, Decoded, Info, Output, Paired, State
from iterref.samplers.spans import GridSpans, Spans, check_spans, turns


@dataclass(frozen=True)
class Recorded(Paired):
    """Finished texts with the `path` (R, K + 1, L) that led to each of them, noise first."""

    path: Tensor


@dataclass(frozen=True)
class Trajectory(Aimed, Decoded):
    """A path of plain decoding in `steps` grid steps, whose tails are redrawn in `moves` moves.

    tries: new tails a move, one NFE a redrawn step each. span: how much of the grid a tail covers, a share in (0, 1];
    span_steps: how many grid steps, in place of a share; several of either take turns. anneal: the factor that alpha
    reaches at the last move (to maximise). chains: of a row side by side, resampled by the weight of their first texts;
    the last state of one of them is returned, all are in `Result.particles`."""

    name: ClassVar[str] = "trajectory"
    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0
    spare: ClassVar[str] = "chains"

    steps: int = 4
    moves: int = 24
    tries: int = 2
    span: Spans = (1.0, 0.5)
    span_steps: GridSpans = 0
    anneal: float = 1.0
    chains: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, moves=0, tries=1, chains=1)
        check_spans(self, self.span, self.span_steps, self.steps)
        if not self.steps:
            raise ValueError("trajectory: it redraws a path that it recorded, and needs steps of at least 1")

    _recorded: ClassVar[type[Recorded]] = Recorded

    @property
    def iterations(self) -> int:
        return 1 + self.moves

    def tail(self, index: int) -> int:
        """How many grid steps the `index`-th move redraws."""
        if self.span_steps != 0:
            numbers = turns(self.span_steps)
            return int(numbers[index % len(numbers)])
        shares = turns(self.span)
        return max(1, round(shares[index % len(shares)] * self.steps))

    def init(self, run: Run, rng: Rng) -> State:
        return State(0, 1.0, run.repeat(self.chains).prior(rng.repeat(self.chains)))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """The first path, or one move of every chain; one chain is drawn after the last."""
        wide, streams, first = run.repeat(self.chains), rng.repeat(self.chains).fork("move"), state.step == 0
        n, start = 1 if first else self.tries, 0 if first else self.steps - self.tail(state.step - 1)
        alpha = run.alpha if first else run.alpha * self.anneal ** ((state.step - 1) / max(self.moves - 1, 1))
        head = state.path[:, : start + 1] if isinstance(state, Recorded) else state.x_t[:, None]
        begun, marks = head[:, -1], self._marks(state)
        heads = [of[:, :start] for of in marks]
        tails, reward, made = self._tails(wide, begun, start, heads, n, alpha, streams.fork("tails"))
        log_w = self._log_weight(reward, made, alpha).T
        if isinstance(state, Recorded):
            now = self._log_weight(state.reward, [of[:, start:] for of in marks], alpha)
            verdict = mtm.metropolised(now, log_w, streams.fork("decide"))
            old = state.path[:, start + 1 :], state.reward, *(of[:, start:] for of in marks)
        else:
            verdict, old = mtm.select(log_w, streams.fork("decide")), None
        new = [pick(of, verdict.choice) for of in (tails, reward, *made)]
        if old is not None:
            new = [adopt(verdict.accepted, of, before) for of, before in zip(new, old, strict=True)]
        tail, kept, made = new[0], new[1], new[2:]
        x_0 = tail[:, -1]
        changed = None if first else (x_0 != state.x_t).sum(1)
        before = state.reward if isinstance(state, Recorded) else None
        decided = (Decision(tails[:, :, -1], reward, verdict.choice, verdict.accepted, verdict.chance, before),)
        info = Info(verdict.accepted.double(), verdict.stuck, changed, span=1 - start / self.steps, decisions=decided)
        if marks:
            made = [torch.cat([before[:, :start], of], 1) for before, of in zip(marks, made, strict=True)]
        moved = self._recorded(state.step + 1, 0.0, x_0, x_0, kept, torch.cat([head, tail], 1), *made)
        return chains.met(moved, info, self.chains, log_w.T if first else None, moved.step == self.iterations, rng)

    def output(self, run: Run, state: State) -> Output:
        return chains.first(super().output(run, state), self.chains)

    def cost(self) -> Cost:
        lengths = [self.tail(index) for index in range(len(turns(self.span_steps or self.span)))]
        rounds, rest = divmod(self.moves, len(lengths))
        steps = rounds * sum(lengths) + sum(lengths[:rest])
        moved = Cost(steps * self.tries, self.moves * self.tries, steps)
        return (Cost(self.steps, 1, self.steps) + moved).wide(self.chains)

    def _marks(self, state: State) -> list[Tensor]:
        """What a path keeps of every step besides its states, (R, K, *): nothing here, see `growth`."""
        return []

    def _log_weight(self, reward: Tensor, marks: list[Tensor], alpha: Time) -> Tensor:
        """The log-weights of tails whose ends have a `reward` (*), and which keep `marks` (*, k, ...) of each step."""
        return reward / alpha

    def _tails(
        self, run: Run, x: Tensor, start: int, before: list[Tensor], n: int, alpha: Time, rng: Rng
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """N tails from (R, L) to the end, whose heads keep the marks `before` (R, start, *): their states
        (N, R, k, L), the rewards of their ends (N, R), and what they keep of their steps."""
        wide, streams, x, times = run.repeat(n), rng.repeat(n), x.repeat(n, 1), grid(self.steps)
        states = []
        for k in range(start, self.steps):
            x = self.decoder.step(wide, x, times[k], times[k + 1], streams.fork(k))
            states.append(x)
        path = rearrange(torch.stack(states, 1), "(n b) k l -> n b k l", n=n)
        return path, run.reward_of(path[:, :, -1], final=True), []
