"""Importance sampling and SMC, enumerated: for the law P of the base decoder that is really run,

    E[Z^ 1(the drawn particle is s)]  =  P(s) exp(r(s) / alpha)      for every text s,

which says that Z^ and all weighted means are unbiased, and that the choice goes by the weights.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iterref import mtm, resample
from iterref.decoding import Decoder
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.moves.lookahead import Ahead, Choice, follow, log_step, look, onward, own, scored
from iterref.particles import Particles, pick
from iterref.potentials import POTENTIALS, difference, due, maximum, spent, times_due, total, value_of
from iterref.problem import Problem
from iterref.random import Rng
from iterref.rewards import with_partial
from iterref.run import Run
from iterref.samplers import smc as module
from iterref.samplers.smc import SMC
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.oracle import Enumerator, enumerate_outcomes
from tests.support.paths import ALPHA, EXACT, base_paths, correlated, measure, run_of
from tests.support.worlds import TableReward, noise_of, random_reward, random_table

INF = float("inf")


def expected(method: SMC, table: Table, reward: TableReward) -> Tensor:
    """P(s) exp(r(s) / alpha) of every text, for the law P of the decoder's own steps."""
    paths, prior = base_paths(table, reward, method.steps, method.decoder)
    law = torch.zeros(len(table.states()), dtype=torch.float64).index_add_(0, table.index(paths[:, -1]), prior)
    return law * (reward(table.states(), torch.zeros(len(law))) / ALPHA).exp()


def error(method: SMC, table: Table, reward: TableReward) -> float:
    return float((measure(method, table, reward)[0] - expected(method, table, reward)).abs().max())


def one_token(kind: str, seed: int = 3, forbid: bool = False) -> tuple[Table, TableReward]:
    return random_table(kind, 1, 2, seed, coupling=1), random_reward(1, 2, seed, forbid)


@pytest.mark.parametrize("resampling", resample.SCHEMES)
@pytest.mark.parametrize("potential", POTENTIALS)
def test_smc_is_unbiased_for_every_scheme_and_potential(resampling, potential):
    """Following a clean sample, and going on from fresh ones; always resampled."""
    options = dict(order="left", particles=2, potential=potential, threshold=1.0, resampling=resampling)
    assert error(SMC(3, **options), *correlated()) < EXACT
    assert error(SMC(2, fresh=True, **options), *correlated("early")) < EXACT
    assert error(SMC(2, value="mode", **options), *correlated("early")) < EXACT


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("order", ["left", "confidence"])
def test_smc_is_unbiased_whatever_values_unfinished_states_have(order, potential):
    """Values that know nothing of the reward, and values that forbid the state of an allowed text."""
    table, reward = correlated("early")
    states = with_partial(reward, lambda tokens, masked, rows: 2.0 * tokens[:, 0] - masked.sum(1))
    method = SMC(2, order, particles=2, threshold=1.0, potential=potential, value="partial")
    assert float((measure(method, table, states)[0] - expected(method, table, reward)).abs().max()) < EXACT
    forbidding = with_partial(reward, lambda tokens, masked, rows: torch.where(tokens[:, 0] == 1, -INF, 0.5))
    assert float((measure(method, table, forbidding)[0] - expected(method, table, reward)).abs().max()) < EXACT


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy", "bounded"])
@pytest.mark.parametrize("threshold", [0.0, 0.75, 1.0])
def test_smc_is_unbiased_for_the_decoder_that_is_run(order, threshold):
    """A law of decoding that is not the model's, with and without resampling, and where the rows decide it."""
    options = dict(order=order, particles=2, threshold=threshold) | (dict(bound=0.4) if order == "bounded" else {})
    assert error(SMC(3, **options), *correlated()) < EXACT
    assert error(SMC(2, fresh=True, **options), *correlated("early")) < EXACT


@pytest.mark.parametrize("order", ["left", "confidence"])
def test_smc_is_unbiased_for_correlated_tokens_that_are_drawn_apart(order):
    """Both tokens shown at once: what is run is a product of marginals, and its tilted law is what comes out."""
    table, reward = correlated("together")
    method = SMC(3, order, particles=2, threshold=1.0)
    law = expected(method, table, reward)
    model = table.log_p.exp() * (reward(table.states(), torch.zeros(4)) / ALPHA).exp()
    assert error(method, table, reward) < EXACT and float((law - model).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
@pytest.mark.parametrize("potential", POTENTIALS)
def test_smc_is_unbiased_for_the_reverse_process_under_both_noises(kind, potential):
    options = dict(particles=2, threshold=1.0, potential=potential)
    assert error(SMC(3, **options), *one_token("absorbing")) < EXACT
    assert error(SMC(2, fresh=True, **options), *one_token(kind)) < EXACT
    assert error(SMC(2, value="mode", **options), *one_token(kind)) < EXACT


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("x0_samples, every", [(1, 1), (2, 1), (1, 2)])
def test_several_clean_samples_and_several_scored_times(potential, x0_samples, every):
    """One token that is hidden until the second of three steps. Of two clean samples, one is chosen and paid for."""
    options = dict(order="left", particles=2, threshold=1.0, potential=potential, x0_samples=x0_samples, every=every)
    assert error(SMC(3, **options), *one_token("absorbing")) < EXACT
    assert error(SMC(3, fresh=True, **options), *one_token("absorbing")) < EXACT


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("fresh", [False, True])
def test_forbidden_clean_samples_are_neutral_and_forbidden_texts_die(potential, fresh):
    """A third of the texts at -inf: no NaN, no bias, and none of them is ever drawn with a positive weight."""
    table, reward = correlated("early" if fresh else "late", 5, forbid=True)
    assert bool(reward.values.isneginf().any())
    method = SMC(2 if fresh else 3, "left", particles=2, potential=potential, threshold=1.0, fresh=fresh)
    assert error(method, table, reward) < EXACT
    drawn = measure(method, table, reward)[0]
    assert float(drawn[reward(table.states(), torch.zeros(4)).isneginf()].sum()) == 0


@pytest.mark.parametrize("fresh", [False, True])
def test_one_forbidden_clean_sample_of_two_is_neutral(fresh):
    table = random_table("absorbing", 1, 3, 2, coupling=1)
    reward = TableReward(torch.tensor([0.4, -torch.inf, -0.3], dtype=torch.float64))
    method = SMC(3 - fresh, "left", particles=2 - fresh, x0_samples=2, threshold=1.0, fresh=fresh)
    assert error(method, table, reward) < EXACT


def test_where_everything_is_forbidden_z_is_zero():
    table, _ = correlated()
    reward = TableReward(torch.full((2, 2), -torch.inf, dtype=torch.float64))
    for text in ("smc:particles=2,steps=2,order=left", "importance:n=2,steps=2,order=left"):
        drawn, z = measure(sampler_from_string(text), table, reward)
        assert float(z) == 0 and not bool(drawn.isnan().any())
    for text in ("smc:particles=3", "smc:particles=3,x0_samples=2,fresh=true,potential=sum"):
        result = sample(sampler_from_string(text), Problem(table, reward, torch.zeros(2, 2)))
        assert bool(result.particles.log_constant().isneginf().all()) and result.trace.stuck_rows() == [0, 1]
        assert result.tokens.max() <= 1  # a finished text all the same


@pytest.mark.parametrize("order", ["left", "confidence"])
def test_importance_is_unbiased_and_is_smc_that_never_resamples(order):
    table, reward = correlated()
    method = sampler_from_string(f"importance:n=2,steps=2,order={order}")
    assert error(method, table, reward) < EXACT
    for fresh in (False, True):
        once = measure(SMC(2, order, particles=2, threshold=0.0, fresh=fresh), table, reward)[0]
        assert torch.allclose(once, measure(method, table, reward)[0], atol=EXACT, rtol=0)


def test_importance_maximises_as_best_of_n_does():
    model, reward, _ = world(8, 4, 3, "absorbing")
    problem = Problem(model, reward, torch.zeros(5, 8), alpha=0.5)
    best, same = (
        sample(sampler_from_string("best_of_n:n=6"), problem),
        sample(sampler_from_string("importance:n=6,objective=maximise"), problem),
    )
    other = sample(sampler_from_string("importance:n=6"), problem)
    assert torch.equal(best.tokens, same.tokens) and torch.equal(best.rewards, same.rewards)
    assert torch.equal(best.rewards, other.best.reward) and not torch.equal(best.rewards, other.rewards)
    assert torch.allclose(other.particles.log_w, other.particles.reward / 0.5)


# Negative controls: each a wrong method built from the right one, and the same measure sees it.


def steered(**options: object) -> float:
    return error(SMC(3, "left", particles=2, **({"threshold": 1.0} | options)), *correlated())


@pytest.mark.parametrize("potential", POTENTIALS)
def test_a_missing_correction_is_detected(potential, monkeypatch):
    """Steered by the values and never paid back; or paid twice, the whole reward on top of what was spent."""
    assert steered(potential=potential) < EXACT

    def kept(particles: Particles, x_0: Tensor, reward: Tensor, log_v: Tensor, potential: str) -> Particles:
        return replace(particles, x_t=x_0, x_0=x_0, reward=reward)

    def twice(particles: Particles, x_0: Tensor, reward: Tensor, log_v: Tensor, potential: str) -> Particles:
        return kept(particles, x_0, reward, log_v, potential).weighed(log_v)

    for wrong in (kept, twice):
        monkeypatch.setattr(module.lookahead, "finished", wrong)
        assert steered(potential=potential) > 1e-2


def test_greedy_resampling_is_detected(monkeypatch):
    """The best particle for all slots, in place of parents by weight."""

    def greedy(log_w: Tensor, rng: Rng, n: int | None = None) -> Tensor:
        return log_w.argmax(1)[:, None].expand(log_w.shape)

    monkeypatch.setitem(module.SCHEMES, "systematic", greedy)
    assert steered() > 1e-2


def test_weights_that_start_again_without_resampling_are_detected(monkeypatch):
    monkeypatch.setattr(Particles, "take", lambda self, parents, rows: replace(self, log_w=0 * self.log_w))
    assert steered(threshold=0.75) > 1e-2


def test_a_choice_that_is_not_paid_for_is_detected(monkeypatch):
    """The best-looking of two clean samples is followed, and the particle weighed as if there had been no choice."""
    one = one_token("absorbing")
    method = SMC(3, "left", particles=2, x0_samples=2, threshold=1.0)
    assert error(method, *one) < EXACT

    def free(ahead: Ahead, log_v: Tensor, rng: Rng, held: bool = False) -> Choice:
        return replace(follow(ahead, log_v, rng, held), gain=0 * log_v[0])

    monkeypatch.setattr(module.lookahead, "follow", free)
    assert error(method, *one) > 1e-2


def test_a_clean_sample_that_pays_and_is_chosen_among_the_fresh_is_detected(monkeypatch):
    """Fresh: each child goes on from the best of two clean samples, in place of one that nobody looked at."""

    def best(run: Run, ahead: Ahead, *rest: object) -> Tensor:
        if ahead.later is None:
            return onward(run, ahead, *rest)
        drawn = ahead.later.of(torch.arange(ahead.x_t[..., 0].numel()), 2)
        draws, sure = (of.unflatten(1, ahead.x_t.shape[:2]) for of in drawn)
        top = scored(run, draws, final=False).argmax(0, keepdim=True)[..., None].expand(-1, -1, -1, draws.shape[-1])
        chosen = replace(ahead, draws=draws.gather(0, top), sure=sure.gather(0, top), later=None)
        return onward(run, chosen, *rest)

    assert error(SMC(2, "left", particles=2, threshold=1.0, fresh=True), *correlated("early")) < EXACT
    monkeypatch.setattr(module.lookahead, "onward", best)
    assert error(SMC(2, "left", particles=2, threshold=1.0, fresh=True), *correlated("early")) > 1e-2


# The pieces.


def log(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_potentials_are_their_formulas():
    values = log(1.0, -2.0, 3.0, 2.5)[:, None]
    assert torch.equal(difference(values)[:, 0], log(1.0, -3.0, 5.0, -0.5))
    assert torch.equal(maximum(values)[:, 0], log(1.0, 1.0, 3.0, 3.0))
    assert torch.equal(total(values)[:, 0], log(1.0, -1.0, 2.0, 4.5))
    assert float(spent(difference(values))) == 2.5  # the last value is all that was spent


def test_a_forbidden_value_adds_nothing():
    values = log(-INF, 2.0, -INF, 5.0)
    assert torch.equal(difference(values), log(0.0, 2.0, 0.0, 3.0))
    assert torch.equal(maximum(values), log(0.0, 2.0, 2.0, 5.0))
    assert torch.equal(total(values), log(0.0, 2.0, 2.0, 7.0))
    for potential in POTENTIALS.values():
        assert potential(values[:0]).shape == (0,) and float(spent(potential(values[:0]))) == 0
        assert bool(potential(values[None].expand(3, 4) - INF).eq(0).all())


def test_a_value_is_the_log_of_the_mean_weight():
    log_v = torch.randn(3, 2, 4, dtype=torch.float64)
    assert torch.allclose(value_of(log_v), log_v.exp().mean(0).log())
    assert torch.equal(value_of(log_v[:1]), log_v[0])  # a single clean sample, to the bit
    assert float(value_of(log(-INF, -INF)[:, None])) == -INF


def test_scored_times():
    for steps in range(1, 9):
        for every in range(1, 9):
            assert sum(due(k, every) for k in range(steps)) == times_due(steps, every)
    assert not due(0, 1)


@pytest.mark.parametrize("kind, length", [("absorbing", 2), ("uniform", 2)])
@pytest.mark.parametrize("t, u", [(1.0, 0.5), (0.6, 0.2), (0.5, 0.0)])
def test_the_step_has_the_closed_form(kind, length, t, u):
    """`log_step` against every outcome of one step of the reverse process, from every possible state."""
    table = random_table(kind, length, 2, 4, coupling=1.5)
    states, reward = table.noisy_states(), random_reward(length, 2, 4)
    pairs = torch.cartesian_prod(torch.arange(len(states)), torch.arange(len(states)))
    every = Run(Problem(table, reward, torch.zeros(len(pairs), length), remember=False))
    x_t, x_u = states[pairs[:, 0]], states[pairs[:, 1]]
    where = x_t == table.noise.mask if kind == "absorbing" else torch.ones_like(x_t, dtype=torch.bool)
    closed = log_step(every, every.predict(x_t, t, where), where, x_t, x_u, t, u).exp()

    def outcome(start: Tensor, rng: Enumerator) -> Tensor:
        run = run_of(table, reward, 1.0, len(start))
        ahead = look(run, states[start][None], t, 1, Decoder(), rng)
        return onward(run, ahead, own(Particles.equal(ahead.x_t)), t, u, Decoder(), rng)[0]

    start, probability, result = enumerate_outcomes(outcome, len(states))
    stride = noise_of(kind, 2).vocab ** torch.arange(length - 1, -1, -1)
    law = torch.zeros(len(states), len(states), dtype=torch.float64)
    law.index_put_((start, (result * stride).sum(1)), probability, accumulate=True)
    assert torch.allclose(law.flatten(), closed, atol=EXACT, rtol=0)


def test_children_of_one_parent_go_on_from_different_draws_or_share_the_only_one():
    model, reward, _ = world(8, 4, 3, "absorbing")
    run, rng = Run(Problem(model, reward, torch.zeros(2, 8))), Rng.seeded(1, 2)
    x = torch.full((3, 2, 8), model.noise.mask)
    ahead = look(run, x, 1.0, 5, Decoder(), rng)
    assert ahead.draws.shape == ahead.sure.shape == (5, 3, 2, 8)
    fresh, parents = ahead.after(2), torch.zeros(3, 2, dtype=torch.long)
    twins = onward(run, fresh, parents, 1.0, 0.0, Decoder(), rng)
    assert torch.equal(twins, fresh.draws[:, 0]) and not torch.equal(twins[0], twins[1])
    log_v = log(0, 900, 0, 0, 0)[:, None, None].expand(5, 3, 2)
    followed = follow(ahead, log_v, rng)
    assert bool((followed.index == 1).all()) and torch.equal(followed.ahead.draws[0], ahead.draws[1])
    assert torch.allclose(followed.gain, -log(5.0).log().expand(3, 2))
    both = onward(run, followed.ahead, parents, 1.0, 0.5, Decoder(), rng)
    shown = both != model.noise.mask
    assert torch.equal(both[shown], ahead.draws[1, 0].expand(3, 2, 8)[shown])
    assert not torch.equal(shown[0], shown[1])  # one clean sample, shown by coins of their own


def test_smc_steers_and_reports_its_particles():
    """More reward than plain importance sampling with as many particles, and most where clean samples are followed."""
    model, reward, law = world(24, 8, 1, "absorbing", 0.5)
    problem = Problem(model, reward, torch.zeros(32, 24), alpha=0.5)
    run, plain = (
        sample(sampler_from_string("smc:particles=16,x0_samples=4"), problem),
        sample(sampler_from_string("importance:n=16"), problem),
    )
    fresh = sample(sampler_from_string("smc:particles=16,x0_samples=4,fresh=true"), problem)
    assert float(run.rewards.mean()) > float(fresh.rewards.mean()) > float(plain.rewards.mean()) + 0.5
    particles = run.particles
    assert particles.n == 16 and particles.values.shape == (6, 16, 32)
    assert float(particles.log_constant().mean()) < law.log_normaliser  # Jensen: unbiased is low in the log
    best = sample(sampler_from_string("smc:particles=16,x0_samples=4,objective=maximise"), problem)
    assert torch.equal(best.rewards, run.best.reward) and bool((best.rewards >= particles.reward.amax(0)).all())


def test_a_row_resamples_for_itself():
    """The threshold is a row's own: its particles are the same alone and beside others."""
    model, reward, _ = world(12, 4, 3, "absorbing", 0.5)
    whole = sample(
        sampler_from_string("smc:particles=5,x0_samples=2"), Problem(model, reward, torch.zeros(7, 12), alpha=0.5)
    )
    for row in (0, 6):
        alone = sample(
            sampler_from_string("smc:particles=5,x0_samples=2"),
            Problem(model, reward, torch.zeros(1, 12), alpha=0.5),
            rows=[row],
        )
        assert torch.equal(alone.particles.log_w[:, 0], whole.particles.log_w[:, row])
        assert torch.equal(alone.particles.log_z[0], whole.particles.log_z[row])
        assert torch.equal(alone.particles.x_t[:, 0], whole.particles.x_t[:, row])


@pytest.mark.parametrize(
    "text, words",
    [
        ("smc:potential=min", "potential must be one of difference, max, sum"),
        ("smc:resampling=branching", "resampling must be one of systematic"),
        ("smc:objective=both", "objective must be one of sample, maximise"),
        ("smc:threshold=1.5", "threshold is a share"),
        ("smc:every=0", "every must be at least 1"),
        ("smc:x0_samples=0", "x0_samples must be at least 1"),
        ("importance:objective=best", "objective must be one of sample, maximise"),
    ],
)
def test_options_are_checked(text, words):
    with pytest.raises(ValueError, match=words):
        sampler_from_string(text)


def test_the_drawn_particle_is_one_of_them():
    only = log(0, -INF, -INF, 0, -INF, -INF).view(3, 2)
    particles = replace(Particles.equal(torch.arange(6).view(3, 2, 1)), log_w=only)
    choice = mtm.select(particles.by_row, Rng.seeded(0, 2)).choice
    assert pick(particles.x_t, choice)[:, 0].tolist() == [0, 3]
