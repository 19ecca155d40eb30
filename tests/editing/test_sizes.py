"""Regions that grow and shrink: every size of the range is written, and the text of highest J is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref import infill, refine
from iterref.editing import edit, sizes
from iterref.editing.drift import text_lengths
from iterref.editing.sizes import MOST, checked_length, layouts
from iterref.guidance import ClassifierFreeGuidance
from tests.support.bundled import tiny_news
from tests.support.fakes import FakeModel, beta
from tests.support.tokenizers import KINDS, codec, knowing_nothing

METHOD = "iterref:steps=2,moves=1,tries=2"
DOCUMENTS = [
    "A lorry carrying nine tonnes of fresh oranges overturned on the coast road near Penmoor early on Friday.",
    "The city council in Fennbridge voted on Tuesday to close the old swimming baths and build a new library.",
]
MARKED = ["a lorry [overturned] near penmoor .", "council to [close] ."]


def level(completions: list[str], **others: Any) -> list[float]:
    return [0.0] * len(completions)


def so_long(words: int) -> Any:
    return lambda completions, **others: [-abs(len(text.split()) - words) / 8 for text in completions]


@given(low=st.integers(1, 9), more=st.integers(0, 40), regions=st.integers(1, 5))
def test_every_region_gets_every_size_of_the_range(low: int, more: int, regions: int) -> None:
    made = layouts((low, low + more), regions)
    assert len(made) == min(more + 1, MOST)
    for region in zip(*made, strict=True):
        assert len({*region}) == len(made) and min(region) == low and max(region) == low + (more if more else 0)
    assert layouts((low, low + more), 1) == [sizes[:1] for sizes in made]  # whatever else the batch has


@pytest.mark.parametrize("words", [6, 8, 9])
def test_a_region_grows_and_shrinks_to_what_the_reward_asks_for(words: int) -> None:
    options: dict[str, Any] = {"prompts": DOCUMENTS, "reward": so_long(words), "budget": 64}
    found = infill(tiny_news(), MARKED, length=(1, 7), **options)
    assert found.rewards.tolist() == [0.0, 0.0]
    assert all(text.startswith(mark.split("[")[0]) and text.endswith(mark.split("]")[1])
               for text, mark in zip(found.texts, MARKED, strict=True))  # fmt: skip
    fixed = infill(tiny_news(), MARKED, **options)  # the control: a region that keeps its number cannot
    assert float(fixed.rewards.min()) < 0


def test_without_a_reward_the_size_is_one_that_the_rest_of_the_text_fits() -> None:
    options: dict[str, Any] = {"prompts": DOCUMENTS, "reward": level, "budget": 96}
    free = infill(tiny_news(), MARKED, length=(1, 6), **options)
    short = infill(tiny_news(), MARKED, length=1, **options)

    def likely(chain: Any) -> torch.Tensor:
        problem = chain.context.problem
        return sizes.fluency(sizes.Run(problem), chain.tokens, 8)

    assert bool((likely(free) >= likely(short)).all()) and float((likely(free) - likely(short)).max()) > 2


def test_a_row_does_not_depend_on_the_others_nor_on_how_many_regions_they_have() -> None:
    options: dict[str, Any] = {"reward": level, "length": (1, 3), "budget": 24}
    both = infill(tiny_news(), [MARKED[0], "council [to] close [it] ."], prompts=DOCUMENTS, rows=[4, 5], **options)
    alone = infill(tiny_news(), MARKED[:1], prompts=DOCUMENTS[:1], rows=[4], **options)
    assert torch.equal(both.tokens[:1], alone.tokens)


@pytest.mark.parametrize("budget", [24, 64, (64, 200)])
def test_all_sizes_together_stay_within_the_budget(budget: Any) -> None:
    chain = infill(tiny_news(), MARKED, prompts=DOCUMENTS, reward=level, length=(2, 4), budget=budget)
    nfe, calls = budget if isinstance(budget, tuple) else (budget, float("inf"))
    assert 0.5 * nfe < chain.cost.nfe <= nfe and chain.cost.reward_calls <= calls
    assert chain.node.options["length"] == [2, 4]
    with pytest.raises(ValueError, match="each of 12 sizes of a region has its share of the budget"):
        infill(tiny_news(), MARKED, prompts=DOCUMENTS, reward=level, length=(1, 12), budget=24)


def test_the_text_of_highest_j_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def spy(problem: Any, tokens: Any, rewards: Any, behind: Any) -> Any:
        seen.append((tokens, rewards, behind))
        return torch.tensor([2, 0])

    monkeypatch.setattr("iterref.editing.session.likeliest", spy)
    chain = infill(tiny_news(), MARKED, prompts=DOCUMENTS, reward=so_long(7), length=(1, 3), budget=64)
    tokens, rewards, behind = seen[0]
    assert torch.equal(chain.tokens, tokens[[2, 0], [0, 1]]) and torch.equal(chain.rewards, rewards[[2, 0], [0, 1]])
    first = behind[0].int().argmax(1)
    assert torch.equal(first, behind[2].int().argmax(1))  # nothing before the first region moved
    for row in (0, 1):
        assert bool((tokens[:, row, : first[row]] == tokens[0, row, : first[row]]).all())


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {kind: codec(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


PIECE = st.lists(st.sampled_from([*"theca sTod.,' ", "\u00e9", "the ", " cat", " sat"]), max_size=6).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(before=PIECE, inside=PIECE, between=PIECE, after=PIECE, seed=st.integers(0, 9))
@settings(max_examples=6, deadline=None)
def test_the_text_around_regions_stays(
    codecs: Any, kind: str, before: str, inside: str, between: str, after: str, seed: int
) -> None:
    marked = f"{before}[{inside}] {between} [cat]{after}"
    try:
        found = infill(
            knowing_nothing(codecs[kind], 60), [marked], prompts=[""], reward=level, sampler=METHOD, length=(1, 4),
            seed=seed,
        ).texts[0]  # fmt: skip
    except ValueError as error:
        assert "text 0" in str(error)
        return
    assert found.startswith(before) and found.endswith(after) and f" {between} " in found


def test_a_session_goes_on_from_a_text_of_another_size(tmp_path: Path) -> None:
    chain = edit(tiny_news(), ["a lorry overturned near penmoor ."], prompts=DOCUMENTS[:1], reward=level, room=None)
    grown = chain.infill([MARKED[0]], length=(4, 6), budget=36)
    assert text_lengths(grown.tokens, chain.context.blank).item() >= text_lengths(chain.tokens, chain.context.blank) + 2
    again = grown.refine(strength=0.3, budget=16)
    again = again.infill([f"[{again.texts[0][:7]}]{again.texts[0][7:]}"], budget=16)
    assert again.texts[0].endswith(" near penmoor .")


@pytest.mark.parametrize(
    ("length", "kind", "said"),
    [((3, 2), ValueError, "at least 1 token"), ((0, 2), ValueError, "at least 1 token"), (0, ValueError, "at least 1"),
     ((1, 2, 3), ValueError, r"the fewest and the most, as in length=\(2, 6\)"), ("2-4", TypeError, "is a str"),
     ((1, 2.5), TypeError, "is a float"), (True, TypeError, "is a bool")],
)  # fmt: skip
def test_what_is_no_length_is_refused(length: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        checked_length("length", length)


class Guided(FakeModel):
    """A text model whose sequences take two evaluations each."""

    def prepare(self, prompts: Sequence[str]) -> tuple[Any, torch.Tensor, torch.Tensor]:
        denoiser, canvas, free = super().prepare(prompts)
        return ClassifierFreeGuidance(denoiser, denoiser, 2.0), canvas, free


@pytest.mark.parametrize("size", [None, (1, 2)])
def test_a_budget_counts_both_passes_of_a_guided_model(size: Any) -> None:
    """Before: `refine` and `infill` with a budget took twice of it."""
    options: dict[str, Any] = {"prompts": ["one"], "reward": beta, "budget": 64}
    done = infill(Guided(), ["alpha [gamma]"], length=size, **options)
    assert 32 < done.cost.nfe <= 64
    assert refine(Guided(), ["alpha gamma"], sampler="iterref", **options).cost.nfe <= 64
