"""Soft value-based decoding: the law of finite N, against a recursion written apart; its limits; hard constraints."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

import pytest
import torch
from torch import Tensor

from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers.ancestral import Ancestral
from iterref.samplers.base import Sampler
from iterref.samplers.svdd import SVDD
from iterref.sampling import sample
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix, total_variation
from tests.support.worlds import TableReward, random_reward, random_table

EXACT = 1e-10
ALPHA = 0.5


def law_of(method: Sampler, table: Table, reward: TableReward) -> Tensor:
    """The exact law of the finished text, over clean states."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        canvas = torch.zeros(len(start), table.length, dtype=torch.long)
        run = Run(Problem(table, reward, canvas, alpha=ALPHA, remember=False))
        state = method.init(run, rng)
        for _ in range(method.iterations):
            state, _ = method.step(run, state, rng)
        output = method.output(run, state)
        assert state.t == 0 and torch.equal(output.rewards, reward(output.tokens, run.rows))
        return output.tokens

    return law_matrix(*enumerate_outcomes(outcome, 1), table.states())[0]


def chosen(p: Tensor, w: Tensor, n: int) -> Tensor:
    """The law (K,) of the one chosen by weight w (K,) among n draws of p (K,), by all K^n tuples."""
    law = torch.zeros_like(p)
    for drawn in map(list, product(range(len(p)), repeat=n)):
        total = float(w[drawn].sum())
        share = w[drawn] / total if total else torch.eye(n, dtype=p.dtype)[0]  # all forbidden: the first
        law.index_add_(0, torch.tensor(drawn), p[drawn].prod() * share)
    return law


def by_recursion(table: Table, reward: TableReward, steps: int, n: int, value: str) -> Tensor:
    """What the docstring says, over absorbing noise, state by state: plain loops and no code of the method's."""
    states, mask = table.noisy_states(), table.noise.mask
    key = {tuple(x): i for i, x in enumerate(states.tolist())}
    clean = {tuple(x): i for i, x in enumerate(table.states().tolist())}
    weight = (reward.values / ALPHA).exp().flatten()

    def draws(x: tuple[int, ...]) -> list[tuple[tuple[int, ...], float]]:
        """All clean samples from a product of the posterior's marginals."""
        return [(y, prod(float(marginals(x)[i][v]) for i, v in enumerate(y))) for y in clean]

    def marginals(x: tuple[int, ...]) -> list[Tensor]:
        posterior = table.log_posterior(torch.tensor([x]), torch.tensor([0.5])).exp()[0]
        return [torch.zeros(table.tokens).double().index_add_(0, at, posterior) for at in table.states().T]

    law = torch.zeros(len(states), dtype=torch.float64)
    law[key[(mask,) * table.length]] = 1
    for k in range(steps):
        falls = 1 / (steps - k)  # (a_u - a_t) / (1 - a_t) on an even grid, 1 in the last step
        new = torch.zeros_like(law)
        for i in law.nonzero()[:, 0].tolist():
            x, outcomes = tuple(states[i].tolist()), []
            for y, p_y in draws(x):
                for shown in product([False, True], repeat=len(x)):
                    hidden = [v == mask for v in x]
                    if any(s and not h for s, h in zip(shown, hidden, strict=True)):
                        continue
                    p = p_y
                    for s, h in zip(shown, hidden, strict=True):
                        p *= (falls if s else 1 - falls) if h else 1
                    u = tuple(v if s else now for v, now, s in zip(y, x, shown, strict=True))
                    if p and (value == "sample" or k == steps - 1):
                        outcomes.append((key[u], p, float(weight[clean[y]])))
                    elif p and value == "mode":
                        likeliest = tuple(int(law.argmax()) for law in marginals(u))
                        outcomes.append((key[u], p, float(weight[clean[likeliest]])))
                    elif p:
                        outcomes += [(key[u], p * p_z, float(weight[clean[z]])) for z, p_z in draws(u)]
            index, p, w = zip(*outcomes, strict=True)
            p, w = torch.tensor(p, dtype=torch.float64), torch.tensor(w, dtype=torch.float64)
            new.index_add_(0, torch.tensor(index), law[i] * chosen(p, w, n))
        law = new
    return law[[key[x] for x in clean]]


@pytest.mark.parametrize("value", ["mode", "posterior", "sample"])
@pytest.mark.parametrize("forbid", [False, True])
def test_the_law_of_two_steps_is_the_documented_one(value, forbid):
    table, reward = random_table("absorbing", 1, 3, 5, coupling=1), random_reward(1, 3, 5, forbid)
    law = law_of(SVDD(steps=2, tries=2, value=value), table, reward)
    assert total_variation(law, by_recursion(table, reward, 2, 2, value)) < EXACT


def test_the_law_of_two_tied_tokens_is_the_documented_one():
    table, reward = random_table("absorbing", 2, 2, 5, coupling=1.5), random_reward(2, 2, 5)
    law = law_of(SVDD(steps=2, tries=2, value="sample"), table, reward)
    assert total_variation(law, by_recursion(table, reward, 2, 2, "sample")) < EXACT
    other = by_recursion(table, reward, 2, 2, "posterior")
    assert total_variation(law, other) > 1e-4  # the two values are two methods, and the recursion tells them apart


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("value", ["mode", "posterior", "sample"])
def test_one_candidate_is_plain_sampling(kind, value):
    table = random_table(kind, 2 if kind == "absorbing" else 1, 2, 5, coupling=1.5)
    reward = random_reward(table.length, 2, 5)
    plain = law_of(Ancestral(steps=2), table, reward)
    assert total_variation(law_of(SVDD(steps=2, tries=1, value=value), table, reward), plain) < EXACT
    if table.length == 1:
        assert total_variation(law_of(SVDD(steps=2, tries=2, value=value), table, reward), plain) > 1e-3


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_finite_n_is_tilted_too_little(kind):
    """It goes from the model towards the tilted law as N grows and is never there: the claim that is *not* made."""
    table, reward = random_table(kind, 1, 2, 3, coupling=1), TableReward(torch.tensor([0.0, 1.0], dtype=torch.float64))
    target = table.tilted(reward.values.flatten(), ALPHA).exp()
    errors = [total_variation(law_of(SVDD(steps=1, tries=n), table, reward), target) for n in (1, 2, 3, 4, 5)]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 1e-2
    assert errors[0] == pytest.approx(total_variation(table.log_p.exp(), target), abs=EXACT)
    shares = [float(law_of(SVDD(steps=2, tries=n, value="sample"), table, reward)[1]) for n in (1, 2)]
    assert shares[0] < shares[1] < float(target[1])


@pytest.mark.parametrize("value", ["mode", "posterior", "sample"])
@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_more_candidates_are_worth_more(noise, value):
    model, reward, _ = world(12, 4, noise=noise)
    problem = Problem(model, reward, torch.zeros(128, 12), alpha=0.25)
    means = [float(sample(SVDD(4, tries=n, value=value), problem).rewards.mean()) for n in (1, 4, 16)]
    assert means[0] + 0.3 < means[1] < means[2] - 0.3
    mild = replace(problem, alpha=2.0)
    best = sample(SVDD(4, tries=16, value=value, objective="maximise"), mild)
    drawn = sample(SVDD(4, tries=16, value=value), mild)
    assert float(best.rewards.mean()) > float(drawn.best.reward.mean()) + 0.3  # a choice at every step, not at the last
    assert torch.equal(best.rewards, best.best.reward)


def test_maximise_takes_the_highest_value_at_every_step():
    """With one step the value is the reward, so it is best of N; with more, alpha plays no part."""
    model, reward, _ = world(6, 4)
    problem = Problem(model, reward, torch.zeros(64, 6))
    greedy = sample(SVDD(1, tries=8, objective="maximise"), problem, seed=2)
    assert torch.equal(greedy.rewards, greedy.best.reward)
    soft = sample(SVDD(1, tries=8), problem, seed=2)
    assert torch.equal(soft.best.reward, greedy.best.reward) and not torch.equal(soft.rewards, greedy.rewards)
    cold, hot = (
        sample(SVDD(4, objective="maximise"), replace(problem, alpha=alpha), seed=2).tokens for alpha in (0.1, 10.0)
    )
    assert torch.equal(cold, hot)


@pytest.mark.parametrize(
    "options", [{}, {"objective": "maximise"}, {"value": "sample"}, {"value": "posterior", "x0_samples": 3}]
)
def test_hard_constraints(options):
    """Rewards of -inf are never chosen beside a possible candidate, and a row without one is told as stuck."""
    model, _, _ = world(6, 4)

    def even_starts(tokens: Tensor, rows: Tensor) -> Tensor:
        allowed = (tokens[:, 0] % 2 == 0) & (rows > 0)  # row 0 has no possible text at all
        return torch.where(allowed, 0.0, -torch.inf).double()

    problem = Problem(model, even_starts, torch.zeros(16, 6))
    result = sample(SVDD(3, tries=8, **options), problem)
    assert bool(result.rewards[0] == -torch.inf) and 0 in result.trace.stuck_rows()
    assert bool((result.rewards[1:] == 0).float().mean() > 0.9)
    ess = result.trace.table()["ess"]
    assert not bool(ess.isnan().any()) and bool((ess[:, 0] == 0).all()) and float(ess.max()) <= 8


@pytest.mark.parametrize(
    "options",
    [
        {"value": "prior"},
        {"objective": "win"},
        {"value": "sample", "x0_samples": 2},
        {"x0_samples": 2},
        {"tries": 0},
        {"steps": 0},
    ],
)
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ValueError, match="svdd: "):
        SVDD(**options)
