"""Paths of a base sampler, enumerated: all of them with their probabilities, and the trajectory kernel's matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.decode import Decoder, advance, grid
from iterref.denoise import Tempered
from iterref.kernels import KERNELS, Move, State
from iterref.models.table import Table
from iterref.problem import Problem
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix
from tests.support.worlds import TableReward


def problem_of(table: Table, reward: TableReward, alpha: float, rows: int, temperature: float) -> Problem:
    denoiser = table if temperature == 1 else Tempered(table, temperature)
    canvas = torch.zeros(rows, table.length, dtype=torch.long)
    return Problem(denoiser, reward, canvas, alpha=alpha, remember=False).begin()


def base_paths(
    table: Table, reward: TableReward, steps: int, decoder: Decoder, temperature: float
) -> tuple[Tensor, Tensor]:
    """All paths of the base sampler (P, K + 1, L) with their exact probabilities (P,)."""
    times = grid(steps)

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        problem = problem_of(table, reward, 1.0, len(start), temperature)
        x = problem.prior(rng)
        path = [x]
        for k in range(steps):
            x = advance(problem, x, times[k], times[k + 1], decoder, problem.rows, rng)
            path.append(x)
        return torch.stack(path, 1)

    _, probability, result = enumerate_outcomes(run, 1)
    paths, index = result.unique(dim=0, return_inverse=True)
    return paths, torch.zeros(len(paths), dtype=torch.float64).index_add_(0, index, probability)


def path_matrix(
    table: Table, reward: TableReward, alpha: float, move: Move, paths: Tensor, temperature: float
) -> Tensor:
    def run(start: Tensor, rng: Enumerator) -> Tensor:
        problem = problem_of(table, reward, alpha, len(start), temperature)
        path = paths[start].transpose(0, 1)
        x_0 = path[-1]
        state = State(0, 0.0, x_0, x_0, reward(x_0, problem.rows), path)
        new, _ = KERNELS["trajectory"].move(problem, state, move, rng)
        assert new.path is not None
        return new.path.transpose(0, 1)

    return law_matrix(*enumerate_outcomes(run, len(paths)), paths)


def tilted(paths: Tensor, prior: Tensor, reward: TableReward, alpha: float) -> Tensor:
    """P_sampler(path) exp(r(x_0) / alpha), normalised."""
    law = prior * (reward(paths[:, -1], torch.zeros(len(paths))) / alpha).exp()
    return law / law.sum()


def tail_of(decoder: Decoder, steps: int, alpha: float, tries: int, start: int) -> Move:
    return Move(0, 1, 1, 0, grid(steps), alpha, tries, start=start, decoder=decoder)
