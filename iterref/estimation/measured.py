"""Measured: the law of a run's memory from three probes, and its time from a fourth.

    few rows, many rows, many rows in calls of another size; and many rows unwatched
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from iterref import evaluation
from iterref.estimation.bounds import Drawing, kept
from iterref.estimation.law import Law, derived
from iterref.estimation.probe import Run, probe, timed
from iterref.problem import Problem

SMALLER = 4  # how much smaller the probes of few rows and of smaller calls are


@dataclass(frozen=True)
class Measured:
    """The `law` of a run's memory, the `limit` of rows in a call, and the `seconds` of the run in small."""

    law: Law
    limit: int
    seconds: float


def measure(run: Run, part: Callable[[int], Problem], size: int, batch: int) -> Measured:
    """What a run on a whole batch takes, from parts of it of up to `size` rows."""
    few, many = part(max(1, size // SMALLER)), part(size)
    room = evaluation.KEEP[many.canvas.is_cuda]
    rooms = [round(room * len(problem.canvas) / batch) for problem in (few, many)]
    first = probe(run, few, rooms[0])
    limit, remaining = first.seen.limit, 0.0
    called = asked = round(first.seen.rows * size / first.rows)
    if first.seen.rows * batch / first.rows > limit:
        # As many calls a question as the whole batch needs, or some at least: what a call leaves is there in the next,
        # and rows that ask the same are asked for in one call.
        called = max(1, round(limit * size / batch), min(asked // SMALLER, size // 2, limit))
        few, many = replace(few, max_rows=max(1, called * first.rows // size)), replace(many, max_rows=called)
        remaining = kept(few, first.seen, called, size / batch, batch / first.rows)
    small = first if called == asked else probe(run, few, rooms[0])
    large = probe(run, many, rooms[1])
    other = probe(run, replace(many, max_rows=called // SMALLER or (1 if called > 1 else 2)), rooms[1])
    law = derived(small, large, other, Drawing.of(few, first.seen, large.seen, batch / first.rows))
    law = law.beside(remaining, large.growth / large.rows).times(large.hidden)
    return Measured(law, limit, timed(run, many))
