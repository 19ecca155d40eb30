"""Denoisers: the adapters against laws computed by hand."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.budget import Cost
from iterref.denoiser import Denoiser, carry_over, from_leave_one_out
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.guidance import ClassifierFreeGuidance, Tempered
from iterref.moves.shared import Shared
from iterref.noise import Noise, absorbing, uniform
from iterref.problem import Problem
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.oracle import balance_error, stationarity_error, transition
from tests.support.worlds import moving, pair_states, random_reward, random_table, refine, target

EXACT = 1e-12


def test_carry_over_keeps_what_is_revealed():
    x_t = torch.tensor([[0, 3, 2], [3, 3, 1]])
    where = torch.tensor([[True, True, False], [True, False, True]])
    raw = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = raw.clone()
    log_p = carry_over(raw, x_t, where, mask=3)
    assert torch.equal(raw, before)  # the caller's tensor is its own
    assert torch.equal(log_p[0].exp(), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    assert torch.equal(log_p[3].exp(), torch.tensor([0.0, 1, 0, 0], dtype=torch.float64))
    assert torch.equal(log_p[1], torch.cat([raw[1, :3].log_softmax(0), torch.tensor([-torch.inf])]))
    assert torch.allclose(log_p.exp().sum(1), torch.ones(4, dtype=torch.float64), atol=EXACT)


def test_carry_over_makes_a_table_of_its_own_predictions():
    """On an exact model, whose posteriors are right already, the adapter changes nothing."""
    table = random_table("absorbing", 3, 2, 5, coupling=1)
    x_t = table.noisy_states()
    where = torch.ones_like(x_t, dtype=torch.bool)
    exact = table(x_t, torch.full((len(x_t),), 0.5), where, torch.zeros(len(x_t), dtype=torch.long))
    assert torch.allclose(carry_over(exact, x_t, where, mask=2).exp(), exact.exp(), atol=EXACT)


def leave_one_out(table: Table, x_t: Tensor, t: float) -> Tensor:
    """p(x_0^i = v | x_t^{-i}) for one noisy row (L,), summed state by state, (L, V)."""
    like = table.noise.likelihood(x_t[None], torch.tensor([t]))[0]
    law = torch.zeros(table.length, table.tokens, dtype=torch.float64)
    for state in product(range(table.tokens), repeat=table.length):
        p = float(table.log_prob(torch.tensor(state)).exp())
        for i in range(table.length):
            others = [float(like[j, state[j]]) for j in range(table.length) if j != i]
            law[i, state[i]] += p * float(torch.tensor(others, dtype=torch.float64).prod())
    return law / law.sum(1, keepdim=True)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("t", [0.2, 0.7, 1.0])
def test_leave_one_out_predictions_become_posteriors(t, skewed):
    """Brute-force leave-one-out laws of a correlated table, turned into its posteriors by Bayes."""
    table = random_table("uniform", 3, 2, 7, coupling=1)
    if skewed:
        table = Table(table.log_p.view(2, 2, 2), Noise(torch.tensor([0.8, 0.2])))
    x_t = table.noisy_states()
    where = torch.ones_like(x_t, dtype=torch.bool)
    where[0, 1] = False
    times = torch.full((len(x_t),), t)
    raw = torch.stack([leave_one_out(table, row, t) for row in x_t])[where].log()
    exact = table(x_t, times, where, torch.zeros(len(x_t), dtype=torch.long))
    assert torch.allclose(from_leave_one_out(raw, x_t, times, where, table.noise), exact, atol=EXACT, rtol=0)
    if t < 1:  # negative control: predictions that have not seen their own token are no posteriors
        assert float((raw.exp() - exact.exp()).abs().max()) > 0.05


def test_leave_one_out_at_both_ends_of_time():
    table = random_table("uniform", 2, 3, 1, coupling=1)
    x = torch.tensor([[0, 2], [1, 1]])
    where = torch.ones_like(x, dtype=torch.bool)
    raw = table.leave_one_out(x, where, torch.zeros(2, dtype=torch.long))
    certain = from_leave_one_out(raw, x, torch.zeros(2), where, table.noise)
    assert torch.equal(certain.argmax(1), x.flatten()) and torch.equal(certain.amax(1), torch.zeros(4).double())
    assert torch.allclose(from_leave_one_out(raw, x, torch.ones(2), where, table.noise), raw, atol=EXACT)
    single = from_leave_one_out(raw.float(), x, torch.full((2,), 0.5), where, table.noise)
    assert single.dtype == torch.float32  # a network's own precision is kept


def test_tempered():
    table = random_table("absorbing", 2, 3, 2, coupling=1)
    x_t, rows = table.noisy_states(), torch.zeros(16, dtype=torch.long)
    t, where = torch.full((16,), 0.5), table.noisy_states() == 3
    plain = table(x_t, t, where, rows)
    assert torch.allclose(Tempered(table, 1.0)(x_t, t, where, rows), plain, atol=EXACT)
    cold = Tempered(table, 0.5)(x_t, t, where, rows).exp()
    squared = plain.exp() ** 2
    assert torch.allclose(cold, squared / squared.sum(1, keepdim=True), atol=EXACT)
    assert Tempered(table, 0.5).noise is table.noise
    assert float(Tempered(table, 1e-3)(x_t, t, where, rows).exp().amax(1).min()) > 0.99


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_must_be_positive_and_finite(temperature):
    with pytest.raises(ValueError, match="positive and finite"):
        Tempered(random_table("absorbing", 1, 2, 2, coupling=1), temperature)


def test_carry_over_takes_float32():
    log_p = carry_over(torch.zeros(2, 3), torch.tensor([[2, 0]]), torch.ones(1, 2, dtype=torch.bool), absorbing(3).mask)
    assert log_p.dtype == torch.float32 and torch.allclose(log_p[0].exp(), torch.tensor([0.5, 0.5, 0.0]))


@dataclass(frozen=True)
class Plain(Denoiser):
    """A denoiser that offers its posteriors and nothing else."""

    within: Denoiser

    @property
    def noise(self) -> Noise:
        return self.within.noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self.within(x_t, t, where, rows)


def pair(kind: str, length: int = 2, tokens: int = 3, seed: int = 3) -> tuple[Table, Table]:
    """Two laws under one noise: what is known of the prompt, and what is not."""
    given = random_table(kind, length, tokens, seed, coupling=1)
    other = random_table(kind, length, tokens, seed + 1, coupling=1)
    free = torch.logaddexp(given.log_p, other.log_p).view((tokens,) * length)  # the average over two prompts
    return given, Table(free, given.noise)


def blend(given: Table, free: Table, scale: float) -> Table:
    """The law p(x_0 | y)^scale p(x_0)^(1 - scale), normalised."""
    shape = (given.tokens,) * given.length
    return Table((scale * given.log_p + (1 - scale) * free.log_p).view(shape), given.noise)


def asked(table: Table, t: float = 0.6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every noisy state at a time, everything open."""
    x_t = table.noisy_states()
    return x_t, torch.full((len(x_t),), t), torch.ones_like(x_t, dtype=torch.bool), torch.zeros(len(x_t)).long()


kinds = pytest.mark.parametrize("kind", ["absorbing", "uniform"])


@kinds
@pytest.mark.parametrize("scale", [0.5, 1.5, 4.0])
def test_guided_mixes_posteriors(kind, scale):
    given, free = pair(kind)
    question = asked(given)
    powers = given(*question).exp() ** scale * free(*question).exp() ** (1 - scale)
    powers = powers.nan_to_num(nan=0.0, posinf=0.0)  # zero to a negative power, times zero
    guided = ClassifierFreeGuidance(given, free, scale)(*question).exp()
    assert torch.allclose(guided, powers / powers.sum(1, keepdim=True), atol=EXACT, rtol=0)
    if kind == "absorbing":  # what is revealed stays revealed, bit for bit, and the mask stays impossible
        seen = question[0].flatten()
        revealed = seen < 3
        assert torch.equal(guided[revealed], torch.nn.functional.one_hot(seen[revealed], 4).double())
        assert not bool(guided[:, 3].any())


@kinds
def test_the_ends_of_the_scale_are_the_models_themselves(kind):
    given, free = pair(kind)
    question = asked(given)
    x = given.states()
    everywhere, rows = torch.ones_like(x, dtype=torch.bool), torch.zeros(len(x)).long()
    for scale, model in ((0, free), (1, given)):
        guided = ClassifierFreeGuidance(given, free, scale)
        assert torch.equal(guided(*question), model(*question)) and guided.passes == 1
        assert torch.equal(guided.leave_one_out(x, everywhere, rows), model.leave_one_out(x, everywhere, rows))
    assert ClassifierFreeGuidance(given, free, 0.5).passes == ClassifierFreeGuidance(given, free, 2).passes == 2
    assert ClassifierFreeGuidance(given, ClassifierFreeGuidance(given, free, 2), 2).passes == 3
    assert Tempered(given, 2).passes == 1 and Tempered(ClassifierFreeGuidance(given, free, 2), 2).passes == 2


def test_other_temperatures_and_guided_models_write_as_the_model_does():
    given, free = pair("absorbing")
    given.block_length, given.surest_block, given.block_ends, given.fill = 4, 2, [1], 0
    given.block_offset = torch.tensor([3])
    for other in (Tempered(given, 2), ClassifierFreeGuidance(given, free, 2)):
        for name in ("block_length", "surest_block", "block_offset", "block_ends", "fill"):
            assert getattr(other, name) is getattr(given, name), name


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0, 8),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=4).map(lambda x: [(True, True), *x]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_impossible_tokens_stay_impossible_and_nothing_is_undefined(seed, scale, possible, dtype):
    """Any pattern of zeros in either law, one token aside that both allow."""
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor(possible).T
    given, free = (
        torch.randn(1, 5, generator=generator, dtype=dtype).masked_fill(~row, -torch.inf).log_softmax(1)
        for row in allowed
    )
    log_p = ClassifierFreeGuidance(Fixed(given), Fixed(free), scale)(*ONE)
    assert not bool(log_p.isnan().any()) and float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert log_p.dtype == dtype
    if scale > 0:
        assert bool(log_p[0, ~allowed[0]].isneginf().all())
    if scale < 1:
        assert bool(log_p[0, ~allowed[1]].isneginf().all())
    alone = allowed[0] & ~allowed[1]
    if scale > 1.01 and bool(alone.any()):  # what the unconditional law alone rules out: the limit of a small chance
        assert float(log_p[0, alone].exp().sum()) == pytest.approx(1, abs=1e-5)
        share = (scale * given[0, alone]).softmax(0)
        assert torch.allclose(log_p[0, alone].exp(), share, atol=2e-2)


@dataclass(frozen=True)
class Fixed(Denoiser):
    """One law, whatever it is asked."""

    log_p: Tensor

    @property
    def noise(self) -> Noise:
        return FIVE

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self.log_p


FIVE = uniform(5)
ONE = (torch.zeros(1, 1).long(), torch.ones(1), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1).long())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(0, 6), min_size=2, max_size=2).map(sorted))
def test_more_guidance_is_more_evidence_for_the_prompt(seed, scales):
    """E_scale[log p(v | y) - log p(v)] grows with the scale: an exponential family in it."""
    laws = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(2)
    given, free = Fixed(laws[0]), Fixed(laws[1])
    low, high = (
        (ClassifierFreeGuidance(given, free, scale)(*ONE).exp() * (laws[0] - laws[1])).sum() for scale in scales
    )
    assert float(high - low) >= -1e-12


@pytest.mark.parametrize("scale", [-0.1, float("inf"), float("nan")])
def test_an_impossible_scale_is_refused(scale):
    with pytest.raises(ValueError, match="finite and not negative"):
        ClassifierFreeGuidance(*pair("uniform"), scale)


def test_two_noises_are_refused():
    given, free = pair("absorbing")
    again = Table(free.log_p.view(3, 3), absorbing(4))
    assert ClassifierFreeGuidance(given, again, 2).noise is given.noise  # two objects, one noise
    for noise in (absorbing(4, schedule="cosine"), uniform(3)):
        with pytest.raises(ValueError, match="two denoisers of the same noise, got Noise"):
            ClassifierFreeGuidance(given, Table(free.log_p.view(3, 3), noise), 2)


def test_what_a_class_overrides_it_is_able_to_do():
    class Able(Plain):
        def leave_one_out(self, x, where, rows):
            return self(x, x, where, rows)

    class Unsaid(Able):
        has_leave_one_out = False

    assert Able.has_leave_one_out and not Able.has_probabilities
    assert not Plain.has_leave_one_out and not Unsaid.has_leave_one_out


@kinds
def test_leave_one_out_is_there_only_where_it_is_within(kind):
    given, free = pair(kind)
    for whole in (
        Tempered(given, 0.5),
        ClassifierFreeGuidance(given, free, 2),
        Tempered(ClassifierFreeGuidance(given, free, 2), 0.5),
    ):
        assert whole.has_leave_one_out
    for part in (
        Tempered(Plain(given), 0.5),
        ClassifierFreeGuidance(Plain(given), free, 2),
        ClassifierFreeGuidance(given, Plain(free), 2),
    ):
        assert not part.has_leave_one_out
    assert ClassifierFreeGuidance(given, Plain(free), 1).has_leave_one_out
    copy = pickle.loads(pickle.dumps(ClassifierFreeGuidance(given, free, 2)))
    assert torch.equal(copy(*asked(given)), ClassifierFreeGuidance(given, free, 2)(*asked(given)))


@kinds
def test_conditionals_are_those_of_the_blended_law(kind):
    """Gibbs conditionals of a product of powers are the products of powers of the conditionals, normalised."""
    given, free = pair(kind, length=3, tokens=2)
    x = given.states()
    question = (x, torch.ones_like(x, dtype=torch.bool), torch.zeros(len(x)).long())
    law = blend(given, free, 2.5).leave_one_out(*question).exp()
    assert torch.allclose(
        ClassifierFreeGuidance(given, free, 2.5).leave_one_out(*question).exp(), law, atol=EXACT, rtol=0
    )
    cold = Table(given.log_p.view(2, 2, 2) / 0.4, given.noise).leave_one_out(*question).exp()
    assert torch.allclose(Tempered(given, 0.4).leave_one_out(*question).exp(), cold, atol=EXACT, rtol=0)
    assert float((given.leave_one_out(*question).exp() - law).abs().max()) > 0.05  # negative control


@kinds
@pytest.mark.parametrize("made", ["guided", "tempered"])
def test_moves_of_one_token_have_the_blended_law_as_their_model(kind, made):
    """Enumerated: the shared kernel on single sites is reversible for p(x|y)^s p(x)^(1-s) exp(r / alpha)."""
    given, free = pair(kind, tokens=2)
    if made == "guided":
        model, law = ClassifierFreeGuidance(given, free, 2.5), blend(given, free, 2.5)
    else:
        model, law = Tempered(given, 0.4), Table(given.log_p.view(2, 2) / 0.4, given.noise)
    reward, states = random_reward(2, 2, 5), pair_states(given, 0.0)
    goal = target(law, reward, 0.7, 0.0, states)

    def matrix(spacing: int) -> Tensor:
        return transition(model, reward, 0.7, moving(Shared(2, spacing=spacing), refine(0.0, 1.0), 0.7), states)

    assert stationarity_error(goal, matrix(2)) < 1e-10
    assert balance_error(goal, matrix(2)) < 1e-10
    plain = target(given, reward, 0.7, 0.0, states)
    assert stationarity_error(plain, matrix(2)) > 1e-3  # negative controls: another model, both tokens at once
    assert stationarity_error(goal, matrix(0)) > 1e-3


@kinds
def test_a_step_of_the_paper_mixes_the_laws_of_the_step(kind):
    given, free = pair(kind)
    x_t, _, where, rows = asked(given)
    guided, scale, t, u = ClassifierFreeGuidance(given, free, 2.5), 2.5, 0.8, 0.3
    times = torch.full((len(x_t),), t, dtype=torch.float64)
    a_t, a_u = given.noise.a(t), given.noise.a(u)
    one, other = (given.noise.reverse(m(x_t, times, where, rows), x_t[where], a_t, a_u).exp() for m in (given, free))
    powers = torch.where(one > 0, one**scale * other.clamp_min(1e-300) ** (1 - scale), 0.0)
    law = guided.transition(x_t, t, u, where, rows).exp()
    assert torch.allclose(law, powers / powers.sum(1, keepdim=True), atol=EXACT, rtol=0)
    # to t = 0 both are the same
    last, posteriors = guided.transition(x_t, t, 0.0, where, rows), guided(x_t, times, where, rows)
    assert torch.allclose(last.exp(), posteriors.exp(), atol=EXACT, rtol=0)


def test_under_absorbing_noise_the_token_is_the_same_and_falls_earlier():
    given, free = pair("absorbing")
    x_t, _, where, rows = asked(given)
    times, scale, t, u = torch.full((len(x_t),), 0.8, dtype=torch.float64), 2.5, 0.8, 0.3
    guided = ClassifierFreeGuidance(given, free, scale)
    law, posterior = guided.transition(x_t, t, u, where, rows).exp(), guided(x_t, times, where, rows).exp()
    open_cells = x_t[where] == 3
    law, posterior = law[open_cells], posterior[open_cells]
    assert torch.allclose(law[:, :3] / law[:, :3].sum(1, keepdim=True), posterior[:, :3], atol=EXACT, rtol=0)
    one, other = (m(x_t, times, where, rows).exp()[open_cells][:, :3] for m in (given, free))
    z, f = (one**scale * other ** (1 - scale)).sum(1), (t - u) / t
    assert torch.allclose(1 - law[:, 3], f * z / (1 - f + f * z), atol=EXACT, rtol=0)
    assert float(z.min()) > 1 and float((1 - law[:, 3]).max()) > f + 0.05


@pytest.mark.parametrize("t", [0.3, 0.9])
def test_under_uniform_noise_the_paper_adds_noise_and_then_mixes(t):
    """The rates of a small step of one token, against both formulas of the docstring."""
    given, free = pair("uniform", length=1, tokens=4)
    scale, a_t, step = 2.5, 1 - t, 1e-6
    where, rows = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1).long()
    x_t, noise = torch.zeros(1, 1).long(), given.noise
    guided = ClassifierFreeGuidance(given, free, scale)

    def noisy(log_p: Tensor) -> Tensor:
        return a_t * log_p.exp() + (1 - a_t) / 4

    def shares(law: Tensor) -> Tensor:
        return law[1:] / law[1:].sum()

    theirs = noisy(given.log_p) ** scale * noisy(free.log_p) ** (1 - scale)
    ours = noisy(blend(given, free, scale).log_p)
    paper = guided.transition(x_t, t, t - step, where, rows).exp()[0]
    posterior = guided(x_t, torch.tensor([t], dtype=torch.float64), where, rows)
    mixed_first = noise.reverse(posterior, x_t[where], noise.a(t), noise.a(t - step)).exp()[0]
    assert torch.allclose(shares(paper), shares(theirs), atol=1e-4)
    assert torch.allclose(shares(mixed_first), shares(ours), atol=1e-4)
    assert float((shares(theirs) - shares(ours)).abs().max()) > 1e-2  # and they do differ


@kinds
def test_runs_count_both_passes(kind):
    """What is asked is twice what the method declares, and a budget is shared out accordingly."""
    given, reward, _ = world(6, 3, 1, kind)
    free = world(6, 3, 2, kind)[0]
    problem = Problem(ClassifierFreeGuidance(given, free, 2.0), reward, torch.zeros(2, 6))
    for text in ("ancestral:steps=3", "best_of_n:n=2,steps=2", "iterref:steps=2,moves=3,tries=2"):
        method = sampler_from_string(text)
        result, cost = sample(method, problem, seed=1), method.cost()
        assert result.asked == Cost(2 * cost.nfe, cost.reward_calls, cost.depth)
        assert result.cost.nfe <= result.asked.nfe
    fitted = sample(sampler_from_string("ancestral"), problem, budget=16)
    assert fitted.sampler.steps == 8 and fitted.asked.nfe == 16
    assert (
        sample(sampler_from_string("ancestral"), Problem(given, reward, torch.zeros(2, 6)), budget=16).sampler.steps
        == 16
    )


@kinds
def test_guided_runs_lean_to_the_prompt(kind):
    """End to end: samples under more guidance are likelier under the conditional model against the other."""
    given, free = pair(kind, length=3, tokens=2, seed=8)
    lean = []
    for scale in (0.0, 1.0, 3.0):
        problem = Problem(
            ClassifierFreeGuidance(given, free, scale), random_reward(3, 2, 1), torch.zeros(300, 3), alpha=1e9
        )
        x = sample(sampler_from_string("iterref:steps=3,moves=6,tries=2"), problem, seed=3).tokens
        lean.append(float((given.log_prob(x) - free.log_prob(x)).mean()))
    assert lean[0] + 0.05 < lean[1] and lean[1] + 0.05 < lean[2]
