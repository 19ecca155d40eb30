"""Beam: whole decodings under the reward, in the order of the tilted model, and the likeliest text that has it.

    look      x_0^n ~ p(. | x_t), n = 1 .. G, from one evaluation of each of the W states; r(x_0^n)
    keep      the W guesses of highest   r(x_0) / alpha + log p(x_0 | x_t) + log p(x_t)
    probe     r(x_0) - r(x_0 with token i changed)  =  what token i carries of the reward
    reveal    the tokens of highest      log p(x_0^i | x_t) + (what it carries) / alpha
    moves     write a stretch of the text, or all of it, anew; keep what has the higher   J = r / alpha + log p

Decoding in confidence order writes the best sentences and meets the reward's tokens too late, when the rest of the text
has left no room for them; drawing them early at random, among many others, breaks the text. A token's confidence under
the tilted model p exp(r / alpha) settles both: what carries the reward is revealed first, and the rest is written around
it, the surest token first. Changed tokens are those of other guesses, so a probe costs a reward call and no evaluation.
Where the noise has no mask, the tokens of highest confidence are kept and the others are noise again.

It maximises J, and is no sample of the tilted distribution. `log p` is that of `iterref.likelihood`, by 4 evaluations.
alpha is a share of the spread of the rewards that the first guesses have, a row, so nobody has to give one. Beam
search: Lowerre (1976); the order of confidence: Chang et al. (2022), arXiv:2202.04200.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from iterref import chains
from iterref.budget import Budget, Cost
from iterref.decision import Decision
from iterref.decoding import Decoder, blocks, foremost, surest
from iterref.likelihood import log_likelihood
from iterref.moves.lookahead import Ahead, look, scored
from iterref.particles import adopt
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Output, Sampler, State, time_of
from iterref.samplers.spans import Spans, check_spans, turns

CHANGED = 1e6  # what a token carries without which the text is forbidden, in units of the reward
STEPS = 16  # of a whole writing, where the method starts from a given text
JUDGED = 4  # evaluations of a finished text's log-likelihood


class Planned(NamedTuple):
    """A step of the plan: the `k`-th of `steps` of the `move`-th writing, of a share `span` of the free positions."""

    move: int
    k: int
    steps: int
    span: float


@dataclass(frozen=True)
class Beamed(State):
    """Chains of W states each, `beam` (R, W, L), of which `wrote` (R, L) are being written, with the log-probabilities
    `log_p` (R, W) of what was; the best finished `text` (R, L) so far, its `reward` and its log-likelihood `likely` (R,),
    and each chain's `alpha` (R,)."""

    beam: Tensor
    log_p: Tensor
    wrote: Tensor
    text: Tensor
    reward: Tensor
    likely: Tensor
    alpha: Tensor

    @property
    def value(self) -> Tensor:
        """J of the best text so far, (R,)."""
        return self.reward / self.alpha + self.likely

    def clean(self) -> tuple[Tensor, Tensor | None]:
        """The best finished text so far and its reward."""
        return self.text, self.reward


@dataclass(frozen=True)
class Beam(Sampler):
    """`chains` beams of `width` states over `steps` grid steps (none at all start from finished texts), then `moves`
    that write a part of the best text anew.

    guesses: clean samples of a state at every step. probes: tokens of a kept guess that are changed, one by one, to see
    what they carry of the reward. span: how much of a text a move writes, a share in (0, 1]; several take turns.
    spread: alpha as a share of the standard deviation of the first guesses' rewards, a row; 0 takes the problem's.
    sure: the probability from which a token is revealed whatever the step. block_length: free positions that are
    written at a time, from the left; 0 is all of them.
    """

    name: ClassVar[str] = "beam"
    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0

    steps: int = 16
    width: int = 1
    chains: int = 1
    guesses: int = 16
    probes: int = 16
    moves: int = 0
    span: Spans = 0.3
    spread: float = 0.1
    sure: float = 0.95
    block_length: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=0, width=1, chains=1, guesses=1, probes=0, moves=0, spread=0, block_length=0)
        self._require_share("sure")
        check_spans(self, self.span, 0, self.steps)

    @property
    def iterations(self) -> int:
        """One step a grid step of every writing."""
        return len(self._plan)

    def init(self, run: Run, rng: Rng) -> State:
        """Pure noise for every state of every chain."""
        if not self.steps:
            raise ValueError("beam: steps=0 drafts nothing: give texts to start from, or steps of at least 1")
        wide = run.repeat(self.chains)
        low = torch.full((len(wide.rows),), -torch.inf, dtype=torch.float64, device=wide.canvas.device)
        return self._begun(wide, 1.0, self._noise(wide, rng.repeat(self.chains)), low, torch.zeros_like(low))

    def refining(self) -> Sampler:
        """No draft: the moves alone."""
        return replace(self, steps=0)

    def resume(self, run: Run, tokens: Tensor) -> State:
        """Every chain begins at the given text, which is left only for one of higher J."""
        wide = run.repeat(self.chains)
        x = tokens.repeat(self.chains, 1)
        beam = x[:, None].expand(-1, self.width, -1)
        return self._begun(wide, 0.0, beam, wide.reward_of(x, final=True), log_likelihood(wide, x, JUDGED))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all states; the last of a writing ends in texts, the best of which may be the best so far."""
        assert isinstance(state, Beamed)
        wide, streams, now = run.repeat(self.chains), rng.repeat(self.chains), self._plan[state.step]
        if not now.k and (now.move or not self.steps):
            state = self._opened(wide, state, now.span, streams.fork("open"))
        t, last, w = self._time(wide, now), now.k == now.steps - 1, self.width
        x, log_p = state.beam.movedim(1, 0), state.log_p.T
        ahead = look(wide, x, t, self.guesses, Decoder("confidence"), streams.fork("look"))
        reward = scored(wide, ahead.draws, final=last)
        if not state.step and self.spread:
            state = replace(state, alpha=spread(reward[:, 0], state.alpha, self.spread))
        likely = ahead.sure.cumsum(-1)[..., -1] + log_p
        value = (reward / state.alpha + likely).flatten(0, 1)
        top = _highest(value, w)
        number, parent, row = top // w, top % w, torch.arange(len(wide.rows), device=x.device)
        x_0, sure, x_t = ahead.draws[number, parent, row], ahead.sure[number, parent, row], x[parent, row]
        found = reward.flatten(0, 1).gather(0, top)
        chosen = Decision(ahead.draws.flatten(0, 1), reward.flatten(0, 1), top[0], torch.ones_like(row, dtype=torch.bool))
        if last:
            return self._ended(wide, state, x_0[0], found[0], chosen)
        score = sure + self._carried(wide, ahead, x_0, sure, found, number, parent) / state.alpha[:, None]
        kept = self._kept(wide.repeat(w), state, x_t, sure, score, t, now)
        x_u = torch.where(kept, x_0, x_t if run.noise.mask is not None else self._noise(wide, streams).movedim(1, 0))
        gained = torch.where(kept, sure, 0.0).cumsum(-1)[..., -1]
        log_p = log_p.gather(0, parent) + gained if run.noise.mask is not None else torch.zeros_like(log_p)
        moved = replace(state, step=state.step + 1, t=t, x_t=x_u[0], beam=x_u.movedim(1, 0), log_p=log_p.T)
        return moved, chains.together(Info(decisions=(chosen,)), self.chains)

    def output(self, run: Run, state: State) -> Output:
        """The text of highest J among the chains of every row."""
        assert isinstance(state, Beamed)
        best = state.take(chains.in_front(self.chains, state.value.view(self.chains, -1).argmax(0)))
        return Output(best.text[: run.batch], best.reward[: run.batch])

    def cost(self) -> Cost:
        """An NFE a state and step, its guesses and probes (the last step probes nothing), and 2 NFE to judge a text."""
        lengths = [self._steps(share) for share in turns(self.span)]
        rounds, rest = divmod(self.moves, len(lengths))
        steps = self.steps + rounds * sum(lengths) + sum(lengths[:rest])
        writings = self.moves + (self.steps > 0)
        judged, calls = JUDGED * (1 + self.moves), steps * (self.guesses + self.probes) - writings * self.probes
        if not self.steps:  # the given text's own
            return Cost(self.width * steps + judged, self.width * calls + 1, steps + judged).wide(self.chains)
        return Cost(self.width * steps + judged, self.width * calls, steps + judged).wide(self.chains)

    def spend(self, budget: Budget) -> Beam:
        """Guesses and probes for the reward calls that go with an NFE, then the chains or moves that fit."""
        if budget.total < inf:
            ratio = 1 / budget.price if budget.price else inf
        else:
            ratio = budget.reward_calls / budget.nfe if budget.nfe < inf else inf
        fitted = self
        if ratio < self.guesses + self.probes:
            guesses = max(1, round(ratio / 2))
            fitted = replace(self, guesses=guesses, probes=max(0, int(ratio) - guesses))
        return fitted._most(budget, "moves", 0)

    @property
    def _plan(self) -> tuple[Planned, ...]:
        shares = turns(self.span)
        return _planned(self.steps, 0 if self.steps else 1, tuple((s := shares[i % len(shares)], self._steps(s)) for i in range(self.moves)))

    def _steps(self, share: float) -> int:
        """How many grid steps write a share of the free positions."""
        return max(1, round(share * (self.steps or STEPS)))

    def _begun(self, run: Run, t: float, beam: Tensor, reward: Tensor, likely: Tensor) -> Beamed:
        """The state before the first step."""
        alpha = torch.as_tensor(run.alpha, dtype=torch.float64, device=beam.device).expand(len(beam)).clone()
        log_p = torch.zeros(beam.shape[:2], dtype=torch.float64, device=beam.device)
        return Beamed(0, t, beam[:, 0], beam, log_p, run.free, beam[:, 0], reward, likely, alpha)

    def _time(self, run: Run, now: Planned) -> float:
        """The noise level of a step: that of a share of unwritten positions that falls evenly."""
        return time_of(run, 1 - now.span * (1 - now.k / now.steps))

    def _noise(self, run: Run, rng: Rng) -> Tensor:
        """Pure noise for W states, (R, W, L)."""
        return run.repeat(self.width).prior(rng.repeat(self.width)).unflatten(0, (self.width, -1)).movedim(0, 1)

    def _opened(self, run: Run, state: Beamed, share: float, rng: Rng) -> Beamed:
        """The best text with a stretch of its free positions noise again: a share of them, side by side."""
        place, count = run.free.cumsum(1) - 1, run.free.sum(1)
        size = (share * count).ceil().long()
        first = (rng.uniform(1)[:, 0] * (count - size + 1)).floor().long()
        wrote = run.free & (place >= first[:, None]) & (place < (first + size)[:, None])
        beam = torch.where(wrote[:, None], self._noise(run, rng.fork("noise")), state.text[:, None])
        return replace(state, beam=beam, log_p=torch.zeros_like(state.log_p), wrote=wrote)

    def _carried(
        self, run: Run, ahead: Ahead, x_0: Tensor, sure: Tensor, reward: Tensor, number: Tensor, parent: Tensor
    ) -> Tensor:
        """What the tokens of kept guesses (W, R, L) carry of their rewards (W, R), 0 where they were not probed."""
        if not self.probes:
            return torch.zeros_like(sure)
        row = torch.arange(x_0.shape[1], device=x_0.device)
        usual = ahead.draws.mode(0).values[parent, row]
        other = torch.where(usual != x_0, usual, ahead.draws[(number + 1) % self.guesses, parent, row])
        count = min(self.probes, x_0.shape[-1])
        where = torch.where(other != x_0, sure, torch.inf).topk(count, dim=-1, largest=False).indices
        changed, place = x_0.expand(count, *x_0.shape).clone(), where.movedim(-1, 0)[..., None]
        changed.scatter_(-1, place, other.expand_as(changed).gather(-1, place))
        carried = reward - scored(run, changed, final=False)
        carried = carried.nan_to_num(nan=0.0, posinf=CHANGED, neginf=-CHANGED)
        return torch.zeros_like(sure).scatter(-1, where, carried.movedim(0, -1))

    def _kept(
        self, run: Run, state: Beamed, x_t: Tensor, sure: Tensor, score: Tensor, t: float, now: Planned
    ) -> Tensor:
        """Which tokens of guesses (W, R, L) the next state holds."""
        flat, plain, wrote = score.flatten(0, 1), sure.flatten(0, 1), state.wrote.repeat(self.width, 1)
        block, left = blocks(run.free, self.block_length), now.steps - now.k
        if run.noise.mask is None:
            count = wrote.sum(1) - wrote.sum(1) * (left - 1) // now.steps
            return (surest(wrote, flat, block, count) | ~wrote).view(score.shape)
        where = run.undetermined(x_t.flatten(0, 1), t)
        easy = foremost(where, block) & (torch.minimum(flat, plain).exp() > self.sure)
        hard = where & ~easy
        return (easy | ~where | surest(hard, flat, block, -(-hard.sum(1) // left))).view(score.shape)

    def _ended(self, run: Run, state: Beamed, x_0: Tensor, reward: Tensor, chosen: Decision) -> tuple[State, Info]:
        """The end of a writing: texts (R, L) with their rewards (R,), which stay where their J is the highest so far."""
        likely = log_likelihood(run, x_0, JUDGED)
        better = (reward / state.alpha + likely > state.value) | state.reward.isneginf()
        text = adopt(better, x_0, state.text)
        moved = replace(
            state, step=state.step + 1, t=0.0, x_t=text, text=text, reward=adopt(better, reward, state.reward),
            likely=adopt(better, likely, state.likely),
        )  # fmt: skip
        info = Info(better.double(), reward.isneginf(), (text != state.text).sum(1), decisions=(chosen,))
        return moved, chains.together(info, self.chains)


@lru_cache(maxsize=64)
def _planned(steps: int, first: int, moves: tuple[tuple[float, int], ...]) -> tuple[Planned, ...]:
    writings = [(1.0, steps), *moves]
    return tuple(
        Planned(move, k, length, span) for move, (span, length) in enumerate(writings) if move >= first for k in range(length)
    )  # fmt: skip


def spread(reward: Tensor, alpha: float, share: float) -> Tensor:
    """An alpha a row from the rewards (G, R) of its first guesses: a share of their standard deviation, and the given
    one where they do not differ -> (R,)."""
    known = ~reward.isneginf()
    count = known.sum(0).clamp_min(1)
    mean = torch.where(known, reward, 0.0).cumsum(0)[-1] / count
    deviation = (torch.where(known, reward - mean, 0.0).square().cumsum(0)[-1] / count).sqrt()
    return torch.where(deviation > 1e-9 * mean.abs().clamp_min(1e-9), share * deviation, alpha)


def _highest(value: Tensor, n: int) -> Tensor:
    """The `n` highest of (N, R) values, (n, R) long; equal values count as one guess, drawn twice, and come last."""
    order = value.argsort(dim=0, descending=True, stable=True)
    ranked = value.gather(0, order)
    again = torch.cat([torch.zeros_like(ranked[:1], dtype=torch.bool), ranked[1:] == ranked[:-1]])
    return order.gather(0, again.to(torch.int8).argsort(dim=0, stable=True))[:n]
