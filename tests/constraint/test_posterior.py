"""The posterior under an automaton, against the enumeration of all canvases: draws, normaliser, marginals, mode."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.constraint.automaton import Automaton
from iterref.constraint.canvas import Constraint, Reading
from iterref.decoding import negentropy
from iterref.random import Rng
from tests.support.languages import Case, case, joint
from tests.support.oracle import enumerate_outcomes, law_matrix, total_variation

EXACT = 1e-10
seeds = st.integers(0, 10_000)
few = settings(max_examples=25, deadline=None)


def reading(one: Case, log: bool = True) -> Reading:
    p = one.log_p if log else one.log_p.exp()
    return Reading(one.constraint, p, one.canvas, one.where, log)


def drawn(one: Case, log: bool = True) -> Tensor:
    """The distribution of the production code's draw over all canvases, (V ** L,)."""

    def run(start: Tensor, rng: Rng) -> Tensor:
        n = len(start)
        rows = torch.zeros(n, dtype=torch.long)
        where = one.where[rows]
        p = one.log_p if log else one.log_p.exp()
        found = Reading(one.constraint.take(rows), p.repeat(n, 1), one.canvas[rows], where, log)
        x = one.canvas[rows].clone()
        x[where] = found.draw(rng, 1)[0][0]
        return x

    return law_matrix(*enumerate_outcomes(run, 1), one.states)[0]


@few
@given(seeds, st.booleans())
def test_the_draw_is_the_posterior(seed, log):
    one = case(seed)
    posterior = joint(one)
    assert torch.allclose(drawn(one, log), posterior, atol=EXACT, rtol=0)
    assert abs(float(reading(one, log).posterior().log_z.exp()) - one.share) < EXACT


@few
@given(seeds)
def test_marginals_and_the_mode(seed):
    one = case(seed)
    posterior, found = joint(one), reading(one)
    weights = torch.cat([found.posterior().log_weights, torch.full((1, one.length, 1), -torch.inf)], 2)[one.where]
    marginal = (one.log_p + weights[:, one.constraint.automaton.classes]).exp()
    free = one.where[0].nonzero()[:, 0]
    for cell, place in enumerate(free.tolist()):
        at = torch.zeros(one.vocab, dtype=torch.float64).index_add_(0, one.states[:, place], posterior)
        assert torch.allclose(marginal[cell], at, atol=EXACT, rtol=0)
    x = one.canvas[0].clone()
    x[one.where[0]] = found.modes()
    index = int((one.states == x).all(1).nonzero()[0])
    assert float(posterior[index]) >= float(posterior.max()) - EXACT


@few
@given(seeds)
def test_a_language_is_what_its_automaton_accepts(seed):
    """Two ways to read a canvas: the vectorised one, and step by step."""
    one = case(seed)
    rows = torch.zeros(len(one.states), dtype=torch.long)
    assert torch.equal(one.constraint.take(rows).accepts(one.states), one.valid)


def test_masking_from_the_left_is_another_distribution():
    """Negative control: leaving out the tokens that lead nowhere, position by position, and renormalising."""
    worst = 0.0
    for seed in range(20):
        one = case(seed)
        found = torch.zeros(len(one.states), dtype=torch.float64)
        posterior, p = joint(one), torch.zeros(one.length, one.vocab, dtype=torch.float64)
        p[one.where[0]] = one.log_p.exp()
        for index in posterior.nonzero()[:, 0].tolist():
            probability, live = 1.0, posterior > 0
            for i, token in enumerate(one.states[index].tolist()):
                if one.where[0, i]:  # a token is left in where some text goes on with it
                    allowed = torch.zeros(one.vocab, dtype=torch.float64)
                    allowed[one.states[live][:, i]] = 1.0
                    probability *= float(p[i, token] / (p[i] * allowed).sum())
                live = live & (one.states[:, i] == token)
            found[index] = probability
        assert abs(float(found.sum()) - 1) < 1e-9
        worst = max(worst, total_variation(found, posterior))
    assert worst > 0.1


def test_independent_marginals_are_another_distribution():
    """Negative control: the product of the posterior's own marginals writes what is no text."""
    outside = []
    for seed in range(40):
        one, found = case(seed), reading(case(seed))
        weights = torch.cat([found.posterior().log_weights, torch.full((1, one.length, 1), -torch.inf)], 2)[one.where]
        marginal = (one.log_p + weights[:, one.constraint.automaton.classes]).exp()
        product = joint(replace(one, log_p=marginal.log()), any_text=True)
        outside.append(float(product[~one.valid].sum()))
    assert max(outside) > 0.1


def test_draw_j_is_the_same_for_every_number_of_draws():
    one = next(one for one in map(case, range(50)) if float(joint(one).max()) < 0.4)
    rng, found = Rng.seeded(5, 1), reading(one)
    tokens, sure = found.draw(rng, 7)
    assert torch.equal(found.draw(rng, 3)[0], tokens[:3])
    assert torch.equal(found.draw(rng, 3, 2)[0], tokens[2:5])
    assert torch.equal(found.draw(rng, 1, torch.tensor([4]))[0], tokens[4:5])
    assert tokens.unique(dim=0).shape[0] > 1 and bool((sure <= 0).all())


def test_rows_do_not_feel_each_other():
    """The same tokens whatever else is in the batch."""
    cases = [case(seed, length=4, vocab=4) for seed in (1, 2, 5, 9)]
    automaton = cases[0].constraint.automaton
    rows = [replace(one, constraint=replace(one.constraint, automaton=automaton)) for one in cases]
    rows = [one for one in rows if not bool(reading(one).posterior().log_z.isneginf().any())]
    assert len(rows) > 1
    begin, read = (torch.cat([getattr(one.constraint, name) for one in rows]) for name in ("begin", "read"))
    canvas, where = (torch.cat([getattr(one, name) for one in rows]) for name in ("canvas", "where"))
    rng = Rng.seeded(2, len(rows))
    log_p = torch.cat([one.log_p for one in rows])
    tokens, sure = Reading(Constraint(automaton, begin, read), log_p, canvas, where, True).draw(rng, 5, 0, negentropy)
    at = 0
    for number, one in enumerate(rows):
        count = int(one.where.sum())
        alone = reading(one).draw(rng.take(torch.tensor([number])), 5, 0, negentropy)
        assert torch.equal(alone[0], tokens[:, at : at + count]) and torch.equal(alone[1], sure[:, at : at + count])
        at += count


def test_a_text_that_float32_gives_no_probability_is_drawn_all_the_same():
    steps = torch.tensor([[1, -1, -1], [-1, 1, -1]])
    automaton = Automaton.of_steps(steps, torch.tensor([False, True]))
    begin = torch.full((1, 3), -1)
    begin[0, 0] = automaton.starts[0]
    here = torch.ones(1, 3, dtype=torch.bool)
    constraint = Constraint(automaton, begin, here)
    p, x = torch.tensor([[0.0, 0.0, 1.0]]).repeat(3, 1), torch.zeros(1, 3, dtype=torch.long)
    found = Reading(constraint, p, x, here, False, allowed=torch.ones(3, dtype=torch.bool))
    assert found.draw(Rng.seeded(0, 1), 2)[0].tolist() == [[0, 1, 1]] * 2
    assert found.modes().tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="sequence 0: no text of the constraint has"):  # without the floor
        Reading(constraint, p, x, here, False).draw(Rng.seeded(0, 1), 2)


def test_a_canvas_that_holds_no_text_is_refused():
    one = case(4)
    allowed = torch.ones(one.vocab, dtype=torch.bool)
    one.constraint.expect(one.canvas, one.where, allowed)
    with pytest.raises(ValueError, match="row 0: no text of the constraint fits the"):
        one.constraint.expect(one.canvas, one.where, ~allowed)
    unread = Constraint(one.constraint.automaton, one.constraint.begin, torch.zeros_like(one.where))
    with pytest.raises(ValueError, match="belongs to no text"):
        unread.expect(one.canvas, one.where, allowed)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"step": torch.tensor([[0, -1], [1, -1]])}, "state 0"),
        ({"final": torch.tensor([False, True])}, "state 0"),
        ({"final": torch.tensor([True])}, "has final"),
        ({"step": torch.tensor([[-1, -1], [2, -1]])}, "none of the 2"),
    ],
)
def test_what_is_no_automaton_is_refused(changes, told):
    step, final = torch.tensor([[-1, -1], [1, 1]]), torch.tensor([True, True])
    right = {"classes": torch.tensor([0, 1, 2]), "step": step, "final": final}
    Automaton(**right)
    with pytest.raises(ValueError, match=told):
        Automaton(**{**right, **changes})
