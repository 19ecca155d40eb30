"""The alarm: real random streams, 50,000 chains started at the exact target, and a G-test that must not ring.

The exact tests replace the random streams by an enumerator; this one shows that the streams themselves, the packing
and the driver do not change the law. Two fixed seeds, p-values at 1e-6, and a biased kernel that does ring.
"""

from __future__ import annotations

import pytest
import torch
from scipy.stats import power_divergence

from iterref.exact.markov import Markov
from iterref.exact.table import Table
from iterref.moves.independent import InTurn
from iterref.moves.shared import Shared
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Paired
from iterref.samplers.refining import Kernel
from tests.support.worlds import moving, noise_of, pair_states, random_reward, refine, target

CHAINS, MOVES, ALPHA, ALARM = 50_000, 3, 0.5, 1e-6


def p_value(kind: str, kernel: Kernel, seed: int) -> float:
    """Starts at the target, moves, and tests the law of the last state."""
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(2, generator=generator, dtype=torch.float64)
    step = 1.5 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
    noise = noise_of(kind, 2)
    chain = Markov(start, step, 3, noise)
    table = Table(chain.log_prob(torch.cartesian_prod(*[torch.arange(2)] * 3)).view(2, 2, 2), noise)
    reward, states = random_reward(3, 2, 0), pair_states(table, 0)
    law = target(table, reward, ALPHA, 0, states)
    rng = Rng.seeded(seed, CHAINS)
    x = states[rng.fork("start").choose(law.log().expand(CHAINS, -1)), 1]
    run = Run(Problem(chain, reward, torch.zeros_like(x), alpha=ALPHA, remember=False))
    state, move = Paired(0, 0.0, x, x, reward(x, run.rows)), moving(kernel, refine(0, 0.7), ALPHA)
    for k in range(MOVES):
        state, _ = move(run, state, rng.fork("move", k))
    counts = torch.bincount(table.index(state.x_0), minlength=len(states))
    return float(power_divergence(counts.numpy(), (law * CHAINS).numpy(), lambda_="log-likelihood").pvalue)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_chains_stay_at_the_target(kind, seed):
    assert p_value(kind, Shared(3, 2, 2), seed) > ALARM


@pytest.mark.parametrize("seed", [1, 2])
def test_a_biased_kernel_rings(seed):
    """Negative control: the published pool on the same law and draws."""
    assert p_value("absorbing", InTurn(3, 2), seed) < ALARM
