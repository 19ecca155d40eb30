"""Waste-free SMC, enumerated: unbiased where the shared kernel is exact, as `test_smc` puts it, and seen where not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iterref.budget import Budget, fit_budget
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.moves.renoise import Excursion
from iterref.moves.shared import Candidates, Shared
from iterref.noise import Schedule, uniform
from iterref.particles import Particles, adopt
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Paired
from iterref.samplers.strings import sampler_from_string
from iterref.samplers.waste_free import WasteFree
from iterref.sampling import sample
from tests.support.paths import ALPHA, EXACT, measure
from tests.support.worlds import TableReward, random_reward, random_table


def error(method: WasteFree, table: Table, reward: TableReward) -> float:
    states = table.states()
    law = table.log_p.exp() * (reward(states, torch.zeros(len(states))) / ALPHA).exp()
    return float((measure(method, table, reward)[0] - law).abs().max())


def one_token(kind: str = "absorbing", forbid: bool = False) -> tuple[Table, TableReward]:
    return random_table(kind, 1, 2, 3, coupling=1), random_reward(1, 2, 3 + 2 * forbid, forbid)


def method(**options: object) -> WasteFree:
    return WasteFree(**({"steps": 2, "chains": 1, "moves": 1, "tries": 1, "decisions": 1} | options))


@pytest.mark.parametrize("cooling", ["linear", "geometric"])
@pytest.mark.parametrize("spacing", [0, 2])
def test_unbiased_down_the_grid(cooling, spacing):
    """Moves at t = 1/2 and on the finished text, each for its own target."""
    assert error(method(cooling=cooling, spacing=spacing), *one_token()) < EXACT


@pytest.mark.parametrize("options", [dict(chains=2), dict(moves=2), dict(tries=2), dict(resampling="residual")])
def test_unbiased_with_several_chains_moves_and_tries(options):
    assert error(method(steps=1, span=1.0, **options), *one_token()) < EXACT


@pytest.mark.parametrize("resampling", ["systematic", "stratified", "residual", "multinomial"])
def test_unbiased_under_uniform_noise(resampling):
    """The finished text is moved by its leave-one-out law there, and noisy states by independent renewal."""
    assert error(method(steps=1, chains=2, resampling=resampling), *one_token("uniform")) < EXACT
    if resampling == "systematic":
        assert error(method(steps=2, spacing=0), *one_token("uniform")) < EXACT


def test_a_schedule_that_ends_before_noise_alone_is_a_bias():
    """It begins with pure noise, and the model takes that for the noise of the last time: a_1 = 0 is needed."""
    table, reward = one_token("uniform")
    cosine, early = (Table(table.log_p, uniform(2, Schedule(*of))) for of in (("cosine",), ("log-linear", 0.1)))
    assert error(method(steps=1), cosine, reward) < EXACT
    assert error(method(steps=1), early, reward) > 1e-4


def test_unbiased_for_a_factorised_law_and_several_decisions():
    table, reward = random_table("absorbing", 2, 2, 3, coupling=0), random_reward(2, 2, 3)
    for options in (dict(spacing=0, span=1.0), dict(spacing=0, span=1.0, decisions=2), dict(spacing=2, span=0.5)):
        assert error(method(steps=1, **options), table, reward) < EXACT


def test_hard_constraints_are_enforced_and_exact():
    table = random_table("absorbing", 1, 3, 3, coupling=1)
    reward = TableReward(torch.tensor([0.4, -torch.inf, -0.3], dtype=torch.float64))
    assert error(method(), table, reward) < EXACT
    nowhere = TableReward(torch.full((3,), -torch.inf, dtype=torch.float64))
    drawn, z = measure(method(), table, nowhere)
    assert float(z) == 0 and not bool(drawn.isnan().any())


# Negative controls.


def test_a_correlated_law_drawn_apart_is_detected():
    """The shared kernel's documented condition: two tied tokens opened at once are not exact; one at a time is."""
    table, reward = random_table("absorbing", 2, 2, 3, coupling=1.5), random_reward(2, 2, 3)
    assert error(method(steps=1, spacing=0, span=1.0), table, reward) > 1e-2


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_a_wrong_weight_is_detected(power, monkeypatch):
    """Weights that forget the reward, or count it twice."""
    right = Particles.weighed
    monkeypatch.setattr(Particles, "weighed", lambda self, log_g: right(self, power * log_g))
    assert error(method(), *one_token()) > 1e-2


def test_a_kernel_for_another_target_is_detected(monkeypatch):
    """Moves at the last temperature while the particles are still at a weaker one."""
    right = WasteFree._moved
    monkeypatch.setattr(WasteFree, "_moved", lambda self, run, *rest: right(self, run, *rest[:2], run.alpha, rest[3]))
    assert error(method(), *one_token()) > 1e-3


def test_keeping_accepted_states_alone_is_detected(monkeypatch):
    """All states of a chain count, repeats too: leaving a rejected move's repeat out is another law."""

    class Insistent(Shared):
        """Moves again where the first move was refused, and forgets that it was."""

        def propose(self, run: Run, state: Paired, trip: Excursion, rng: Rng) -> tuple[Candidates, Candidates]:
            return super().propose(run, state, trip, rng), super().propose(run, state, trip, rng)

        def decide(
            self, run: Run, state: Paired, new: tuple[Candidates, Candidates], alpha: float, rng: Rng
        ) -> tuple[Paired, Info]:
            (first, info), (again, _) = (super(Insistent, self).decide(run, state, one, alpha, rng) for one in new)

            def either(name: str) -> Tensor:
                return adopt(info.accepted > 0, getattr(first, name), getattr(again, name))

            return replace(first, x_t=either("x_t"), x_0=either("x_0"), reward=either("reward")), info

    assert error(method(steps=1, span=1.0), *one_token()) < EXACT
    kernel = property(lambda self: Insistent(self.tries, self.decisions, self.spacing))
    monkeypatch.setattr(WasteFree, "kernel", kernel)
    assert error(method(steps=1, span=1.0), *one_token()) > 1e-3


# A run.


def test_the_ladder_rises_to_one():
    for cooling in ("linear", "geometric"):
        weak = {"weak": 0.01} if cooling == "geometric" else {}
        ladder = [method(steps=5, cooling=cooling, **weak).strength(k) for k in range(6)]
        assert ladder[0] == 0 and ladder[-1] == 1 and ladder == sorted(set(ladder))


def test_all_states_of_the_chains_go_on():
    model, reward, _ = world(8, 4, 3, "absorbing")
    problem = Problem(model, reward, torch.zeros(5, 8), alpha=0.5)
    result = sample(sampler_from_string("waste_free:steps=3,chains=2,moves=4"), problem)
    assert result.particles.n == 10 and result.particles.x_t.shape == (10, 5, 8)
    assert torch.equal(result.particles.reward, reward(result.particles.x_0.flatten(0, 1), torch.zeros(50)).view(10, 5))
    assert bool((result.particles.x_t == result.tokens).all(2).any(0).all())
    assert result.particles.log_w.eq(0).all() and result.particles.log_z.ne(0).all()
    accepted = result.trace.table()["accepted"]
    assert accepted.shape == (3, 5) and bool((accepted > 0).any()) and bool((accepted <= 1).all())


def test_more_moves_are_nearer_to_the_exact_law():
    model, reward, law = world(24, 8, 1, "absorbing", 0.5)
    problem = Problem(model, reward, torch.zeros(48, 24), alpha=0.5)
    short, long = (sample(sampler_from_string(f"waste_free:chains=2,moves={moves}"), problem) for moves in (1, 16))
    off = [abs(float(result.rewards.mean()) - law.mean_reward()) for result in (short, long)]
    assert off[1] < 0.5 * off[0]
    best = sample(sampler_from_string("waste_free:chains=2,moves=1,objective=maximise"), problem)
    assert torch.equal(best.rewards, short.best.reward) and bool((best.rewards >= short.rewards).all())


def test_a_budget_buys_longer_chains_and_a_bound_on_depth_more_of_them():
    fitted = fit_budget(sampler_from_string("waste_free:steps=4,chains=4"), 256)
    assert (fitted.moves, fitted.chains, fitted.cost().nfe) == (15, 4, 244)
    fitted = fit_budget(sampler_from_string("waste_free:steps=4,chains=4"), Budget(256, depth=20))
    assert (fitted.moves, fitted.chains, fitted.cost().depth) == (4, 15, 17)


@pytest.mark.parametrize(
    "text, words",
    [
        ("waste_free:moves=0", "moves must be at least 1"),
        ("waste_free:cooling=slow", "cooling must be one of linear, geometric"),
        ("waste_free:span=0.0", "span lies in"),
        ("waste_free:cooling=geometric,weak=1.0", "weak in"),
        ("waste_free:resampling=none", "resampling must be one of"),
    ],
)
def test_options_are_checked(text, words):
    with pytest.raises(ValueError, match=words):
        sampler_from_string(text)
