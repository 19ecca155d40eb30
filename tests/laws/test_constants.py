"""The constant of the tilted distribution, E_p[exp(r / alpha)], by every method whose results have particles: without
bias, or NaN where their weights do not estimate it."""

from __future__ import annotations

import pytest
import torch

from iterref.problem import Problem
from iterref.result import Result
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.worlds import chain, random_reward

ALPHA, ROWS, LENGTH = 0.7, 1500, 3
ESTIMATES = ["importance", "smc", "smc:fresh=true,potential=sum", "waste_free:decisions=1", "particle_gibbs:sweeps=1"]
NONE = [
    "growth:chains=2", "iterref:chains=3", "mtm:chains=2", "particle_gibbs:sweeps=2", "power:chains=2",
    "select_refine:keep=2", "tempering", "trajectory:chains=3",
]  # fmt: skip
TABLE, REWARD = chain("absorbing", LENGTH, 2, 5), random_reward(LENGTH, 2, 5)


def constant() -> float:
    states = TABLE.states()
    weights = TABLE.log_prob(states).exp() * (REWARD(states, states[:, 0] * 0) / ALPHA).exp()
    return float(weights.sum())


def run(text: str, rows: int = ROWS) -> Result:
    problem = Problem(TABLE, REWARD, torch.zeros(rows, LENGTH), alpha=ALPHA)
    return sample(sampler_from_string(text), problem, seed=1)


def z_of(found: Result) -> float:
    """By how many standard errors the mean of the estimates is off."""
    assert found.particles is not None
    z = found.particles.log_constant().exp()
    return abs(float(z.mean()) - constant()) / (float(z.std()) / len(z) ** 0.5)


@pytest.mark.parametrize("text", ESTIMATES)
def test_it_is_estimated_without_bias(text):
    assert z_of(run(f"{text},steps=3" if ":" in text else f"{text}:steps=3")) < 4


@pytest.mark.parametrize("text", NONE)
def test_it_is_not_stated_where_the_weights_do_not_say_it(text):
    particles = run(text, 8).particles
    assert particles is not None and bool(particles.log_constant().isnan().all()) and bool((particles.ess() > 0).all())


def test_a_held_path_makes_it_too_large(monkeypatch):
    """Why particle Gibbs states none: with the weights as they are, the last sweep is off by many errors."""
    monkeypatch.setattr("iterref.particles.Particles.without_constant", lambda particles: particles)
    assert z_of(run("particle_gibbs:particles=2,sweeps=4,steps=3")) > 8


def test_it_is_not_that_of_the_last_turn_alone():
    table = chain("uniform", 4, 2, 5)
    table.block_length = 2  # two turns
    problem = Problem(table, random_reward(4, 2, 5), torch.zeros(8, 4), alpha=ALPHA)
    found = sample("smc:steps=3", problem)
    assert found.asked.nfe == 2 * 8 * 3 and found.particles is not None
    assert bool(found.particles.log_constant().isnan().all())
