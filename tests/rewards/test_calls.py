"""How a run calls a reward: once, checked once, few frames deep, on copies, and remembered in few bytes."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iterref import generate
from iterref.problem import Problem
from iterref.rewards import Composable, Remembered, RewardError, TextReward, checked, weighted
from iterref.rewards import base as rewards_base
from iterref.rewards.memory import ENTRY, Memory, digests
from iterref.run import Run
from tests.support.word_model import WordModel

OPTIONS: dict[str, Any] = {"sampler": "best_of_n:n=2,steps=1", "seed": 1}
DEEPEST = 5  # frames between the sampler's call of the run and the user's function
STACKS: list[list[str]] = []


def stack() -> None:
    frames, frame = [], sys._getframe(1)
    while frame is not None:
        frames.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")
        frame = frame.f_back
    STACKS.append(frames)


def of_texts(completions: list[str]) -> list[float]:
    stack()
    return [0.0] * len(completions)


def of_tokens(tokens: Tensor, rows: Tensor) -> Tensor:
    stack()
    return torch.zeros(len(rows))


class Composed(Composable):
    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return of_tokens(tokens, rows)


@pytest.mark.parametrize(
    "reward",
    [of_texts, of_tokens, weighted([of_texts, lambda completions: [1.0] * len(completions)]), weighted([of_tokens]),
     weighted([of_texts, of_tokens])],
    ids=["texts", "tokens", "mixture of texts", "mixture of tokens", "mixture of both"],
)  # fmt: skip
def test_few_frames_lie_between_the_sampler_and_the_function(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    STACKS.clear()
    checks: list[int] = []
    plain = rewards_base._plain  # which every check asks first
    monkeypatch.setattr(rewards_base, "_plain", lambda *given: checks.append(1) or plain(*given))
    generate(WordModel(), ["a", "b"], reward=reward, **OPTIONS)
    assert STACKS
    for frames in STACKS:
        run = frames.index("iterref.run.reward_of")
        assert run <= DEEPEST, frames[: run + 2]
        assert frames[run + 1].startswith("iterref.samplers")
    asked = sum(part in (of_texts, of_tokens) for part in getattr(reward, "parts", (reward,)))
    checked_each = len(reward.parts) + 1 if hasattr(reward, "parts") else 1  # every part once, and their sum
    assert len(checks) * asked == checked_each * len(STACKS)


def test_a_users_own_composable_is_checked_too() -> None:
    class Wrong(Composed):
        def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
            return torch.full((len(rows),), torch.nan)

    for remember in (True, False):
        problem = Problem(
            *WordModel().prepare(["a"])[:1], Wrong(), torch.zeros(1, 3, dtype=torch.long), remember=remember
        )
        with pytest.raises(RewardError, match="NaN for row 0"):
            Run(problem).reward_of(torch.zeros(1, 3, dtype=torch.long), final=False)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_remembered_pair_takes_few_bytes_whatever_its_length() -> None:
    reward, count = Remembered(lambda tokens, rows: [1.0] * len(rows)), 4000
    tokens = torch.arange(count)[:, None].expand(count, 512).contiguous()
    tracemalloc.start()
    reward(tokens, torch.zeros(count, dtype=torch.long))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / count < ENTRY and reward.evaluated == count  # the tokens alone would take 4096


def test_a_remembered_text_takes_few_bytes_whatever_its_length() -> None:
    memory, count = Memory[tuple[int, str], float](10_000), 2000
    tracemalloc.start()
    for begin in range(0, count, 100):
        keys = [(0, f"text {place} " * 500) for place in range(begin, begin + 100)]
        memory.fetch(keys, lambda new: [float(place) for place in new])
    del keys
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / count < ENTRY and len(memory) == count  # a text alone takes 4500


def test_keys_tell_rows_tokens_and_lengths_apart() -> None:
    table = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(3))
    assert len({*digests(table[:, 1:], table[:, 0]), *digests(table[:, :1], table[:, 1])}) == 27 + 9
    assert all(len(key) == 16 for key in digests(table, table[:, 0]))


def test_texts_that_differ_in_one_token_never_share_a_key() -> None:
    """An odd number times a difference below 2^64 is no multiple of 2^64, so either sum tells them apart."""
    place = torch.arange(400)
    texts, rows = torch.arange(40).repeat(401, 1), torch.zeros(401, dtype=torch.long)
    texts[place + 1, place % 40] += 2 ** (place % 60) * (1 + 2 * (place // 80))
    first, *others = digests(texts, rows)
    assert all(key[:8] != first[:8] and key[8:] != first[8:] for key in others)
    many = torch.randint(0, 2, (200_000, 24), generator=torch.Generator().manual_seed(0))
    assert len(set(digests(many, torch.zeros(len(many))))) == len({line.tobytes() for line in many.numpy()})


# --- copies -----------------------------------------------------------------------------------------------------------


def spoils_texts(
    completions: list[str], prompts: list[str], facts: list[dict[str, Any]], rows: list[int]
) -> list[float]:
    values = [float(len(text) + len(fact["words"])) for text, fact in zip(completions, facts, strict=True)]
    for fact in facts:
        fact["words"].append("more")
        fact.clear()
    for given in (completions, prompts, facts, rows):
        given.clear()
    return values


def spoils_tokens(tokens: Tensor, rows: Tensor) -> Tensor:
    values = tokens.sum(1).double()
    tokens.zero_()
    rows.add_(1)
    return values


def keeps_its_answer() -> Callable[[Tensor, Tensor], Tensor]:
    held = torch.zeros(64, dtype=torch.float64)

    def judge(tokens: Tensor, rows: Tensor) -> Tensor:
        held[: len(rows)] = tokens.sum(1)
        return held[: len(rows)]

    return judge


def careful_texts(completions: list[str], facts: list[dict[str, Any]]) -> list[float]:
    return [float(len(text) + len(fact["words"])) for text, fact in zip(completions, facts, strict=True)]


def careful_tokens(tokens: Tensor, rows: Tensor) -> Tensor:
    return tokens.sum(1).double()


@pytest.mark.parametrize(
    ("spoiling", "careful"),
    [
        (spoils_texts, careful_texts),
        (spoils_tokens, careful_tokens),
        (keeps_its_answer(), careful_tokens),
        (weighted([spoils_texts, careful_texts]), weighted([careful_texts, careful_texts])),
        (weighted([spoils_tokens, careful_tokens]), weighted([careful_tokens, careful_tokens])),
        (weighted([spoils_tokens, careful_texts]), weighted([careful_tokens, careful_texts])),
    ],
)
@pytest.mark.parametrize("sampler", ["iterref:steps=2,moves=2,tries=2", "smc:steps=2,particles=2"])
def test_a_reward_that_writes_into_what_it_is_given_changes_nothing(spoiling: Any, careful: Any, sampler: str) -> None:
    def run(reward: Any) -> Any:
        columns = {"facts": [{"words": ["a"]}, {"words": []}]}
        result = generate(WordModel(), ["p", "q"], reward=reward, columns=columns, sampler=sampler, seed=2)
        assert columns == {"facts": [{"words": ["a"]}, {"words": []}]}
        return result.texts, result.rewards.tolist(), result.best.reward.tolist()

    assert run(spoiling) == run(careful)


def test_without_copies_a_run_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "clone", lambda self, **options: self)
    tokens = torch.ones(1, 3, dtype=torch.long)
    checked(spoils_tokens, tokens, torch.tensor([0]))
    assert int(tokens.sum()) == 0


def test_what_cannot_be_copied_is_handed_over_itself() -> None:
    import threading

    lock = threading.Lock()
    reward = TextReward(
        lambda texts, lock: [float(one is lock[0]) for one in lock], lambda t: ["a"], columns={"lock": [lock]}
    )
    assert reward(torch.zeros(1, 1), torch.tensor([0])).tolist() == [1.0]


# --- numbers that sums cannot hold ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e308, -1e308, 1.1e100, float(np.finfo(np.float64).max), 10**200])
def test_numbers_whose_sums_overflow_are_refused(value: float) -> None:
    for reward in (lambda tokens, rows: [value, 0.0], lambda tokens, rows: np.array([value, 0.0], dtype=np.float64)):
        with pytest.raises(
            RewardError, match=r"the reward gave [+-]\S+ for row 0, tokens \[1\]: return a number within"
        ):
            checked(reward, torch.tensor([[1], [2]]), torch.tensor([0, 1]))
    with pytest.raises(RewardError, match="text 'a'"):
        TextReward(lambda completions: [value], lambda tokens: ["a"])(torch.zeros(1, 1), torch.tensor([0]))


def test_large_numbers_that_sums_hold_are_rewards() -> None:
    assert checked(lambda tokens, rows: [1e100, -1e100, -inf], torch.zeros(3, 1), torch.arange(3)).tolist() == [
        1e100,
        -1e100,
        -inf,
    ]
