"""The trajectory kernel and the way down the grid, enumerated on laws where nothing else is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.decoding import ORDERS, Decoder
from iterref.exact.markov import world
from iterref.moves.renoise import descend
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Drafted
from iterref.samplers.strings import sampler_from_string
from iterref.samplers.trajectory import Recorded
from tests.support.oracle import (
    Enumerator,
    balance_error,
    enumerate_outcomes,
    law_matrix,
    stationarity_error,
    total_variation,
)
from tests.support.partial import ByContent
from tests.support.paths import base_paths, path_matrix, run_of, tail_of, tilted
from tests.support.worlds import pair_states, random_reward, random_table, target

seeds = st.integers(0, 10_000)
ORDERED = [
    Decoder(),
    Decoder("confidence"),
    Decoder("margin"),
    Decoder("entropy"),
    Decoder("left"),
    Decoder("bounded", bound=0.0),
    Decoder("bounded", bound=0.4),
    Decoder("random", block_length=1),
    Decoder("confidence", block_length=1),
    Decoder("bounded", block_length=1),
]


@pytest.mark.parametrize("decoder", ORDERED, ids=str)
@settings(max_examples=4, deadline=None)
@given(seeds, st.sampled_from([0.5, 1.0]), st.integers(1, 2), st.integers(0, 1))
def test_exact_for_a_correlated_law_with_several_tokens_at_once(decoder, seed, temperature, tries, start):
    """Two correlated tokens in two steps: both may be unmasked at once, in any order, at any temperature."""
    table = random_table("absorbing", 2, 2, seed, coupling=1.5)
    reward, alpha = random_reward(2, 2, seed), 0.7
    paths, prior = base_paths(table, reward, 2, decoder, temperature)
    law = tilted(paths, prior, reward, alpha)
    matrix = path_matrix(table, reward, alpha, tail_of(decoder, tries, start), paths, temperature)
    assert stationarity_error(law, matrix) < 1e-10
    assert balance_error(law, matrix) < 1e-10


@pytest.mark.parametrize("decoder", [Decoder(order, block_length=2) for order in ORDERS], ids=str)
def test_exact_where_a_block_is_left_over(decoder):
    """Three tokens in blocks of two and one: two steps must cross from one to the next."""
    table, reward, alpha = random_table("absorbing", 3, 2, 3, coupling=1.5), random_reward(3, 2, 3), 0.7
    paths, prior = base_paths(table, reward, 2, decoder)
    law = tilted(paths, prior, reward, alpha)
    for start in (0, 1):
        matrix = path_matrix(table, reward, alpha, tail_of(decoder, 1, start), paths)
        assert stationarity_error(law, matrix) < 1e-10


def test_tails_of_another_decoder_are_detected():
    """Negative control: paths of one order, redrawn in another, are not the same law's."""
    table, reward, alpha = random_table("absorbing", 2, 2, 3, coupling=1.5), random_reward(2, 2, 3), 0.7
    # the random order's paths hold those of all others
    paths, prior = base_paths(table, reward, 2, Decoder())
    law = tilted(paths, prior, reward, alpha)
    for decoder in (Decoder("left"), Decoder("confidence"), Decoder("margin"), Decoder("bounded", bound=5.0)):
        matrix = path_matrix(table, reward, alpha, tail_of(decoder, 1, 0), paths)
        assert stationarity_error(law, matrix) > 1e-2


@pytest.mark.parametrize("bound", [0.0, 0.5])
def test_exact_where_uniform_noise_is_settled_within_a_bound(bound):
    table, reward, alpha = random_table("uniform", 2, 2, 4, coupling=1.5), random_reward(2, 2, 4), 0.5
    decoder = Decoder("bounded", bound=bound)
    paths, prior = base_paths(table, reward, 2, decoder)
    law = tilted(paths, prior, reward, alpha)
    for start in (0, 1):
        matrix = path_matrix(table, reward, alpha, tail_of(decoder, 1, start), paths)
        assert stationarity_error(law, matrix) < 1e-10


def test_exact_under_uniform_noise():
    table = random_table("uniform", 1, 3, 4, coupling=1)
    reward, alpha = random_reward(1, 3, 4), 0.5
    paths, prior = base_paths(table, reward, 2, Decoder())
    law = tilted(paths, prior, reward, alpha)
    for start in (0, 1):
        matrix = path_matrix(table, reward, alpha, tail_of(Decoder(), 2, start), paths)
        assert stationarity_error(law, matrix) < 1e-10


def test_a_start_that_looks_at_the_path_is_detected():
    """Negative control: choosing where to cut by looking at the state breaks the law, and this test would see it."""
    table = random_table("absorbing", 2, 2, 11, coupling=1.5)
    reward, alpha = random_reward(2, 2, 11), 0.5
    paths, prior = base_paths(table, reward, 2, Decoder())
    law = tilted(paths, prior, reward, alpha)
    methods = [tail_of(Decoder(), 2, start) for start in (0, 1)]
    whole, tail = (path_matrix(table, reward, alpha, method, paths) for method in methods)
    good = reward(paths[:, -1], torch.zeros(len(paths))) > 0
    greedy = torch.where(good[:, None], tail, whole)  # redraws less where the reward is already good
    assert stationarity_error(law, greedy) > 1e-3


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_going_down_the_grid_is_exact(kind):
    """(x_t, x_0) ~ Pi_t and x_u ~ q(x_u | x_t, x_0) give (x_u, x_0) ~ Pi_u, whatever the law."""
    table = random_table(kind, 2, 2, 8, coupling=1.5)
    reward = random_reward(2, 2, 8)
    here, there = pair_states(table, 0.7), pair_states(table, 0.3)

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        x_t, x_0 = here[start].unbind(1)
        x_u = descend(run_of(table, reward, 0.5, len(start)), Drafted(0, 0.7, x_t, x_0), 0.3, rng)
        return torch.stack([x_u, x_0], 1)

    matrix = law_matrix(*enumerate_outcomes(outcome, len(here)), there)
    arrived = target(table, reward, 0.5, 0.7, here) @ matrix
    assert total_variation(arrived, target(table, reward, 0.5, 0.3, there)) < 1e-10
    # negative control: keeping the noisy tokens is not going down
    assert total_variation(arrived, target(table, reward, 0.5, 0.5, there)) > 1e-2


@pytest.mark.parametrize("name", ["trajectory", "growth", "power"])
def test_a_path_forgets_how_it_began(name: str) -> None:
    """By default; the control: short tails alone keep the first half of every path."""
    problem = Problem(world(6, 4, 3, "absorbing")[0], ByContent(), torch.zeros(64, 6, dtype=torch.long))

    def kept(options: str) -> float:
        method, run, rng = sampler_from_string(f"{name}:steps=2,moves=8{options}"), Run(problem), Rng.seeded(0, 64)
        state, heads = method.init(run, rng), []
        for index in range(method.iterations):
            state, _ = method.step(run, state, rng.fork(index))
            assert isinstance(state, Recorded)
            heads.append(state.path[:, 1])
        return float((heads[0] == heads[-1]).all(1).double().mean())

    assert kept("") < 0.3 and kept(",span=0.5") == 1.0
