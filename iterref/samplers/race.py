"""The arms of a race (`auto`): which methods take part, how far the race takes each, and what it may spend after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from iterref.budget import Budget, Cost, most
from iterref.samplers.base import Sampler
from iterref.samplers.beam import JUDGED, Beam
from iterref.samplers.iterref import IterRef
from iterref.samplers.spans import Spans
from iterref.samplers.trajectory import Trajectory

MOVES = 2 / 3  # of what a whole decoding gets: moves on a finished text draft nothing
LONGER = 2  # times the user's steps, at most: a decoding that no other races against


class Round(NamedTuple):
    """Which methods race, within which share of the budget (0: as the user says), by decodings of how many steps at the
    least, as far as their `LONGER` reach; `moves` are those of `iterref` on the best text that the others came to."""

    names: tuple[str, ...]
    share: float = 0.0
    least: int = 1

    def shares(self, limit: Budget, race: float) -> list[Budget]:
        """What each may spend of a budget; one alone has it all."""
        parts = [MOVES if name == "moves" else 1.0 for name in self.names]
        whole = (self.share or race) if len(parts) > 1 else 1.0
        return [limit.times(whole * part / sum(parts)) for part in parts]


# The first for which there is room.
DRAFTING = (
    Round(("beam", "trajectory", "moves"), least=12),
    Round(("beam", "trajectory", "moves"), 0.75, 12),
    Round(("beam", "trajectory", "moves"), 1.0, 8),
    Round(("beam", "trajectory"), 1.0, 8),
    Round(("beam",)),
    Round(("trajectory", "moves"), least=24),
    Round(("trajectory",)),
    Round(("iterref",)),
)
# Where no mask shows what is noise, a model cannot know which stretch is to be written anew: a beam writes the whole.
WHOLE = (1.0,)
UNMASKED = (
    Round(("beam", "moves"), least=12),
    Round(("beam", "moves"), 1.0, 8),
    Round(("beam",)),
    Round(("iterref",)),
)
REFINING = (Round(("beam", "moves"), least=12), Round(("beam",)), Round(("moves",)))


@dataclass(frozen=True)
class Arm:
    """A method as far as the race takes it, and the same method with all that is left after the race."""

    first: Any
    whole: Any

    @property
    def steps_left(self) -> int:
        return int(self.whole.iterations - self.first.iterations)

    @property
    def racing(self) -> Cost:
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
    limit: Budget, race: float, steps: int, span: Spans, spread: float, masked: bool, block: int, surest: int,
    shifting: bool, least: int = 0,
) -> tuple[Arm, ...]:  # fmt: skip
    """The arms of a race within a share `race` of a budget: as many as it has room for, at least one.

    Whole decodings have `steps` grid steps, or as many as fit, `least` of them; one that no other races against up to
    `LONGER` times as many, as few steps cost more likelihood than a second text earns; 0 starts from finished texts.
    Where a beam could pay for one guess a step, masked texts are decoded without it. `masked` says that the noise has a
    mask, `block` how many positions the model writes at a time, and `surest` how many where the surest tokens come
    first; what an arm costs depends on none of them. Where texts may grow and shrink (`shifting`) a beam goes on from
    the best of them, whoever wrote it."""
    if not steps and min(limit.nfe, limit.total) > JUDGED:
        limit = limit.less(Cost(JUDGED, 1))
    template = partial(
        _template, span=span if masked else WHOLE, spread=spread, masked=masked, block=block, surest=surest, least=least
    )
    for entered in (DRAFTING if masked else UNMASKED) if steps else REFINING:
        alone = len(entered.names) == 1 and steps > 0
        shares = entered.shares(limit, race)
        for fewer in range(steps, min(steps, max(entered.least, least)) - 1, -1):
            firsts = list[Any]()
            for name, share in zip(entered.names, shares, strict=True):
                longest = fewer if "beam" in entered.names and not alone else LONGER * steps
                shortest = min(longest, max(fewer, entered.least))
                firsts.append(_longest(partial(template, name), share, alone, shortest, longest))
            if (alone or (masked and steps)) and any(isinstance(one, Beam) and one.guesses == 1 for one in firsts):
                break  # it has nothing to choose among where reward calls are as dear as evaluations
            if None not in firsts:
                return _continued(firsts, limit, shifting and isinstance(firsts[0], Beam))
    # dearer than the budget, which is refused for it
    only = template("iterref" if steps else "moves", min(steps, 1))
    only = replace(only, moves=0 if steps else 1)
    return (Arm(only, only),)


def _longest(make: Callable[[int], Any], share: Budget, alone: bool, shortest: int, longest: int) -> Any:
    """The method of as many steps, within bounds, as a share of the budget buys; None where it buys nothing."""
    return _within(make(most(lambda n: _within(make(n), share, alone) is not None, shortest, longest)), share, alone)


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


def _continued(firsts: Sequence[Sampler], limit: Budget, first_alone: bool) -> tuple[Arm, ...]:
    """Arms that go on with what the race leaves, or the first alone; a single one has had it all."""
    spent = sum((first.cost() + judging(first) for first in firsts), Cost())
    room = min(limit.nfe - spent.nfe, limit.total - spent.nfe - limit.price * spent.reward_calls)
    if len(firsts) == 1 or room <= JUDGED:
        return tuple(Arm(first, first) for first in firsts)
    left = limit.less(spent)
    on = [_with_moves(first, left.less(judging(first))) for first in (firsts[:1] if first_alone else firsts)]
    return tuple(Arm(first, whole) for first, whole in zip(firsts, [*on, *firsts[len(on) :]], strict=True))


def _with_moves(first: Any, left: Budget) -> Any:
    """The method with the moves that a budget buys on top of its own."""
    own = first.cost()
    bound = replace(
        left, nfe=left.nfe + own.nfe, reward_calls=left.reward_calls + own.reward_calls,
        total=left.total + own.nfe + left.price * own.reward_calls,
    )  # fmt: skip
    return replace(first, moves=most(lambda n: bound.allows(replace(first, moves=n).cost()), first.moves))


def _template(
    name: str, steps: int, span: Spans, spread: float, masked: bool, block: int, surest: int, least: int
) -> Any:
    """An arm before its budget is known."""
    if name == "beam":
        return Beam(steps=steps, span=span, spread=spread)
    if name == "trajectory":
        of = Trajectory(steps=steps, tries=1, span=(0.75, 1.0), objective="maximise")
        return replace(of, order="confidence", block_length=surest) if masked else replace(of, order="random")
    steps = 0 if name == "moves" else max(min(steps, 4), least)
    return IterRef(  # a draft that competes by reward has no blocks
        steps=steps, reward_draft=not block, block_length=block, early=0.0, span=(0.5, 0.25), objective="maximise"
    )
