"""The one-line use: texts in and out, the pool's charge, independence of the batch, and every refusal at the door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import iterref
from iterref.budget import fitted
from iterref.comparison import compare
from iterref.drafts import Drafts, OwnDrafts
from iterref.estimation import estimate
from iterref.generation import draw_drafts, generate
from iterref.guidance import ClassifierFreeGuidance
from iterref.rewards import Consensus, Rouge, TextReward
from iterref.rewards.base import RewardError
from iterref.samplers.strings import sampler_from_string
from tests.support.fakes import PROMPTS, SMALL, FakeDenoiser, FakeModel, beta, fails_after

DRAFTS_OF_ONE = Drafts([["a"]], torch.zeros(1, 1, 3), "rougeL", iterref.Cost(), iterref.Cost(), 0.0)


class GuidedModel(FakeModel):
    """The same with a denoiser of two passes a row."""

    def prepare(self, prompts):
        denoiser, canvas, free = super().prepare(prompts)
        return ClassifierFreeGuidance(denoiser, denoiser, 2.0), canvas, free


@pytest.mark.parametrize("reward", [beta, OwnDrafts(n=2, steps=2)])
def test_a_guided_model_keeps_its_budget_in_passes(reward: Any) -> None:
    result = generate(GuidedModel(), PROMPTS, reward=reward, sampler="iterref:steps=2", budget=20)
    assert result.asked.nfe == 20
    moves = (20 - (8 if reward is not beta else 0)) // 2 - 2
    assert result.sampler == sampler_from_string(f"iterref:steps=2,moves={moves}")
    stated = estimate(GuidedModel(), PROMPTS, reward=reward, sampler="iterref:steps=2", budget=20)
    assert stated.cost == result.asked and stated.sampler == result.sampler


def test_a_comparison_knows_what_a_pool_takes_before_anything_runs() -> None:
    """Four drafts of two passes a step leave no room in a budget of 10 NFE, though they would for one pass."""
    untouched = GuidedModel()
    with pytest.raises(ValueError, match="best_of_n:steps=2 at 10 NFE: .*leaves? no room|too small"):
        compare(untouched, PROMPTS, ["ancestral:steps=2", "best_of_n:steps=2"], reward=OwnDrafts(2, 2), budgets=10)
    assert untouched.denoiser is None or not untouched.denoiser.rows_asked


def test_texts_come_back_with_rewards_and_the_reward_rises() -> None:
    plain = generate(FakeModel(), PROMPTS * 10, reward=beta, sampler="ancestral:steps=2")
    guided = generate(FakeModel(), PROMPTS * 10, reward=beta, sampler=SMALL, alpha=0.2)
    assert guided.texts is not None and len(guided.texts) == 40
    assert guided.rewards.tolist() == beta(guided.texts)
    assert float(guided.rewards.mean()) > float(plain.rewards.mean()) + 1


def test_tokens_depend_on_seed_and_identity_alone() -> None:
    whole = generate(FakeModel(), PROMPTS, reward="consensus", sampler=SMALL, rows=[7, 8, 9, 10], seed=3)
    chunked = generate(FakeModel(), PROMPTS, reward="consensus", sampler=SMALL, rows=[7, 8, 9, 10], seed=3, max_rows=2)
    alone = generate(FakeModel(), PROMPTS[2:3], reward="consensus", sampler=SMALL, rows=[9], seed=3)
    assert torch.equal(whole.tokens, chunked.tokens) and torch.equal(whole.rewards, chunked.rewards)
    assert torch.equal(whole.tokens[2], alone.tokens[0]) and whole.rewards[2] == alone.rewards[0]
    others = generate(FakeModel(), PROMPTS[2:3] * 8, reward="consensus", sampler=SMALL, seed=3)
    assert (others.tokens != whole.tokens[2]).any(1).any()  # the identity does matter


def test_pools_are_the_models_own_and_do_not_depend_on_the_batch_or_their_size() -> None:
    drafts = draw_drafts(FakeModel(), PROMPTS, OwnDrafts(n=6, steps=2), rows=[4, 5, 6, 7])
    alone = draw_drafts(FakeModel(), PROMPTS[1:2], OwnDrafts(n=6, steps=2), rows=[5])
    fewer = draw_drafts(FakeModel(), PROMPTS, OwnDrafts(n=2, steps=2), rows=[4, 5, 6, 7])
    assert alone.texts[0] == drafts.texts[1]
    assert [pool[:2] for pool in drafts.texts] == fewer.texts
    assert drafts.asked.nfe == 12 and drafts.asked.reward_calls == 0


def test_drafts_follow_the_models_law() -> None:
    model, n = FakeModel(), 2000
    pool = draw_drafts(model, ["one two"], OwnDrafts(n=n, steps=40)).texts[0]
    table = model.table("one two")
    texts = model.decode(table.states())
    for text in ("beta", "gamma delta", ""):
        p = sum(float(q) for q, other in zip(table.log_p.exp(), texts, strict=True) if other == text)
        assert abs(pool.count(text) / n - p) < 4 * (p * (1 - p) / n) ** 0.5 + 0.02


def test_the_pool_is_counted_and_paid_from_the_budget() -> None:
    model = FakeModel()
    result = generate(model, PROMPTS, reward=OwnDrafts(n=5, steps=2), sampler="iterref:steps=2,tries=3", budget=17)
    assert result.asked.nfe == 17 and result.asked.depth == 2 + 7
    assert result.sampler == sampler_from_string("iterref:steps=2,tries=3,moves=5")
    assert model.denoiser is not None and model.denoiser.rows_asked == round(result.cost.nfe * len(PROMPTS))
    free = generate(FakeModel(), PROMPTS, reward=beta, sampler="iterref:steps=2,tries=3", budget=17)
    assert free.sampler == sampler_from_string("iterref:steps=2,tries=3,moves=15")  # the method has it all


def test_drafts_drawn_before_are_the_same_reward_and_are_charged_too() -> None:
    options: dict[str, Any] = {"sampler": "iterref:steps=2,tries=3", "budget": 17, "seed": 5, "temperature": 0.7}
    drafts = draw_drafts(FakeModel(), PROMPTS, OwnDrafts(n=5, steps=2), seed=5, temperature=0.7)
    before = generate(FakeModel(), PROMPTS, reward=drafts, **options)
    within = generate(FakeModel(), PROMPTS, reward=OwnDrafts(n=5, steps=2), **options)
    assert torch.equal(before.tokens, within.tokens) and torch.equal(before.rewards, within.rewards)
    assert before.asked == within.asked
    assert before.seconds > drafts.seconds


def test_consensus_is_a_part_of_mixtures() -> None:
    own, other = OwnDrafts(n=5, steps=2), OwnDrafts(n=3, steps=2, kind="rouge1")

    def length(completions: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    def mixture(first: Any, second: Any) -> Any:
        return 0.7 * first + (0.1 * second).where(first > 0.05, 0.2 * second.clip(0.1)) + length

    before = [draw_drafts(FakeModel(), PROMPTS, pool) for pool in (own, other)]
    result = generate(FakeModel(), PROMPTS, reward=mixture(own, other), sampler="iterref:steps=2,tries=3", budget=33)
    again = generate(FakeModel(), PROMPTS, reward=mixture(*before), sampler="iterref:steps=2,tries=3", budget=33)
    assert result.asked.nfe == 33 and result.asked == again.asked  # each pool is drawn and charged once
    assert torch.equal(result.tokens, again.tokens) and torch.equal(result.rewards, again.rewards)
    assert result.texts is not None
    wanted = mixture(*(drafts.reward() for drafts in before))(result.texts, rows=[0, 1, 2, 3])
    assert result.rewards.tolist() == pytest.approx(wanted)
    begun = generate(FakeModel(), PROMPTS, reward=0.5 * own + length, sampler="iterref:moves=0", start="drafts")
    assert torch.equal(begun.tokens, before[0].best()[0])
    with pytest.raises(RewardError, match="pass this reward to generate"):
        own(["a"])


def test_reward_is_the_consensus_with_the_pool() -> None:
    drafts = draw_drafts(FakeModel(), PROMPTS, OwnDrafts(n=5, steps=2))
    result = generate(FakeModel(), PROMPTS, reward=drafts, sampler=SMALL)
    assert result.texts is not None
    assert result.rewards.tolist() == pytest.approx(drafts.reward()(result.texts, range(4)))


def test_rewards_of_every_kind_are_taken() -> None:
    def with_prompts(prompts: list[str], completions: list[str], word: list[str], **rest: object) -> list[float]:
        return [float(w in c.split()) + len(p) for p, c, w in zip(prompts, completions, word, strict=True)]

    def of_tokens(tokens: Tensor, rows: Tensor) -> Tensor:
        return (tokens == 1).sum(1).double() + rows

    columns = {"word": ["beta"] * 4, "reference": ["alpha beta"] * 4}
    rewards: list[Callable[..., Any]] = [
        with_prompts,
        of_tokens,
        lambda texts: [len(text) for text in texts],
        Rouge(),
        Rouge().against(["alpha"] * 4),
        0.5 * TextReward(beta, FakeModel().decode),
    ]
    for reward in rewards:
        assert generate(FakeModel(), PROMPTS, reward=reward, sampler=SMALL, columns=columns).finished


def test_temperature_sharpens() -> None:
    def at(temperature: float) -> int:
        result = generate(
            FakeModel(), ["one two"] * 60, reward=beta, sampler="ancestral:steps=3", temperature=temperature
        )
        assert result.texts is not None
        return len(set(result.texts))

    assert at(0.2) < at(1.0)


def test_forbidden_tokens_are_never_written_nor_drafted() -> None:
    drafts = draw_drafts(FakeModel(), PROMPTS, OwnDrafts(n=8, steps=2), forbidden=[1])
    result = generate(FakeModel(), PROMPTS, reward=drafts, sampler=SMALL, forbidden=[1])
    assert not (result.tokens == 1).any()
    assert not any("beta" in text for pool in drafts.texts for text in pool)
    free = draw_drafts(FakeModel(), PROMPTS, OwnDrafts(n=8, steps=2))
    assert any("beta" in text for pool in free.texts for text in pool)


def test_a_row_without_an_allowed_text_keeps_its_state_and_says_so() -> None:
    def only_row_one(completions: list[str], rows: list[int]) -> list[float]:
        return [0.0 if row == 1 else -torch.inf for row in rows]

    result = generate(FakeModel(), PROMPTS[:2], reward=only_row_one, sampler=SMALL)
    assert result.trace.stuck_rows() == [0]
    assert "row 0: some step found only forbidden candidates" in str(result)
    assert "forbidden" not in str(generate(FakeModel(), PROMPTS[:2], reward=beta, sampler=SMALL))


def test_a_failing_reward_gives_back_what_was_reached() -> None:
    with pytest.raises(RewardError, match="KeyError") as caught:
        sampler = "iterref:steps=2,moves=40,tries=4,decisions=1,early=0"
        generate(FakeModel(), PROMPTS * 3, reward=fails_after(4), sampler=sampler)
    partial = caught.value.partial
    assert not partial.finished and partial.rewards.isfinite().all() and len(partial.texts) == 12


@pytest.mark.parametrize("answer", [[1.0], [float("nan")] * 4, [float("inf")] * 4, ["x"] * 4, None])
def test_answers_that_are_no_rewards_are_refused_where_they_appear(answer: object) -> None:
    with pytest.raises(RewardError, match="row"):
        generate(FakeModel(), PROMPTS, reward=lambda texts: answer, sampler="iterref:steps=2,moves=2,tries=1")


def test_a_partial_result_counts_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Consensus, completions: Sequence[str], rows: Sequence[int]) -> list[float]:
        raise OSError("gone")

    monkeypatch.setattr(Consensus, "__call__", fails)
    with pytest.raises(RewardError, match="OSError") as caught:
        generate(FakeModel(), PROMPTS, reward=OwnDrafts(n=5, steps=2), sampler=SMALL)
    partial = caught.value.partial
    assert partial.asked.nfe == 10 + 1 and not partial.finished


class Counting(FakeModel):
    """A model that must not be asked."""

    def prepare(self, prompts: Sequence[str]) -> tuple[FakeDenoiser, Tensor, Tensor]:
        denoiser, canvas, free = super().prepare(prompts)
        denoiser.__class__ = Untouchable
        return denoiser, canvas, free


class Untouchable(FakeDenoiser):
    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        raise AssertionError("the denoiser was asked before the checks passed")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompts": []}, "no prompts: pass at least one"),
    ({"model": "tiny-news", "prompts": ["fine", " \n"]}, "prompt 1 is empty: pass"),
    ({"reward": 0.5 * OwnDrafts() + (lambda completions, tone: [0.0])}, "needs tone.*: add the column"),
    ({"reward": 0.5 * OwnDrafts() + DRAFTS_OF_ONE}, "belong to 1 prompts, not 2"),
    ({"reward": OwnDrafts(n=2) + OwnDrafts(n=3), "start": "drafts"}, "needs one pool of drafts, and the reward has 2"),
    ({"reward": lambda completions: [0.0], "start": "drafts"}, "needs one pool of drafts, and the reward has 0"),
    ({"prompts": "one string"}, "are one string: pass a list"),
    ({"prompts": ["fine", 3]}, "prompt 1 is an int .3.: pass a string"),
    ({"prompts": ["fine", "far too long for this small model"]}, "prompt 1 has 7 words .*: shorten it"),
    ({"sampler": "iteref"}, "unknown sampler 'iteref': did you mean 'iterref'"),
    ({"sampler": "iterref:tris=3"}, "unknown option 'tris': did you mean 'tries'"),
    ({"sampler": "iterref:tries=many"}, "needs a whole number"),
    ({"alpha": 0.0}, "alpha must be positive"),
    ({"alpha": -1.0}, "alpha must be positive"),
    ({"alpha": float("nan")}, "alpha must be positive"),
    ({"temperature": 0.0}, "temperature must be positive"),
    ({"reward": 3}, "the reward is an int .3.: pass a function"),
    ({"reward": "rogue"}, "unknown reward 'rogue': did you mean 'rouge'"),
    ({"reward": lambda completions, tone: [0.0]}, "needs tone.*: add the column"),
    ({"reward": DRAFTS_OF_ONE}, "belong to 1 prompts, not 2"),
    ({"columns": {"tone": ["one"]}}, "column 'tone' has 1 entries for 2 prompts"),
    ({"columns": {"tone": ["one"]}, "reward": "consensus"}, "column 'tone' has 1 entries for 2 prompts"),
    ({"rows": [1]}, "1 row identities for 2 prompts"),
    ({"rows": [0, -1]}, "row 1 has identity -1"),
    ({"seed": -1}, "a seed must lie in"),
    ({"watch": [2]}, "row 2 cannot be watched"),
    ({"budget": 0}, "a positive NFE"),
    ({"budget": 3, "sampler": "iterref"}, "budget of 3 NFE .* too small for one run of iterref"),
    ({"budget": (64, 0)}, "too small for one run"),
    ({"budget": 128, "reward": "consensus"}, "leaves no room after the 128 NFE of the drafts that .*: raise"),
    ({"budget": 130, "reward": "consensus", "sampler": "iterref"}, "after the 128 NFE of the drafts, the budget of 2"),
    ({"forbidden": [99]}, "forbidden token 99 is outside the vocabulary of 6"),
    ({"forbidden": range(5)}, "every token is forbidden"),
    ({"max_rows": 0}, "max_rows must be at least 1"),
    ({"model": "tiny-new"}, "'tiny-new' is no folder"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=[f"{list(o)[-1]}-{s[:24]}" for o, s in REFUSED])
def test_bad_input_is_refused_before_anything_runs(options: dict[str, Any], sentence: str) -> None:
    def never(completions: list[str]) -> list[float]:
        raise AssertionError("the reward was asked before the checks passed")

    given = {"model": Counting(), "prompts": ["one", "two words"], "reward": never} | options
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        generate(given.pop("model"), given.pop("prompts"), **given)
    assert "\n" not in str(caught.value)


def test_the_untouchable_model_would_have_noticed() -> None:
    with pytest.raises(AssertionError, match="before the checks"):
        generate(Counting(), PROMPTS, reward=beta)


@pytest.mark.parametrize("options", [{"n": 0}, {"steps": 0}, {"order": "best"}, {"kind": "rouge9"}])
def test_impossible_pools_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        OwnDrafts(**options)


def test_a_method_is_fitted_to_what_the_pool_leaves() -> None:
    pool = OwnDrafts(n=2, steps=3).cost()
    assert fitted(sampler_from_string("ancestral"), 10, pool).cost().nfe == 4
    assert fitted(sampler_from_string("ancestral"), None, pool) == sampler_from_string("ancestral")


def test_auto_is_the_default_everywhere() -> None:
    model, reward = FakeModel(), lambda texts: [float(len(text)) for text in texts]
    assert generate(model, ["a b"], reward=reward).sampler == sampler_from_string("auto")
    filled = iterref.infill(model, ["[alpha] ."], prompts=["a b"], reward=reward)
    assert filled.result is not None and filled.result.sampler == sampler_from_string("auto")
    assert str(generate(model, ["a b"], reward=reward, sampler="ancestral").sampler) == "ancestral"


def test_the_reward_of_an_edit_pays_for_drafts_only_where_it_has_some() -> None:
    model, options = FakeModel(), {"prompts": ["a b"], "strength": 0.5, "budget": 20}
    assert iterref.refine(model, ["alpha"], reward="length:1", **options).texts
    with pytest.raises(ValueError, match="drafts"):
        iterref.refine(model, ["alpha"], reward="consensus", **options)


def test_the_first_texts_are_watched_unless_told_otherwise_and_writes_the_same() -> None:
    watched = generate(FakeModel(), PROMPTS * 3, reward=beta, sampler=SMALL)
    assert watched.trace.watch == tuple(range(min(8, 3 * len(PROMPTS)))) and len(watched.trace.rounds) > 0
    silent = generate(FakeModel(), PROMPTS * 3, reward=beta, sampler=SMALL, watch=[])
    assert silent.trace.watch == () and silent.trace.rounds == [] and silent.texts == watched.texts
    many = generate(FakeModel(), PROMPTS * (2048 // len(PROMPTS)), reward=beta, sampler=SMALL)
    assert many.trace.watch == tuple(range(8))  # the first of any number of texts
