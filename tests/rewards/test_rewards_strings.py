"""A reward by its name: in Python as on the command line, with options by name or in their order."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import iterref
from iterref import OwnDrafts, reward_from_string
from iterref.rewards import Classifier, Length, Lexical, Perplexity, Rouge, Served, network
from tests.support.bundled import tiny_news


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are read once: what is tested here is how they are named."""
    monkeypatch.setattr(network, "load", LOAD)


LOAD = cache(network.load)


@pytest.mark.parametrize(
    "text, reward",
    [
        ("consensus", OwnDrafts()),
        ("consensus:n=8", OwnDrafts(n=8)),
        ("consensus:8", OwnDrafts(n=8)),
        ("consensus:n=4,steps=3,order=confidence", OwnDrafts(n=4, steps=3, order="confidence")),
        ("length", Length(8)),
        ("length:12", Length(12)),
        ("length:words=12", Length(12)),
    ],
)
def test_options_are_named_or_stand_in_their_order(text: str, reward: object) -> None:
    assert reward_from_string(text) == reward


def test_a_classifier_is_named_with_its_label() -> None:
    forms = ["classifier", "sentiment", "sentiment:positive", "classifier:sentiment:positive", "classifier:sentiment:1",
             "classifier:model=sentiment,label=positive", "classifier:path=sentiment,label=positive"]  # fmt: skip
    for form in forms:
        found = reward_from_string(form)
        assert isinstance(found, Classifier) and (found.checkpoint.name, found.label) == ("sentiment", 1), form
    assert reward_from_string("sentiment:negative").label == 0
    likely = reward_from_string("classifier:sentiment:negative,value=probability,batch=8")
    assert (likely.label, likely.value) == (0, "probability")


def test_other_rewards_are_named_too() -> None:
    assert all(isinstance(reward_from_string(name), Perplexity) for name in ("prose", "perplexity", "perplexity:prose"))
    assert isinstance(reward_from_string("https://judge.example/rewards"), Served)
    words = reward_from_string("lexical:required=fire+mill,hard=false,words=3+9")
    assert isinstance(words, Lexical) and not words.hard
    assert words(["a fire"]) == Lexical(["fire", "mill"], hard=False, words=(3, 9))(["a fire"])


def test_rouge_looks_for_the_column_that_is_there() -> None:
    assert [reward_from_string("rouge", columns).references for columns in (["summary"], ["summary", "reference"])] == [
        "summary", "reference"
    ]  # fmt: skip
    assert reward_from_string("rouge:references=gold,kind=rouge1", []).references == "gold"
    with pytest.raises(ValueError, match="the reward rouge needs a column `reference`: give JSON input"):
        reward_from_string("rouge", ["document"])
    assert isinstance(reward_from_string("rouge"), Rouge)


def test_a_function_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "C:mine.py").write_text("def short(completions):\n    return [-len(one) for one in completions]\n")
    assert reward_from_string(f"{tmp_path}/C:mine.py:short")(["abc"]) == [-3]
    with pytest.raises(ValueError, match="no function of it is named: give the reward as FILE.py:NAME, of short"):
        reward_from_string(f"{tmp_path}/C:mine.py")


@pytest.mark.parametrize(
    "text, words",
    [
        ("sentment", "unknown reward 'sentment': did you mean 'sentiment'"),
        ("roug", "did you mean 'rouge'"),
        ("", "unknown reward ''"),
        ("base", "unknown reward 'base'"),
        ("length:wrds=4", "length: unknown option 'wrds': did you mean 'words'"),
        ("length:words=4,words=5", "length: words is given twice"),
        ("length:4,words=5", "length: words is given twice"),
        ("length:long", "length:words needs a whole number, got 'long'"),
        ("length:0", "give at least 1"),
        ("consensus:kind=rouge9", "must be one of"),
        ("served", "the reward served needs url: write served:url=VALUE"),
        ("served:url=http://x,read=f", "served:read cannot be written in a string: build the object in Python"),
        ("classifier:sentiment", "has 2 labels, choose one of"),
        ("similarity", "the reward similarity needs model"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reward_from_string(text)


def test_generate_takes_the_names_of_the_command_line() -> None:
    prompts = ["a fire destroyed a mill , police said ."]
    options = {"sampler": "ancestral:steps=2", "columns": {"reference": ["fire at a mill"]}}
    by_name = iterref.generate(tiny_news(), prompts, reward="rouge", **options)
    assert by_name.rewards.equal(iterref.generate(tiny_news(), prompts, reward=Rouge(), **options).rewards)
    edited = iterref.refine(tiny_news(), ["a fire"], prompts=prompts, reward="length:2", sampler="iterref:moves=1")
    assert float(edited.rewards[0]) == 1
    with pytest.raises(ValueError, match="needs a column `reference`"):
        iterref.generate(tiny_news(), prompts, reward="rouge", sampler="ancestral:steps=2")
