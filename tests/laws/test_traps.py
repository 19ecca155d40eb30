"""The traps of the field, each a wrong rule built from the production parts, and each one detected.

Every test first shows the right rule exact on the same law, then the wrong one off by more than any rounding.
"""

from __future__ import annotations

import pytest
import torch

from iterref import mtm
from iterref.moves.independent import InTurn, Textbook
from iterref.moves.shared import Shared
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Paired
from tests.support.oracle import stationarity_error, stationary, total_variation, transition
from tests.support.traps import (
    ALPHA,
    TRIP,
    estimated_again,
    greedy_choice,
    moved,
    softmax_then_reward_only,
    until_first_acceptance,
)
from tests.support.worlds import Move, chain, moving, pair_states, random_reward, random_table, refine, target

DETECTED = 5e-3


def bias(move: Move, kind: str = "absorbing", length: int = 2, seed: int = 0, coupling: float = 0) -> float:
    """Total variation between the stationary law of a move of finished texts and its target."""
    table = random_table(kind, length, 2, seed, coupling)
    reward, states = random_reward(length, 2, seed), pair_states(table, 0)
    matrix = transition(table, reward, ALPHA, move, states)
    return total_variation(stationary(matrix), target(table, reward, ALPHA, 0, states))


@pytest.mark.parametrize(
    "wrong, count, least",
    [(softmax_then_reward_only, 2, 0.05), (greedy_choice, 2, 0.05), (until_first_acceptance, 1, 0.04)],
)
def test_wrong_rules_are_detected(wrong, count, least):
    assert bias(moving(Shared(count), TRIP, ALPHA)) < 1e-9
    assert bias(moving(Textbook(count), TRIP, ALPHA)) < 1e-9
    assert bias(wrong) > least


def test_over_tilting_has_the_right_sign():
    """Softmax choice with reward-only acceptance overshoots: its mean reward is above the exact target's."""
    table = random_table("absorbing", 2, 2, 0, 0)
    reward, states = random_reward(2, 2, 0), pair_states(table, 0)
    values = reward(states[:, 1], torch.zeros(len(states)))
    law = stationary(transition(table, reward, ALPHA, softmax_then_reward_only, states))
    assert float(law @ values) > float(target(table, reward, ALPHA, 0, states) @ values) + DETECTED


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_testing_a_rejected_pool_again_is_biased(kind):
    """`published` is exact with one try and off by percents with two, more with three."""
    biases = [bias(moving(InTurn(n), TRIP, ALPHA), kind) for n in (1, 2)]
    assert biases[0] < 1e-9
    assert 0.04 < biases[1] < 0.5
    if kind == "absorbing":
        three = bias(moving(InTurn(3), TRIP, ALPHA))
        assert three > biases[1]
        # a pool tested in turn is the same thing as repeating Metropolis' test until it accepts
        assert abs(three - bias(until_first_acceptance)) < 1e-9


def test_estimating_the_value_of_a_noisy_state_again_is_biased():
    """The reward must travel with the state: redrawing the current clean sample before each test changes the law."""
    table = random_table("absorbing", 1, 3, 5, 0)
    reward, move = random_reward(1, 3, 5), moving(Shared(1), refine(0.5, 0.9), ALPHA)
    states = pair_states(table, 0.5)

    law = target(table, reward, ALPHA, 0.5, states)
    right = transition(table, reward, ALPHA, move, states, 0.5)
    assert stationarity_error(law, right) < 1e-10
    wrong = stationary(transition(table, reward, ALPHA, estimated_again(move), states, 0.5))
    noisy = (wrong.new_zeros(4).index_add(0, states[:, 0, 0], p) for p in (wrong, law))  # the law of x_t alone
    assert total_variation(*noisy) > DETECTED


def test_drawing_correlated_tokens_from_a_product_is_biased_and_spacing_or_one_at_a_time_is_not():
    """The shared kernel's documented error: three strongly correlated tokens drawn at once."""
    whole = moving(Shared(2), refine(0, 1.0), ALPHA)
    off = bias(whole, length=3, seed=1, coupling=1.5)
    assert 0.02 < off < 0.5
    # one open token at a time is a Gibbs conditional, exact for any law: a gap as long as the text
    single = moving(Shared(2, spacing=3), refine(0, 1.0), ALPHA)
    assert bias(single, length=3, seed=1, coupling=1.5) < 1e-9
    # uniform noise: the same through the leave-one-out law
    assert bias(single, "uniform", length=3, seed=1, coupling=1.5) < 1e-9


def test_the_error_shrinks_with_more_denoising_steps():
    """Candidates drawn over more steps are nearer to the joint law; with one token a step they would be exact."""
    offs = [bias(moving(Shared(1), refine(0, 1.0, steps=h), ALPHA), length=2, seed=1, coupling=1.5) for h in (1, 2, 3)]
    assert offs[0] > offs[1] > offs[2] > DETECTED


def test_a_gap_that_is_too_small_is_detected():
    """Spacing 1 opens neighbours, which a Markov law ties together: the claim needs gap 2, and the test can tell."""
    table = chain("absorbing", 3, 2, 7)
    reward, states = random_reward(3, 2, 7), pair_states(table, 0)
    law = target(table, reward, ALPHA, 0, states)
    for gap, exact in ((1, False), (2, True)):
        move = moving(Shared(1, spacing=gap), refine(0, 1.0), ALPHA)
        error = stationarity_error(law, transition(table, reward, ALPHA, move, states))
        assert error < 1e-10 if exact else error > 1e-4


def test_sites_chosen_by_looking_at_the_text_are_detected():
    """Opening a site only where the token is 0 depends on the state: not reversible, and the test can tell."""
    table = random_table("absorbing", 2, 2, 3, 0)
    reward, states = random_reward(2, 2, 3), pair_states(table, 0)

    def peeking(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
        where = state.x_0 == 0
        x_s = torch.where(where, table.noise.mask, state.x_0)
        x_0, _ = run.draw(x_s, 0.5, where, 1, rng)
        r = run.reward_of(x_0[0], final=True)
        verdict = mtm.metropolised(state.reward / ALPHA, r[:, None] / ALPHA, rng)
        return moved(state, verdict.accepted, x_0[0], r)

    law = target(table, reward, ALPHA, 0, states)
    assert stationarity_error(law, transition(table, reward, ALPHA, peeking, states)) > 1e-3
