"""Parallel tempering: the swap and the whole step leave the product law invariant, enumerated; what would break it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import iterref.samplers.tempering as tempering
from iterref.denoiser import Denoiser
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.noise import Noise, absorbing
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Paired, Sampler
from iterref.samplers.iterref import IterRef
from iterref.samplers.refining import Refining
from iterref.samplers.tempering import Tempering, exchange
from iterref.sampling import sample
from tests.support.oracle import (
    Enumerator,
    balance_error,
    enumerate_outcomes,
    law_matrix,
    stationarity_error,
    total_variation,
)
from tests.support.worlds import TableReward, pair_states, random_reward, random_table, target

EXACT = 1e-10
ALPHA = 0.5
LADDER = ALPHA * 2.0 ** torch.arange(3, dtype=torch.float64)
seeds = st.integers(0, 10_000)


def swaps(log_p: Tensor, reward: Tensor, alphas: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The product law over all states of the ladder, and the transition matrix of one round of swaps."""
    width = len(alphas)
    ladder = torch.tensor(list(product(range(len(log_p)), repeat=width)))
    laws = torch.stack([(log_p + reward / alpha).softmax(0) for alpha in LADDER[:width]])
    law = torch.stack([laws[k][ladder[:, k]] for k in range(width)]).prod(0)

    def run(start: Tensor, rng: Enumerator) -> Tensor:
        now = ladder[start]
        places = exchange(reward[now].T.contiguous(), alphas, first, rng)
        return now.gather(1, places.T)

    return law, law_matrix(*enumerate_outcomes(run, len(ladder)), ladder)


@settings(max_examples=8, deadline=None)
@given(seeds, st.integers(2, 3), st.integers(0, 1), st.booleans())
def test_a_round_of_swaps_is_reversible(seed, width, first, forbid):
    """Whatever the law of the texts, and with texts of density zero."""
    table, reward = random_table("absorbing", 1, 3, seed, coupling=1), random_reward(1, 3, seed, forbid)
    law, matrix = swaps(table.log_p, reward.values.flatten(), LADDER[:width], first)
    assert float((matrix.sum(1) - 1).abs().max()) < EXACT
    assert max(stationarity_error(law, matrix), balance_error(law, matrix)) < EXACT
    tried = width == 3 or first == 0
    assert bool((matrix.diagonal() < 1 - 1e-6).any()) == tried  # something is swapped, unless there is no such pair


def test_a_swap_with_the_wrong_sign_is_detected():
    table, reward = random_table("absorbing", 1, 3, 4, coupling=1), random_reward(1, 3, 4)
    law, matrix = swaps(table.log_p, reward.values.flatten(), LADDER[:2].flip(0), 0)
    assert stationarity_error(law, matrix) > 1e-2


def test_even_and_odd_rounds_in_turn_leave_the_law_and_are_not_reversible():
    table, reward = random_table("absorbing", 1, 2, 4, coupling=1), random_reward(1, 2, 4)
    law, even = swaps(table.log_p, reward.values.flatten(), LADDER, 0)
    _, odd = swaps(table.log_p, reward.values.flatten(), LADDER, 1)
    assert stationarity_error(law, even @ odd) < EXACT and balance_error(law, even @ odd) > 1e-3


def test_the_impossible_gives_way():
    """A text of density zero always goes up, never down; two of them stay; nothing is undefined."""
    rows = [[-torch.inf, 1.0], [1.0, -torch.inf], [-torch.inf, -torch.inf], [0.0, 50.0], [50.0, 0.0]]
    reward = torch.tensor(rows, dtype=torch.float64).T
    places = exchange(reward, LADDER[:2], 0, Rng.seeded(1, 5))
    assert places.T.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0], [0, 1]]


def ladder_states(table: Table, reward: TableReward, t: float) -> tuple[Tensor, Tensor]:
    """All pairs of states of two chains (S, 2, 2, L) = (chain, (x_t, x_0), L), with the product law (S,)."""
    one = pair_states(table, t)
    laws = [target(table, reward, float(alpha), t, one) for alpha in LADDER[:2]]
    index = torch.cartesian_prod(torch.arange(len(one)), torch.arange(len(one)))
    return one[index], laws[0][index[:, 0]] * laws[1][index[:, 1]]


def step_matrix(
    method: Tempering, table: Table, reward: TableReward, k: int, here: tuple[Tensor, float], there: Tensor
) -> Tensor:
    """The transition matrix of step k of two chains, from states (S, 2, 2, L) at a time to listed ones."""
    states, t = here

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        canvas = torch.zeros(len(start), table.length, dtype=torch.long)
        run = Run(Problem(table, reward, canvas, alpha=ALPHA, remember=False))
        x_t, x_0 = states[start].permute(2, 1, 0, 3).flatten(1, 2)  # copy-major
        new, _ = method.step(run, Paired(k, t, x_t, x_0, reward(x_0, torch.zeros(len(x_0)))), rng)
        assert isinstance(new, Paired) and torch.equal(new.reward, reward(new.x_0, torch.zeros(len(x_0))))
        if new.t == 0:  # chain 0 is the result
            output = method.output(run, new)
            assert torch.equal(output.tokens, new.x_0[: len(start)])
            assert torch.equal(output.rewards, new.reward[: len(start)])
        pair = torch.stack([new.x_t, new.x_0], 1)
        return pair.unflatten(0, (2, -1)).transpose(0, 1)

    return law_matrix(*enumerate_outcomes(outcome, len(states)), there)


def refining(**options: object) -> Tempering:
    return Tempering(steps=0, moves=3, chains=2, ratio=2.0, **{"tries": 1, "decisions": 1, "spacing": 0, **options})


CASES = [
    ("absorbing", 1, 3, {"tries": 2}),
    ("uniform", 1, 3, {"tries": 1}),
    ("absorbing", 2, 2, {}),
    ("uniform", 2, 2, {"spacing": 2}),
    ("absorbing", 1, 2, {"tries": 2, "decisions": 2}),
]


@pytest.mark.parametrize("kind, length, tokens, options", CASES)
@pytest.mark.parametrize("forbid", [False, True])
def test_moves_and_swaps_leave_the_product_law_invariant(kind, length, tokens, options, forbid):
    """Factorised laws and one token, on finished texts, at every step of the run."""
    table = random_table(kind, length, tokens, 6, coupling=0)
    reward = random_reward(length, tokens, 6, forbid)
    states, law = ladder_states(table, reward, 0.0)
    matrix = step_matrix(refining(**options), table, reward, 1, (states, 0.0), states)
    assert float((matrix.sum(1) - 1).abs().max()) < EXACT
    assert stationarity_error(law, matrix) < EXACT


@pytest.mark.parametrize("broken", ["sign", "places", "alpha"])
def test_a_broken_ladder_is_detected(broken, monkeypatch):
    """Negative controls: the wrong sign, texts that leave their rewards behind, moves at one alpha for all."""
    table, reward = random_table("absorbing", 1, 3, 6, coupling=0), random_reward(1, 3, 6)
    states, law = ladder_states(table, reward, 0.0)
    if broken == "sign":
        monkeypatch.setattr(tempering, "exchange", lambda r, alpha, first, rng: exchange(r, alpha.flip(0), first, rng))
    elif broken == "places":  # swaps whatever the rewards are
        monkeypatch.setattr(
            tempering, "exchange", lambda r, alpha, first, rng: torch.arange(2).flip(0)[:, None].expand(r.shape)
        )
    else:
        monkeypatch.setattr(Tempering, "_alpha", Refining._alpha)
    matrix = step_matrix(refining(tries=2), table, reward, 1, (states, 0.0), states)
    assert stationarity_error(law, matrix) > 1e-3


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_a_draft_by_reward_goes_from_product_law_to_product_law(kind):
    """The noise level cancels from the ratio: at t > 0 the pairs (x_t, x_0) swap by the same rule."""
    table, reward = random_table(kind, 1, 2, 6, coupling=1), random_reward(1, 2, 6)
    method = Tempering(steps=3, moves=1, chains=2, ratio=2.0, tries=1, decisions=1)
    (here, law), (there, wanted) = ladder_states(table, reward, 2 / 3), ladder_states(table, reward, 1 / 3)
    matrix = step_matrix(method, table, reward, 2, (here, 2 / 3), there)
    assert total_variation(law @ matrix, wanted) < EXACT
    assert total_variation(law @ matrix, wanted.flip(0)) > 1e-3


def test_what_is_known_of_a_text_moves_with_it():
    """Under uniform noise evaluations are kept while they hold, wherever a swap takes the text."""
    model, reward, _ = world(6, 4, noise="uniform")
    run = Run(Problem(model, reward, torch.zeros(8, 6), alpha=0.5))
    method, rng = Tempering(steps=2, moves=12, chains=3, tries=1, decisions=1), Rng.seeded(3, 8)
    state, swapped = method.init(run, rng), 0
    for k in range(method.iterations):
        before = state.x_t
        state, _ = method.step(run, state, rng.fork(k))
        swapped += int((state.x_t != before).sum())
    assert swapped > 50 and run.meter.made_nfe < run.meter.asked_nfe - 50
    free = torch.ones(24, 6, dtype=torch.bool)
    wide = run.repeat(3)
    laws = wide.conditionals(state.x_0, free)
    assert torch.equal(laws, model.leave_one_out(state.x_0, free, wide.rows))


def test_swaps_cost_nothing_and_happen():
    """The NFE of three chains, to the call; and texts do come down the ladder."""
    model, reward, _ = world(12, 4)
    problem = Problem(model, reward, torch.zeros(32, 12), alpha=0.25)
    method = Tempering(steps=3, moves=8, chains=3)
    result, one = sample(method, problem), IterRef(steps=3, moves=8, early=0.0).cost()
    assert result.asked == method.cost() == one.wide(3)
    particles = result.particles
    assert torch.equal(particles.x_0[0], result.tokens) and torch.equal(particles.reward[0], result.rewards)
    assert torch.equal(particles.ess(), torch.ones(32, dtype=torch.float64))  # chain 0 alone samples the target
    means = particles.reward.mean(1)
    assert means[0] > means[1] > means[2]


@dataclass(frozen=True)
class TwoTexts:
    """A reward with two modes, as far apart as can be: matches with a text of zeros, or with one of ones."""

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return torch.maximum((tokens == 0).sum(1), (tokens == 1).sum(1)).double()


@dataclass(frozen=True)
class Even(Denoiser):
    """The denoiser of a law that gives all texts of four tokens the same probability."""

    noise: Noise = absorbing(5)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0], dtype=torch.float64).log().expand(int(where.sum()), -1)


def test_a_ladder_crosses_between_modes_where_one_chain_does_not():
    """From one of two equal modes, at equal rows, on the way to half of the chains in either."""
    zeros = torch.zeros(48, 16, dtype=torch.long)
    problem = Problem(Even(), TwoTexts(), zeros, alpha=0.35)

    def crossed(method: Sampler) -> float:
        result = sample(method, problem, budget=192, start=zeros)
        assert result.asked.nfe == 192 and 11 < float(result.rewards.mean()) < 15
        return float(((result.tokens == 1).sum(1) > (result.tokens == 0).sum(1)).double().mean())

    assert crossed(IterRef(decisions=2, tries=8)) == 0
    assert 0.1 < crossed(Tempering(chains=2, decisions=2, tries=8)) < 0.7


def test_chains_of_a_row_are_at_their_own_temperatures():
    method = Tempering(chains=4, ratio=3.0)
    assert method.ladder(0.5).tolist() == [0.5, 1.5, 4.5, 13.5]


def test_from_given_texts():
    model, reward, _ = world(8, 4)
    texts = torch.ones(4, 8, dtype=torch.long)
    problem = Problem(model, reward, torch.zeros(4, 8), alpha=0.5)
    result = sample(Tempering(steps=4, moves=6, chains=2), problem, start=texts)
    assert result.asked == result.sampler.cost() and result.asked.nfe == 12
    assert not torch.equal(result.tokens, texts)


def test_hard_constraints():
    """Hot chains meet the constraint too; a row without a possible text stays where it is, without a NaN."""
    model, _, _ = world(6, 4)

    def even_starts(tokens: Tensor, rows: Tensor) -> Tensor:
        allowed = (tokens[:, 0] % 2 == 0) & (rows > 0)  # row 0 has no possible text at all
        return torch.where(allowed, (tokens == 1).sum(1).double(), -torch.inf)

    problem = Problem(model, even_starts, torch.zeros(16, 6))
    for reward_draft in (True, False):
        result = sample(Tempering(steps=2, moves=10, chains=3, reward_draft=reward_draft), problem)
        assert result.rewards[0] == -torch.inf and bool(result.rewards[1:].isfinite().all())
        assert not bool(result.particles.reward.isnan().any())


@pytest.mark.parametrize("options", [{"chains": 1}, {"ratio": 1.0}, {"ratio": float("inf")}])
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ValueError, match="tempering: "):
        Tempering(**options)
