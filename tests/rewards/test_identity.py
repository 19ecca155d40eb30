"""A row is its identity: a reward judges it by what belongs to it, whatever job, order or worker it is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iterref import edit, generate, loading
from iterref.drafts import OwnDrafts
from iterref.engine.jobs import Batch
from iterref.engine.texts import Texts
from iterref.rewards import Combined, Consensus, RewardError, Rouge, SelfLikelihood, Threaded
from iterref.rewards.algebra import combined
from iterref.rewards.rules import Sum
from tests.support.word_model import WORDS, WordModel

PROMPTS = [f"prompt {row}" for row in range(6)]
REFERENCES = ["alpha", "beta", "gamma", "delta", "alpha beta", "gamma delta"]
OPTIONS: dict[str, Any] = {"sampler": "best_of_n:n=3,steps=1", "seed": 3, "alpha": 0.2}


def of_tokens(tokens: Tensor, rows: Tensor) -> Tensor:
    """How often token `row` of the vocabulary stands in a text."""
    return (tokens == rows[:, None] % (len(WORDS) - 1)).sum(1).double()


def by_rows(completions: list[str], rows: list[int]) -> list[float]:
    return [float(text.split().count(WORDS[row % 4])) for text, row in zip(completions, rows, strict=True)]


REWARDS: dict[str, Callable[[], Any]] = {
    "bound references": lambda: Rouge().against(REFERENCES),
    "a sum": lambda: 0.5 * Rouge().against(REFERENCES) + by_rows,
    "threads": lambda: Threaded(Rouge().against(REFERENCES), workers=2),
    "pools": lambda: Consensus([[reference] for reference in REFERENCES]),
    "rows": lambda: by_rows,
    "tokens": lambda: of_tokens,
    "a mixture": lambda: Rouge().against(REFERENCES) + of_tokens,
    "drafts": lambda: OwnDrafts(n=3, steps=1),
    "drafts and rows": lambda: OwnDrafts(n=3, steps=1) + by_rows,
}


@pytest.mark.parametrize("name", REWARDS)
def test_rows_are_judged_as_themselves_in_any_part_and_order(name: str) -> None:
    whole = generate(WordModel(), PROMPTS, reward=REWARDS[name](), **OPTIONS)
    for rows in ([4, 5], [5, 2, 3]):
        part = generate(WordModel(), [PROMPTS[row] for row in rows], reward=REWARDS[name](), rows=rows, **OPTIONS)
        assert part.texts == [whole.texts[row] for row in rows]
        assert part.rewards.tolist() == whole.rewards[rows].tolist()
    if name not in ("drafts",):  # places in the call in place of identities would judge rows by others' references
        wrong = generate(WordModel(), PROMPTS[4:], reward=REWARDS[name](), rows=[0, 1], **OPTIONS)
        assert wrong.rewards.tolist() != whole.rewards[4:].tolist()


@pytest.mark.parametrize("name", ["bound references", "pools", "tokens", "a mixture", "drafts and rows"])
def test_a_worker_of_an_engine_judges_rows_as_themselves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load", lambda name=None, **place: WordModel())
    whole = generate(WordModel(), PROMPTS, reward=REWARDS[name](), **OPTIONS)
    step = Texts("fake", {}, REWARDS[name], OPTIONS, Batch([3], PROMPTS[3:4], {})).open(0)
    found = step(Batch([3, 4], PROMPTS[3:5], {})) + step(Batch([5], PROMPTS[5:], {}))
    assert [one["reward"] for one in found] == whole.rewards[3:].tolist()


def test_edited_rows_are_judged_as_themselves() -> None:
    texts, rows = ["gamma delta", "alpha"], [5, 0]
    session = edit(WordModel(), texts, prompts=["a", "b"], reward=Rouge().against(REFERENCES), rows=rows)
    assert session.rewards.tolist() == [1.0, 1.0]


def test_a_column_called_as_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="may not be called 'prompt_index'"):
        generate(WordModel(), ["a"], reward=by_rows, columns={"prompt_index": [1]}, **OPTIONS)


def test_what_belongs_to_no_row_is_named() -> None:
    with pytest.raises(RewardError, match="row 40 has no reference, there are 6"):
        generate(WordModel(), ["a", "b"], reward=Rouge().against(REFERENCES), rows=[40, 41], **OPTIONS)
    likely = SelfLikelihood(*WordModel().prepare(["a", "b"]))
    assert generate(WordModel(), ["a", "b"], reward=likely, **OPTIONS).rewards.isfinite().all()
    with pytest.raises(RewardError, match="row 41 has no canvas, there are 2"):
        generate(WordModel(), ["a", "b"], reward=likely, rows=[40, 41], **OPTIONS)


def test_parts_of_a_sum_of_tokens_see_identities_once() -> None:
    seen: list[list[int]] = []

    def watching(tokens: Tensor, rows: Tensor) -> Tensor:
        seen.append(sorted(set(rows.tolist())))
        return torch.zeros(len(rows))

    reward = combined(Sum((1.0, 2.0)), (watching, of_tokens))
    assert isinstance(reward, Combined)
    generate(WordModel(), ["a", "b"], reward=reward, rows=[7, 9], **OPTIONS)
    assert seen and all(rows == [7, 9] for rows in seen)
