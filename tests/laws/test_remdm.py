"""Remasking: marginals kept, enumerated step by step; the two forms of a step; what breaks when it is not paid for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.noise import Schedule, absorbing, uniform
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.ancestral import Ancestral
from iterref.samplers.base import Sampler
from iterref.samplers.remdm import ReMDM, Remembering
from iterref.sampling import sample
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix, total_variation
from tests.support.worlds import random_reward, random_table

EXACT = 1e-10


def known(kind: str, schedule: str = "linear", text: tuple[int, ...] = (0, 1)) -> Table:
    """A point mass on one text: a denoiser that knows x_0."""
    noise = absorbing(3, schedule=Schedule(schedule)) if kind == "absorbing" else uniform(2, Schedule(schedule))
    return Table({text: 0.0}, noise)


def run_of(table: Table, rows: int) -> Run:
    reward = random_reward(table.length, table.tokens, 1)
    return Run(Problem(table, reward, torch.zeros(rows, table.length, dtype=torch.long), remember=False))


def forward(table: Table, x_0: Tensor, a: float) -> Tensor:
    """q(x_t | x_0) over all noisy states, at a share a of clean tokens."""
    states = table.noisy_states()
    return (a * (states == x_0).double() + (1 - a) * table.noise.pi[states]).prod(1)


def step_matrix(method: ReMDM, table: Table, k: int, states: Tensor, sure: Tensor | None = None) -> Tensor:
    """The transition matrix of step k from listed noisy states (S, L) to all of them."""
    times, _ = method.levels(table.noise.schedule)
    sure = torch.ones(table.length, dtype=torch.float64) if sure is None else sure

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        x_t = states[start]
        state = Remembering(k, times[k], x_t, sure.expand(x_t.shape))
        return method.step(run_of(table, len(start)), state, rng)[0].x_t

    return law_matrix(*enumerate_outcomes(outcome, len(states)), table.noisy_states())


def arrived(method: ReMDM, table: Table, k: int, sure: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The law of x_u after step k from x_t ~ q(x_t | x_0), and what it should be, q(x_u | x_0)."""
    x_0 = table.states()[table.log_p.argmax()]
    _, levels = method.levels(table.noise.schedule)
    prior = forward(table, x_0, levels[k])
    possible = prior > 0
    law = prior[possible] @ step_matrix(method, table, k, table.noisy_states()[possible], sure)
    return law, forward(table, x_0, levels[k + 1])


def marginals(table: Table, law: Tensor) -> Tensor:
    """The law of every position, (L, V), of a law over all noisy states."""
    one_hot = torch.nn.functional.one_hot(table.noisy_states(), table.noise.vocab).double()
    return (law[:, None, None] * one_hot).sum(0)


REMASKING = get_args(get_type_hints(ReMDM)["schedule"])
METHODS = {
    "cap": ReMDM(steps=4, schedule="cap", eta=0.4),
    "rescale": ReMDM(steps=4, schedule="rescale", eta=0.7),
    "loop": ReMDM(steps=6, schedule="loop", eta=0.3, on=0.7, off=0.2, held=0.6),
    "conf": ReMDM(steps=4, schedule="conf", eta=1.0),
}


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_marginals_are_kept_where_the_denoiser_knows_the_text(kind, method):
    """At every step; the whole law but for `conf`, whose positions depend on each other."""
    assert set(METHODS) == set(REMASKING)
    table = known(kind)
    for k in range(method.steps):
        law, wanted = arrived(method, table, k)
        if method.schedule == "conf":
            law, wanted = marginals(table, law), marginals(table, wanted)
        assert float((law - wanted).abs().max()) < EXACT


@pytest.mark.parametrize("schedule", ["cosine", "log-linear", "geometric"])
def test_marginals_are_kept_under_every_noise_schedule(schedule):
    for kind, name in (("absorbing", "cap"), ("uniform", "rescale"), ("absorbing", "loop"), ("uniform", "loop")):
        table, method = known(kind, schedule), METHODS[name]
        for k in range(method.steps):
            law, wanted = arrived(method, table, k)
            assert float((law - wanted).abs().max()) < EXACT


def test_confidences_of_any_size_leave_the_share_of_masks():
    """Doubtful tokens are put back more often, and as many masks as tokens put back are shown in their place."""
    table, method = known("absorbing", text=(0, 1, 1)), METHODS["conf"]
    masked = (table.noisy_states() == table.noise.mask).double()
    for k in (1, 2):
        law, wanted = arrived(method, table, k, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        assert float((law - wanted) @ masked.sum(1)) == pytest.approx(0, abs=EXACT)
        first, second, third = law @ masked
        assert first > second + 1e-3 > third + 2e-3  # the doubtful one is masked most


@dataclass(frozen=True)
class Unpaid(ReMDM):
    """Tokens are put back and masks shown at the plain rate: `conf` as published, the others without their formula."""

    def _remasking(self, where, shown, sure, a_t, a_u, sigma):
        again, more = super()._remasking(where, shown, sure, a_t, a_u, sigma)
        return again, more * 0


@dataclass(frozen=True)
class Unaware(ReMDM):
    """Bridges from the noise level of x_t, as though nothing had been re-noised."""

    def _bridged(self, run, state, a_t, a_u, sigma, rng):
        x_s = run.noise.corrupt(state.x_t, torch.tensor(1.0), torch.tensor(1 - sigma), rng)
        return super()._bridged(run, replace(state, x_t=x_s), a_t, a_u, 0.0, rng)


@pytest.mark.parametrize("kind, broken", [("absorbing", Unpaid), ("uniform", Unaware)])
@pytest.mark.parametrize("name", REMASKING)
def test_remasking_that_is_not_paid_for_is_detected(kind, broken, name):
    """Negative control: too many masks (too much noise) are left, and the test above would see it."""
    table, good = known(kind), METHODS[name]
    bad = broken(**vars(good))
    errors = []
    for k in range(bad.steps - 1):
        law, wanted = arrived(bad, table, k)
        errors.append(float((marginals(table, law) - marginals(table, wanted)).abs().max()))
    assert max(errors) > 1e-2


@dataclass(frozen=True)
class Bridged(ReMDM):
    """The back-and-forth form under absorbing noise too, with `scale` times its chance of remasking."""

    scale: float = 1.0

    def _masked(self, run, state, a_t, a_u, sigma, rng):
        return self._bridged(run, state, a_t, a_u, sigma * self.scale, rng)


@pytest.mark.parametrize("coupling", [0.0, 1.5])
def test_the_two_forms_of_a_step_are_one(coupling):
    """Re-noise to a' and bridge by the guess at x_t, or put back with sigma and show more: the same transitions."""
    table = random_table("absorbing", 2, 2, 3, coupling)
    method = ReMDM(steps=4, schedule="cap", eta=0.2)
    states = table.noisy_states()
    for k in (1, 2):
        matrix = step_matrix(method, table, k, states)
        assert torch.allclose(step_matrix(Bridged(4, "cap", 0.2), table, k, states), matrix, atol=1e-12, rtol=0)
        other = step_matrix(Bridged(4, "cap", 0.2, scale=0.5), table, k, states)
        assert float((other - matrix).abs().max()) > 1e-2  # another sigma is another step


def finished(method: Sampler, table: Table) -> Tensor:
    """The law of the finished text, over clean states."""

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = run_of(table, len(start))
        state = method.init(run, rng)
        for _ in range(method.iterations):
            state, _ = method.step(run, state, rng)
        assert state.t == 0
        return method.output(run, state).tokens

    return law_matrix(*enumerate_outcomes(outcome, 1), table.states())[0]


@pytest.mark.parametrize("name", ["cap", "rescale", "loop"])
def test_a_law_of_one_token_is_sampled_exactly_under_uniform_noise(name):
    table = random_table("uniform", 1, 2, 4, coupling=1)
    options = {"on": 0.7, "off": 0.2, "held": 0.6} if name == "loop" else {}
    assert total_variation(finished(ReMDM(3, name, 0.3, **options), table), table.log_p.exp()) < EXACT
    assert total_variation(finished(Unaware(3, name, 0.3, **options), table), table.log_p.exp()) > 1e-3


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_without_remasking_it_is_ancestral_sampling(kind):
    table = random_table(kind, 2 if kind == "absorbing" else 1, 2, 7, coupling=1.5)
    plain = finished(Ancestral(steps=3), table)
    for schedule in ("cap", "conf"):
        assert total_variation(finished(ReMDM(3, schedule, 0.0), table), plain) < EXACT
    if kind == "absorbing":
        assert total_variation(finished(ReMDM(3, "cap", 0.4), table), plain) > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(REMASKING), st.integers(1, 40), st.floats(0, 1), st.booleans(),
    st.sampled_from(["linear", "cosine", "log-linear", "geometric"]),
)  # fmt: skip
def test_chances_are_probabilities(schedule, steps, eta, masked, noise):
    method = ReMDM(steps, schedule, eta)
    times, levels = method.levels(Schedule(noise))
    assert times[0] == 1 and times[-1] == 0 and len(times) == len(levels) == steps + 1
    assert all(a <= b + 1e-12 for a, b in zip(levels, levels[1:], strict=False))
    for k in range(steps):
        a_t, a_u = levels[k], levels[k + 1]
        sigma = method.sigma(k, a_t, a_u, masked)
        assert 0 <= sigma <= (min(1, (1 - a_u) / max(a_t, 1e-300)) if masked else 1 - a_u) + 1e-12
        assert -1e-9 <= (a_u - (1 - sigma) * a_t) / (1 - a_t) <= 1 + 1e-9


def test_the_loop_holds_its_level():
    method = ReMDM(20, "loop", 0.1, on=0.6, off=0.2, held=0.8)
    times, levels = method.levels(Schedule())
    assert [k for k in range(21) if levels[k] == 0.8] == list(range(8, 17))  # from 0.6 to 0.2
    assert levels[4] == pytest.approx(0.4) and levels[18] == pytest.approx(0.9)
    assert times[8:17] == pytest.approx([0.2] * 9)  # what the denoiser is told
    chances = [method.sigma(k, levels[k], levels[k + 1], True) for k in range(20)]
    assert [k for k in range(20) if chances[k]] == list(range(8, 16)) and set(chances) == {0, 0.1}


@pytest.mark.parametrize("schedule", REMASKING)
def test_tokens_are_put_back_and_none_is_left_open(schedule):
    model, reward, _ = world(12, 4)
    problem = Problem(model, reward, torch.zeros(8, 12))
    result = sample(ReMDM(20, schedule, 0.8), problem, seed=3, watch=range(8))
    masked = result.trace.table()["watched"] == model.noise.mask
    assert bool((~masked[:-1] & masked[1:]).any()) and not bool(masked[-1].any())
    plain = sample(ReMDM(20, schedule, 0.0), problem, seed=3, watch=range(8))
    masked = plain.trace.table()["watched"] == model.noise.mask
    assert not bool((~masked[:-1] & masked[1:]).any())


@pytest.mark.parametrize("seed", [6, 7])
def test_what_remasking_does_to_the_law_with_an_exact_denoiser(seed):
    """Two tied tokens drawn in one step are drawn as though they were not. A loop at a small eta mends that more often
    than it does it again; remasking until the end does it again."""
    table = random_table("absorbing", 2, 2, seed, coupling=1.5)
    states = table.noisy_states()
    clean = (states != table.noise.mask).all(1)

    def error(schedule: str, eta: float) -> float:
        law = (states == table.noise.mask).all(1).double()
        for k in range(16):
            law = law @ step_matrix(ReMDM(16, schedule, eta), table, k, states)
        return total_variation(law[clean], table.log_p.exp())

    assert error("loop", 0.05) < 0.7 * error("loop", 0.0)
    assert error("cap", 0.4) > 1.5 * error("cap", 0.0)


@pytest.mark.parametrize(
    "options", [{"schedule": "max"}, {"eta": 1.2}, {"on": 0.0}, {"off": 0.7}, {"held": 1.0}, {"steps": 0}]
)
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ValueError, match="remdm: "):
        ReMDM(**options)


def test_streams_are_one_a_row():
    """A row remasks by its own numbers, whatever else is in the batch."""
    model, reward, _ = world(12, 4)
    method = ReMDM(6, "conf", 1.0)
    runs = [Run(Problem(model, reward, torch.zeros(n, 12))) for n in (5, 2)]
    rngs = [Rng.seeded(1, torch.tensor(rows)) for rows in ([0, 1, 2, 3, 4], [4, 1])]
    states = [method.init(run, rng) for run, rng in zip(runs, rngs, strict=True)]
    for k in range(6):
        pairs = zip(runs, states, rngs, strict=True)
        states = [method.step(run, state, rng.fork(k))[0] for run, state, rng in pairs]
        assert torch.equal(states[0].x_t[[4, 1]], states[1].x_t)
