"""The law of a run's memory: what three probes say of every place in the code, and what follows for other sizes.

    live(B, c)  =  fixed + per row of the batch x B + per row of a call x r + draw,     r = min(c, rows of the question)
    peak        =  the largest over all places

B rows in the batch, c rows that one call may hold. Where the denoiser is being called or its laws are being used, what
came since the call began follows r, and what was there before follows B, less the laws of portions that are not done;
elsewhere everything follows B. Which it is shows in two probes that differ in c alone. What follows r is never divided
by B, nor the rest by r, so that the random share of open tokens is not magnified. Draws of tokens work in blocks of
bounded size (`iterref.random`), so that what they hold grows up to a `most`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from iterref.estimation.bounds import Drawing
from iterref.estimation.footprint import Moment
from iterref.estimation.probe import Probe

SAME = 0.05  # two probes that differ by less have the same alive, up to laws that are held or not
NOISE = 0.25  # a smaller share of what came inside is no rest that follows the batch, but chance


@dataclass(frozen=True)
class Term:
    """Bytes at one place: `fixed`, `per_row` of the batch, `per_called` row of a call, and those of a draw, `drawn` a
    row of a call (of the batch where it is not `inside`) and `most` at the most. A row of the batch is `questions` rows
    of a question."""

    fixed: float = 0.0
    per_row: float = 0.0
    per_called: float = 0.0
    questions: float = 0.0
    drawn: float = 0.0
    most: float = 0.0
    inside: bool = False

    def at(self, rows: float, limit: float) -> float:
        """Bytes for a batch of so many rows, of whose questions a call may hold `limit` rows."""
        called = min(limit, self.questions * rows)
        draw = min(self.drawn * (called if self.inside else rows), self.most)
        return self.fixed + self.per_row * rows + self.per_called * called + draw


@dataclass(frozen=True)
class Law:
    """The terms of all places."""

    terms: tuple[Term, ...]

    def at(self, rows: float, limit: float) -> float:
        """The peak in bytes."""
        return max((term.at(rows, limit) for term in self.terms), default=0.0)

    def beside(self, fixed: float, per_row: float) -> Law:
        """The same with something else alive all the time."""
        terms = (replace(term, fixed=term.fixed + fixed, per_row=term.per_row + per_row) for term in self.terms)
        return Law(tuple(terms))

    def times(self, factor: float) -> Law:
        """The same with every byte counted as `factor`."""
        if factor == 1:
            return self
        names = ("fixed", "per_row", "per_called", "drawn", "most")
        scaled = (replace(term, **{name: getattr(term, name) * factor for name in names}) for term in self.terms)
        return Law(tuple(scaled))

    def then(self, other: Law) -> Law:
        """One run and then another."""
        return Law(self.terms + other.terms)


def derived(few: Probe, many: Probe, other: Probe, draw: Drawing) -> Law:
    """The law from a probe on few rows, one on many, and one on as many in calls of another size; `draw` tells how far
    draws grow."""
    nothing = Moment()
    return Law(
        tuple(
            _term(few.rows, few.places.get(place, nothing), many.rows, moment, other.places.get(place, nothing), draw)
            for place, moment in many.places.items()
        )
    )


def straight(few: float, at_few: int, many: float, at_many: int) -> tuple[float, float]:
    """Bytes at no rows and for every row, from those at two sizes."""
    slope = _slope(few, many, at_few, at_many)
    return many - slope * at_many, slope


def _term(few: int, small: Moment, many: int, large: Moment, other: Moment, draw: Drawing) -> Term:
    """One place's, from its highest moments in the three probes."""
    inside, questions = _is_inside(large, other), large.rows / many
    drawn = large.drawn / (large.portion if inside else many) if large.drawn else 0.0
    most = large.drawn * draw.factor(large.draws, inside) if large.drawn else 0.0
    if not inside:
        fixed, slope = straight(small.live - small.drawn, few, large.live - large.drawn, many)
        return Term(fixed, slope, 0.0, questions, drawn, most)
    within = _slope(other.inside, large.inside, other.portion, large.portion)
    # What was there before may also shrink with the call: the laws of calls that are done.
    less = (large.before - other.before) / (large.portion - other.portion)
    fixed, slope = straight(small.before - less * small.portion, few, large.before - less * large.portion, many)
    rest = large.inside - within * large.portion
    if rest > NOISE * large.inside:
        rest, more = straight(small.inside - within * small.portion, few, rest, many)
        slope += more
    return Term(fixed + rest, slope, within + less, questions, drawn, most, inside=True)


def _is_inside(large: Moment, other: Moment) -> bool:
    """Whether larger calls have more alive: elsewhere it is the same in calls of any size."""
    wide, narrow = (large, other) if large.portion > other.portion else (other, large)
    return wide.portion > narrow.portion > 0 and wide.live - narrow.live > SAME * wide.live


def _slope(a: float, b: float, at_a: float, at_b: float) -> float:
    """Bytes for every row between two sizes: not negative, and no more than leaves nothing at no rows."""
    if at_a == at_b:
        return max(b, 0.0) / at_b
    return min(max((b - a) / (at_b - at_a), 0.0), max(a / at_a, b / at_b, 0.0))
