"""Moves under a regular constraint, enumerated: what they leave invariant is the target on the language."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.constraint.automaton import Automaton
from iterref.constraint.canvas import Constraint
from iterref.exact.table import Table
from iterref.moves import shared
from iterref.moves.independent import Textbook
from iterref.moves.renoise import Excursion
from iterref.moves.shared import Shared
from iterref.run import Run
from iterref.samplers.refining import Kernel
from tests.support.oracle import balance_error, stationarity_error, transition
from tests.support.worlds import chain, moving, pair_states, random_reward, random_table, refine, target

EXACT = 1e-10
seeds = st.integers(0, 10_000)
alphas = st.floats(0.2, 3.0)
kinds = st.sampled_from(["absorbing", "uniform"])
few = settings(max_examples=5, deadline=None)


def language(table: Table, seed: int) -> Constraint:
    """A random language of two tokens that has more than one text on the canvas, and not all of them."""
    vocab = table.noise.vocab
    for attempt in range(100):
        generator = torch.Generator().manual_seed(100 * seed + attempt)
        steps = torch.full((3, vocab), -1)
        steps[:, : table.tokens] = torch.randint(0, 3, (3, table.tokens), generator=generator)
        steps[torch.rand(steps.shape, generator=generator) < 0.3] = -1
        automaton = Automaton.of_steps(steps, torch.rand(3, generator=generator) < 0.7)
        begin = torch.full((1, table.length), -1)
        begin[0, 0] = automaton.starts[0]
        made = Constraint(automaton, begin, begin == begin)
        count = int(accepted(made, table.states()).sum())
        if 1 < count < len(table.states()):
            return made
    raise AssertionError("no such language was found")


def accepted(constraint: Constraint, x: Tensor) -> Tensor:
    return constraint.take(torch.zeros(len(x), dtype=torch.long)).accepts(x)


def errors(
    table: Table, kernel: Kernel, trip: Excursion, alpha: float, seed: int, tokens: int = 2
) -> tuple[float, float]:
    """Stationarity and balance errors of one move at the target on the texts of a random language."""
    constraint = language(table, seed)
    reward, states = random_reward(table.length, tokens, seed), pair_states(table, trip.t)
    states = states[accepted(constraint, states[:, 1])]
    law = target(table, reward, alpha, trip.t, states)
    matrix = transition(table, reward, alpha, moving(kernel, trip, alpha), states, trip.t, constraint)
    assert float((matrix.sum(1) - 1).abs().max()) < EXACT
    return stationarity_error(law, matrix), balance_error(law, matrix)


@few
@given(kinds, seeds, alphas, st.integers(1, 2), st.sampled_from([0.4, 1.0]))
def test_shared_is_reversible_for_a_factorised_model_on_the_language(kind, seed, alpha, tries, s):
    table = random_table(kind, 2, 2, seed, coupling=0)
    assert max(errors(table, Shared(tries), refine(0, s), alpha, seed)) < EXACT


@few
@given(seeds, alphas)
def test_at_a_noisy_time_too(seed, alpha):
    table = random_table("absorbing", 2, 2, seed, coupling=0)
    assert max(errors(table, Shared(2), refine(0.4, 0.8), alpha, seed)) < EXACT


@few
@given(kinds, seeds, alphas)
def test_decisions_compete_as_one(kind, seed, alpha):
    table = random_table(kind, 2, 2, seed, coupling=0)
    assert max(errors(table, Shared(1, 2), refine(0, 0.6), alpha, seed)) < EXACT


@few
@given(kinds, seeds, alphas, st.integers(1, 2))
def test_spaced_sites_of_a_markov_chain_on_the_language(kind, seed, alpha, tries):
    table = chain(kind, 3, 2, seed)
    assert max(errors(table, Shared(tries, spacing=2), refine(0, 1.0), alpha, seed)) < EXACT


@few
@given(seeds, alphas, st.sampled_from([0.0, 0.5]))
def test_the_textbook_rule_on_the_language(seed, alpha, balance):
    table = random_table("absorbing", 2, 2, seed, coupling=0)
    assert max(errors(table, Textbook(2, balance), refine(0, 0.5), alpha, seed)) < EXACT


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_parts_of_a_joint_draw_are_not_draws_given_the_rest(kind, monkeypatch):
    """Negative control: decisions about parts, where each part is taken from a draw of the whole."""
    monkeypatch.setattr(shared.Shared, "_whole", lambda self, run: self)
    found = []
    for seed in range(6):
        table = random_table(kind, 2, 2, seed, coupling=0)
        found.append(errors(table, Shared(1, 2), refine(0, 1.0), 0.5, seed)[0])
    assert max(found) > 1e-3


def test_a_draw_from_the_left_is_not_reversible(monkeypatch):
    """Negative control: candidates whose tokens are drawn one after the other from what the language allows."""

    def from_the_left(self: Run, x_t: Tensor, t: float, where: Tensor, n: int, rng):
        log_p = torch.full((*where.shape, self.noise.vocab), -torch.inf, dtype=torch.float64)
        log_p[where] = self.predict(x_t, t, where).double()
        texts = table.states()
        texts = texts[accepted(constraint, texts)]
        made = []
        for _ in range(n):
            x = x_t.clone()
            live = torch.ones(len(x), len(texts), dtype=torch.bool)
            fixed = ~where
            live &= ((texts[None] == x_t[:, None]) | ~fixed[:, None]).all(2)
            for i in range(x.shape[1]):
                may = torch.zeros(len(x), self.noise.vocab, dtype=torch.bool)
                for v in range(table.tokens):
                    may[:, v] = (live & (texts[:, i] == v)).any(1)
                law = torch.where(where[:, i, None], log_p[:, i], 0.0).masked_fill(~may, -torch.inf)
                here = torch.zeros_like(where)
                here[:, i] = True
                x[:, i] = rng.categorical(law, here)[0]
                live &= texts[:, i] == x[:, i, None]
            made.append(x)
        return torch.stack(made)

    monkeypatch.setattr(Run, "samples", from_the_left)
    found = []
    for seed in range(6):
        table = random_table("absorbing", 2, 2, seed, coupling=0)
        constraint = language(table, seed)
        found.append(errors(table, Shared(1), refine(0, 1.0), 0.5, seed)[0])
    assert max(found) > 1e-3
