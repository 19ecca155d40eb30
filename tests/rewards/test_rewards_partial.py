"""Values of unfinished states: declared, checked, combined, remembered and counted as rewards are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref import generate, infill
from iterref.problem import Problem
from iterref.rewards import Composable, Remembered, RewardError, TextReward, with_partial
from iterref.rewards.algebra import unfinished, values_states
from iterref.rewards.text import bind_reward
from iterref.run import Run
from iterref.samplers import SMC, SVDD, Growth
from iterref.sampling import sample
from tests.support.partial import ByContent
from tests.support.problems import LENGTH, model_of, no_reward, problem_of
from tests.support.word_model import WordModel

TOKENS = torch.tensor([[0, 1, 2], [1, 1, 0]])
MASKED = torch.tensor([[False, True, False], [True, False, False]])
ROWS = torch.tensor([0, 1])
COLUMNS = {"wanted": ["a", "b"]}


def count(tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
    """Ones that are written, and a tenth for each prompt number."""
    return ((tokens == 1) & ~masked).sum(1) + 0.1 * rows


def of_tokens(tokens: Tensor, rows: Tensor) -> Tensor:
    return tokens.sum(1)


def wanted(completions: list[str], wanted: list[str]) -> list[float]:
    return [float(text.count(letter)) for text, letter in zip(completions, wanted, strict=True)]


def so_far(completions: list[str], wanted: list[str], masked: list[int]) -> list[float]:
    return [text.count(letter) + 0.5 * n for text, letter, n in zip(completions, wanted, masked, strict=True)]


def letters(tokens: Tensor) -> list[str]:
    return ["".join("ab_"[token] for token in row).replace("_", "") for row in tokens.tolist()]


def test_values_of_tokens_are_checked_combined_and_know_their_rows():
    one, two = with_partial(of_tokens, count), ByContent()
    both = 2 * one + two
    assert torch.equal(
        both.partial(TOKENS, MASKED, ROWS), 2 * count(TOKENS, MASKED, ROWS) + two.partial(TOKENS, MASKED, ROWS)
    )
    assert torch.equal(both(TOKENS, ROWS), 2.0 * of_tokens(TOKENS, ROWS) + two(TOKENS, ROWS))
    bound = bind_reward(one, lambda reward: reward, torch.tensor([7, 3]))
    assert torch.allclose(bound.partial(TOKENS, MASKED, ROWS), torch.tensor([0.7, 1.3]).double())
    assert Remembered(both).has_partial and not (one + of_tokens).has_partial
    with pytest.raises(RewardError, match="gave NaN for row 1"):
        unfinished(with_partial(of_tokens, lambda tokens, masked, rows: [0.0, float("nan")]))(TOKENS, ROWS)
    with pytest.raises(RewardError, match="2 numbers were expected"):
        unfinished(with_partial(of_tokens, lambda tokens, masked, rows: [0.0]))(TOKENS, ROWS)


def test_what_a_value_gets_are_copies():
    def greedy(tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        tokens.zero_(), masked.fill_(True), rows.fill_(9)
        return torch.zeros(len(rows))

    tokens, masked, rows = TOKENS.clone(), MASKED.clone(), ROWS.clone()
    Run(Problem(model_of(), with_partial(no_reward, greedy), torch.zeros(2, LENGTH))).partial_of(
        torch.zeros(2, LENGTH).long(), 0.5
    )
    Remembered(with_partial(no_reward, greedy)).partial(tokens, masked, rows)
    assert torch.equal(tokens, TOKENS) and torch.equal(masked, MASKED) and torch.equal(rows, ROWS)


def test_values_of_unfinished_texts_get_their_columns_and_what_is_open():
    reward = TextReward(with_partial(wanted, so_far), letters, columns=COLUMNS)
    tokens = torch.tensor([[0, 0, 2], [2, 1, 2]])
    assert reward(tokens, ROWS).tolist() == [2, 1]
    assert reward.partial(tokens, tokens == 2, ROWS).tolist() == [2.5, 2]
    assert reward.partial(tokens[[1]], tokens[[1]] == 2, ROWS[[1]]).tolist() == [2]
    mixture = TextReward(with_partial(wanted, so_far) - 0.5 * with_partial(wanted, so_far), letters, columns=COLUMNS)
    assert mixture.partial(tokens, tokens == 2, ROWS).tolist() == [1.25, 1]
    of_states = TextReward(with_partial(wanted, count), letters, columns=COLUMNS)
    assert torch.allclose(of_states.partial(TOKENS, MASKED, ROWS), count(TOKENS, MASKED, ROWS).double())
    assert not values_states(with_partial(wanted, count) + with_partial(wanted, so_far))
    assert not TextReward(wanted, letters, columns=COLUMNS).has_partial


def test_a_run_remembers_counts_and_never_confuses_them_with_rewards():
    asked: list[Tensor] = []

    def value(tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        asked.append(masked)
        return masked.sum(1)

    problem = problem_of(rows=2)
    run = Run(Problem(problem.denoiser, with_partial(no_reward, value), problem.canvas))
    x = torch.where(torch.arange(LENGTH) < 2, problem.canvas, run.noise.mask)
    assert (
        run.partial_of(x, 0.5).tolist()
        == [LENGTH - 2] * 2
        == run.repeat(2).partial_of(x.repeat(2, 1), 0.5)[:2].tolist()
    )
    assert len(asked) == 1 and torch.equal(asked[0], x == run.noise.mask)
    assert run.meter.asked_reward_calls == 6 and run.meter.made_reward_calls == 2
    assert run.reward_of(problem.canvas, final=True).tolist() == [0, 0] and run.best.reward.tolist() == [0, 0]


@pytest.mark.parametrize(
    "method", [SMC(4, particles=2, value="partial"), SVDD(4, value="partial"), Growth(value="partial")]
)
def test_a_reward_without_values_is_refused_in_one_sentence(method):
    with pytest.raises(ValueError, match=r"declares none: give rewards.with_partial"):
        sample(method, problem_of())
    generate(
        WordModel(),
        ["a", "b"],
        reward=with_partial(lambda completions: [0.0] * len(completions), lambda completions, masked: masked),
        sampler=method,
    )


def test_infilling_values_unfinished_texts_too():
    asked: list[str] = []

    def value(completions: list[str], masked: list[int]) -> list[float]:
        asked.extend(completions)
        return [-float(n) for n in masked]

    reward = with_partial(lambda completions: [float(len(text)) for text in completions], value)
    given = dict(prompts=["police arrested two men in london ."], sampler="svdd:steps=2,value=partial")
    texts = infill("tiny-news", ["police [MASK] two men ."], reward=reward, **given).texts
    assert asked and texts is not None and texts[0].startswith("police ") and texts[0].endswith(" two men .")


def test_a_subclass_declares_its_own():
    class Silent(Composable):
        def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
            return torch.zeros(len(rows))

    assert not Silent().has_partial and ByContent().has_partial
    with pytest.raises(NotImplementedError, match="Silent has no values"):
        Silent().partial(TOKENS, MASKED, ROWS)
