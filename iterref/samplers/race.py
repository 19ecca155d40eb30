"""The arms of a race (`auto`): which methods take part, how far the race takes each, and what it may spend after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from iterref.budget import Budget, Cost, most
from iterref.samplers.base import Sampler
from iterref.samplers.beam import JUDGED, Beam
from iterref.samplers.iterref import IterRef
from iterref.samplers.spans import Spans
from iterref.samplers.trajectory import Trajectory

LEAST, HASTY = 12, 8  # grid steps of a whole decoding, below which fewer arms race, or none
# Which methods race, the most while there is room for them.
DRAFTING = (("beam", "trajectory", "iterref"), ("beam", "trajectory"), ("beam",), ("iterref",))
REFINING = (("beam", "iterref"), ("beam",), ("iterref",))


@dataclass(frozen=True)
class Arm:
    """A method as far as the race takes it, and the same method with all that is left after the race."""

    first: Any
    whole: Any

    @property
    def steps_left(self) -> int:
        """How many steps there are after the race."""
        return int(self.whole.iterations - self.first.iterations)

    @property
    def racing(self) -> Cost:
        """What the race takes."""
        return self.first.cost() + judging(self.first)

    @property
    def going_on(self) -> Cost:
        """What is taken after the race."""
        if not self.steps_left:
            return Cost()
        more = self.whole.cost() + self.first.cost() * -1
        return more + judging(self.first) * (-1 if isinstance(self.whole, Beam) else 1)


def judging(method: Sampler) -> Cost:
    """What the likelihood of a method's text takes; a beam may have judged its own."""
    return Cost() if isinstance(method, Beam) and method.judged else Cost(JUDGED, 0, JUDGED)


def arms(
    limit: Budget, race: float, steps: int, span: Spans, spread: float, masked: bool, block: int
) -> tuple[Arm, ...]:
    """The arms of a race within a share `race` of a budget: as many as it has room for, at least one.

    Whole decodings have `steps` grid steps, or as many as fit; 0 starts from finished texts. `masked` says that the
    noise has a mask, `block` how many positions the model writes at a time; what an arm costs depends on neither.
    """
    if not steps and min(limit.nfe, limit.total) > JUDGED:
        limit = limit.less(Cost(JUDGED, 1))
    for names, taken, fewest in _rounds(race, steps):
        count, least = len(names), min(steps, fewest)
        share = limit.times(taken / count) if count > 1 else limit
        for fewer in range(steps, least - 1, -1):
            alone = count == 1 and steps > 0
            firsts = [_within(_template(name, fewer, span, spread, masked, block), share, alone) for name in names]
            fitting = [first for first in firsts if first is not None]
            if len(fitting) == count:
                return _continued(fitting, limit)
    # dearer than the budget, which is refused for it
    only = _template("iterref", min(steps, 1), span, spread, masked, block)
    only = replace(only, moves=0 if steps else 1)
    return (Arm(only, only),)


def _rounds(race: float, steps: int) -> Iterator[tuple[tuple[str, ...], float, int]]:
    """Who may race, within which share of the budget, by decodings of how many steps at the least: more arms first, and
    before one of them runs alone two draft with all there is."""
    for names in DRAFTING if steps else REFINING:
        if len(names) == 1 and names[0] == "beam" and steps:
            yield DRAFTING[1], 1.0, HASTY
        yield names, race, LEAST if len(names) > 1 else 1


def _within(method: Sampler, share: Budget, alone: bool) -> Sampler | None:
    """The method with what a share of the budget buys, judged unless it is `alone`; None where it buys nothing."""
    judged = Cost() if alone else Cost(JUDGED, 0, JUDGED)
    if min(share.nfe, share.total) <= judged.nfe:
        return None
    fitted = method.spend(share)  # with moves, a beam judges its texts itself
    if not share.allows(fitted.cost() + (Cost() if alone else judging(fitted))):
        fitted = method.spend(share.less(judged))
    allowed = share.allows(fitted.cost() + (Cost() if alone else judging(fitted)))
    return fitted if fitted.iterations and allowed else None


def _continued(firsts: Sequence[Sampler], limit: Budget) -> tuple[Arm, ...]:
    """Arms that go on with what the race leaves; a single one has had it all."""
    spent = sum((first.cost() + judging(first) for first in firsts), Cost())
    room = min(limit.nfe - spent.nfe, limit.total - spent.nfe - limit.price * spent.reward_calls)
    if len(firsts) == 1 or room <= JUDGED:
        return tuple(Arm(first, first) for first in firsts)
    left = limit.less(spent)
    return tuple(Arm(first, _with_moves(first, left.less(judging(first)))) for first in firsts)


def _with_moves(first: Any, left: Budget) -> Any:
    """The method with the moves that a budget buys on top of its own."""
    own = first.cost()
    bound = replace(
        left, nfe=left.nfe + own.nfe, reward_calls=left.reward_calls + own.reward_calls,
        total=left.total + own.nfe + left.price * own.reward_calls,
    )  # fmt: skip
    return replace(first, moves=most(lambda n: bound.allows(replace(first, moves=n).cost()), first.moves))


def _template(name: str, steps: int, span: Spans, spread: float, masked: bool, block: int) -> Any:
    """An arm before its budget is known."""
    if name == "beam":
        return Beam(steps=steps, span=span, spread=spread)
    if name == "trajectory":
        order = "confidence" if masked else "random"
        return Trajectory(
            steps=steps, order=order, block_length=block, tries=1, span=(0.75, 1.0), objective="maximise"
        )
    steps = min(steps, 4)  # a draft that competes by reward has no blocks
    return IterRef(
        steps=steps, reward_draft=not block, block_length=block, early=0.0, span=(0.5, 0.25), objective="maximise"
    )
