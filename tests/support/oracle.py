"""The oracle: enumerates every random outcome of the production code, so that laws are computed and not sampled.

`Enumerator` stands in for `Rng`. The code under test draws from finite laws alone, always in the same sequence of
calls, and treats rows apart; so all prefixes of decisions are run at once, one a row, and every row is split by the
outcomes of the first call that it has no decision for, where the run stops. A move with c calls takes c + 1 runs, of
no more than `ROWS` rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iterref import evaluation
from iterref import run as production
from iterref.arrays import arrays, like, tensor
from iterref.constraint.canvas import Constraint
from iterref.denoiser import Denoiser
from iterref.prepared import Make, Sizes
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers.base import Paired
from tests.support.worlds import Move

# Prefixes that are run at once: with more of them, the network's answers take the memory.
ROWS = 2**16


@dataclass(frozen=True)
class _Outcomes:
    """The joint outcomes of a call: their values, one after the other in `flat`, the place where each begins, `begin`
    (O,), and `probability` (O,) float64."""

    flat: Tensor
    begin: Tensor
    probability: Tensor


class _Undecided(Exception):
    """A call has no decisions: its outcomes, and of every row the first one of its own and how many it has, (R,)."""

    def __init__(self, outcomes: _Outcomes, first: Tensor, count: Tensor) -> None:
        super().__init__()
        self.split = outcomes, first, count


@dataclass
class _Script:
    """The decisions of every row, for each call its outcomes and the number (R,) of a row's own."""

    decisions: list[tuple[_Outcomes, Tensor]]
    calls: int = 0

    def call(self, laws: Callable[[], Tensor], of: Tensor) -> Tensor:
        """(C, K) probabilities of cells that belong to rows `of` (C,) -> the (C,) outcomes that are scripted."""
        order = torch.from_numpy(of.numpy().argsort(kind="stable"))  # a few sorted runs, which it merges
        if self.calls == len(self.decisions):
            raise _split(laws()[order], torch.bincount(of, minlength=len(self.decisions[0][1])))
        outcomes, number = self.decisions[self.calls]
        self.calls += 1
        counts = torch.bincount(of, minlength=len(number))
        skipped = outcomes.begin[number] - (counts.cumsum(0) - counts)
        out = torch.empty_like(of)
        out[order] = outcomes.flat[skipped.repeat_interleave(counts) + torch.arange(len(of))]
        return out


def _split(laws: Tensor, counts: Tensor) -> _Undecided:
    """The outcomes of rows that have (R,) cells each, from the laws (C, K) of all cells; rows of equal laws share."""
    ends, found = counts.cumsum(0), list[tuple[tuple[int, ...], float]]()
    first, count = torch.empty_like(counts), torch.empty_like(counts)
    for size in counts.unique().tolist():
        rows = (counts == size).nonzero()[:, 0]
        blocks = laws[(ends[rows] - size)[:, None] + torch.arange(size)]
        unlike, of = _unlike(blocks.flatten(1))
        joint = [_joint(blocks[one]) for one in unlike.tolist()]
        sizes = torch.tensor([len(one) for one in joint])
        first[rows], count[rows] = (len(found) + sizes.cumsum(0) - sizes)[of], sizes[of]
        found += [outcome for one in joint for outcome in one]
    values, probability = zip(*found, strict=True)
    sizes = torch.tensor([len(one) for one in values])
    flat = torch.tensor([value for one in values for value in one], dtype=torch.long)
    outcomes = _Outcomes(flat, sizes.cumsum(0) - sizes, torch.tensor(probability, dtype=torch.float64))
    return _Undecided(outcomes, first, count)


def _unlike(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where the different ones of rows (R, K) stand (U,), and which of these each row is (R,)."""
    table = (rows.double() + 0.0).contiguous().numpy()  # of the two zeros one
    line = table.view(f"V{8 * table.shape[1]}")[:, 0] if table.size else np.zeros(len(table))
    _, first, of = np.unique(line, return_index=True, return_inverse=True)
    return torch.from_numpy(first), torch.from_numpy(of)


def _joint(laws: Tensor) -> list[tuple[tuple[int, ...], float]]:
    """All joint outcomes of independent cells (C, K) with their probabilities; impossible ones are left out."""
    cells = [[(k, p) for k, p in enumerate(law) if p > 0] for law in laws.tolist()]
    return [(tuple(k for k, _ in one), prod(p for _, p in one)) for one in product(*cells)]


@dataclass(frozen=True)
class Enumerator:
    """`Rng` with every outcome instead of a random one; `of` maps its rows to the oracle's."""

    script: _Script
    of: Tensor

    @property
    def rows(self) -> Tensor:
        return self.of

    def __len__(self) -> int:
        return len(self.of)

    def fork(self, *key: int | str) -> Enumerator:
        return self

    def prepare(self, sizes: Sizes) -> Enumerator:
        return self

    def take(self, index: Tensor) -> Enumerator:
        return replace(self, of=self.of[index])

    def repeat(self, n: int) -> Enumerator:
        return replace(self, of=self.of.repeat(n))

    def bernoulli(self, p: Any, checked: bool = False) -> Any:
        cells = tensor(p).double().clamp(0, 1).reshape(len(self), -1)
        of = self.of[:, None].expand(cells.shape).flatten()
        drawn = self.script.call(lambda: torch.stack([1 - cells.flatten(), cells.flatten()], 1), of)
        return like(p, arrays(drawn.view(p.shape).bool())[1])

    def categorical(
        self, law: Tensor, where: Tensor, n: int = 1, log: bool = True, first: Tensor | int = 0
    ) -> Tensor:
        return self.drawn_at(law, *where.nonzero(as_tuple=True), n, log, first)

    def drawn_at(
        self, law: Tensor, row: Tensor, position: Tensor, n: int = 1, log: bool = True, first: Tensor | int = 0
    ) -> Tensor:
        of, times = self.of[row].repeat(n), n * len(row) // max(len(law), 1)  # fewer laws serve the cells over and over

        def laws() -> Tensor:
            each = law.double().softmax(-1) if log else law.double() / law.double().sum(-1, keepdim=True)
            return each.repeat(times, 1)

        return self.script.call(laws, of).view(n, -1)

    def within(
        self, total_to: Tensor, begin: Tensor, end: Tensor, where: Tensor, first: Tensor | int = 0
    ) -> Tensor:
        of, place = self.of[where.nonzero()[:, 0]], torch.arange(total_to.shape[1])
        law = total_to.diff(dim=1, prepend=torch.zeros_like(total_to[:, :1])).repeat(len(begin), 1)
        inside = (place >= begin.reshape(-1, 1)) & (place < end.reshape(-1, 1))
        law = torch.where(inside, law, 0.0)
        return self.script.call(lambda: law / law.sum(1, keepdim=True), of.repeat(len(begin))).view(begin.shape)

    def choose(self, log_w: Any, log: bool = True) -> Any:
        w = tensor(log_w).double()

        def laws() -> Tensor:
            return w.softmax(-1) if log else w / w.sum(-1, keepdim=True)

        return like(log_w, arrays(self.script.call(laws, self.of))[1])

    def ordered(self, length: int, make: Make, *given: Any) -> Tensor:
        return make(self.order(length)[None], *given)[0]

    def order(self, length: int) -> Tensor:
        table = torch.tensor(list(permutations(range(length))))
        each = torch.full((1, len(table)), 1 / len(table), dtype=torch.float64)
        return table[self.script.call(lambda: each.expand(len(self), -1), self.of)]


def enumerate_outcomes(run: Callable[[Tensor, Enumerator], Tensor], starts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every outcome of `run(start, rng) -> (R, *)` from each of `starts` rows.

    `run` gets the start (R,) of every row. Returns (R,) starts, (R,) probabilities and the (R, *) results, where those
    that are alike may be one.
    """
    with pytest.MonkeyPatch.context() as patch:
        # all outcomes in one call of the denoiser, and equal questions as if they were different ones
        patch.setattr(production, "POSITIONS", production.CELLS)
        patch.setattr(evaluation, "alike", _apart)
        one = torch.ones(1, dtype=torch.float64)
        nothing = _Outcomes(torch.empty(0, dtype=torch.long), torch.zeros(1, dtype=torch.long), one)
        begun = [(nothing, torch.zeros(starts, dtype=torch.long))]
        found = list(_enumerated(run, torch.arange(starts), torch.ones(starts, dtype=torch.float64), begun))
    if len(found) == 1:
        return found[0]
    start, probability, result = (torch.cat(parts) for parts in zip(*found, strict=True))
    return start, probability, result


def _apart(keys: Any) -> tuple[Any, Any, Any]:
    """As `alike`, of questions that are all different."""
    rows = np.arange(len(keys))
    return rows, rows, np.ones_like(rows)


def _enumerated(
    run: Callable[[Tensor, Enumerator], Tensor], start: Tensor, probability: Tensor,
    decisions: list[tuple[_Outcomes, Tensor]],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """The outcomes of rows that have come with a probability to some decisions, in portions."""
    try:
        yield start, probability, run(start, Enumerator(_Script(decisions, 1), torch.arange(len(start))))
        return
    except _Undecided as error:
        outcomes, first, count = error.split  # without the error, which holds on to all that the run has made
    ends = count.cumsum(0)
    portions = torch.arange(int(ends[-1])).split(ROWS)
    for children in portions:
        parents = torch.searchsorted(ends, children, right=True)
        number = (first + count - ends)[parents] + children
        chance = probability[parents] * outcomes.probability[number]
        made = [(before, own[parents]) for before, own in decisions] + [(outcomes, number)]
        for found in _enumerated(run, start[parents], chance, made):
            yield found if len(portions) == 1 else _merged(*found)


def _merged(start: Tensor, probability: Tensor, result: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with outcomes that are alike as one."""
    first, of = _unlike(torch.cat([start[:, None], result.flatten(1)], 1))
    return start[first], torch.zeros(len(first), dtype=torch.float64).index_add_(0, of, probability), result[first]


def law_matrix(start: Tensor, probability: Tensor, result: Tensor, states: Tensor) -> Tensor:
    """The transition matrix (starts, S) of enumerated results (R, *) over listed states (S, *)."""
    matrix = torch.zeros(int(start.max()) + 1, len(states), dtype=torch.float64)
    return matrix.index_put_((start, _places(result, states)), probability, accumulate=True)


def moved(law: Tensor, start: Tensor, probability: Tensor, result: Tensor, states: Tensor) -> Tensor:
    """The distribution (S,) of enumerated results (R, *) over listed states (S, *) whose starts have the given one: law
    times `law_matrix`, which so many states need not have room for."""
    return torch.zeros_like(law).index_add_(0, _places(result, states), law[start] * probability)


def _places(result: Tensor, states: Tensor) -> Tensor:
    """Which of listed states (S, *) the results (R, *) are, (R,)."""
    found = []
    for some in result.flatten(1).split(ROWS):
        first, of = _unlike(torch.cat([states.flatten(1), some]))
        assert int(first.max()) < len(states), "a result is none of the states"
        found.append(first[of[len(states) :]])
    return torch.cat(found)


def transition(
    model: Denoiser,
    reward: Callable[[Tensor, Tensor], Tensor],
    alpha: float,
    move: Move,
    states: Tensor,
    t: float = 0.0,
    constraint: Constraint | None = None,
) -> Tensor:
    """The exact transition matrix of one move at time t over states (S, 2, L) = (x_t, x_0), under a constraint of one
    canvas if given."""
    rewards = reward(states[:, 1], torch.zeros(len(states), dtype=torch.long))

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        canvas = torch.zeros(len(start), states.shape[-1], dtype=torch.long)
        x_t, x_0 = states[start].unbind(1)
        now = Paired(0, t, x_t.clone(), x_0.clone(), rewards[start])
        bound = None if constraint is None else constraint.take(torch.zeros_like(start))
        new, _ = move(Run(Problem(model, reward, canvas, alpha=alpha, remember=False, constraint=bound)), now, rng)
        # the reward that travels with a state is the reward of its clean sample
        assert torch.equal(new.reward, reward(new.x_0, torch.zeros(len(start), dtype=torch.long)))
        return torch.stack([new.x_t, new.x_0], 1)

    return law_matrix(*enumerate_outcomes(run, len(states)), states)


def stationarity_error(law: Tensor, matrix: Tensor) -> float:
    """max |pi P - pi|."""
    return float((law @ matrix - law).abs().max())


def balance_error(law: Tensor, matrix: Tensor) -> float:
    """max |pi_i P_ij - pi_j P_ji|."""
    flow = law[:, None] * matrix
    return float((flow - flow.T).abs().max())


def stationary(matrix: Tensor) -> Tensor:
    """The stationary law of an irreducible matrix."""
    size = len(matrix)
    system = torch.cat([matrix.T - torch.eye(size, dtype=matrix.dtype), torch.ones(1, size, dtype=matrix.dtype)])
    right = torch.zeros(size + 1, 1, dtype=matrix.dtype)
    right[-1] = 1
    return torch.linalg.lstsq(system, right, driver="gelsd").solution[:, 0]


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of absolute differences."""
    return float((p - q).abs().sum() / 2)
