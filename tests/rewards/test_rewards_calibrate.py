"""Calibration: on pilots whose counts are proportional to p, the numbers are those of the enumerated distribution."""

from __future__ import annotations

from math import exp, inf, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref import generate
from iterref.rewards import Lexical, calibrate_alpha
from tests.support.bundled import tiny_news

COUNTS = st.lists(st.integers(20, 90), min_size=3, max_size=5)
REWARDS = st.lists(st.floats(-3, 3), min_size=3, max_size=5)


def tilted(counts: list[int], rewards: list[float], alpha: float) -> tuple[float, float]:
    """KL(pi || p) and E_pi[r], by enumeration."""
    p = np.array(counts) / sum(counts)
    weights = p * np.array([0 if value == -inf else exp((value - max(rewards)) / alpha) for value in rewards])
    pi = weights / weights.sum()
    kl = sum(b * log(b / a) for a, b in zip(p, pi, strict=True) if b > 0)
    return kl, float(sum(b * value for b, value in zip(pi, rewards, strict=True) if b > 0))


def pilot_of(counts: list[int], rewards: list[float]) -> list[float]:
    return [value for count, value in zip(counts, rewards, strict=True) for _ in range(count)]


@settings(max_examples=20, deadline=None)
@given(COUNTS, REWARDS, st.floats(0.2, 5), st.booleans())
def test_the_alpha_is_that_of_the_enumerated_distribution(
    counts: list[int], rewards: list[float], alpha: float, forbid: bool
) -> None:
    size = min(len(counts), len(rewards))
    counts, rewards = counts[:size], [round(value, 1) + 1e-3 * i for i, value in enumerate(rewards[:size])]
    if forbid:
        rewards[0] = -inf
    kl, reward = tilted(counts, rewards, alpha)
    pilot = pilot_of(counts, rewards)
    if kl - tilted(counts, rewards, 1e9)[0] < 1e-7:
        return  # too flat to tell
    for found in (
        calibrate_alpha(pilot, kl=kl),
        calibrate_alpha(torch.tensor(pilot, dtype=torch.float64), reward=reward),
    ):
        # the bisection stops at 1e-13 in log alpha; a flat level pins alpha down less than its own digits
        assert tilted(counts, rewards, found.alpha) == pytest.approx((kl, reward), abs=1e-9)
        assert (found.kl, found.reward) == pytest.approx((kl, reward), abs=1e-9)
        assert found.samples == len(pilot) and 10 <= found.ess <= len(pilot)


def test_the_effective_size_by_hand() -> None:
    found = calibrate_alpha([0.0] * 60 + [1.0] * 40, reward=0.8)
    weight = exp(1 / found.alpha)
    assert 40 * weight / (60 + 40 * weight) == pytest.approx(0.8)
    assert found.ess == pytest.approx((60 + 40 * weight) ** 2 / (60 + 40 * weight**2))
    assert "estimated from 100 samples that are worth" in str(found)


def test_prompts_have_distributions_of_their_own() -> None:
    one, two = [0.0] * 50 + [1.0] * 50, [10.0] * 50 + [11.0] * 50
    alone = calibrate_alpha(one, kl=0.2)
    both = calibrate_alpha([one, two], kl=0.2)
    assert both.alpha == pytest.approx(alone.alpha) and both.reward == pytest.approx(alone.reward + 5)
    mixed = [value for pair in zip(one, two, strict=True) for value in pair]
    listed = calibrate_alpha(mixed, kl=0.2, rows=["p", "q"] * 100)
    assert listed == both
    assert listed.samples == 100 and listed.ess == pytest.approx(alone.ess)
    # negative control: as one distribution, the difference between the prompts would pass for the reward's spread
    assert calibrate_alpha(mixed, kl=0.2).alpha > 3 * alone.alpha


def test_a_large_spread_does_not_overflow() -> None:
    found = calibrate_alpha([-1e6 * i for i in range(200)], kl=1.0)
    assert found.kl == pytest.approx(1.0) and found.alpha > 1e6


def test_what_a_pilot_cannot_support_is_refused() -> None:
    pilot = np.random.default_rng(0).normal(size=200)
    with pytest.raises(ValueError, match=r"supports a KL up to .* are worth 10\), not 6: draw more"):
        calibrate_alpha(pilot, kl=6.0)
    with pytest.raises(ValueError, match="supports a mean reward up to"):
        calibrate_alpha(pilot, reward=float(pilot.max()))
    assert calibrate_alpha(pilot, kl=3.0, least=5).ess < 10
    with pytest.raises(ValueError, match="has mean reward .* without guidance: ask for more"):
        calibrate_alpha(pilot, reward=float(pilot.mean()) - 0.1)
    with pytest.raises(ValueError, match="has KL 0.6931 without guidance, by what is forbidden alone,"):
        calibrate_alpha([-inf] * 50 + [0.0] * 25 + [1.0] * 25, kl=0.5)
    with pytest.raises(ValueError, match="has 5 allowed samples a prompt: draw more than 10"):
        calibrate_alpha([1.0, 2.0, 3.0, 4.0, 5.0], kl=0.1)
    # the whole weight on the ties at the top: as far as any alpha goes, and the pilot knows it
    with pytest.raises(ValueError, match="supports a KL up to 0.6931"):
        calibrate_alpha([0.0] * 50 + [1.0] * 50, kl=0.7)


def test_mistakes_are_named() -> None:
    for options in ({}, {"kl": 1.0, "reward": 1.0}):
        with pytest.raises(ValueError, match="give one wanted level"):
            calibrate_alpha([0.0, 1.0], **options)
    with pytest.raises(ValueError, match="finite number, got nan"):
        calibrate_alpha([0.0, 1.0], kl=float("nan"))
    with pytest.raises(ValueError, match="all rewards of the pilot are equal"):
        calibrate_alpha([1.0] * 50, kl=0.1)
    with pytest.raises(ValueError, match="samples of prompt 1 in the pilot are forbidden"):
        calibrate_alpha([[0.0, 1.0], [-inf, -inf]], kl=0.1)
    with pytest.raises(ValueError, match=r"3 rows for a pilot of shape \(2,\)"):
        calibrate_alpha([0.0, 1.0], kl=0.1, rows=[0, 1, 1])
    with pytest.raises(ValueError, match=r"shape \(1, 1, 2\)"):
        calibrate_alpha([[[0.0, 1.0]]], kl=0.1)


def test_a_pilot_run_end_to_end() -> None:
    prompts = ["police arrested a man in the city on monday after a long chase ."] * 24
    reward = Lexical(words=(None, 6), hard=False)
    pilot = generate(tiny_news(), prompts, reward=reward, sampler="ancestral:steps=4", seed=0)
    found = calibrate_alpha(pilot, kl=0.3)
    assert found.kl == pytest.approx(0.3) and found.reward > float(pilot.rewards.mean())
    guided = generate(tiny_news(), prompts[:2], reward=reward, sampler="best_of_n:n=2,steps=4", alpha=found.alpha)
    with pytest.raises(ValueError, match="pilot was guided"):
        calibrate_alpha(guided, kl=0.3)
