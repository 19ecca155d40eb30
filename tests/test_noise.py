"""Noise against brute-force Bayes: every closed form is a sum over q(x_t | x_0) and q(x_s | x_t) written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.noise import SCHEDULES, Noise, Schedule, absorbing, uniform
from iterref.random import Rng
from tests.support.oracle import Enumerator, enumerate_outcomes

PROCESSES = {
    "absorbing": absorbing(4),
    "mask first": absorbing(3, mask=0),
    "uniform": uniform(3),
    "skewed": Noise(torch.tensor([0.6, 0.3, 0.1])),
    "with a hole": Noise(torch.tensor([0.7, 0.0, 0.3])),
}
names = st.sampled_from(sorted(PROCESSES))
shares = st.sampled_from([0.0, 1.0]) | st.floats(0.01, 0.99)
some = settings(max_examples=25, deadline=None)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def kernel(noise: Noise, share: float) -> Tensor:
    """[x, y]: the probability of y after x, where a token survives with probability `share`."""
    return share * torch.eye(noise.vocab, dtype=torch.float64) + (1 - share) * noise.pi.expand(noise.vocab, -1)


def survival(a_s: float, a_t: float) -> float:
    return a_s / a_t if a_t > 0 else 1.0


def posterior_of_bridge(noise: Noise, a_s: float, a_t: float) -> Tensor:
    """[x_s, x_0, x_t]: q(x_t | x_s, x_0) by Bayes; NaN where x_s cannot come from x_0."""
    joint = kernel(noise, a_t)[:, :, None] * kernel(noise, survival(a_s, a_t))[None]  # x_0, x_t, x_s
    return (joint / joint.sum(1, keepdim=True)).permute(2, 0, 1)


def law_of(draw, starts: int, vocab: int) -> Tensor:
    """The exact law (starts, V) of a draw (R,), Enumerator -> (R, 1)."""
    start, probability, result = enumerate_outcomes(draw, starts)
    law = torch.zeros(starts, vocab, dtype=torch.float64)
    return law.index_put_((start, result[:, 0]), probability, accumulate=True)


def bridge_law(noise: Noise, a_s: float, a_t: float) -> Tensor:
    """[x_s, x_0, x_t]: the law that `bridge` really draws from."""
    v = noise.vocab

    def draw(start: Tensor, rng: Enumerator) -> Tensor:
        x_s, x_0 = (start // v)[:, None], (start % v)[:, None]
        return noise.bridge(x_s, x_0, scalar(a_s), scalar(a_t), rng)

    return law_of(draw, v * v, v).view(v, v, v)


def clean(noise: Noise) -> Tensor:
    """Tokens that may stand in a clean text."""
    return torch.tensor([v for v in range(noise.vocab) if v != noise.mask])


@some
@given(names, shares, shares, st.integers(0, 10_000))
def test_reverse_is_bayes_and_the_mean_of_bridge(name, one, other, seed):
    noise, (a_s, a_t) = PROCESSES[name], sorted((one, other))
    generator = torch.Generator().manual_seed(seed)
    prior = torch.rand(noise.vocab, generator=generator, dtype=torch.float64)
    if noise.mask is not None:
        prior[noise.mask] = 0
    evidence = kernel(noise, a_s)  # x_0, x_s
    possible = (prior @ evidence) > 0
    p0 = (prior[:, None] * evidence).T[possible]
    p0 = p0 / p0.sum(1, keepdim=True)  # x_s, x_0
    x_s = torch.arange(noise.vocab)[possible]
    closed = noise.reverse(p0.log(), x_s, scalar(a_s), scalar(a_t)).exp()
    bayes = posterior_of_bridge(noise, a_s, a_t)[possible].nan_to_num(0.0)
    assert torch.allclose(closed, torch.einsum("sv,svt->st", p0, bayes), atol=1e-12, rtol=0)
    drawn = bridge_law(noise, a_s, a_t)[possible]
    assert torch.allclose(closed, torch.einsum("sv,svt->st", p0, drawn), atol=1e-12, rtol=0)
    assert torch.allclose(closed.sum(1), torch.ones(len(closed), dtype=torch.float64), atol=1e-12, rtol=0)


@some
@given(names, shares, shares)
def test_bridge_draws_from_the_reverse_law(name, one, other):
    noise, (a_s, a_t) = PROCESSES[name], sorted((one, other))
    bayes, drawn = posterior_of_bridge(noise, a_s, a_t), bridge_law(noise, a_s, a_t)
    possible = ~bayes.isnan().any(-1)
    if noise.mask is not None:
        possible[:, noise.mask] = False  # the mask is in no clean text
    assert torch.allclose(drawn[possible], bayes[possible], atol=1e-12, rtol=0)


def test_the_check_sees_a_wrong_bridge():
    """Negative control: the law for another time, and a bridge that forgets x_s, are both far off."""
    noise = PROCESSES["skewed"]
    drawn = bridge_law(noise, 0.3, 0.8)
    assert float((drawn - posterior_of_bridge(noise, 0.3, 0.7)).abs().max()) > 0.02
    assert float((drawn - kernel(noise, 0.8)[None]).abs().max()) > 0.02


def test_an_impossible_pair_gives_the_clean_token():
    noise = PROCESSES["absorbing"]
    law = bridge_law(noise, 0.3, 0.8)
    assert float(law[0, 1, 1]) == 1  # x_s shows token 0, which cannot come from x_0 = 1


@some
@given(names, shares, shares, shares)
def test_corrupting_twice_is_corrupting_once(name, a, b, c):
    noise, (a_u, a_s, a_t) = PROCESSES[name], sorted((a, b, c))

    def twice(start: Tensor, rng: Enumerator) -> Tensor:
        x_s = noise.corrupt(start[:, None], scalar(a_t), scalar(a_s), rng)
        return noise.corrupt(x_s, scalar(a_s), scalar(a_u), rng)

    def once(start: Tensor, rng: Enumerator) -> Tensor:
        return noise.corrupt(start[:, None], scalar(a_t), scalar(a_u), rng)

    direct = law_of(once, noise.vocab, noise.vocab)
    assert torch.allclose(law_of(twice, noise.vocab, noise.vocab), direct, atol=1e-12, rtol=0)
    assert torch.allclose(direct, kernel(noise, survival(a_u, a_t)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_likelihood_is_the_corruption_of_clean_text(name):
    noise = PROCESSES[name]
    x_t = torch.arange(noise.vocab)[None].repeat(3, 1)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    like = noise.likelihood(x_t, t)
    for row, a_t in enumerate(noise.a(t).tolist()):
        assert torch.allclose(like[row].T, kernel(noise, a_t), atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_prior_is_pi(name):
    noise = PROCESSES[name]
    law = law_of(lambda start, rng: noise.prior(1, rng), 1, noise.vocab)
    assert torch.allclose(law[0], noise.pi, atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_edges_of_time(name):
    """s = t keeps the noisy state, t = 0 gives the clean text, and re-noising to t itself changes nothing."""
    noise, rng = PROCESSES[name], Rng.seeded(3, 40)
    x_0 = clean(noise)[rng.fork("clean").uniform(6).mul(len(clean(noise))).long()]
    x_s = noise.corrupt(x_0, scalar(1), scalar(0.4), rng.fork("s"))
    assert torch.equal(noise.bridge(x_s, x_0, scalar(0.4), scalar(0.4), rng.fork("stay")), x_s)
    assert torch.equal(noise.bridge(x_s, x_0, scalar(0.4), scalar(1.0), rng.fork("clean")), x_0)
    assert torch.equal(noise.corrupt(x_s, scalar(0.4), scalar(0.4), rng.fork("same")), x_s)
    assert torch.equal(noise.corrupt(x_s, scalar(0.0), scalar(0.0), rng.fork("noise")), x_s)
    if noise.mask is not None:
        assert bool((noise.corrupt(x_0, scalar(1), scalar(0), rng) == noise.mask).all())


def test_what_is_undetermined():
    x_t = torch.tensor([[0, 3, 1], [3, 3, 3]])
    assert torch.equal(absorbing(4).undetermined(x_t, torch.tensor([0.5, 0.0])), x_t == 3)
    assert uniform(4).undetermined(x_t, torch.tensor([0.5, 0.0])).tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize("schedule", [*map(Schedule, SCHEDULES), Schedule("geometric", 5.0)], ids=str)
def test_a_finished_text_is_settled(schedule):
    """To the last bit: else a method under noise without a mask takes all tokens of a finished text for open ones."""
    x, end = torch.zeros(1, 3, dtype=torch.long), torch.zeros(1)
    assert float(schedule.a(end)) == 1.0 and not bool(uniform(4, schedule).undetermined(x, end).any())


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_and_invert(name):
    schedule = Schedule(name)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    a_t = schedule.a(t)
    assert float(a_t[0]) == pytest.approx(1, abs=1e-15)
    assert bool((a_t.diff() < 0).all()) and 0 <= float(a_t[-1]) < 2e-3
    assert torch.allclose(schedule.time(a_t), t, atol=1e-9, rtol=0)
    beyond = schedule.time(torch.tensor([1.0, 0.0]))  # shares no time has are cut to the ends
    assert beyond.tolist() == pytest.approx([0, 1], abs=1e-9)


def test_schedules_follow_their_formulas():
    half = torch.tensor(0.5)
    assert float(Schedule("linear").a(half)) == 0.5
    assert float(Schedule("cosine").a(half)) == pytest.approx(1 - 0.5**0.5)
    assert float(Schedule("log-linear", low=0.01).a(half)) == pytest.approx(0.505)
    assert float(Schedule("geometric", low=0.1, high=10).a(half)) == pytest.approx(2.718281828**-0.9, rel=1e-6)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Schedule("square"), "unknown schedule 'square': choose one of linear"),
        (lambda: Schedule("log-linear", low=1.0), "0 <= low < 1"),
        (lambda: Schedule("geometric", low=0.0), "0 < low < high"),
        (lambda: Noise(torch.tensor([0.5, 0.4])), "must sum to one"),
        (lambda: Noise(torch.tensor([1.5, -0.5])), "probabilities"),
        (lambda: Noise(torch.tensor([float("nan"), 1.0])), "probabilities"),
        (lambda: Noise(torch.tensor([1.0])), "at least two"),
        (lambda: absorbing(4, mask=4), "mask id 4 lies outside"),
    ],
)
def test_errors(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_a_float32_law_is_made_exact():
    law = Noise(torch.full((1000,), 1 / 1000, dtype=torch.float32)).pi
    assert law.dtype == torch.float64 and abs(float(law.sum()) - 1) < 1e-12


def test_a_noise_says_what_it_is():
    assert repr(absorbing(4)) == "Noise(vocab=4, mask=3, schedule='linear')"
    assert repr(uniform(4, "cosine")) == "Noise(vocab=4, pi, schedule='cosine')"
    assert uniform(4).mask is None and absorbing(4, mask=1).mask == 1
