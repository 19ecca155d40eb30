"""The traps of the field, each a wrong rule built from the production parts, and each one detected.

Every test first shows the right rule exact on the same law, then the wrong one off by more than any rounding.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from iterref import mtm
from iterref.kernels import KERNELS, Info, Kernel, Move, State
from iterref.problem import Problem
from iterref.random import Rng
from tests.support.oracle import stationarity_error, stationary, total_variation, transition
from tests.support.traps import ALPHA, greedy_choice, moved, softmax_then_reward_only, until_first_acceptance
from tests.support.worlds import pair_states, random_reward, random_table, refine, target

DETECTED = 5e-3


def bias(
    kernel: Kernel, move: Move, kind: str = "absorbing", length: int = 2, seed: int = 0, coupling: float = 0
) -> float:
    """Total variation between the kernel's stationary law and its target."""
    table = random_table(kind, length, 2, seed, coupling)
    reward, states = random_reward(length, 2, seed), pair_states(table, move.t)
    matrix = transition(table, reward, ALPHA, kernel, move, states)
    return total_variation(stationary(matrix), target(table, reward, ALPHA, move.t, states))


@pytest.mark.parametrize(
    "wrong, count, least",
    [(softmax_then_reward_only, 2, 0.05), (greedy_choice, 2, 0.05), (until_first_acceptance, 1, 0.04)],
)
def test_wrong_rules_are_detected(wrong, count, least):
    move = refine(0, 0.6, count, alpha=ALPHA)
    assert bias(KERNELS["shared"].move, move) < 1e-9
    assert bias(KERNELS["independent"].move, move) < 1e-9
    assert bias(wrong, move) > least


def test_over_tilting_has_the_right_sign():
    """Softmax choice with reward-only acceptance overshoots: its mean reward is above the exact target's."""
    table, move = random_table("absorbing", 2, 2, 0, 0), refine(0, 0.6, 2, alpha=ALPHA)
    reward, states = random_reward(2, 2, 0), pair_states(table, 0)
    values = reward(states[:, 1], torch.zeros(len(states)))
    law = stationary(transition(table, reward, ALPHA, softmax_then_reward_only, move, states))
    assert float(law @ values) > float(target(table, reward, ALPHA, 0, states) @ values) + DETECTED


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_testing_a_rejected_pool_again_is_biased(kind):
    """`published` is exact with one try and off by percents with two, more with three."""
    biases = [bias(KERNELS["published"].move, refine(0, 0.6, n, alpha=ALPHA), kind) for n in (1, 2)]
    assert biases[0] < 1e-9
    assert 0.04 < biases[1] < 0.5
    if kind == "absorbing":
        three = bias(KERNELS["published"].move, refine(0, 0.6, 3, alpha=ALPHA))
        assert three > biases[1]
        # a pool tested in turn is the same thing as repeating Metropolis' test until it accepts
        assert abs(three - bias(until_first_acceptance, refine(0, 0.6, 1, alpha=ALPHA))) < 1e-9


def test_estimating_the_value_of_a_noisy_state_again_is_biased():
    """The reward must travel with the state: redrawing the current guess before each test changes the law."""
    table = random_table("absorbing", 1, 3, 5, 0)
    reward, move = random_reward(1, 3, 5), refine(0.5, 0.9, 1, alpha=ALPHA)
    states = pair_states(table, 0.5)

    def again(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
        plain = replace(move, s=move.t, a_s=move.a_t, times=(move.t,), guided=False)
        fresh, _ = KERNELS["shared"].move(problem, state, plain, rng)
        return KERNELS["shared"].move(problem, fresh, move, rng)

    law = target(table, reward, ALPHA, 0.5, states)
    right = transition(table, reward, ALPHA, KERNELS["shared"].move, move, states)
    assert stationarity_error(law, right) < 1e-10
    wrong = stationary(transition(table, reward, ALPHA, again, move, states))
    noisy = (wrong.new_zeros(4).index_add(0, states[:, 0, 0], p) for p in (wrong, law))  # the law of x_t alone
    assert total_variation(*noisy) > DETECTED


def test_drawing_correlated_tokens_from_a_product_is_biased_and_spacing_or_one_at_a_time_is_not():
    """The shared kernel's documented error: three strongly correlated tokens drawn at once."""
    whole = refine(0, 1.0, 2, alpha=ALPHA)
    off = bias(KERNELS["shared"].move, whole, length=3, seed=1, coupling=1.5)
    assert 0.02 < off < 0.5
    # one open token at a time is a Gibbs conditional, exact for any law: a gap as long as the text
    single = refine(0, 1.0, 2, spacing=3, alpha=ALPHA)
    assert bias(KERNELS["shared"].move, single, length=3, seed=1, coupling=1.5) < 1e-9
    # uniform noise: the same through the leave-one-out law
    assert bias(KERNELS["shared"].move, single, "uniform", length=3, seed=1, coupling=1.5) < 1e-9


def test_the_error_shrinks_with_more_denoising_steps():
    """Candidates drawn over more steps are nearer to the joint law; with one token a step they would be exact."""
    offs = [
        bias(KERNELS["shared"].move, refine(0, 1.0, 1, steps=h, alpha=ALPHA), length=2, seed=1, coupling=1.5)
        for h in (1, 2, 3)
    ]
    assert offs[0] > offs[1] > offs[2] > DETECTED


def test_a_gap_that_is_too_small_is_detected():
    """Spacing 1 opens neighbours, which a Markov law ties together: the claim needs gap 2, and the test can tell."""
    from tests.laws.test_kernels_exact import chain

    table = chain("absorbing", 3, 2, 7)
    reward, states = random_reward(3, 2, 7), pair_states(table, 0)
    law = target(table, reward, ALPHA, 0, states)
    for gap, exact in ((1, False), (2, True)):
        move = refine(0, 1.0, 1, spacing=gap, alpha=ALPHA)
        error = stationarity_error(law, transition(table, reward, ALPHA, KERNELS["shared"].move, move, states))
        assert error < 1e-10 if exact else error > 1e-4


def test_sites_chosen_by_looking_at_the_text_are_detected():
    """Opening a site only where the token is 0 depends on the state: not reversible, and the test can tell."""
    table = random_table("absorbing", 2, 2, 3, 0)
    reward, move = random_reward(2, 2, 3), refine(0, 0.5, 1, alpha=ALPHA)
    states = pair_states(table, 0)

    def peeking(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
        assert state.x_0 is not None
        where = state.x_0 == 0
        x_s = torch.where(where, table.noise.mask, state.x_0)
        log_p = problem.predict(x_s, move.s, where, problem.rows)
        x_0 = problem.draw(log_p, where, x_s, 1, rng)
        r = problem.score(x_0[0], problem.rows, final=True)
        verdict = mtm.metropolised(state.reward / ALPHA, r[:, None] / ALPHA, rng)
        return moved(state, verdict.accepted, x_0[0], r)

    law = target(table, reward, ALPHA, 0, states)
    assert stationarity_error(law, transition(table, reward, ALPHA, peeking, move, states)) > 1e-3
