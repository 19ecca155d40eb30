"""Growth enumerated: paths with all their candidates, on distributions where nothing else is exact."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.decoding import Decoder
from iterref.exact.table import Table
from iterref.random import Rng
from iterref.rewards import with_partial
from iterref.samplers.growth import Grown, Growth
from tests.support.oracle import (
    Enumerator,
    enumerate_outcomes,
    law_matrix,
    moved,
    stationarity_error,
    total_variation,
)
from tests.support.paths import base_paths, run_of, tilted
from tests.support.worlds import TableReward, random_reward, random_table

ALPHA, LENGTH, STEPS = 0.7, 2, 2
ORDERS = [Decoder(), Decoder("confidence"), Decoder("bounded", bound=0.4)]
KEPT = [  # with the steps that a move keeps: a whole path in random order has a hundred times the outcomes of its half
    *((decoder, start) for decoder in ORDERS for start in (0, 1) if (decoder, start) != (Decoder(), 0)),
    pytest.param(Decoder(), 0, marks=pytest.mark.slow),
]


def grown(decoder: Decoder, candidates: int = 2, tries: int = 1, start: int = 0, of: type[Growth] = Growth) -> Growth:
    bound = {"bound": decoder.bound} if decoder.order == "bounded" else {}
    return of(
        steps=STEPS, order=decoder.order, **bound, candidates=candidates, tries=tries, span_steps=STEPS - start, moves=2
    )


def flat(state: Grown) -> Tensor:
    """All that a path keeps, a row of numbers: its states, which candidates were followed, and their rewards."""
    return torch.cat([state.path.flatten(1).double(), state.chosen.double(), state.values.flatten(1)], 1)


def unflat(rows: Tensor, reward: TableReward, candidates: int) -> Grown:
    path = rows[:, : (STEPS + 1) * LENGTH].long().view(-1, STEPS + 1, LENGTH)
    chosen = rows[:, path[0].numel() : path[0].numel() + STEPS].long()
    values = rows[:, path[0].numel() + STEPS :].view(-1, STEPS, candidates)
    x = path[:, -1]
    return Grown(1, 0.0, x, x, reward(x, torch.zeros(len(x), dtype=torch.long)), path, values, chosen)


def begun(table: Table, reward: TableReward, method: Growth) -> tuple[Tensor, Tensor]:
    """All first paths with their candidates (S, *), and the probability W P(path, candidates) that growth gives them,
    normalised: the target on the extended space, by the algorithm's own definition of W."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = run_of(table, reward, ALPHA, len(start))
        state, _ = method.step(run, method.init(run, rng), rng)
        assert isinstance(state, Grown)
        return flat(state)

    _, probability, result = enumerate_outcomes(outcome, 1)
    states, index = result.unique(dim=0, return_inverse=True)
    drawn = torch.zeros(len(states), dtype=torch.float64).index_add_(0, index, probability)
    state = unflat(states, reward, method.candidates)
    followed = state.values.gather(-1, state.chosen[..., None])[..., 0] / ALPHA
    mean = (state.values / ALPHA).logsumexp(-1) - log(method.candidates)
    weighted = drawn * (mean.sum(-1) - followed[:, :-1].sum(-1)).exp()
    return states, weighted / weighted.sum()


def moves_of(table: Table, reward: TableReward, method: Growth, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All moves from all states, as `enumerate_outcomes` gives them."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        new, _ = method.step(
            run_of(table, reward, ALPHA, len(start)), unflat(states[start], reward, method.candidates), rng
        )
        assert isinstance(new, Grown)
        return flat(new)

    return enumerate_outcomes(outcome, len(states))


def matrix_of(table: Table, reward: TableReward, method: Growth, states: Tensor) -> Tensor:
    return law_matrix(*moves_of(table, reward, method, states), states)


def of_paths(law: Tensor, states: Tensor, paths: Tensor) -> Tensor:
    """What a distribution of paths with candidates is for the paths alone (P,)."""
    own = states[:, : (STEPS + 1) * LENGTH].long().view(-1, STEPS + 1, LENGTH)
    index = (own[:, None] == paths[None]).flatten(2).all(2).long().argmax(1)
    return torch.zeros(len(paths), dtype=torch.float64).index_add_(0, index, law)


@pytest.mark.parametrize("decoder, start", KEPT, ids=str)
@settings(max_examples=1, deadline=None)
@given(st.integers(0, 10_000))
def test_growth_is_exact_for_the_decoder_that_is_run(decoder, start, seed):
    """Two correlated tokens in two steps: the paths alone have P_decoder(path) exp(r / alpha), and a move keeps it."""
    table, reward = random_table("absorbing", LENGTH, 2, seed, coupling=1.5), random_reward(LENGTH, 2, seed)
    method = grown(decoder, start=start)
    states, law = begun(table, reward, method)
    paths, prior = base_paths(table, reward, STEPS, decoder)
    target = tilted(paths, prior, reward, ALPHA)
    assert total_variation(of_paths(law, states, paths), target) < 1e-10
    matrix = matrix_of(table, reward, method, states)
    assert stationarity_error(law, matrix) < 1e-10
    assert torch.allclose(law[:, None] * matrix, (law[:, None] * matrix).T, atol=1e-12)


def test_growth_is_exact_under_uniform_noise_and_with_several_tails():
    for noise, decoder, tries in (("uniform", Decoder(), 1), ("absorbing", Decoder("left"), 2)):
        table, reward = random_table(noise, LENGTH, 2, 5, coupling=1.5), random_reward(LENGTH, 2, 5)
        method = grown(decoder, tries=tries, start=1)
        states, law = begun(table, reward, method)
        paths, prior = base_paths(table, reward, STEPS, decoder)
        assert total_variation(of_paths(law, states, paths), tilted(paths, prior, reward, ALPHA)) < 1e-10
        assert (moved(law, *moves_of(table, reward, method, states), states) - law).abs().max() < 1e-10


def test_growth_is_exact_whatever_values_unfinished_states_have():
    """Values that know nothing of the reward decide what is followed, and the weights take it back."""
    table, reward = random_table("absorbing", LENGTH, 2, 4, coupling=1.5), random_reward(LENGTH, 2, 4)
    states, decoder = with_partial(reward, lambda tokens, masked, rows: tokens[:, 0] - masked.sum(1)), Decoder("left")
    method = replace(grown(decoder), value="partial")
    listed, law = begun(table, states, method)
    paths, prior = base_paths(table, reward, STEPS, decoder)
    assert total_variation(of_paths(law, listed, paths), tilted(paths, prior, reward, ALPHA)) < 1e-10
    assert stationarity_error(law, matrix_of(table, states, method, listed)) < 1e-10
    broken = replace(grown(decoder, of=Untelescoped), value="partial")
    assert stationarity_error(law, matrix_of(table, states, broken, listed)) > 1e-3


def test_a_forbidden_candidate_on_the_way_does_not_end_its_path():
    """-inf for one text: it has no weight at the end, and counts as nothing lost before."""
    table = random_table("absorbing", LENGTH, 2, 7, coupling=1.5)
    reward = random_reward(LENGTH, 2, 7, True)
    method = grown(Decoder("confidence"))
    states, law = begun(table, reward, method)
    paths, prior = base_paths(table, reward, STEPS, Decoder("confidence"))
    assert total_variation(of_paths(law, states, paths), tilted(paths, prior, reward, ALPHA)) < 1e-10
    alive = law > 0
    assert stationarity_error(law, matrix_of(table, reward, method, states)) < 1e-10 and bool(alive.any())


class Untelescoped(Growth):
    """Negative control: potentials that are spent on the way and never taken back."""

    def _log_weight(self, reward: Tensor, marks: list[Tensor], alpha: float) -> Tensor:
        return ((marks[0] / alpha).logsumexp(-1) - log(self.candidates)).sum(-1)


class Unweighted(Growth):
    """Negative control: tails that looked at the reward, accepted as if they had not."""

    def _log_weight(self, reward: Tensor, marks: list[Tensor], alpha: float) -> Tensor:
        return reward / alpha


class Redrawn(Growth):
    """Negative control: the old path's weight is taken of fresh candidates, and not of those it competed with."""

    def _tails(self, run, x, start, before, n, alpha, rng: Rng):
        tails, reward, made = super()._tails(run, x, start, before, n, alpha, rng)
        return tails, reward, [made[0].sort(-1).values, made[1]]


@pytest.mark.parametrize("wrong", [Untelescoped, Unweighted, Redrawn])
def test_a_wrong_weight_is_detected(wrong):
    table, reward = random_table("absorbing", LENGTH, 2, 3, coupling=1.5), random_reward(LENGTH, 2, 3)
    method = grown(Decoder("confidence"))
    states, law = begun(table, reward, method)
    broken = grown(Decoder("confidence"), of=wrong)
    if wrong is Redrawn:  # another space of states: compare the paths after one move from the exact distribution
        paths, prior = base_paths(table, reward, STEPS, Decoder("confidence"))
        states, law = begun(table, reward, broken)
        assert total_variation(of_paths(law, states, paths), tilted(paths, prior, reward, ALPHA)) > 1e-3
        return
    assert stationarity_error(law, matrix_of(table, reward, broken, states)) > 1e-3
