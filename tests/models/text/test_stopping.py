"""Stop strings: a text ends before the first of them, for the reward, the drafts and the reader alike."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from iterref.drafts import OwnDrafts
from iterref.generation import generate
from iterref.loading import load
from iterref.models import Stopping
from iterref.models.text.stopping import before, continuation
from tests.support.fakes import PROMPTS, SMALL
from tests.support.serving import Exact
from tests.support.tokenizers import codec, knowing_nothing


def test_what_stands_behind_a_stop_string_is_seen_by_nobody() -> None:
    seen: set[str] = set()

    def words(completions: list[str]) -> list[float]:
        seen.update(completions)
        return [float(len(text.split())) for text in completions]

    plain = generate(Exact(), PROMPTS, reward=words, sampler=SMALL)
    assert any("beta" in text for text in seen)  # the control
    seen.clear()
    model = Stopping(Exact(), ["beta", "zeta"])
    made = generate(model, PROMPTS, reward=words, sampler=SMALL)
    assert seen and not any("beta" in text for text in seen)
    assert made.rewards.tolist() == [float(len(text.split())) for text in made.texts or []]
    assert all("beta" not in text for text in made.texts or []) and made.texts != plain.texts
    drafts = OwnDrafts(n=8, steps=2)
    agreed = generate(model, PROMPTS, reward=drafts, sampler=SMALL, start="drafts")
    assert not any("beta" in text for text in agreed.texts or [])


def test_it_is_the_model_otherwise() -> None:
    model = Stopping(Exact(), ["beta"])
    assert model.length == Exact().length and model.encode(["alpha"]).tolist() == Exact().encode(["alpha"]).tolist()
    assert copy.copy(model).stops == model.stops == ("beta",)
    with pytest.raises(ValueError, match="max_new_tokens= is for models that read a prompt"):
        model.with_length(2)
    with pytest.raises(AttributeError):
        _ = model.nothing_of_the_kind


@pytest.mark.parametrize("stops", [[], "beta", [""], [1]])
def test_stops_are_strings(stops: object) -> None:
    with pytest.raises(ValueError, match="stops are strings that end a text"):
        Stopping(Exact(), stops)  # type: ignore[arg-type]


def test_the_first_stop_string_ends_a_text() -> None:
    assert before("one two three", ["three", "two"]) == "one " and before("one", ["two"]) == "one"


def test_a_text_that_begins_with_its_prompt_is_cut_behind_it(tmp_path: Path) -> None:
    model = knowing_nothing(codec(tmp_path, "bytes"))
    with pytest.raises(ValueError, match="texts begin with their prompts: cut them behind the prompt"):
        Stopping(model, ["x"])
    assert continuation(model, "a b", "a b c") == " c" and continuation(Exact(), "a b", "a b c") == "a b c"
    books = load("tiny-books")
    for prompt in ("the river", "The River", " the\nriver", ""):  # which its tokens spell in lower case, on one line
        [text] = generate(books, [prompt], reward="length:2", sampler="ancestral:steps=4").texts or []
        own = continuation(books, prompt, text)
        assert "river" in text if prompt else own == text
        assert not prompt or text == f"the river{own}"
