"""Auto: several methods race on every row within the budget, and the one that leads goes on.

    race    each arm runs within its share of the budget; J = r / alpha + log p of the text that it comes to
    go on   every row follows the arm of its highest J, from where that arm stopped, with all that is left
    end     the text of highest J among all that the arms came to

    beam         whole decodings in the order of the tilted model: sentences under a rule, a classifier, a metric
    trajectory   whole decodings in the order of confidence, redrawn: puzzles, where every token hangs on all others
    iterref      spaced moves on a draft that competes by reward: where many local changes each earn a little

No arm is best everywhere, and which one is shows on the row itself within a few evaluations. A row's choice looks at
nothing but the row, so results stay a function of (seed, prompt). It maximises J, and is no sample of the tilted
distribution. alpha is found as `beam` finds it, a row; `log p` is that of `iterref.likelihood`, by 4 evaluations.
Rice (1976), Advances in Computers 15, on choosing algorithms; Karnin, Koren, Somekh (2013) on halving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from iterref.budget import FAR, Budget, Cost, most
from iterref.likelihood import log_likelihood
from iterref.particles import adopt
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Output, Sampler, State
from iterref.samplers.beam import JUDGED, STEPS, Beam, Beamed
from iterref.samplers.iterref import IterRef
from iterref.samplers.trajectory import Trajectory

LEAST = 8  # grid steps of an arm, below which fewer arms race
BEAM_SPANS, ITERREF_SPANS = (0.3, 0.15, 1.0), (0.5, 0.25)
CALLS = 32  # reward calls that go with an NFE where nothing bounds them


class Arm(NamedTuple):
    """A method as far as the race takes it, and the same method with all that is left after it."""

    name: str
    first: Sampler
    whole: Sampler


@dataclass(frozen=True)
class Racing(State):
    """The arms' states, as far as they have begun, with the rows (R,) that each has; the text of highest J so far
    `text` (B, L), its `reward` and its log-likelihood `likely` (B,), the arm `leader` (B,) of the
    highest J `lead` (B,), and `alpha` (B,)."""

    states: tuple[State, ...]
    rows: tuple[Tensor, ...]
    text: Tensor
    reward: Tensor
    likely: Tensor
    lead: Tensor
    leader: Tensor
    alpha: Tensor

    def clean(self) -> tuple[Tensor, Tensor | None]:
        """The text of highest J so far and its reward."""
        return self.text, self.reward


@dataclass(frozen=True)
class Auto(Sampler):
    """A race of methods within a budget a sample: `nfe` network evaluations with `calls` reward calls (0 is 32 an NFE),
    or, where it is given, a `total` of both, in which a reward call counts as `price` NFE.

    steps: grid steps of a whole decoding, fewer where the budget is small; 0 starts from finished texts. race: the share
    of the budget that the race takes. spread: as for `beam`, alpha as a share of the rewards' spread, 0 takes the
    problem's.
    """

    name: ClassVar[str] = "auto"
    knob: ClassVar[str] = "nfe"

    nfe: int = 64
    calls: int = 0
    total: int = 0
    price: float = 1.0
    steps: int = STEPS
    race: float = 0.5
    spread: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(nfe=1, calls=0, total=0, price=0, steps=0, spread=0)
        self._require_share("race")
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
        arms = self.arms
        return sum(arm.first.iterations for arm in arms) + max(self._rest(arm) for arm in arms)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The methods that race, as the budget allows."""
        return _arms(self)

    def init(self, run: Run, rng: Rng) -> State:
        """The first arm's beginning."""
        if not self.steps:
            raise ValueError("auto: steps=0 drafts nothing: give texts to start from, or steps of at least 1")
        return self._begun(run, run.canvas, torch.full((run.batch,), -torch.inf, dtype=torch.float64), None)

    def refining(self) -> Sampler:
        """The arms that start from finished texts."""
        return replace(self, steps=0)

    def resume(self, run: Run, tokens: Tensor) -> State:
        """Every arm begins at the given text, which is left only for one of higher J."""
        return self._begun(run, tokens, run.reward_of(tokens, final=True), log_likelihood(run, tokens, JUDGED))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One step of the arm whose turn it is, or, after the race, of every arm that has rows."""
        assert isinstance(state, Racing)
        arms, turn = _arms(self, run.noise.mask is not None), state.step
        for place, arm in enumerate(arms):
            if turn < arm.first.iterations:
                return self._raced(run, state, place, arm, turn, rng.fork(arm.name))
            turn -= arm.first.iterations
        if not turn:
            state = self._split(state)
        parts, shown, info = list(state.states), state.text.clone(), Info()
        moved = replace(state, step=state.step + 1)
        for place, arm in enumerate(arms):
            rows = state.rows[place]
            if not len(rows) or turn >= self._rest(arm):
                continue
            view = run.take(rows, state.alpha[rows])
            parts[place], told = arm.whole.step(view, parts[place], rng.take(rows).fork(arm.name))
            shown[rows] = parts[place].x_t
            info = told if len(rows) == run.batch else info
            if turn == self._rest(arm) - 1:
                moved = self._judged(view, moved, place, parts[place], rows)
        return replace(moved, t=0.0, x_t=shown, states=tuple(parts)), info

    def cost(self) -> Cost:
        """The race, what the dearest arm has left, and judging; the meter counts less for rows of cheaper arms."""
        arms = self.arms
        race = sum((arm.first.cost() + _judging(arm) for arm in arms), Cost())
        rest = [_less(arm.whole.cost(), arm.first.cost()) + (_judging(arm) if self._rest(arm) else Cost()) for arm in arms]
        given = Cost() if self.steps else Cost(JUDGED, 1, JUDGED)
        if self.total:  # an arm that takes more of the one takes less of the other
            most = max(rest, key=lambda cost: cost.nfe + self.price * cost.reward_calls)
        else:
            most = Cost(*(max(of) for of in zip(*((c.nfe, c.reward_calls, c.depth) for c in rest), strict=True)))
        return given + race + most

    def spend(self, budget: Budget) -> Auto:
        """The bounds themselves."""
        if budget.total < inf and budget.nfe == budget.reward_calls == inf:
            return replace(self, total=max(1, int(min(budget.total, FAR))), price=budget.price)
        nfe = min(budget.nfe, budget.depth, budget.total, FAR)
        if nfe == FAR:
            nfe = max(1, budget.reward_calls // CALLS)
        calls = min(budget.reward_calls, CALLS * nfe, (budget.total - nfe) / budget.price if budget.price else inf)
        return replace(self, nfe=max(1, int(nfe)), calls=max(1, int(calls)))

    def _begun(self, run: Run, text: Tensor, reward: Tensor, likely: Tensor | None) -> Racing:
        """The state before the race."""
        alpha = torch.as_tensor(run.alpha, dtype=torch.float64, device=text.device).expand(run.batch).clone()
        likely = torch.zeros_like(alpha) if likely is None else likely
        leader, rows = torch.zeros_like(alpha, dtype=torch.long), torch.arange(run.batch, device=text.device)
        low = torch.full_like(alpha, -torch.inf)
        everyone = (rows,) * len(self.arms)
        return Racing(0, 1.0, text, (), everyone, text, reward.to(text.device), likely, low, leader, alpha)

    def _raced(self, run: Run, state: Racing, place: int, arm: Arm, turn: int, rng: Rng) -> tuple[State, Info]:
        """One step of an arm in the race; the last one judges its text."""
        view = run.take(state.rows[place], state.alpha)
        parts = list(state.states)
        if not turn:
            begin = rng.fork("init")
            parts.append(arm.whole.init(view, begin) if self.steps else arm.whole.resume(view, state.text))
        parts[place], info = arm.whole.step(view, parts[place], rng)
        now = parts[place]
        moved = replace(state, step=state.step + 1, t=now.t, x_t=now.x_t[: run.batch], states=tuple(parts))
        if turn < arm.first.iterations - 1:
            return moved, info
        if isinstance(now, Beamed):
            moved = replace(moved, alpha=now.alpha)
        return self._judged(view, moved, place, now, state.rows[place]), info

    def _judged(self, run: Run, state: Racing, place: int, now: State, rows: Tensor) -> Racing:
        """The text that an arm came to, weighed against the best of its rows (R',) so far."""
        text, reward = now.clean()
        assert reward is not None
        likely = now.likely if isinstance(now, Beamed) else log_likelihood(run, text, JUDGED)
        value = reward / state.alpha[rows] + likely
        before = state.reward[rows] / state.alpha[rows] + state.likely[rows]
        better, ahead = (value > before) | state.reward[rows].isneginf(), value > state.lead[rows]

        def put(old: Tensor, new: Tensor, where: Tensor) -> Tensor:
            return old.index_copy(0, rows, adopt(where, new, old[rows]))

        return replace(
            state, text=put(state.text, text, better), reward=put(state.reward, reward, better),
            likely=put(state.likely, likely, better), lead=put(state.lead, value, ahead),
            leader=put(state.leader, torch.full_like(rows, place), ahead),
        )  # fmt: skip

    def _split(self, state: Racing) -> Racing:
        """The rows go on with the arm that leads."""
        rows = tuple((state.leader == place).nonzero()[:, 0] for place in range(len(state.states)))
        parts = tuple(part.take(index) for part, index in zip(state.states, rows, strict=True))
        return replace(state, rows=rows, states=parts)

    @staticmethod
    def _rest(arm: Arm) -> int:
        """How many steps an arm has left after the race."""
        return arm.whole.iterations - arm.first.iterations


@lru_cache(maxsize=64)
def _arms(auto: Auto, masked: bool = True) -> tuple[Arm, ...]:
    """The arms of a race, as many as the budget has room for, and at least one."""
    limit = auto.limit
    if not auto.steps:
        limit = limit.less(Cost(JUDGED, 1))
    names = ("beam", "trajectory", "iterref") if auto.steps else ("beam", "iterref")
    for count in range(len(names), 0, -1):
        share = limit.times(auto.race / count) if count > 1 else limit
        for steps in range(auto.steps, -1, -1) if auto.steps else (0,):
            if (count > 1 and steps < min(auto.steps, LEAST)) or (auto.steps and not steps):
                break
            drafts = [_template(name, steps, auto.spread, masked) for name in names[:count]]
            firsts = [draft.spend(share.less(_judging(draft))) for draft in drafts if share.nfe > JUDGED]
            if firsts and all(share.allows(first.cost() + _judging(first)) for first in firsts):
                return _continued(names, firsts, limit)
    least = _template(names[0], min(auto.steps, 1), auto.spread, masked)
    return _continued(names, [least], limit)


def _continued(names: tuple[str, ...], firsts: list[Sampler], limit: Budget) -> tuple[Arm, ...]:
    """Arms that go on with what the race leaves; a single one has had it all."""
    spent = sum((first.cost() + _judging(first) for first in firsts), Cost())
    if len(firsts) == 1 or not limit.allows(spent):
        return tuple(Arm(name, first, first) for name, first in zip(names, firsts, strict=False))
    left = limit.less(spent)
    arms = []
    for name, first in zip(names, firsts, strict=False):
        room = left.nfe > JUDGED and left.total > JUDGED
        arms.append(Arm(name, first, _going_on(first, left.less(_judging(first))) if room else first))
    return tuple(arms)


def _template(name: str, steps: int, alpha: float, masked: bool) -> Sampler:
    """An arm before its budget is known."""
    if name == "beam":
        return Beam(steps=steps, spread=alpha, span=BEAM_SPANS)
    if name == "trajectory":
        return Trajectory(
            steps=steps, order="confidence" if masked else "random", tries=1, span=(0.75, 1.0), objective="maximise"
        )
    return IterRef(steps=min(steps, 4), early=0.0, span=ITERREF_SPANS, objective="maximise")


def _going_on(first: Sampler, left: Budget) -> Sampler:
    """The same arm with moves for what is left on top of its own."""
    own = first.cost()
    bound = replace(
        left, nfe=left.nfe + own.nfe, reward_calls=left.reward_calls + own.reward_calls,
        total=left.total + own.nfe + left.price * own.reward_calls,
    )  # fmt: skip
    return replace(first, moves=most(lambda n: bound.allows(replace(first, moves=n).cost()), first.moves))


def _judging(arm: Arm | Sampler) -> Cost:
    """What the likelihood of an arm's text takes; a beam knows it."""
    method = arm.whole if isinstance(arm, Arm) else arm
    return Cost() if isinstance(method, Beam) else Cost(JUDGED, 0, JUDGED)


def _less(cost: Cost, other: Cost) -> Cost:
    return cost + other * -1
