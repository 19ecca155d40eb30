"""Particle Gibbs, enumerated: sweeps leave P(path) P(samples | path) exp(r(x_0) / alpha) invariant, for the law P of
the base decoder that is really run.

The states are whole paths with the samples that they were weighed by; their law under the base decoder is enumerated
here step by step, without the method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from iterref import mtm
from iterref.decoding import Decoder, grid
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.moves import lookahead
from iterref.particles import Particles
from iterref.potentials import POTENTIALS, due, value_of
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers import particle_gibbs as module
from iterref.samplers.particle_gibbs import Held, Holding, ParticleGibbs
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.oracle import Enumerator, enumerate_outcomes, law_matrix, stationarity_error
from tests.support.paths import ALPHA, EXACT, base_paths, correlated, run_of
from tests.support.worlds import TableReward, random_reward, random_table

SCALE = 2**30


@dataclass(frozen=True)
class World:
    """A table, a reward, and a method whose sweeps are enumerated over all extended paths (P, *)."""

    table: Table
    reward: TableReward
    method: ParticleGibbs

    @property
    def steps_due(self) -> list[int]:
        """The steps whose samples a path keeps; a last clean sample that is followed is the path's end."""
        steps = self.method.steps - (not self.method.fresh)
        return [k for k in range(steps) if due(k, self.method.every)]

    def run(self, rows: int) -> Run:
        return run_of(self.table, self.reward, ALPHA, rows)

    def packed(self, held: Held) -> Tensor:
        """(B, *) long: the path, the samples that it followed, its values on a fine grid."""
        parts = [*held.path, *(held.samples[k][0] for k in self.steps_due if k in held.samples)]
        if self.method.fresh and len(held.values):
            parts.append((held.values.T * SCALE).round().long())
        return torch.cat(parts, 1)

    def paths(self) -> tuple[list[Held], Tensor, Tensor]:
        """All extended paths of the base decoder, one a row of a `Held`, their packed form and their law under P."""
        kept: list[Held] = []

        def run(start: Tensor, rng: Enumerator) -> Tensor:
            kept[:] = [self.one(len(start), rng)]
            return self.packed(kept[0])

        _, probability, result = enumerate_outcomes(run, 1)
        states, index = result.unique(dim=0, return_inverse=True)
        law = torch.zeros(len(states), dtype=torch.float64).index_add_(0, index, probability)
        first = torch.full((len(states),), len(index)).scatter_reduce(0, index, torch.arange(len(index)), "amin")
        return [_taken(kept[0], first)], states, law

    def one(self, rows: int, rng: Enumerator) -> Held:
        """A run of the base decoder with its samples, written without the method."""
        method, run, times = self.method, self.run(rows), grid(self.method.steps)
        x = run.prior(rng)
        path, samples, values = [x], {}, []
        for k in range(method.steps):
            scored = k in self.steps_due
            n = 1 + (method.x0_samples if scored and method.fresh else 0)
            where = run.undetermined(x, times[k])
            drawn, sure = run.draw(x, times[k], where, n, rng, method.decoder.confidence)
            if scored:
                looked = drawn[:-1] if method.fresh else drawn
                log_v = torch.stack([self.reward(x_0, run.rows) for x_0 in looked]) / ALPHA
                before = values[-1] if values else torch.zeros(rows, dtype=torch.float64)
                values.append(value_of(log_v) if method.fresh else torch.where(log_v[0].isneginf(), before, log_v[0]))
                if not method.fresh:
                    samples[k] = drawn[0], sure[0]
            x = method.decoder.reveal(run, x, drawn[-1], sure[-1], times[k], times[k + 1], rng)
            path.append(x)
        value = torch.stack(values) if values else torch.zeros(0, rows, dtype=torch.float64)
        return Held(torch.stack(path), samples, value, self.reward(x, run.rows))

    def matrix(self) -> tuple[Tensor, Tensor]:
        """The transition matrix of a sweep over all extended paths, and the tilted law that it should leave alone."""
        (every,), states, prior = self.paths()
        possible = every.reward.isfinite()
        every, states = _taken(every, possible.nonzero()[:, 0]), states[possible]
        law = prior[possible] * (every.reward / ALPHA).exp()

        def run(start: Tensor, rng: Enumerator) -> Tensor:
            held = _taken(every, start)
            shown = Particles.equal(held.path[-1:])
            state = Holding(1, 0.0, held.path[-1], held.path[-1], held.reward, shown, held)
            new, _ = self.method.step(self.run(len(start)), state, rng)
            assert isinstance(new, Holding) and new.particles.values is not None
            assert torch.equal(new.reward, self.reward(new.x_0, torch.zeros(len(start))))
            assert torch.equal(new.particles.values[:, 0], new.held.values)
            return self.packed(new.held)

        return law_matrix(*enumerate_outcomes(run, len(states)), states), law / law.sum()

    def error(self) -> float:
        matrix, law = self.matrix()
        assert float((matrix.sum(1) - 1).abs().max()) < EXACT
        return stationarity_error(law, matrix)


def _taken(held: Held, index: Tensor) -> Held:
    samples = {k: (x[index], sure[index]) for k, (x, sure) in held.samples.items()}
    return Held(held.path[:, index], samples, held.values[:, index], held.reward[index])


def one_token(kind: str, seed: int = 4, forbid: bool = False, **options: object) -> World:
    """One token of two: small enough for three steps of the reverse process."""
    table = random_table(kind, 1, 2, seed, coupling=1)
    return World(table, random_reward(1, 2, seed, forbid), ParticleGibbs(particles=2, **options))


def two_tokens(shown: str = "early", seed: int = 3, forbid: bool = False, **options: object) -> World:
    """Two correlated tokens, shown as `test_smc.SHOWN` says."""
    return World(*correlated(shown, seed, forbid), ParticleGibbs(particles=2, **options))


@pytest.mark.parametrize(
    "shown, order, potential",
    [
        *(("late", "left", potential) for potential in POTENTIALS),
        ("late", "confidence", "difference"),
        ("late", "margin", "difference"),
        ("together", "left", "max"),
        ("together", "confidence", "difference"),
    ],
)
def test_exact_for_correlated_tokens_in_any_order(shown, order, potential):
    """Following a clean sample that decides which token is shown next, or both of whose tokens are, drawn apart."""
    world_of = two_tokens(shown, steps=3, order=order, potential=potential)
    assert len(world_of.steps_due) == 1 and world_of.error() < EXACT


def test_exact_where_correlated_tokens_are_drawn_apart():
    """The reverse process in two steps, which may show both tokens at once; the last step is a choice of one."""
    assert two_tokens(steps=2).error() < EXACT
    assert two_tokens(steps=1, x0_samples=2).error() < EXACT


@pytest.mark.parametrize("potential", POTENTIALS)
def test_exact_for_the_reverse_process(potential):
    assert one_token("absorbing", steps=3, potential=potential).error() < EXACT


@pytest.mark.parametrize("x0_samples", [1, 2])
def test_exact_under_uniform_noise(x0_samples):
    assert one_token("uniform", steps=2, x0_samples=x0_samples).error() < EXACT


@pytest.mark.parametrize("potential", POTENTIALS)
def test_exact_with_several_clean_samples_a_particle(potential):
    """The held path's own clean sample competes with new ones, at the scored time and at the end."""
    assert one_token("absorbing", steps=3, order="left", x0_samples=2, potential=potential).error() < EXACT


@pytest.mark.parametrize("potential", POTENTIALS)
def test_exact_with_fresh_samples(potential):
    assert two_tokens(steps=2, order="left", fresh=True, potential=potential).error() < EXACT
    assert one_token("absorbing", steps=2, order="left", fresh=True, x0_samples=2, potential=potential).error() < EXACT


@pytest.mark.parametrize("potential", POTENTIALS)
def test_exact_with_ancestors_drawn_anew(potential):
    assert one_token("absorbing", steps=2, fresh=True, ancestors=True, potential=potential).error() < EXACT


def test_ancestors_drawn_anew_move_the_early_times():
    """What they are for: the noisy state in the middle of the path changes more often; and still exact."""
    moved = []
    for ancestors in (False, True):
        world_of = one_token("uniform", steps=2, fresh=True, ancestors=ancestors)
        matrix, law = world_of.matrix()
        middle = world_of.paths()[1][:, 1]
        moved.append(float((law[:, None] * matrix)[middle[:, None] != middle[None, :]].sum()))
        assert stationarity_error(law, matrix) < EXACT
    assert moved[1] > moved[0] + 0.005


@pytest.mark.parametrize("fresh", [False, True])
def test_exact_with_forbidden_texts(fresh):
    options = {"steps": 2, "fresh": True} if fresh else {"steps": 3, "shown": "late"}
    world_of = two_tokens(seed=5, forbid=True, order="left", **options)
    assert bool(world_of.reward.values.isneginf().any())
    assert world_of.error() < EXACT


def test_forbidden_samples_among_several_are_exact():
    table = random_table("absorbing", 1, 3, 2, coupling=1)
    reward = TableReward(torch.tensor([0.4, -torch.inf, -0.3], dtype=torch.float64))
    method = ParticleGibbs(3, "left", particles=2, x0_samples=2)
    assert World(table, reward, method).error() < EXACT


# Negative controls.


def wrong(**options: object) -> World:
    return two_tokens("late", steps=3, order="left", **options)


def test_a_best_end_is_detected(monkeypatch):
    """The end of the largest weight, in place of one by weight."""

    def best(log_w_current: Tensor, log_w: Tensor, rng: Enumerator) -> mtm.Verdict:
        choice = log_w.argmax(1)
        return mtm.Verdict(choice, log_w.amax(1) > log_w_current, torch.zeros_like(choice, dtype=torch.bool))

    monkeypatch.setattr(module.mtm, "metropolised", best)
    assert wrong().error() > 1e-2


def test_a_held_path_that_may_be_lost_is_detected(monkeypatch):
    """Slot 0 with a parent by weight, and the held path's later states all the same: two halves that do not belong."""

    def parent(particles: Particles, log_f: Tensor | None, potential: str, rng: Enumerator) -> Tensor:
        return rng.choose(particles.by_row)[None]

    monkeypatch.setattr(module, "_parent", parent)
    assert one_token("uniform", steps=2, fresh=True).error() > 1e-3


def test_a_forgotten_final_correction_is_detected(monkeypatch):
    right = lookahead.finished

    def uncorrected(particles, x_0, reward, log_v, potential):
        paid = right(particles, x_0, reward, log_v, potential)
        return replace(paid, log_w=log_v)

    monkeypatch.setattr(lookahead, "finished", uncorrected)
    assert wrong().error() > 1e-3


def test_values_estimated_again_are_detected(monkeypatch):
    """The held path's clean sample must travel with it: weighing it by a new one each sweep is not the same law."""
    right = ParticleGibbs._chosen

    def again(self, run, ahead, particles, held, k, rng):
        if held is None:
            return right(self, run, ahead, particles, held, k, rng)
        drawn = run.reward_of(ahead.draws[0, 0], False) / run.alpha
        values = held.values.clone()
        values[self._scored(k)] = drawn
        return right(self, run, ahead, particles, Held(held.path, held.samples, values, held.reward), k, rng)

    monkeypatch.setattr(ParticleGibbs, "_chosen", again)
    world_of = wrong()
    monkeypatch.setattr(World, "packed", lambda self, held: held.path.movedim(0, 1).flatten(1))
    assert world_of.error() > 1e-4


# A run.


def test_sweeps_approach_the_exact_law():
    """More sweeps, nearer to the tilted law's mean reward; a run reports its last sweep, the chosen path first."""
    model, reward, law = world(8, 4, 3, "absorbing", 0.5)
    problem = Problem(model, reward, torch.zeros(200, 8), alpha=0.5)
    means = []
    for sweeps in (1, 20):
        result = sample(sampler_from_string(f"particle_gibbs:sweeps={sweeps},particles=4,steps=8"), problem)
        means.append(float(result.rewards.mean()))
        assert torch.equal(result.particles.x_t[0], result.tokens)
        assert torch.equal(result.particles.reward[0], result.rewards)
    assert abs(means[1] - law.mean_reward()) < 0.5 * abs(means[0] - law.mean_reward())


def test_a_row_on_which_all_is_forbidden_goes_on():
    table = random_table("absorbing", 2, 2, 3, coupling=1)
    nowhere = TableReward(torch.full((2, 2), -torch.inf, dtype=torch.float64))
    for text in ("particle_gibbs:steps=3", "particle_gibbs:steps=3,fresh=true,ancestors=true,x0_samples=2"):
        result = sample(sampler_from_string(text), Problem(table, nowhere, torch.zeros(2, 2)))
        assert result.trace.stuck_rows() == [0, 1] and int(result.tokens.max()) <= 1


def test_the_best_text_seen_is_returned_where_asked():
    model, reward, _ = world(8, 4, 3, "absorbing")
    problem = Problem(model, reward, torch.zeros(5, 8), alpha=0.5)
    best = sample(sampler_from_string("particle_gibbs:objective=maximise"), problem)
    plain = sample(sampler_from_string("particle_gibbs"), problem)
    assert torch.equal(best.tokens, plain.best.tokens) and bool((best.rewards >= plain.rewards).all())


@pytest.mark.parametrize(
    "text, words",
    [
        ("particle_gibbs:particles=1", "particles must be at least 2"),
        ("particle_gibbs:potential=min", "potential must be one of"),
        ("particle_gibbs:ancestors=true", "ancestors=true needs fresh=true"),
        ("particle_gibbs:ancestors=true,fresh=true,order=left", "order=random"),
        ("particle_gibbs:ancestors=true,fresh=true,block_length=2", "block_length=0"),
    ],
)
def test_options_are_checked(text, words):
    with pytest.raises(ValueError, match=words):
        sampler_from_string(text)


def test_the_base_decoder_of_this_file_is_the_real_one():
    """`World.one` against the plain decoder: the same law of paths."""
    world_of = two_tokens(steps=2, order="confidence")
    paths, law = base_paths(world_of.table, world_of.reward, 2, Decoder("confidence"))
    _, states, mine = world_of.paths()
    assert torch.equal(states, paths.flatten(1)) and torch.allclose(mine, law, atol=EXACT, rtol=0)
