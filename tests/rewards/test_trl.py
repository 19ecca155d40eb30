"""Rewards written for TRL's trainers work as they are, its own among them."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest
import torch

from iterref import generate
from iterref.models.base import Chat
from iterref.rewards import RewardError, TextReward, Threaded, checked, weighted
from iterref.rewards.text import bind_reward, text_ids
from tests.support.word_model import WordModel

OPTIONS: dict[str, Any] = {"sampler": "best_of_n:n=2,steps=1", "seed": 1}
TOKENS, ROWS = torch.tensor([[0, 1, 4], [4, 4, 4], [2, 2, 3]]), torch.arange(3)
TEXTS = WordModel().decode(TOKENS)
PROMPTS = ["p", "q", "r"]


def asked(function: Any, **columns: list[Any]) -> list[float]:
    model = WordModel()
    reward = TextReward(
        function, model.decode, PROMPTS, columns, ids=lambda t, texts: text_ids(t, texts, model.encode([""])[0])
    )
    return checked(reward, TOKENS, ROWS).tolist()


# --- the forms that TRL's reference shows, in words of this test ------------------------------------------------------


def test_completions_as_messages() -> None:
    def annotated(completions: list[list[dict[str, str]]], prompts: Any, **kwargs: Any) -> list[float]:
        assert [prompt[0] for prompt in prompts] == [{"role": "user", "content": text} for text in PROMPTS]
        return [float(len(completion[0]["content"])) for completion in completions]

    def bare(completions, **kwargs):  # as most are written
        return [float(len(completion[0]["content"])) for completion in completions]

    sizes = [float(len(text)) for text in TEXTS]
    texts_first = [0, 2, 1]  # a text that is not empty first: an empty string has no first character
    assert asked(annotated) == sizes
    reward = TextReward(bare, WordModel().decode)
    assert reward(TOKENS[texts_first], ROWS).tolist() == [sizes[place] for place in texts_first]
    assert reward(TOKENS, ROWS).tolist() == sizes  # known from now on
    assert (1.0 * TextReward(lambda completions: [0.0] * len(completions), WordModel().decode))(TOKENS, ROWS).sum() == 0


def test_texts_stay_texts_where_nothing_asks_for_messages() -> None:
    assert asked(lambda completions: [float(isinstance(text, str)) for text in completions]) == [1.0] * 3
    with pytest.raises(RewardError, match="TypeError"):
        asked(lambda completions: [text["content"] for text in completions])  # neither texts nor lists of messages
    with pytest.raises(RewardError, match="'str' object has no attribute 'word'"):
        asked(lambda completions: [text.word for text in completions])


def test_a_conversation_is_handed_over_whole() -> None:
    said = [("system", "be kind"), ("user", "p")]

    def last(completions: list[list[dict[str, str]]], prompts: Any) -> list[float]:
        assert prompts[0] == [{"role": role, "content": text} for role, text in said]
        return [float(len(prompt)) for prompt in prompts]

    reward = TextReward(last, WordModel().decode, [Chat(said), "q", "r"])
    assert reward(TOKENS, ROWS).tolist() == [2.0, 1.0, 1.0]
    assert Chat([{"role": role, "content": text} for role, text in said]).messages == Chat(said).messages
    for wrong, told in [({"content": "x"}, "the role None"), ({"role": "user", "content": ["x"]}, "is no text")]:
        with pytest.raises(ValueError, match=told):
            Chat([wrong])  # type: ignore[list-item]


def test_messages_are_known_by_what_is_asked_of_them() -> None:
    sizes = [float(len(text)) for text in TEXTS]
    assert asked(lambda completions: [float(len(one[-1].get("content", ""))) for one in completions if one]) == sizes


def test_messages_are_known_where_the_error_of_a_text_is_caught() -> None:
    def guarded(take: Any) -> Any:
        def reward(completions, **kwargs):
            found = []
            for one in completions:
                try:
                    found.append(float(len(take(one))))
                except Exception:
                    found.append(-1.0)
            return found

        return reward

    sizes = [float(len(text)) for text in TEXTS]
    for take in (
        lambda one: one[0]["content"], lambda one: one[-1].get("content"), lambda one: [m["content"] for m in one][0]
    ):  # fmt: skip
        assert asked(guarded(take)) == asked(1.0 * TextReward(guarded(take), WordModel().decode)) == sizes
        assert Threaded(guarded(take), workers=2)(TEXTS) == sizes
        assert asked(partial(guarded(take), unused=1)) == sizes
    for take in (lambda one: one["content"], lambda one: one[0]["word"], lambda one: one.get):  # no messages either
        assert asked(guarded(take)) == [-1.0] * 3
    seen = list[type]()
    asked(lambda completions: [float(seen.append(type(one)) or len(one[:2] + one.upper())) for one in completions])
    assert all(issubclass(kind, str) for kind in seen)


def test_what_hands_everything_on_is_called_as_trl_calls_it() -> None:
    def timed(function: Any) -> Any:
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    sizes = [float(len(text)) for text in TEXTS]
    assert asked(timed(lambda prompts, completions, **kwargs: map(len, completions))) == sizes
    assert asked(timed(lambda texts, **kwargs: map(len, texts))) == sizes
    assert asked(lambda *args, **kwargs: [float(len(one)) for one in kwargs["completions"]]) == sizes
    with pytest.raises(RewardError, match="multiple values"):
        asked(lambda prompts, completions: dict(a=1, **{"a": 2}))  # a fault of its own


def test_async_functions_share_a_loop_of_their_own() -> None:
    seen = set()

    async def judge(completions: list[str], **kwargs: Any) -> list[float]:
        await asyncio.sleep(0)
        seen.add((id(asyncio.get_running_loop()), threading.current_thread().name))
        return [float(len(text)) for text in completions]

    class Judge:
        async def __call__(self, completions: list[str]) -> list[float]:
            return await judge(completions)

    expected = [float(len(text)) for text in TEXTS]
    assert asked(judge) == asked(Judge()) == expected
    assert Threaded(judge)(TEXTS) == expected and len(seen) == 1

    async def notebook() -> list[float]:  # a loop that runs already
        return asked(judge)

    assert asyncio.run(notebook()) == expected

    async def fails(completions: list[str]) -> list[float]:
        raise OSError("away")

    with pytest.raises(RewardError, match=r"OSError \(away\)"):
        asked(fails)


def some(completions: list[str]) -> list[float | None]:
    return [None if "beta" in text else 2.0 for text in completions]


def one(completions: list[str]) -> list[float]:
    return [1.0] * len(completions)


def test_none_leaves_a_function_out_and_the_others_grow() -> None:
    assert asked(weighted([some, one], [3.0, 1.0])) == [4.0, 7.0, 7.0]
    assert asked(weighted([one, one])) == [2.0] * 3
    assert asked(weighted([some, one], [0.0, 0.0])) == [0.0] * 3
    assert asked(weighted([one, some], [-1.0, 1.0])) == [-2.0, 1.0, 1.0]
    for nobody in (weighted([some]), weighted([some]) + one):
        with pytest.raises(RewardError, match="NaN for row 0, text 'alpha beta': every part gave None"):
            asked(nobody)
    with pytest.raises(RewardError, match="None for row 0, text 'alpha beta', which is not a number"):
        asked(some)
    with pytest.raises(RewardError, match="NaN for row 0"):  # NaN is no None
        asked(weighted([lambda completions: [float("nan")] * 3, one]))
    with pytest.raises(ValueError, match="1 weights for 2 rewards"):
        weighted([one, some], [1.0])
    with pytest.raises(TypeError, match="weighted by a number, got 'a'"):
        weighted([one], ["a"])


def test_none_in_a_mixture_with_tokens() -> None:
    model = WordModel()

    def total(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return tokens.sum(1)

    reward = bind_reward(weighted([some, total], [1.0, 1.0]), lambda f: TextReward(f, model.decode), None)
    assert reward(TOKENS, ROWS).tolist() == [10.0, 14.0, 9.0]


def test_completion_ids_end_where_the_text_ends() -> None:
    seen: list[list[int]] = []

    def counting(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        seen.extend(completion_ids)
        return [float(len(ids)) for ids in completion_ids]

    assert asked(counting) == [2.0, 0.0, 3.0] and seen == [[0, 1], [], [2, 2, 3]]
    assert asked(lambda completion_ids: [float(len(ids)) for ids in completion_ids]) == [2.0, 0.0, 3.0]
    result = generate(WordModel(), PROMPTS, reward=counting, **OPTIONS)
    assert result.rewards.tolist() == [float(len(text.split())) for text in result.texts]
    # behind a start token, which is also the end; with an end of a turn that the empty text does not show
    tokens = torch.tensor([[9, 1, 2, 9, 5], [9, 1, 8, 2, 2]])
    assert text_ids(tokens, ["a b", "a"], torch.tensor([9, 9, 0, 0, 0]), ends=[8]) == [[1, 2], [1]]
    assert text_ids(tokens, ["a b", "a"], None) == tokens.tolist()


def test_what_trainers_hand_over_beside() -> None:
    def logging(
        completions: list[str], trainer_state: Any, log_extra: Any, log_metric: Any, **kwargs: Any
    ) -> list[float]:
        log_extra("sizes", [len(text) for text in completions])
        log_metric("mean", 1.0)
        assert {"prompts", "rows", "completion_ids", "answer"} <= set(kwargs)
        return [float(trainer_state.global_step)] * len(completions)

    assert asked(logging, answer=[1, 2, 3]) == [0.0] * 3
    assert asked(weighted([logging]), answer=[1, 2, 3]) == [0.0] * 3
    own = asked(
        lambda completions, trainer_state: trainer_state, trainer_state=[1.0, 2.0, 3.0]
    )  # the data's own column
    assert own == [1.0, 2.0, 3.0]


def test_a_network_or_a_class_is_told_what_to_pass() -> None:
    class Scorer:
        def __call__(self, completions: list[str]) -> list[float]:
            return [0.0] * len(completions)

    made = type("Labels", (), {"__module__": "transformers.pipelines.text", "__call__": Scorer.__call__})
    pipeline = made()
    for wrong, sentence in (
        (torch.nn.Linear(1, 1), "is a network .*rewards.Classifier"),
        (Scorer, "is the class Scorer: pass one of its objects"),
        (pipeline, "is a Labels of transformers, which gives labels .*rewards.Classifier"),
    ):
        with pytest.raises((ValueError, TypeError), match=sentence):
            generate(WordModel(), ["a"], reward=wrong, **OPTIONS)


# --- TRL's own --------------------------------------------------------------------------------------------------------


def test_the_rewards_of_trl_run() -> None:
    from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment, think_format_reward

    long, repeats = get_soft_overlong_punishment(3, 2), get_repetition_penalty_reward(1)
    assert asked(think_format_reward) == [0.0] * 3
    thinks = TextReward(think_format_reward, lambda tokens: ["<think>a</think>b"] * len(tokens))
    assert thinks(TOKENS, ROWS).tolist() == [1.0] * 3
    assert asked(long) == [-0.5, 0.0, -1.0] and asked(repeats) == pytest.approx([0.0, 0.0, -1 / 3])
    together = weighted([think_format_reward, long, repeats], [1.0, 0.5, 3.0])
    assert asked(together) == pytest.approx([-0.25, 0.0, -1.5])
    result = generate(WordModel(), PROMPTS, reward=together, **OPTIONS)
    assert result.rewards.max() <= 0
