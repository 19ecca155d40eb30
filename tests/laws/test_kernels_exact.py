"""Every kernel's transition matrix, enumerated: detailed balance and stationarity where they are claimed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.exact.table import Table
from iterref.moves.independent import InTurn, Textbook
from iterref.moves.renoise import Excursion
from iterref.moves.shared import Shared
from iterref.noise import Schedule, uniform
from iterref.problem import Problem
from iterref.samplers.iterref import IterRef
from iterref.samplers.mtm import MTM
from iterref.samplers.refining import Kernel
from iterref.sampling import sample
from tests.support.oracle import balance_error, stationarity_error, transition
from tests.support.worlds import chain, moving, pair_states, random_reward, random_table, refine, target

EXACT = 1e-10
seeds = st.integers(0, 10_000)
alphas = st.floats(0.2, 3.0)
kinds = st.sampled_from(["absorbing", "uniform"])
few = settings(max_examples=6, deadline=None)


def errors(
    table: Table, kernel: Kernel, trip: Excursion, alpha: float, seed: int, forbid: bool = False
) -> tuple[float, float]:
    """Stationarity and balance errors of one kernel's move at its target."""
    reward = random_reward(table.length, table.tokens, seed, forbid)
    states = pair_states(table, trip.t)
    law = target(table, reward, alpha, trip.t, states)
    matrix = transition(table, reward, alpha, moving(kernel, trip, alpha), states, trip.t)
    assert float((matrix.sum(1) - 1).abs().max()) < EXACT
    return stationarity_error(law, matrix), balance_error(law, matrix)


@few
@given(kinds, seeds, alphas, st.integers(1, 3), st.sampled_from([0.3, 0.7, 1.0]))
def test_shared_is_reversible_for_a_factorised_law_on_clean_text(kind, seed, alpha, tries, s):
    table = random_table(kind, 2, 2, seed, coupling=0)
    assert max(errors(table, Shared(tries), refine(0, s), alpha, seed)) < EXACT


@few
@given(kinds, seeds, alphas, st.sampled_from([(0.4, 0.4), (0.4, 0.8), (0.7, 1.0)]), st.booleans())
def test_shared_is_reversible_for_a_factorised_law_at_any_time(kind, seed, alpha, times, forbid):
    """Uniform noise has many more outcomes a token, so there it is two tokens with one try and one token with two."""
    sizes = [(2, 2, 2)] if kind == "absorbing" else [(2, 2, 1), (1, 3, 2)]
    for length, tokens, tries in sizes:
        table = random_table(kind, length, tokens, seed, coupling=0)
        assert max(errors(table, Shared(tries), refine(*times), alpha, seed, forbid)) < EXACT


@pytest.mark.parametrize("steps", [1, 2])
def test_a_span_ends_where_the_schedule_does(steps):
    """Its last time leaves one token in ten, and the posterior at that time takes noise for no more than that."""
    table = Table(random_table("uniform", 1, 3, 1, coupling=0).log_p, uniform(3, Schedule("log-linear", 0.1)))
    trip = Excursion.planned(table.noise.schedule, 0.0, 0.0, steps)
    assert trip.span == 0.9 and max(errors(table, Shared(2), trip, 0.5, 1)) < EXACT
    assert errors(table, Shared(2), replace(trip, a_s=0.0), 0.5, 1)[0] > 1e-4  # a control


@few
@given(kinds, seeds, alphas)
def test_blocks_leave_the_law_of_a_factorised_model_invariant(kind, seed, alpha):
    """Blocks are applied in turn, so only the law is claimed, not balance."""
    table = random_table(kind, 2, 2, seed, coupling=0)
    assert errors(table, Shared(2, 2), refine(0, 0.6), alpha, seed)[0] < EXACT
    if kind == "absorbing":
        assert errors(table, Shared(1, 2), refine(0.5, 0.9), alpha, seed)[0] < EXACT


@few
@given(kinds, seeds, alphas)
def test_several_denoising_steps_are_reversible_for_a_factorised_law(kind, seed, alpha):
    table = random_table(kind, 2, 2, seed, coupling=0)
    for times in ((0.0, 0.8), (0.3, 0.9)) if kind == "absorbing" else ((0.0, 0.8),):
        assert max(errors(table, Shared(1), refine(*times, steps=2), alpha, seed)) < EXACT


@few
@given(kinds, seeds, alphas, st.integers(2, 3))
def test_shared_is_exact_for_one_token_whatever_the_law(kind, seed, alpha, tries):
    table = random_table(kind, 1, 3, seed, coupling=1)
    for times in ((0.0, 0.5), (0.4, 0.8), (0.5, 0.5)):
        n = min(tries, 2) if kind == "uniform" and times[0] else tries
        assert max(errors(table, Shared(n), refine(*times), alpha, seed)) < EXACT


@few
@given(kinds, seeds, alphas, st.integers(1, 2), st.sampled_from([0.3, 0.5, 1.0]), st.booleans())
def test_spaced_sites_are_reversible_for_a_markov_law(kind, seed, alpha, tries, span, forbid):
    table = chain(kind, 4, 2, seed)
    kernel = Shared(tries, spacing=2)
    assert max(errors(table, kernel, refine(0, span), alpha, seed, forbid)) < EXACT


@few
@given(kinds, seeds, alphas)
def test_blocks_of_spaced_sites_leave_a_markov_law_invariant(kind, seed, alpha):
    table = chain(kind, 3, 2, seed)
    assert errors(table, Shared(2, 2, 2), refine(0, 1.0), alpha, seed)[0] < EXACT


@few
@given(kinds, seeds, alphas, st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 2), st.booleans())
def test_independent_is_reversible_for_a_factorised_law(kind, seed, alpha, balance, tries, forbid):
    table = random_table(kind, 2, 2, seed, coupling=0)
    kernel = Textbook(tries, balance)
    assert max(errors(table, kernel, refine(0, 0.5), alpha, seed, forbid)) < EXACT


@few
@given(seeds, alphas, st.sampled_from([0.0, 0.5, 1.0]))
def test_independent_is_reversible_at_a_noisy_time(seed, alpha, balance):
    table = random_table("absorbing", 1, 3, seed, coupling=0)
    assert max(errors(table, Textbook(2, balance), refine(0.4, 0.8), alpha, seed)) < EXACT


@pytest.mark.parametrize("method", [*(MTM(balance=g, moves=4) for g in (0.0, 0.5, 1.0)), IterRef(moves=4)], ids=str)
def test_a_row_all_of_whose_candidates_are_forbidden_is_told(method):
    def reward(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows == 1, -torch.inf, 0.0).double()

    problem = Problem(random_table("absorbing", 2, 2, 1, coupling=0), reward, torch.zeros(3, 2))
    assert sample(method, problem, start=torch.zeros(3, 2)).trace.stuck_rows() == [1]


@few
@given(kinds, seeds, alphas)
def test_balance_one_is_single_try_metropolis(kind, seed, alpha):
    """With g = 1 the reference set cancels: two tries move exactly as one does (Lee et al. 2025)."""
    table = random_table(kind, 1, 3, seed, coupling=0)
    reward, states = random_reward(1, 3, seed), pair_states(table, 0)

    def matrix(kernel: Kernel) -> torch.Tensor:
        return transition(table, reward, alpha, moving(kernel, refine(0, 0.6), alpha), states)

    single = matrix(Textbook(1, 1.0))
    assert torch.allclose(matrix(Textbook(2, 1.0)), single, atol=EXACT, rtol=0)
    assert torch.allclose(matrix(Shared(1)), single, atol=EXACT, rtol=0)
    assert not torch.allclose(matrix(Shared(2)), single, atol=1e-4, rtol=0)


@few
@given(kinds, seeds, alphas)
def test_published_with_one_try_is_exact(kind, seed, alpha):
    table = random_table(kind, 2, 2, seed, coupling=0)
    assert max(errors(table, InTurn(1), refine(0, 0.5), alpha, seed)) < EXACT


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_more_candidates_mix_faster(kind):
    """Metropolised i-SIR over more candidates has the larger spectral gap: what the candidates are for."""
    table = random_table(kind, 2, 2, 3, coupling=0)
    reward, states = random_reward(2, 2, 3), pair_states(table, 0)
    law = target(table, reward, 0.3, 0, states)
    gaps = []
    for tries in (1, 2, 3):
        matrix = transition(table, reward, 0.3, moving(Shared(tries), refine(0, 1.0), 0.3), states)
        half = law.sqrt()
        values = torch.linalg.eigvalsh(half[:, None] * matrix / half[None, :])
        gaps.append(1 - float(values.abs().sort().values[-2]))
    assert gaps[0] < gaps[1] < gaps[2]
