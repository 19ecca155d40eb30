"""Paths of the base decoder and clouds of particles, enumerated: what the tests of several methods measure alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.decoding import Decoder, grid
from iterref.denoiser import Denoiser
from iterref.drafts import no_reward
from iterref.exact.table import Table
from iterref.guidance import Tempered
from iterref.noise import Schedule, absorbing
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Sampler, ScoredCloud
from iterref.samplers.trajectory import Recorded, Trajectory
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix
from tests.support.worlds import TableReward, random_reward, random_table

EXACT, ALPHA = 1e-10, 0.7


def stepped(denoiser: Denoiser, x_t: Tensor, t: float, u: float, decoder: Decoder, rng: Rng) -> Tensor:
    """One step of a decoder from states (R, L) that all belong to prompt 0."""
    prompts = torch.zeros(len(x_t), dtype=torch.long)
    return decoder.step(Run(Problem(denoiser, no_reward, torch.zeros_like(x_t), prompts=prompts)), x_t, t, u, rng)


def run_of(table: Table, reward: TableReward, alpha: float, rows: int, temperature: float = 1.0) -> Run:
    denoiser = table if temperature == 1 else Tempered(table, temperature)
    canvas = torch.zeros(rows, table.length, dtype=torch.long)
    return Run(Problem(denoiser, reward, canvas, alpha=alpha, remember=False))


def base_paths(
    table: Table, reward: TableReward, steps: int, decoder: Decoder, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """All paths of the base sampler (P, K + 1, L) with their exact probabilities (P,)."""
    times = grid(steps)

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = run_of(table, reward, 1.0, len(start), temperature)
        x = run.prior(rng)
        path = [x]
        for k in range(steps):
            x = decoder.step(run, x, times[k], times[k + 1], rng)
            path.append(x)
        return torch.stack(path, 1)

    _, probability, result = enumerate_outcomes(outcome, 1)
    paths, index = result.unique(dim=0, return_inverse=True)
    return paths, torch.zeros(len(paths), dtype=torch.float64).index_add_(0, index, probability)


def path_matrix(
    table: Table, reward: TableReward, alpha: float, method: Trajectory, paths: Tensor, temperature: float = 1.0
) -> Tensor:
    """The transition matrix of the first move of a method over paths (P, K + 1, L)."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run, path = run_of(table, reward, alpha, len(start), temperature), paths[start]
        state = Recorded(1, 0.0, path[:, -1], path[:, -1], reward(path[:, -1], run.rows), path)
        new, _ = method.step(run, state, rng)
        assert isinstance(new, Recorded) and torch.equal(new.reward, reward(new.x_0, run.rows))
        return new.path

    return law_matrix(*enumerate_outcomes(outcome, len(paths)), paths)


def tilted(paths: Tensor, prior: Tensor, reward: TableReward, alpha: float) -> Tensor:
    """P_sampler(path) exp(r(x_0) / alpha), normalised."""
    law = prior * (reward(paths[:, -1], torch.zeros(len(paths))) / alpha).exp()
    return law / law.sum()


def tail_of(decoder: Decoder, tries: int, start: int) -> Trajectory:
    """A method of two grid steps whose moves redraw all that comes after grid index `start`."""
    options = (
        vars(decoder) if decoder.order == "bounded" else dict(order=decoder.order, block_length=decoder.block_length)
    )
    return Trajectory(steps=2, **options, tries=tries, span_steps=2 - start)


# When two hidden tokens are shown in three grid steps, the second of which is the first to be scored.
SHOWN = {
    "early": Schedule(),  # one, none, one
    "late": Schedule("cosine"),  # none, one, one
    "together": Schedule("geometric", 1e-3, 1e3),  # none, both, none
}


def correlated(shown: str = "late", seed: int = 3, forbid: bool = False) -> tuple[Table, TableReward]:
    """Two strongly correlated tokens."""
    log_p = random_table("absorbing", 2, 2, seed, coupling=1.5).log_p.view(2, 2)
    return Table(log_p, absorbing(3, schedule=SHOWN[shown])), random_reward(2, 2, seed, forbid)


def measure(method: Sampler, table: Table, reward: TableReward) -> tuple[Tensor, Tensor]:
    """E[Z^ 1(x_0 = s)] of every text s, (S,), and E[Z^], of a method on an exact table."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = run_of(table, reward, ALPHA, len(start))
        state = method.init(run, rng)
        for _ in range(method.iterations):
            state, _ = method.step(run, state, rng)
        assert isinstance(state, ScoredCloud)
        assert torch.equal(state.reward, reward(state.x_0, run.rows))
        return torch.cat([state.x_0, state.particles.log_constant().exp()[:, None]], 1)

    _, probability, result = enumerate_outcomes(outcome, 1)
    assert float(probability.sum()) == pytest.approx(1, abs=EXACT)
    z, index = probability * result[:, -1], table.index(result[:, :-1].long())
    return torch.zeros(len(table.states()), dtype=torch.float64).index_add_(0, index, z), z.sum()
