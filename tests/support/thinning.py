"""The default's moves once they have found dependence, by enumerated transition matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.exact.table import Table
from iterref.moves.shared import Shared
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers.dependence import Stages, thinned
from tests.support.oracle import stationary, transition
from tests.support.worlds import TableReward, moving, refine

SPAN = 0.5


def before_and_after(table: Table, reward: TableReward, alpha: float, states: Tensor, moves: int) -> list[Tensor]:
    """The stationary distribution (S,) of moves that go on opening half of the positions, and where those of the
    default end that begin there: without the moves that measure, whose spans do not fall."""
    problem = Problem(table, reward, torch.zeros(1, table.length, dtype=torch.long), alpha=alpha)
    stages, few, made = Stages(moves, 0.0), torch.tensor([True]), dict[int, Tensor]()

    def matrix(share: float) -> Tensor:
        size = max(1, round(table.length * share))
        if size not in made:
            move = moving(Shared(2, spacing=2), refine(0, size / table.length), alpha)
            made[size] = transition(table, reward, alpha, move, states)
        return made[size]

    before = found = stationary(matrix(SPAN))
    for index in range(stages.measuring, moves):
        found = found @ matrix(float(thinned(Run(problem), refine(0, SPAN), stages.kept(index), few).span))
    return [before, found]
