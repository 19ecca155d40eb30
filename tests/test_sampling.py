"""Sampling: what a result holds, whose seed is whose, and that nothing is lost when a reward fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import iterref
from iterref.budget import Cost
from iterref.denoiser import Denoiser
from iterref.exact.markov import world
from iterref.noise import Noise, absorbing
from iterref.problem import Problem
from iterref.random import Rng
from iterref.result import Interrupted, Result
from iterref.rewards.base import RewardError
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import Progress, sample
from tests.support.letters import Letters, letters_a

INF = float("inf")
MODEL, REWARD, TARGET = world(6, 3)
UNIFORM = world(6, 3, noise="uniform")[0]
METHODS = [
    "ancestral:steps=3",
    "best_of_n:steps=2,n=3",
    "metropolis:steps=2,moves=3",
    "iterref:steps=2,moves=3,tries=2",
    "mtm:steps=2,moves=3,tries=2",
    "published:steps=2,moves=3,tries=2",
    "trajectory:steps=2,moves=3,tries=2",
]


def problem_of(rows: int = 4, model: object = MODEL, reward: object = REWARD, **options: object) -> Problem:
    return Problem(model, reward, torch.zeros(rows, 6), **options)


def run(text: str, problem: Problem, **options: object) -> Result:
    return sample(sampler_from_string(text), problem, **options)


def words(tokens: Tensor) -> list[str]:
    return [" ".join(map(str, row)) for row in tokens.tolist()]


@pytest.mark.parametrize("text", METHODS)
def test_a_result_holds_everything(text):
    result = run(text, problem_of(alpha=0.5), decode=words)
    assert result.tokens.shape == (4, 6) and result.rewards.dtype == torch.float64
    assert torch.equal(result.rewards, REWARD(result.tokens, torch.arange(4)))
    assert torch.equal(result.best.reward, REWARD(result.best.tokens, torch.arange(4)))
    assert bool((result.best.reward >= result.rewards).all())
    assert result.texts == words(result.tokens)
    assert result.finished and result.sampler == sampler_from_string(text)
    assert result.asked == sampler_from_string(text).cost() and result.cost.nfe <= result.asked.nfe
    assert result.seconds >= sum(result.parts.values()) > 0 and set(result.parts) == {"denoiser", "reward"}
    assert text.split(":")[0] in str(result) and f"{float(result.rewards.mean()):.4f}" in str(result)
    assert f"[{float(result.rewards[0]):.3f}]" in str(result)
    (result.tokens + 1).add_(1)  # no inference tensor: a caller may go on computing with it
    result.tokens[0] = 0
    assert len(result.trace.steps) == sampler_from_string(text).iterations


def test_seeds_and_identities():
    text, problem = "iterref:steps=3,moves=4,tries=2", problem_of(rows=5)
    first, again, other = (run(text, problem, seed=seed).tokens for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first, run(text, problem, seed=1, rows=range(5)).tokens)
    turned = run(text, problem, seed=1, rows=[4, 3, 2, 1, 0]).tokens
    assert torch.equal(turned.flip(0), first)
    twins = run(text, problem, seed=1, rows=torch.tensor([7, 7, 8, 7, 8])).tokens
    assert torch.equal(twins[0], twins[1]) and torch.equal(twins[2], twins[4]) and not torch.equal(twins[0], twins[2])


def test_a_method_goes_by_its_name():
    problem = problem_of()
    assert torch.equal(sample("smc:steps=2", problem, seed=1).tokens, run("smc:steps=2", problem, seed=1).tokens)
    with pytest.raises(TypeError, match="the sampler is a int: pass a sampler or its name"):
        sample(5, problem)
    with pytest.raises(TypeError, match="the problem is a str: pass an iterref.Problem; generate.. takes a model"):
        sample("auto", "tiny-news")


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="3 row identities for 4 rows"):
        run("ancestral", problem_of(), rows=[0, 1, 2])
    with pytest.raises(ValueError, match="row 4 cannot be watched: the rows are 0 to 3"):
        run("ancestral", problem_of(), watch=[4])
    with pytest.raises(ValueError, match="identity -1"):
        run("ancestral", problem_of(), rows=[-1, 0, 1, 2])
    with pytest.raises(ValueError, match="too small for one run of iterref"):
        run("iterref", problem_of(), budget=3)


def test_a_budget_is_kept():
    result = run("iterref:steps=2,decisions=1", problem_of(), budget=(10, 40))
    assert (result.asked, result.sampler) == (
        Cost(10, 40, 10),
        sampler_from_string("iterref:steps=2,moves=8,tries=4,decisions=1"),
    )


@dataclass
class Failing:
    """A reward that fails from its `after`-th call on."""

    after: int
    calls: int = 0
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.after:
            raise OSError("the judge hung up")
        self.seen.append(REWARD(tokens, rows))
        return self.seen[-1]


def test_a_reward_that_fails_loses_nothing():
    reward = Failing(after=6)
    with pytest.raises(RewardError, match="the reward raised OSError .the judge hung up.") as caught:
        text, problem = "iterref:steps=2,moves=9,tries=2,decisions=1,early=0", problem_of(reward=reward, remember=False)
        run(text, problem, decode=lambda x: ["text"] * 4)
    partial = caught.value.partial
    assert isinstance(partial, Result) and not partial.finished
    assert len(partial.trace.steps) == 6 and partial.asked.nfe == 7
    # two drafts are no finished texts; the best of the four moves' candidates are kept
    best = torch.stack(reward.seen[2:]).view(-1, 4).amax(0)
    assert torch.equal(partial.rewards, best) and torch.equal(REWARD(partial.tokens, torch.arange(4)), best)
    assert partial.texts == ["text"] * 4 and isinstance(caught.value.__cause__, OSError)


def test_a_reward_that_fails_at_once_has_nothing_to_save():
    with pytest.raises(RewardError) as caught:
        run("best_of_n:steps=2,n=2", problem_of(reward=Failing(after=0)))
    partial = caught.value.partial
    assert bool(torch.isneginf(partial.rewards).all()) and len(partial.trace.steps) == 1


@pytest.mark.parametrize("model", [MODEL, UNIFORM], ids=["absorbing", "uniform"])
@pytest.mark.parametrize("text", METHODS)
def test_rows_without_a_free_position_come_back_unchanged(model, text):
    canvas = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 2, 1, 1, 1]])
    for free in (torch.zeros(2, 6), torch.tensor([[0] * 6, [1] * 6])):
        result = sample(sampler_from_string(text), Problem(model, REWARD, canvas, free.bool(), alpha=0.3))
        assert torch.equal(result.tokens[0], canvas[0]) and torch.equal(result.best.tokens[0], canvas[0])
        assert float(result.rewards[0]) == float(REWARD(canvas[:1], torch.zeros(1)))
    assert result.cost.nfe <= result.asked.nfe / 2  # the row without an open position is never evaluated


def second_row_only(tokens: Tensor, rows: Tensor) -> Tensor:
    return torch.where(rows == 1, REWARD(tokens, rows), -INF)


def test_of_many_rows_the_warning_says_how_many_it_does_not_name():
    problem = Problem(MODEL, second_row_only, torch.full((12, 6), -7), alpha=0.5)
    told = str(sample(sampler_from_string("iterref:moves=2"), problem))
    assert "rows 0, 2, 3, 4, 5, 6, 7, 8 and 3 more: some step found only forbidden" in told


@pytest.mark.parametrize("model", [MODEL, UNIFORM], ids=["absorbing", "uniform"])
@pytest.mark.parametrize("text", [text for text in METHODS if "ancestral" not in text] + ["iterref:objective=maximise"])
def test_rows_with_only_forbidden_candidates_are_named_and_hold_a_text(model, text):
    problem = Problem(model, second_row_only, torch.full((2, 6), -7), alpha=0.5)
    result = sample(sampler_from_string(text), problem, watch=[0])
    assert result.trace.stuck_rows() == [0] and "row 0: some step found only forbidden" in str(result)
    assert float(result.rewards[0]) == -INF and float(result.rewards[1]) > -INF
    for tokens in (result.tokens, result.best.tokens):  # a text of the model, not what stood on the canvas
        assert int(tokens.min()) >= 0 and int(tokens.max()) < 3
    clean = result.trace.table()["clean"][:, 0]
    if text.startswith(("iterref", "mtm", "published")):  # on the finished text, nothing moves any more
        steps = result.sampler.steps
        assert torch.equal(clean[steps:], clean[steps - 1].expand_as(clean[steps:]))


@dataclass(frozen=True)
class Avoids:
    """-inf for a text that holds a token."""

    token: int

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return torch.where((tokens == self.token).any(1), -INF, 0.0)


@pytest.mark.parametrize("method", ["iterref", "mtm", "published", "trajectory"])
def test_a_hard_constraint_is_reached_and_kept(method):
    """Moves wide enough to leave a forbidden text do so, and no chain ever goes back to one."""
    spacing = "" if method == "trajectory" else ",spacing=0"
    result = run(f"{method}:steps=2,moves=8,tries=8,span=1.0{spacing}", problem_of(8, reward=Avoids(2)))
    assert not bool((result.tokens == 2).any()) and bool((result.rewards == 0).all())
    finite = result.trace.table()["reward"].isfinite()
    assert bool((finite[-8:].long().diff(dim=0) >= 0).all())


def test_sampling_returns_the_last_state_and_maximising_the_best():
    options = "steps=2,moves=6,tries=2,span=0.5"
    problem = problem_of(rows=20, alpha=3.0)
    sampled, best = (run(f"iterref:{options},{what}", problem) for what in ("dependence=1", "objective=maximise"))
    assert torch.equal(sampled.best.tokens, best.tokens)  # the same chain, another answer
    assert torch.equal(best.rewards, best.best.reward)
    assert float(sampled.rewards.mean()) < float(best.rewards.mean())
    last = sampled.trace.table()["reward"][-1]
    assert torch.equal(last, sampled.rewards)


def test_annealing_ends_colder():
    options = "steps=2,moves=12,tries=4,span=0.5,objective=maximise"
    warm, cold = (run(f"iterref:{options},anneal={by}", problem_of(30, alpha=3.0)) for by in (1, 0.01))
    last = [result.trace.table()["reward"][-3:].mean() for result in (warm, cold)]
    assert float(last[1]) > float(last[0]) + 0.5


def test_more_refinement_comes_nearer_to_the_target():
    """From the model's own mean reward to the exact tilted one."""
    problem = problem_of(100, alpha=0.5)
    means = [float(run(f"iterref:steps=2,moves={m},tries=8,span=0.5", problem).rewards.mean()) for m in (0, 12)]
    plain = float(run("ancestral:steps=6", problem).rewards.mean())
    assert plain < means[0] < means[1] and means[1] == pytest.approx(TARGET.mean_reward(), abs=0.4)


def test_progress_is_shown_when_asked(capsys):
    run("ancestral:steps=2", problem_of())
    assert capsys.readouterr() == ("", "")
    run("ancestral:steps=2", problem_of(), progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "ancestral" in shown.err and "2/2" in shown.err


# --- the best text ----------------------------------------------------------------------------------------------------


def rule(tokens: Tensor, rows: Tensor) -> Tensor:
    return ((tokens == 2).sum(1) >= 2).double()


def test_of_texts_with_one_reward_the_last_state_is_returned() -> None:
    model = world(length=12, vocab=6, seed=2)[0]
    problem = Problem(model, rule, torch.zeros(256, 12), alpha=0.1)
    best, last = (run(f"iterref:{kind}", problem, seed=1) for kind in ("objective=maximise", "dependence=1"))
    reached = last.rewards == 1
    assert bool((best.rewards >= last.rewards).all()) and reached.sum() > 200
    assert torch.equal(best.tokens[reached], last.tokens[reached])
    # so a rule that is kept costs the model next to nothing: its texts are as likely as exact ones that keep it
    drawn = model.sample(Rng.seeded(3, torch.arange(4000)))
    exact = model.log_prob(drawn[rule(drawn, drawn) == 1])
    found = model.log_prob(best.tokens)
    assert abs(float(found.mean() - exact.mean())) < 4 * float(found.std() / 16 + exact.std() / len(exact) ** 0.5)
    # the control: texts that keep it at first sight are far less likely, in nats
    hasty = run("iterref:moves=0,steps=1,tries=64,objective=maximise", problem, seed=1)
    assert bool((hasty.rewards == 1).all()) and float(model.log_prob(hasty.tokens).mean()) < float(exact.mean()) - 1


def test_a_finished_text_that_moves_leave_again_is_seen() -> None:
    model, reward, _ = world(12, 8)
    problem = Problem(model, reward, torch.zeros(64, 12), alpha=5.0)  # so warm that the last moves leave good texts
    result = run("iterref:steps=4,moves=8,early=0.5,tries=1,decisions=1,objective=maximise", problem)
    table = result.trace.table()
    finished = table["t"] == 0
    assert 1 < finished.sum() < len(finished)  # some moves at noisy times, some on finished texts
    assert bool((table["best"][finished] >= table["reward"][finished]).all())


# --- several texts of a prompt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", METHODS)
def test_the_first_of_several_is_the_one_that_a_single_run_gives(text):
    problem = problem_of(3, alpha=0.5)
    one = run(text, problem, seed=4, rows=[7, 2, 5])
    three = run(text, problem.repeated(3), seed=4, rows=[7, 2, 5], copies=3)
    assert three.tokens.shape == (9, 6) and three.asked == one.asked
    assert torch.equal(three.tokens[::3], one.tokens) and torch.equal(three.rewards[::3], one.rewards)
    assert torch.equal(three.best.tokens[::3], one.best.tokens)
    copies = three.tokens.view(3, 3, 6)
    assert not torch.equal(copies[:, 0], copies[:, 1]) and not torch.equal(copies[:, 1], copies[:, 2])
    with pytest.raises(ValueError, match="2 row identities for 3 rows"):
        run(text, problem.repeated(3), rows=[7, 2], copies=3)


def test_generate_returns_several_texts_of_a_prompt_side_by_side():
    def texts(n: int) -> Result:
        return iterref.generate(
            Letters(),
            ["one", "two"],
            reward=letters_a,
            sampler="iterref:steps=2,moves=2",
            seed=3,
            num_return_sequences=n,
        )

    one, eight = texts(1), texts(8)
    assert len(eight.texts) == 16 and [eight.texts[0], eight.texts[8]] == one.texts
    assert eight.rewards.tolist() == letters_a(eight.texts) and len(set(eight.texts[:8])) > 1
    with pytest.raises(ValueError, match="num_return_sequences must be at least 1, got 0"):
        texts(0)


# --- what a callback is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", METHODS)
def test_a_callback_is_told_every_step_and_changes_nothing(text):
    told: list[Progress] = []

    def callback(now: Progress) -> None:
        told.append(Progress(now.step, now.steps, now.t, now.tokens.clone(), now.best, now.cost))
        now.tokens.fill_(0)  # its own copies, to do with as it likes

    plain, result = run(text, problem_of(alpha=0.5)), run(text, problem_of(alpha=0.5), callback=callback)
    assert torch.equal(plain.tokens, result.tokens) and torch.equal(plain.best.tokens, result.best.tokens)
    steps = result.sampler.iterations
    assert [now.step for now in told] == list(range(1, steps + 1)) and {now.steps for now in told} == {steps}
    assert [now.t for now in told] == result.trace.table()["t"].tolist()
    assert all(now.tokens.shape == (4, 6) for now in told)
    assert [now.cost.nfe for now in told] == result.trace.table()["nfe"].tolist()
    best = torch.stack([now.best.reward for now in told])
    assert torch.equal(best, result.trace.table()["best"]) and bool((best[1:] >= best[:-1]).all())


def test_a_callback_may_stop_a_run():
    def stop(now: Progress) -> None:
        if now.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run("iterref:steps=2,moves=9,early=0", problem_of(), callback=stop)
    partial = caught.value.partial
    assert not partial.finished and len(partial.trace.steps) == 4
    assert torch.equal(partial.rewards, REWARD(partial.tokens, torch.arange(4)))


# --- torch's state around a run ---------------------------------------------------------------------------------------


class Network(Denoiser):
    """A denoiser that computes as networks do: float32 products, and new tensors of the default kind."""

    noise: Noise = absorbing(4)

    def __init__(self) -> None:
        self.weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float32)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        seen = torch.nn.functional.one_hot(x_t, 4).to(torch.float32) @ self.weight
        scores = (seen + seen.mean(1, keepdim=True)) @ self.weight * torch.full((), 1 / 3)
        scores[..., 3] = -torch.inf
        return torch.log_softmax(scores, -1)[where]


def by_product(tokens: Tensor, rows: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, 24).view(6, 4).to(torch.float32)
    return (torch.nn.functional.one_hot(tokens, 4).to(torch.float32).flatten(1) @ weight.flatten()[:, None])[:, 0]


@contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AROUND: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": default_dtype,
    "inference mode": torch.inference_mode,
    "grad": torch.enable_grad,
    "device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("text", ["iterref:steps=3,moves=6,chains=2", "smc:steps=3,particles=3"])
def test_torch_s_state_around_a_run_changes_nothing(text, around):
    problem, kept = Problem(Network(), by_product, torch.zeros(4, 6), alpha=0.1), torch.get_default_dtype()
    plain = run(text, problem, watch=[0])
    with around():
        dtype, cast = torch.get_default_dtype(), torch.is_autocast_enabled("cpu")
        result = run(text, problem, watch=[0])
        assert torch.get_default_dtype() == dtype and torch.is_autocast_enabled("cpu") == cast
    assert torch.get_default_dtype() == kept
    pairs = [
        (result.tokens, plain.tokens), (result.rewards, plain.rewards), (result.best.tokens, plain.best.tokens),
        (result.particles.x_t, plain.particles.x_t), (result.particles.log_w, plain.particles.log_w),
        *((result.trace.table()[name].nan_to_num(-9.0), x.nan_to_num(-9.0)) for name, x in plain.trace.table().items()),
    ]  # fmt: skip
    assert all(torch.equal(mine, theirs) and mine.dtype == theirs.dtype for mine, theirs in pairs)


@pytest.mark.parametrize("text", ["iterref:steps=3,moves=6,chains=2", "smc:steps=3,particles=3", *METHODS])
def test_results_are_ordinary_tensors(text):
    for around in (AROUND["grad"], AROUND["inference mode"]):
        with around():
            result = run(text, problem_of(alpha=0.5), watch=[1])
        parts = [result.tokens, result.rewards, result.best.tokens, result.best.reward, *result.trace.table().values()]
        parts += [x for step in result.trace.rounds for one in step for x in one]
        if result.particles is not None:
            parts += [x for x in vars(result.particles).values() if x is not None]
        assert not any(x.is_inference() or x.requires_grad for x in parts)


def test_these_states_would_change_a_network():
    """Negative control: what the network says under autocast or another default is something else."""
    x, where = torch.full((1, 6), 3), torch.ones(1, 6, dtype=torch.bool)
    x[0, 2:] = torch.tensor([0, 1, 2, 0])
    plain = Network()(x, torch.ones(1), where, torch.zeros(1))
    with AROUND["autocast"]():
        assert not torch.equal(Network()(x, torch.ones(1), where, torch.zeros(1)), plain)
    with AROUND["device"](), pytest.raises(RuntimeError):
        torch.equal(Network()(x, torch.ones(1, device="cpu"), where, x[:, 0]), plain)
