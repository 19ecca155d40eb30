"""Input validation: what Python users pass by mistake is one sentence that names the argument and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from iterref import OwnDrafts, compare, edit, estimate, generate, infill, refine, rewards
from iterref.budget import Budget
from iterref.rewards import Rouge
from iterref.samplers.best_of_n import BestOfN
from tests.support.fakes import FakeModel, beta

NAN, INF = float("nan"), float("inf")
SMALL = "iterref:steps=2,moves=2,tries=2"


class Untouched(FakeModel):
    """A model that no mistake may reach."""

    def prepare(self, prompts: Sequence[str]) -> Any:
        raise AssertionError("the model was asked before the checks passed")


class Frame:
    """As pandas and `datasets` have tables."""

    columns = ("document",)

    def __iter__(self) -> Any:
        return iter(self.columns)


def never(completions: list[str]) -> list[float]:
    raise AssertionError("the reward was asked before the checks passed")


MISTAKES: list[tuple[str, Any, str]] = [
    ("prompts", "one string", "the prompts are one string: pass a list of strings"),
    ("prompts", b"bytes", "the prompts are one bytes object: pass a list of strings"),
    ("prompts", Path("prompts.txt"), "the prompts are the path 'prompts.txt': pass the file's lines"),
    ("prompts", None, "prompts= is None: pass a list"),
    ("prompts", 3, "prompts= is an int (3): pass a list"),
    ("prompts", {"document": ["one"]}, "prompts= is a dict, which has no order of prompts: pass a list"),
    ("prompts", Frame(), "prompts= is a table (Frame): pass one of its columns, such as 'document'"),
    ("prompts", [], "there are no prompts: pass at least one"),
    ("prompts", ["fine", None], "prompt 1 is None: it is missing: fill it in, or leave the row out"),
    ("prompts", ["fine", NAN], "prompt 1 is a float (nan): it is missing"),
    ("prompts", ["fine", b"no"], "prompt 1 is a bytes (b'no'): decode it"),
    ("prompts", [Path("a.txt"), "fine"], "prompt 0 is a PosixPath"),
    ("prompts", ["fine", 7], "prompt 1 is an int (7): pass a string"),
    ("prompts", ["fine", ["nested"]], "prompt 1 is a list: pass one string a prompt"),
    ("prompts", [{"role": "user", "content": "hi"}], "prompt 0 is a dict: pass one string a prompt"),
    ("prompts", ["fine", "half \ud800"], "prompt 1 has half of a surrogate pair at character 5"),
    ("prompts", ["fine", "\udcff"], "prompt 1 has half of a surrogate pair at character 0"),
    ("model", torch.nn.Linear(1, 1), "the model is a Linear: wrap it by iterref.load(model=..., tokenizer=...)"),
    ("model", FakeModel, "the model is the class FakeModel: pass one of its objects"),
    ("model", 7, "the model is an int (7): pass a name"),
    ("model", ["tiny-news"], "the model is a list: pass a name, a folder"),
    ("model", lambda x: x, "the model is a function: pass a name, a folder"),
    ("reward", None, "the reward is None: pass a function of texts"),
    ("reward", 0.5, "the reward is a float (0.5): pass a function of texts"),
    ("reward", [1.0, 2.0], "the reward is a float (1.0): pass a function of texts"),
    ("reward", Rouge, "the reward is the class Rouge: pass one of its objects, Rouge(...)"),
    ("reward", "rogue", "unknown reward 'rogue': did you mean 'rouge'"),
    ("reward", [], "the reward is an empty list: pass at least one reward"),
    ("callback", "x", "callback= is a str ('x'): pass a function of an"),
    ("alpha", "0.1", "alpha= is a str ('0.1') and no number"),
    ("alpha", True, "alpha= is a bool (True) and no number"),
    ("alpha", [0.1], "alpha= is a list and no number"),
    ("alpha", 1j, "alpha= is a complex and no number"),
    ("alpha", torch.ones(2), "alpha= is a Tensor and no number"),
    ("alpha", -1, "alpha must be positive"),
    ("alpha", 0, "alpha must be positive"),
    ("alpha", NAN, "alpha must be positive"),
    ("alpha", INF, "alpha must be positive and finite"),
    ("temperature", "warm", "temperature= is a str ('warm') and no number"),
    ("temperature", False, "temperature= is a bool (False) and no number"),
    ("temperature", -0.5, "temperature must be positive"),
    ("temperature", NAN, "temperature must be positive"),
    ("temperature", (1.0,), "temperature= is a tuple and no number"),
    ("budget", "64", "budget= is a str ('64') and no number"),
    ("budget", "64,1024", "budget= is a str ('64,1024') and no number"),
    ("budget", True, "budget= is a bool (True) and no number"),
    ("budget", [64, 1024], "budget= is a list and no number: pass a number as in budget=64, a pair"),
    ("budget", (64,), "budget= has 1 entries: pass a number, a pair"),
    ("budget", (1, 2, 3), "budget= has 3 entries: pass a number, a pair"),
    ("budget", (64, "many"), "budget= is a str ('many') and no number"),
    ("budget", {"nfe": 64}, "budget= is a dict and no number"),
    ("budget", -5, "a budget needs a positive NFE"),
    ("budget", 0, "a budget needs a positive NFE"),
    ("budget", NAN, "a budget needs positive numbers"),
    ("budget", INF, "a budget without limits fits no method"),
    ("budget", Budget, "budget= is a type and no number"),
    ("seed", 1.5, "seed= is a float (1.5) and no whole number"),
    ("seed", "1", "seed= is a str ('1') and no whole number"),
    ("seed", None, "seed= is None and no whole number"),
    ("seed", True, "seed= is a bool (True) and no whole number"),
    ("seed", -1, "a seed must lie in [0, 2^64), got -1"),
    ("seed", 2**64, "a seed must lie in [0, 2^64)"),
    ("seed", torch.Generator(), "seed= is a Generator and no whole number"),
    ("seed", [1, 2], "seed= is a list and no whole number"),
    ("rows", [0.5, 1.0], "rows[0]= is a float (0.5) and no whole number"),
    ("rows", "01", "rows= is a str ('01'): give one identity a prompt"),
    ("rows", [0], "there are 1 row identities for 2 prompts"),
    ("rows", [[0], [1]], "rows[0]= is a list and no whole number"),
    ("rows", [0, -1], "row 1 has identity -1"),
    ("rows", [True, False], "rows[0]= is a bool (True) and no whole number"),
    ("rows", 5, "rows= is an int (5): give one identity a prompt"),
    ("forbidden", ["cat"], "lists token ids, and has the string 'cat': look its ids up in the tokenizer"),
    ("forbidden", "cat", "lists token ids, and has the string 'cat'"),
    ("forbidden", 3, "forbidden= is an int (3): list token ids"),
    ("forbidden", [1.0], "forbidden[0]= is a float (1.0) and no whole number"),
    ("forbidden", [[1]], "forbidden[0]= is a list and no whole number"),
    ("forbidden", [-1], "forbidden= has the token -1: token ids are 0 or more"),
    ("forbidden", None, "forbidden= is None: list token ids"),
    ("max_rows", 0.5, "max_rows= is a float (0.5) and no whole number"),
    ("max_rows", "8", "max_rows= is a str ('8') and no whole number"),
    ("max_rows", True, "max_rows= is a bool (True) and no whole number"),
    ("watch", True, "watch= is a bool (True): list the rows whose states are kept"),
    ("watch", 0, "watch= is an int (0): list the rows"),
    ("watch", ["0"], "watch[0]= is a str ('0') and no whole number"),
    ("watch", [5], "row 5 cannot be watched: the rows are 0 to 1"),
    ("columns", ["alpha", "beta"], "columns= is a list: pass a dict"),
    ("columns", {"tone": "ab"}, "column 'tone' is one string: pass a list"),
    ("columns", {"tone": 3}, "column 'tone' is an int (3): pass a list"),
    ("columns", {"tone": ["a"]}, "column 'tone' has 1 entries for 2 prompts"),
    ("columns", {3: ["a", "b"]}, "columns= has the name 3: name every column by a string"),
    ("progress", "yes", "progress= is a str ('yes'): pass True or False"),
    ("progress", 1, "progress= is an int (1): pass True or False"),
    ("start", "draft", "start='draft' is no start: pass start='drafts'"),
    ("start", ["a text", "another"], "is no start: pass start='drafts'"),
    ("start", True, "start=True is no start"),
    ("sampler", BestOfN, "sampler= is the class BestOfN: pass one of its objects, BestOfN(...)"),
    ("sampler", ["iterref"], "sampler= is a list: pass a method or its name"),
    ("sampler", 16, "sampler= is an int (16): pass a method or its name"),
    ("sampler", "iteref", "unknown sampler 'iteref': did you mean 'iterref'"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), MISTAKES, ids=[f"{n}-{s[:30]}" for n, _, s in MISTAKES])
def test_a_mistake_is_one_sentence_before_anything_runs(name: str, value: Any, sentence: str) -> None:
    given: dict[str, Any] = {"model": FakeModel(), "prompts": ["one", "two words"], "reward": never}
    if name not in ("alpha", "temperature", "forbidden", "max_rows", "rows"):
        given["model"] = Untouched()
    given[name] = value
    with pytest.raises((TypeError, ValueError)) as caught:
        generate(given.pop("model"), given.pop("prompts"), **{"sampler": SMALL, **given})
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert type(caught.value) in (TypeError, ValueError)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strength": "0.3"}, "strength= is a str ('0.3') and no number"),
        ({"strength": True}, "strength= is a bool (True) and no number"),
        ({"strength": NAN}, "strength must lie in (0, 1]"),
        ({"drift": "half"}, "drift= is a str ('half') and no number"),
        ({"room": 1.5}, "room= is a float (1.5) and no whole number"),
        ({"room": -1}, "room is how many tokens a text may grow by"),
        ({"budget": "64"}, "budget= is a str ('64') and no number"),
        ({"texts": "alpha"}, "the texts are one string"),
        ({"texts": ["alpha", None]}, "text 1 is None: it is missing"),
        ({"texts": ["alpha"]}, "there are 1 texts for 2 prompts"),
        ({"texts": ["alpha", "\ud83d"]}, "text 1 has half of a surrogate pair"),
        ({"texts": {"text": ["alpha"]}}, "texts= is a dict, which has no order of prompts"),
    ],
)
def test_mistakes_in_edits_are_one_sentence(options: dict[str, Any], sentence: str) -> None:
    given = {"texts": ["alpha", "beta"], "prompts": ["one", "two words"], "reward": never, "sampler": SMALL} | options
    with pytest.raises((TypeError, ValueError)) as caught:
        refine(FakeModel(), given.pop("texts"), **given)
    assert sentence in str(caught.value)


def test_steps_of_a_session_check_their_numbers() -> None:
    chain = edit(FakeModel(), ["alpha"], prompts=["one"], reward=lambda completions: [0.0] * len(completions))
    for step, sentence in (
        (lambda: chain.refine(strength="0.3"), "strength= is a str"),
        (lambda: chain.refine(budget="64"), "budget= is a str"),
        (lambda: chain.refine(watch=True), "watch= is a bool"),
        (lambda: chain.refine(sampler=BestOfN), "sampler= is the class BestOfN"),
        (lambda: chain.vary(1.5), "n= is a float (1.5) and no whole number"),
        (lambda: chain.infill(["[alpha]"], length="2"), "length= is a str"),
    ):
        with pytest.raises(TypeError) as caught:
            step()
        assert sentence in str(caught.value)
    with pytest.raises(TypeError, match="length= is a float"):
        infill(FakeModel(), ["[alpha]"], prompts=["one"], reward=never, length=1.5)


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    plain: dict[str, Any] = {"alpha": 0.5, "seed": 3, "budget": 8, "temperature": 1.5, "max_rows": 2, "forbidden": [1]}
    as_numpy = {
        "alpha": numpy.float64(0.5), "seed": numpy.int64(3), "budget": numpy.float32(8),
        "temperature": numpy.array(1.5), "max_rows": numpy.int32(2), "forbidden": numpy.array([1]),
        "rows": numpy.arange(2), "watch": numpy.array([0]),
    }  # fmt: skip
    as_torch = {
        "alpha": torch.tensor(0.5), "seed": torch.tensor(3), "budget": torch.tensor(8), "rows": torch.arange(2),
        "temperature": torch.tensor(1.5), "max_rows": torch.tensor(2), "forbidden": torch.tensor([1]),
    }  # fmt: skip

    def run(**options: Any) -> list[list[int]]:
        def count(completions: list[str]) -> list[float]:
            return [float(len(text)) for text in completions]

        found: list[list[int]] = generate(
            FakeModel(), ("one", "two words"), reward=count, sampler="iterref:steps=2,tries=2", **options
        ).tokens.tolist()
        return found

    assert run(**plain) == run(**as_numpy) == run(**as_torch)
    assert run(**plain) == run(**(plain | {"budget": Budget(nfe=8)}))
    weights: list[Any] = [[1.0, 0.5], numpy.array([1.0, 0.5]), torch.tensor([1.0, 0.5])]
    several = [generate(FakeModel(), ["one"], reward=[beta, beta], reward_weights=one) for one in weights]
    assert len({str(result.about.reward) for result in several}) == 1
    with pytest.raises(ValueError, match="weighted by inf: give a finite number"):
        generate(FakeModel(), ["one"], reward=[beta, beta], reward_weights=[1.0, float("inf")])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: OwnDrafts(n=True), r"n= is a bool \(True\) and no whole number"),
        (lambda: OwnDrafts(n=2.5), r"n= is a float \(2.5\) and no whole number"),
        (lambda: OwnDrafts(temperature="1"), "temperature= is a str"),
        (lambda: rewards.Length(True), "words= is a bool"),
        (lambda: estimate(FakeModel(), ["one"], reward=beta, batch=2.5), "batch= is a float"),
        (lambda: compare(FakeModel(), ["one"], ["smc", "svdd"], reward=beta, budgets=8, seeds=True), "seeds"),
        (lambda: generate(FakeModel(), ["one"], reward=[beta, beta], reward_weights=[True, 1]), "weights.0.="),
    ],
)
def test_numbers_of_other_places_are_whole_numbers_too(make: Any, told: str) -> None:
    """Before, True was 1 and 2.5 went on."""
    with pytest.raises(TypeError, match=told):
        make()


@pytest.mark.parametrize("weights", [(1, 0.5), numpy.array([1, 0.5]), torch.tensor([1, 0.5])])
def test_weights_are_any_sequence_of_numbers(weights: Any) -> None:
    given: dict[str, Any] = {"reward": [beta, beta], "sampler": "ancestral:steps=1"}
    result = generate(FakeModel(), ["one"], reward_weights=weights, **given)
    assert result.rewards.tolist() == [1.5 * value for value in beta(result.texts or [])]
    assert result.about.reward == "beta + 0.5 × beta"
    with pytest.raises(ValueError, match="weighted by inf: give a finite number"):
        generate(FakeModel(), ["one"], reward_weights=[1, float("inf")], **given)
