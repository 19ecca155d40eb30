"""The oracle: enumerates every random outcome of the production code, so that laws are computed and not sampled.

`Enumerator` stands in for `Rng`. The code under test draws from finite laws alone, always in the same sequence of
calls, and treats rows apart; so all prefixes of decisions are run at once, one a row, and after each run every row is
split by the outcomes of the first call that it had no decision for. A move with c calls takes c + 1 runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count, permutations, product
from math import factorial
from typing import Any

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

Law = list[tuple[int, float]]


@dataclass
class _Script:
    """The decisions of every row so far, and the branching that the newest call offers."""

    decisions: list[tuple[tuple[int, ...], ...]]
    calls: int = 0
    branching: list[list[tuple[tuple[int, ...], float]]] | None = None
    cache: dict[bytes, list[tuple[tuple[int, ...], float]]] = field(default_factory=dict)

    def call(self, laws: Tensor, of: Tensor) -> Tensor:
        """(C, K) probabilities of cells that belong to rows `of` (C,) -> the (C,) outcomes that are scripted."""
        call, self.calls = self.calls, self.calls + 1
        rows = len(self.decisions)
        order = of.argsort(stable=True)
        counts = torch.bincount(of, minlength=rows).tolist()
        out = torch.zeros(len(of), dtype=torch.long)
        known = all(len(decision) > call for decision in self.decisions)
        first = not known and self.branching is None
        if known:
            flat = [value for decision in self.decisions for value in decision[call]]
            out[order] = torch.tensor(flat, dtype=torch.long)
            return out
        grouped = laws[order]
        chosen: list[int] = []
        branching: list[list[tuple[tuple[int, ...], float]]] = []
        start = 0
        for size in counts:
            block = grouped[start : start + size]
            start += size
            key = block.numpy().tobytes() + bytes([size])
            if key not in self.cache:
                self.cache[key] = _joint(block)
            branching.append(self.cache[key])
            chosen.extend(self.cache[key][0][0])
        if first:
            self.branching = branching
        out[order] = torch.tensor(chosen, dtype=torch.long)
        return out


def _joint(laws: Tensor) -> list[tuple[tuple[int, ...], float]]:
    """All joint outcomes of independent cells (C, K) with their probabilities; impossible ones are left out."""
    cells: list[Law] = [[(k, p) for k, p in enumerate(law) if p > 0] for law in laws.tolist()]
    outcomes = []
    for combination in product(*cells):
        probability = 1.0
        for _, p in combination:
            probability *= p
        outcomes.append((tuple(k for k, _ in combination), probability))
    return outcomes


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
        laws = torch.stack([1 - cells.flatten(), cells.flatten()], 1)
        return like(p, arrays(self.script.call(laws, of).view(p.shape).bool())[1])

    def categorical(
        self, law: Tensor, where: Tensor, n: int = 1, log: bool = True, first: Tensor | int = 0
    ) -> Tensor:
        return self.drawn_at(law, *where.nonzero(as_tuple=True), n, log, first)

    def drawn_at(
        self, law: Tensor, row: Tensor, position: Tensor, n: int = 1, log: bool = True, first: Tensor | int = 0
    ) -> Tensor:
        of = self.of[row]
        laws = law.double().softmax(-1) if log else law.double() / law.double().sum(-1, keepdim=True)
        laws = laws.repeat(len(of) // max(len(laws), 1), 1)  # fewer laws serve the cells over and over
        return self.script.call(laws.repeat(n, 1), of.repeat(n)).view(n, -1)

    def within(
        self, total_to: Tensor, begin: Tensor, end: Tensor, where: Tensor, first: Tensor | int = 0
    ) -> Tensor:
        of, place = self.of[where.nonzero()[:, 0]], torch.arange(total_to.shape[1])
        law = total_to.diff(dim=1, prepend=torch.zeros_like(total_to[:, :1])).repeat(len(begin), 1)
        inside = (place >= begin.reshape(-1, 1)) & (place < end.reshape(-1, 1))
        law = torch.where(inside, law, 0.0)
        return self.script.call(law / law.sum(1, keepdim=True), of.repeat(len(begin))).view(begin.shape)

    def choose(self, log_w: Any, log: bool = True) -> Any:
        w = tensor(log_w).double()
        w = w.softmax(-1) if log else w
        return like(log_w, arrays(self.script.call(w / w.sum(-1, keepdim=True), self.of))[1])

    def ordered(self, length: int, make: Make, *given: Any) -> Tensor:
        return make(self.order(length)[None], *given)[0]

    def order(self, length: int) -> Tensor:
        table = torch.tensor(list(permutations(range(length))))
        laws = torch.full((len(self), factorial(length)), 1 / factorial(length), dtype=torch.float64)
        return table[self.script.call(laws, self.of)]


def enumerate_outcomes(run: Callable[[Tensor, Enumerator], Tensor], starts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every outcome of `run(start, rng) -> (R, *)` from each of `starts` rows.

    `run` gets the start (R,) of every row. Returns (R,) starts, (R,) probabilities and the (R, *) results.
    """
    with pytest.MonkeyPatch.context() as patch:
        # all outcomes in one call of the denoiser, and equal questions as if they were different ones
        patch.setattr(production, "POSITIONS", production.CELLS)
        names = count()
        patch.setattr(evaluation, "cut", lambda table: [next(names).to_bytes(8) for _ in table])
        return _enumerated(run, starts)


def _enumerated(run: Callable[[Tensor, Enumerator], Tensor], starts: int) -> tuple[Tensor, Tensor, Tensor]:
    start = torch.arange(starts)
    probability = torch.ones(starts, dtype=torch.float64)
    decisions: list[tuple[tuple[int, ...], ...]] = [() for _ in range(starts)]
    while True:
        script = _Script(decisions)
        result = run(start, Enumerator(script, torch.arange(len(start))))
        if script.branching is None:
            return start, probability, result
        parents, weights, decisions = [], [], []
        for row, outcomes in enumerate(script.branching):
            parents += [row] * len(outcomes)
            weights += [p for _, p in outcomes]
            decisions += [script.decisions[row] + (outcome,) for outcome, _ in outcomes]
        start = start[parents]
        probability = probability[parents] * torch.tensor(weights, dtype=torch.float64)


def law_matrix(start: Tensor, probability: Tensor, result: Tensor, states: Tensor) -> Tensor:
    """The transition matrix (starts, S) of enumerated results (R, *) over listed states (S, *)."""
    key = {tuple(state): index for index, state in enumerate(states.flatten(1).tolist())}
    index = torch.tensor([key[tuple(state)] for state in result.flatten(1).tolist()])
    matrix = torch.zeros(int(start.max()) + 1, len(states), dtype=torch.float64)
    return matrix.index_put_((start, index), probability, accumulate=True)


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
