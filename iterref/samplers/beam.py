"""Beam: whole decodings under the reward, in the order of the tilted model, by texts that the model would write.

    look      x_0^n ~ p(. | x_t), n = 1 .. G, from one evaluation of each of the W states; r(x_0^n)
    keep      the W guesses of highest   J = r / alpha + min(d, 0) + 0.03 log p
    probe     r(x_0) - r(x_0 with token i changed)  =  what token i carries of the reward
    reveal    the tokens of highest      log p(x_0^i | x_t) + (what it carries) / alpha
    moves     write a stretch of the text, or all of it, anew, shorter or longer; keep what has the higher J

Decoding in confidence order writes the best sentences and meets the reward's tokens too late, when the rest of the text
has left no room for them; drawing them early at random, among many others, breaks the text. A token's confidence under
the tilted model p exp(r / alpha) settles both: what carries the reward is revealed first, and the rest is written
around it. Where the noise has no mask, the tokens of highest confidence are kept and the others are noise again.

d is the typicality of a text (`iterref.likelihood`): its log-likelihood less that of the model's own texts in the same
contexts; of a finished text by 4 evaluations, of a guess along its path. So tokens that do not fit cost what they are
unlikely, and being likelier than the model's own texts decides between equal rewards alone: log p itself is highest for
short and dull texts. A shorter text than the best one has to fit better a token, too. It maximises J, and is no sample
of the tilted distribution. Where nobody gives alpha, it is a share of the spread of the first rewards that differ, a
row. Beam search: Lowerre (1976); the order of confidence: Chang et al. (2022), arXiv:2202.04200; typicality: Meister
et al. (2023), arXiv:2202.00666.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from iterref import chains
from iterref.budget import Budget, Cost
from iterref.decision import Decision
from iterref.decoding import Decoder
from iterref.likelihood import fluency, weighed
from iterref.moves.lookahead import look, scored
from iterref.moves.shifts import SHIFTS, moves_along, shifted, shortened
from iterref.moves.tilted import carried, deviation, held, highest
from iterref.particles import adopt
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Drafting, Info, Output, State, time_of
from iterref.samplers.spans import Spans, check_spans, turns

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
    """Chains of W states each, `beam` (R, W, L), of which `wrote` (R, L) is being written, and the log-probabilities
    `log_p` (R, W) of what has been; the best finished `text` (R, L) so far with its `reward` and fluency `fluent` (R,);
    each chain's `alpha` (R,), and whether it was `found` (R,) in the run. A new text has a reward above `floor` (R,),
    that of a given text."""

    beam: Tensor
    log_p: Tensor
    wrote: Tensor
    text: Tensor
    reward: Tensor
    fluent: Tensor
    alpha: Tensor
    found: Tensor
    floor: Tensor

    @property
    def value(self) -> Tensor:
        """J of the best text so far, (R,)."""
        return self.reward / self.alpha + self.fluent

    def clean(self) -> tuple[Tensor, Tensor | None]:
        return self.text, self.reward


@dataclass(frozen=True)
class Beam(Drafting):
    """`chains` beams of `width` states over `steps` grid steps (none at all start from finished texts), then `moves`
    that write a part of the best text anew.

    guesses: clean samples of a state at every step. probes: tokens of a kept guess that are changed, one by one, to see
    what they carry of the reward. span: how much of a text a move writes, a share in (0, 1]; several take turns.
    spread: where the problem does not give alpha, which share it is of the standard deviation of the rewards that one
    evaluation's guesses have, the first whose rewards differ, a row.
    sure: the probability from which a token is revealed whatever the step. block_length: free positions that are
    written at a time, from the left; 0 is as the model needs it, which is all of them for most."""

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
        return len(self._plan)

    def init(self, run: Run, rng: Rng) -> State:
        self._expect_draft()
        wide = run.repeat(self.chains)
        low = torch.full((len(wide.rows),), -torch.inf, dtype=torch.float64, device=wide.canvas.device)
        return _begun(wide, 1.0, _noise(wide, self.width, rng.repeat(self.chains)), low, torch.zeros_like(low))

    def in_blocks(self, block: int, blocks: int) -> Self:
        """With a step a block at the least; the blocks are the model's own."""
        return replace(self, steps=max(self.steps, blocks)) if self.steps else self

    def resume(self, run: Run, tokens: Tensor) -> State:
        """Every chain begins at the given text, which is left only for one of higher reward and higher J."""
        wide = run.repeat(self.chains)
        x = tokens.repeat(self.chains, 1)
        beam = x[:, None].expand(-1, self.width, -1)
        return _begun(wide, 0.0, beam, wide.reward_of(x, final=True), fluency(wide, x, JUDGED))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step of all states; the last of a writing ends in texts, which may be the best so far."""
        assert isinstance(state, Beamed)
        wide, streams, now = run.repeat(self.chains), rng.repeat(self.chains), self._plan[state.step]
        if not now.k and (now.move or not self.steps):
            state = _opened(wide, state, now.span, self.guesses, streams.fork("open"))
        t = time_of(wide, 1 - now.span * (1 - now.k / now.steps))  # the share of unwritten positions falls evenly
        last, w = now.k == now.steps - 1, self.width
        x, log_p = state.beam.movedim(1, 0), state.log_p.T
        # without a mask all free tokens would be drawn anew, and not the stretch alone
        ahead = look(wide, x, t, self.guesses, Decoder("confidence"), streams.fork("look"), within=state.wrote)
        reward = scored(wide, ahead.draws, final=last)
        if run.problem.finds_alpha:
            spread = deviation(reward[:, 0])
            alpha = torch.where(~state.found & (spread > 0), self.spread * spread, state.alpha)
            state = replace(state, alpha=alpha, found=state.found | (spread > 0))
        usual = ahead.sure.mean(0)  # minus the entropies, by the guesses
        fit = log_p + (ahead.sure - usual).cumsum(-1)[..., -1]
        value = (reward / state.alpha + weighed(fit, ahead.sure.cumsum(-1)[..., -1])).flatten(0, 1)
        top = highest(value, w)
        number, parent, row = top // w, top % w, torch.arange(len(wide.rows), device=x.device)
        x_0, sure, x_t = ahead.draws[number, parent, row], ahead.sure[number, parent, row], x[parent, row]
        found = reward.flatten(0, 1).gather(0, top)
        taken = torch.ones_like(row, dtype=torch.bool)
        chosen = Decision(ahead.draws.flatten(0, 1), reward.flatten(0, 1), top[0], taken)
        if last:
            fluent = fluency(wide, x_0[0], JUDGED) if self.judged else torch.zeros_like(found[0])
            ended, info = _ended(wide, state, x_0[0], found[0], fluent, chosen, self.steps > 0)
            return ended, chains.together(info, self.chains)
        score = sure + carried(wide, ahead, (number, parent), found, self.probes) / state.alpha[:, None]
        flat = (state.wrote.repeat(w, 1), sure.flatten(0, 1), score.flatten(0, 1))
        spare = (now.steps, now.steps - now.k, self.sure)
        block = wide.repeat(w).blocks(self.block_length or surest_block(run))
        kept = held(wide.repeat(w), x_t.flatten(0, 1), t, *flat, *spare, block).view(score.shape)
        x_u = torch.where(kept, x_0, x_t if run.noise.mask is not None else _noise(wide, w, streams).movedim(1, 0))
        gained = torch.where(kept, sure - usual[parent, row], 0.0).cumsum(-1)[..., -1]
        log_p = log_p.gather(0, parent) + gained if run.noise.mask is not None else torch.zeros_like(log_p)
        moved = replace(state, step=state.step + 1, t=t, x_t=x_u[0], beam=x_u.movedim(1, 0), log_p=log_p.T)
        return moved, chains.together(Info(decisions=(chosen,)), self.chains)

    def output(self, run: Run, state: State) -> Output:
        """The text of highest J among the chains of every row."""
        assert isinstance(state, Beamed)
        run.meter.declare(self.cost(), run.batch)  # without a mask a text is judged by fewer evaluations
        best = state.take(chains.in_front(self.chains, state.value.view(self.chains, -1).argmax(0)))
        return Output(best.text[: run.batch], best.reward[: run.batch], alpha=best.alpha[: run.batch])

    def cost(self) -> Cost:
        """An NFE a state and step, its guesses and probes (the last step probes nothing), a move's shifts, and 4 NFE to
        judge a text.

        Under noise without a mask a text is judged by 1 NFE, and not every text can shift, so a run makes fewer."""
        lengths = [self._steps(share) for share in turns(self.span)]
        rounds, rest = divmod(self.moves, len(lengths))
        steps = self.steps + rounds * sum(lengths) + sum(lengths[:rest])
        writings = self.moves + (self.steps > 0)
        judged, calls = self.judged * (1 + self.moves), steps * (self.guesses + self.probes) - writings * self.probes
        calls += self.moves * min(self.guesses, len(SHIFTS)) if self.guesses > 1 else 0
        given = 0 if self.steps else 1  # the given text's own
        return Cost(self.width * steps + judged, self.width * calls + given, steps + judged).wide(self.chains)

    def spend(self, budget: Budget) -> Beam:
        """Guesses and probes for the reward calls that go with an NFE, then the moves that fit."""
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
    def judged(self) -> int:
        """The evaluations that judge a text, none where a row has one text alone."""
        return JUDGED if self.moves or self.chains > 1 or not self.steps else 0

    @property
    def _plan(self) -> tuple[Planned, ...]:
        shares = [turns(self.span)[i % len(turns(self.span))] for i in range(self.moves)]
        moves = tuple((share, self._steps(share)) for share in shares)
        return _planned(self.steps, 0 if self.steps else 1, moves)

    def _steps(self, share: float) -> int:
        """How many grid steps write a share of the free positions."""
        return max(1, round(share * (self.steps or STEPS)))


@lru_cache(maxsize=64)
def _planned(steps: int, first: int, moves: tuple[tuple[float, int], ...]) -> tuple[Planned, ...]:
    writings = [(1.0, steps), *moves]
    return tuple(
        Planned(move, k, length, span)
        for move, (span, length) in enumerate(writings) if move >= first for k in range(length)
    )  # fmt: skip


def surest_block(run: Run) -> int:
    """How many positions a model is to write at a time where the surest tokens come first."""
    return run.denoiser.surest_block or run.denoiser.block_length


def _begun(run: Run, t: float, beam: Tensor, reward: Tensor, fluent: Tensor) -> Beamed:
    alpha = torch.as_tensor(run.alpha, dtype=torch.float64, device=beam.device).expand(len(beam)).clone()
    found = torch.zeros_like(alpha, dtype=torch.bool)
    log_p = torch.zeros(beam.shape[:2], dtype=torch.float64, device=beam.device)
    return Beamed(0, t, beam[:, 0], beam, log_p, run.free, beam[:, 0], reward, fluent, alpha, found, reward)


def _noise(run: Run, width: int, rng: Rng) -> Tensor:
    """Pure noise for W states, (R, W, L)."""
    return run.repeat(width).prior(rng.repeat(width)).unflatten(0, (width, -1)).movedim(0, 1)


def _opened(run: Run, state: Beamed, share: float, guesses: int, rng: Rng) -> Beamed:
    """The best text with a stretch of its free positions noise again: a share of them, side by side, or some more or
    fewer where texts may grow and shrink."""
    place, count, text = run.free.cumsum(1) - 1, run.free.sum(1), state.text
    size = (share * count).ceil().long()
    first = (rng.uniform(1)[:, 0] * (count - size + 1)).floor().long()
    wrote = run.free & (place >= first[:, None]) & (place < (first + size)[:, None])
    if guesses > 1 and moves_along(run):
        text, wrote = shifted(run, text, wrote, state.alpha, guesses, rng.fork("shift"))
    beam = torch.where(wrote[:, None], _noise(run, state.beam.shape[1], rng.fork("noise")), text[:, None])
    return replace(state, beam=beam, log_p=torch.zeros_like(state.log_p), wrote=wrote)


def _ended(
    run: Run, state: Beamed, x_0: Tensor, reward: Tensor, fluent: Tensor, chosen: Decision, drafted: bool
) -> tuple[Beamed, Info]:
    """The end of a writing: texts (R, L) with their rewards (R,), kept where their J is the highest so far, and
    of shorter ones their J a token, too; any in place of a forbidden one that was `drafted`, not given."""
    before = state.fluent * shortened(run, x_0, state.text)
    better = reward / state.alpha + fluent > state.reward / state.alpha + before
    better = better & (reward > state.floor) | state.reward.isneginf() & drafted
    text = adopt(better, x_0, state.text)
    moved = replace(
        state, step=state.step + 1, t=0.0, x_t=text, text=text, reward=adopt(better, reward, state.reward),
        fluent=adopt(better, fluent, state.fluent),
    )  # fmt: skip
    return moved, Info(better.double(), reward.isneginf(), (text != state.text).sum(1), decisions=(chosen,))
