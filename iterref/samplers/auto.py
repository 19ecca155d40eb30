"""Auto: several methods race on every row within the budget, and the one that leads goes on.

    race    each arm runs within its share of the budget; J of the text that it comes to, the objective of `beam`
    go on   every row follows the arm of its highest J, from where that arm stopped, with all that is left; where texts
            may grow and shrink, `beam` goes on from the text of highest J, whoever wrote it
    end     the text of highest J among all that the arms came to

    beam         whole decodings in the order of the tilted model: sentences under a rule, a classifier, a metric
    trajectory   whole decodings in the order of confidence, redrawn: puzzles, where every token hangs on all others
    iterref      spaced moves on the best text that the others came to, where many local changes each earn a little

Where the noise has no mask, trajectory is left out, and beam writes the whole text in every move. No arm is best
everywhere, and which one is shows on the row itself within a few evaluations. A row's choice looks at nothing but the
row, so results stay a function of (seed, prompt). It maximises J, and is no sample of the tilted distribution. alpha is
found as `beam` finds it, where nobody gives one. Rice (1976), Advances in Computers 15, on choosing algorithms; Karnin,
Koren, Somekh (2013) on halving.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import inf
from typing import ClassVar, Self

import torch
from torch import Tensor

from iterref.budget import FAR, Budget, Cost
from iterref.chains import apart
from iterref.likelihood import fluency
from iterref.moves.shifts import moves_along, shortened
from iterref.noise import Noise
from iterref.particles import adopt
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Drafting, Info, Output, State
from iterref.samplers.beam import JUDGED, Beamed, surest_block
from iterref.samplers.race import Arm, arms
from iterref.samplers.spans import Spans, check_spans

CALLS = 32  # reward calls that go with an NFE where nothing bounds them


@dataclass(frozen=True)
class Racing(State):
    """The arms' states, as far as they have begun, with the rows (R,) that each has; the text of highest J so far
    `text` (B, L), its `reward` and fluency `fluent` (B,); the arm `leader` (B,) that came to the highest J,
    `lead` (B,); `alpha` (B,); and the `floor` (B,) that a new text's reward is above, that of a given text."""

    states: tuple[State, ...]
    rows: tuple[Tensor, ...]
    text: Tensor
    reward: Tensor
    fluent: Tensor
    lead: Tensor
    leader: Tensor
    alpha: Tensor
    floor: Tensor

    def clean(self) -> tuple[Tensor, Tensor | None]:
        return self.text, self.reward


@dataclass(frozen=True)
class Auto(Drafting):
    """A race of methods within a budget a sample: `nfe` network evaluations with `calls` reward calls (0 is 32 an NFE),
    or, where it is given, a `total` of both, in which a reward call counts as `price` NFE.

    steps: grid steps of a whole decoding, fewer where the budget is small, but never fewer than `least_steps` (of a
    model that writes in blocks a step a block), and up to twice as many of one that no other races against; 0 starts
    from finished texts. race: the share of the budget that the race takes. span: how much of a text a move of `beam`
    writes, several in turn. spread: where the problem does not give alpha, which share of the first rewards' standard
    deviation it is, a row."""

    name: ClassVar[str] = "auto"
    knob: ClassVar[str] = "nfe"

    nfe: int = 64
    calls: int = 0
    total: int = 0
    price: float = 1.0
    steps: int = 12
    least_steps: int = 0
    race: float = 0.5
    span: Spans = (0.3, 0.15, 1.0)
    spread: float = 0.1

    masked: ClassVar[bool] = True  # what the noise is taken for before it is known

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(nfe=1, calls=0, total=0, price=0, steps=0, least_steps=0, spread=0)
        self._require_share("race")
        check_spans(self, self.span, 0, self.steps)
        if self.price != 1 and not self.total:
            raise ValueError(f"auto: price={self.price} belongs to a total: say total=, too")

    @property
    def limit(self) -> Budget:
        """The budget of a sample."""
        if self.total:
            return Budget(total=self.total, price=self.price)
        return Budget(nfe=self.nfe, reward_calls=self.calls or CALLS * self.nfe)

    @property
    def iterations(self) -> int:
        """The arms' steps of the race one after the other, then those of the longest arm that goes on."""
        racing = _racing(self)
        return sum(arm.first.iterations for arm in racing) + max(arm.steps_left for arm in racing)

    def init(self, run: Run, rng: Rng) -> State:
        self._expect_draft()
        nothing = torch.full((run.batch,), -torch.inf, dtype=torch.float64)
        return _begun(run, run.canvas, nothing, None, len(_racing(self)))

    def in_blocks(self, block: int, blocks: int) -> Self:
        """With a step a block at the least."""
        if not self.steps:
            return self
        if self.least_steps >= blocks > min(self.limit.nfe, self.limit.total):
            told = f"auto: {blocks} blocks of {block} positions take as many steps, and the budget is {self.limit}"
            raise ValueError(f"{told}: give a budget= of {2 * blocks} or more, or ask for shorter texts")
        return replace(self, steps=max(self.steps, blocks), least_steps=max(self.least_steps, blocks))

    def suited(self, noise: Noise) -> Auto:
        """Another race where the noise has no mask."""
        return self if noise.mask is not None else _Unmasked(**{f.name: getattr(self, f.name) for f in fields(self)})

    def resume(self, run: Run, tokens: Tensor) -> State:
        """Every arm begins at the given text, which is left only for one of higher reward and higher J."""
        reward, fluent = run.reward_of(tokens, final=True), fluency(run, tokens, JUDGED)
        return _begun(run, tokens, reward, fluent, len(_racing(self)))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One step of the arm whose turn it is, or, after the race, of every arm that has rows."""
        assert isinstance(state, Racing)
        # where a mask shows what is written, decoding goes block by block
        blocks = (run.denoiser.block_length, surest_block(run)) if self.masked else (0, 0)
        shifting = moves_along(run)
        racing, turn = _racing(self, *blocks, shifting), state.step
        for place, arm in enumerate(racing):
            if turn < arm.first.iterations:
                return self._raced(run, state, place, arm, turn, rng.fork(arm.first.name))
            turn -= arm.first.iterations
        if not turn:
            state = _split(state, shifting and isinstance(state.states[0], Beamed))
        parts, shown, done = list(state.states), state.text.clone(), list[tuple[Tensor, Info]]()
        moved = replace(state, step=state.step + 1)
        for place, arm in enumerate(racing):
            rows = state.rows[place]
            if not len(rows) or turn >= arm.steps_left:
                continue
            view = run.take(rows, state.alpha[rows])
            parts[place], told = arm.whole.step(view, parts[place], rng.take(rows).fork(arm.first.name))
            shown[rows] = parts[place].x_t
            done.append((rows, told))
            if turn == arm.steps_left - 1:
                moved = _judged(view, moved, place, arm, parts[place], rows, self.steps > 0, False)
        return replace(moved, t=0.0, x_t=shown, states=tuple(parts)), apart(done, run.batch)

    def output(self, run: Run, state: State) -> Output:
        """The text of highest J; what is declared counts as asked for, whichever arms the rows followed."""
        assert isinstance(state, Racing)
        run.meter.declare(self.cost(), run.batch)
        arms = [arm.first.name for arm in _racing(self)]
        return replace(
            super().output(run, state), alpha=state.alpha, chosen=tuple(arms[at] for at in state.leader.tolist())
        )

    def cost(self) -> Cost:
        """The race, what the dearest arm has left, and judging; the meter counts less for rows of cheaper arms."""
        racing = _racing(self)
        rest = [arm.going_on for arm in racing]
        given = Cost() if self.steps else Cost(JUDGED, 1, JUDGED)
        if self.total:  # an arm that takes more of the one takes less of the other
            most = max(rest, key=lambda cost: cost.nfe + self.price * cost.reward_calls)
        else:
            most = Cost(*(max(of) for of in zip(*((c.nfe, c.reward_calls, c.depth) for c in rest), strict=True)))
        if len(racing) == 1 and self.steps:  # what competes with nothing is not judged
            return racing[0].first.cost()
        return sum((arm.racing for arm in racing), given) + most

    def spend(self, budget: Budget) -> Auto:
        if budget.total < inf and budget.nfe == budget.reward_calls == inf:
            return replace(self, total=max(1, int(min(budget.total, FAR))), price=budget.price)
        nfe = min(budget.nfe, budget.depth, budget.total, FAR)
        if nfe == FAR:
            nfe = max(1, budget.reward_calls // CALLS)
        calls = min(budget.reward_calls, CALLS * nfe, (budget.total - nfe) / budget.price if budget.price else inf)
        return replace(self, nfe=max(1, int(nfe)), calls=max(1, int(calls)))

    def _raced(self, run: Run, state: Racing, place: int, arm: Arm, turn: int, rng: Rng) -> tuple[State, Info]:
        """One step of an arm in the race; the last one judges its text."""
        view = run.take(state.rows[place], state.alpha)
        parts = list(state.states)
        if not turn:
            begin = rng.fork("init")
            parts.append(arm.whole.init(view, begin) if arm.first.steps else arm.whole.resume(view, state.text))
        parts[place], info = arm.whole.step(view, parts[place], rng)
        now = parts[place]
        moved = replace(state, step=state.step + 1, t=now.t, x_t=now.x_t[: run.batch], states=tuple(parts))
        if turn < arm.first.iterations - 1:
            return moved, info
        drafted = self.steps > 0
        alone = drafted and len(_racing(self)) == 1
        return _judged(view, moved, place, arm, now, state.rows[place], drafted, alone), info


class _Unmasked(Auto):
    """The race where no mask shows what is noise."""

    masked: ClassVar[bool] = False


@lru_cache(maxsize=64)
def _racing(auto: Auto, block: int = 0, surest: int = 0, shifting: bool = False) -> tuple[Arm, ...]:
    """The methods that race, as the budget allows; what they cost does not depend on the model."""
    return arms(
        auto.limit, auto.race, auto.steps, auto.span, auto.spread, auto.masked, block, surest, shifting,
        min(auto.least_steps, auto.steps),
    )  # fmt: skip


def _split(state: Racing, first_alone: bool) -> Racing:
    """The rows go on with the arm that leads, or all with the first, a beam, from their best texts."""
    states, goes_on = state.states, torch.zeros_like(state.leader) if first_alone else state.leader
    if first_alone:
        assert isinstance(states[0], Beamed)
        best = replace(states[0], text=state.text, x_t=state.text, reward=state.reward, fluent=state.fluent)
        states = (best, *states[1:])
    rows = tuple((goes_on == place).nonzero()[:, 0] for place in range(len(states)))
    return replace(state, rows=rows, states=tuple(s.take(index) for s, index in zip(states, rows, strict=True)))


def _begun(run: Run, text: Tensor, reward: Tensor, fluent: Tensor | None, arms: int) -> Racing:
    alpha = torch.as_tensor(run.alpha, dtype=torch.float64, device=text.device).expand(run.batch).clone()
    fluent = torch.zeros_like(alpha) if fluent is None else fluent
    leader, rows = torch.zeros_like(alpha, dtype=torch.long), torch.arange(run.batch, device=text.device)
    low = torch.full_like(alpha, -torch.inf)
    everyone = (rows,) * arms
    reward = reward.to(text.device)
    return Racing(0, 1.0, text, (), everyone, text, reward, fluent, low, leader, alpha, reward)


def _judged(
    run: Run, state: Racing, place: int, arm: Arm, now: State, rows: Tensor, drafted: bool, alone: bool
) -> Racing:
    """The text that an arm came to, weighed against the best of its rows (R',) so far: a given text or a draft."""
    text, reward = now.clean()
    assert reward is not None
    if isinstance(now, Beamed) and arm.whole.judged:
        fluent = now.fluent
    else:  # a single draft competes with nothing
        fluent = torch.zeros_like(reward) if alone else fluency(run, text, JUDGED)
    if isinstance(now, Beamed):
        state = replace(state, alpha=state.alpha.index_copy(0, rows, now.alpha))
    value = reward / state.alpha[rows] + fluent
    usual = state.fluent[rows] * shortened(run, text, state.text[rows])
    before = state.reward[rows] / state.alpha[rows] + usual
    better = (value > before) & (reward > state.floor[rows]) | state.reward[rows].isneginf() & drafted
    ahead = value > state.lead[rows]

    def put(old: Tensor, new: Tensor, where: Tensor) -> Tensor:
        return old.index_copy(0, rows, adopt(where, new, old[rows]))

    return replace(
        state, text=put(state.text, text, better), reward=put(state.reward, reward, better),
        fluent=put(state.fluent, fluent, better), lead=put(state.lead, value, ahead),
        leader=put(state.leader, torch.full_like(rows, place), ahead),
    )  # fmt: skip
