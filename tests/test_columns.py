"""Columns: whatever holds one entry a prompt is read by position, or refused in a sentence."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref import generate
from iterref.columns import is_column, needed_column, read_column, read_columns
from iterref.rewards import Classifier, Lexical, MathAnswer, Rouge, TextReward
from tests.support.word_model import WordModel


def shuffled(entries: list[Any]) -> pd.Series:
    """A Series whose labels count down, so that reading by label turns it round."""
    return pd.Series(entries, index=range(len(entries))[::-1], dtype=object)


CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "generator": lambda entries: (entry for entry in entries),
    "series": shuffled,
    "strings": lambda entries: pd.Series(entries, index=[f"row {entry}" for entry in entries]).astype("string"),
    "index": pd.Index,
    "categories": lambda entries: pd.Series(pd.Categorical(entries), index=range(5, 5 + len(entries))),
    "array": np.array,
    "objects": lambda entries: np.array(entries, dtype=object),
    "data set": lambda entries: datasets.Dataset.from_dict({"one": entries})["one"],
    "arrow": pa.array,
    "chunks": lambda entries: pa.chunked_array([entries[:1], entries[1:]]),
    "values": lambda entries: dict(enumerate(entries)).values(),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("abc é中", min_size=1, max_size=5), min_size=2, max_size=6), st.sampled_from(list(CONTAINERS)))
def test_random_containers_are_read_by_position(entries: list[str], container: str) -> None:
    assert read_column(CONTAINERS[container](entries), "column") == entries
    assert read_columns({"one": CONTAINERS[container](entries)}, len(entries)) == {"one": entries}


@pytest.mark.parametrize(
    "container",
    [torch.tensor, np.array, pa.array, lambda e: pd.Series(e, index=[2, 0, 1]), lambda e: list(np.array(e)),
     lambda e: datasets.Dataset.from_dict({"n": e}).with_format("torch")["n"]],
)  # fmt: skip
def test_numbers_become_numbers_of_python(container: Callable[[list[int]], Any]) -> None:
    found = read_column(container([3, 1, 2]), "column")
    assert found == [3, 1, 2] and all(type(entry) is int for entry in found)
    assert is_column(container([3, 1, 2]), 3) and not is_column(container([3, 1, 2]), 4)


def test_entries_of_several_numbers_stay_together() -> None:
    assert [entry.tolist() for entry in read_column(np.arange(4).reshape(2, 2), "column")] == [[0, 1], [2, 3]]
    assert [entry.tolist() for entry in read_column(torch.arange(4).view(2, 2), "column")] == [[0, 1], [2, 3]]


FRAME = pd.DataFrame({"document": ["p", "q", "r"], "tone": [1, 2, 3]}).iloc[[2, 0, 1]]


@pytest.mark.parametrize(
    "table", [FRAME, datasets.Dataset.from_pandas(FRAME, preserve_index=False), pa.Table.from_pandas(FRAME)]
)
def test_a_table_gives_its_columns_and_is_no_column(table: Any) -> None:
    found = read_columns(table, 3)
    assert found["document"] == ["r", "p", "q"] and found["tone"] == [3, 1, 2]
    with pytest.raises(TypeError, match="prompts is a table .*pass one of its columns, such as 'document'"):
        read_column(table, "prompts")
    with pytest.raises(TypeError, match="prompts= is a table"):
        generate(WordModel(), table, reward=lambda completions: [0.0] * len(completions))
    assert not is_column(table, 3)


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("abc", "column is one string: pass a list"),
        ({"a": 1}, "column is a dict, which has no order of prompts"),
        ({"a", "b"}, "column is a set, which has no order"),
        (3, r"column is an int \(3\): pass a list"),
        (None, "column is None: pass a list"),
        (np.array(3), "column is a ndarray"),
        (torch.tensor(3), "column is a Tensor"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})}), "is a table .*such as 'train'"),
        (np.array([(1, 2)], dtype=[("a", int), ("b", int)]), "is a table .*such as 'a'"),
    ],
)
def test_what_holds_no_entry_a_prompt_is_refused(column: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        read_column(column, "column")
    assert not is_column(column, 1)


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="column 'a' has 1 entries for 2 prompts"):
        read_columns({"a": [1]}, 2)
    with pytest.raises(TypeError, match="has the name 0: name every column by a string"):
        read_columns(pd.DataFrame([[1, 2]]), 1)
    with pytest.raises(TypeError, match="columns= is a list"):
        read_columns([{"a": 1}], 1)
    with pytest.raises(ValueError, match="needs the column 'b', but there is only"):
        needed_column({"a": [1]}, "b", 1, "ROUGE")


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_run_gives_every_prompt_its_own_entry(container: str) -> None:
    seen: dict[str, set[str]] = {}

    def watching(completions: list[str], prompts: list[str], reference: list[str]) -> list[float]:
        for prompt, entry in zip(prompts, reference, strict=True):
            seen.setdefault(prompt, set()).add(str(entry))
        return [0.0] * len(completions)

    prompts = ["one", "two", "three"]
    columns = {"reference": CONTAINERS[container](["1", "2", "3"])}
    generate(
        WordModel(), CONTAINERS[container](prompts), reward=watching, columns=columns, sampler="best_of_n:n=2,steps=1"
    )
    assert seen == {"one": {"1"}, "two": {"2"}, "three": {"3"}}


def test_wrapped_rewards_read_columns_of_every_kind() -> None:
    texts, references = ["a b", "c d", "e f"], ["a b", "x", "e f"]
    expected = [1.0, 0.0, 1.0]
    for make in (shuffled, np.array, tuple, lambda e: datasets.Dataset.from_dict({"r": e})["r"]):
        assert (1.0 * Rouge())(texts, reference=make(references)) == expected
        assert Rouge()(texts, reference=make(references)) == expected
        assert Lexical(required_column="w", hard=False)(texts, w=make(["a", "c", "x"])) == [0, 0, -1]
    reward = TextReward(
        Rouge(), lambda tokens: [texts[int(row[0])] for row in tokens], columns={"reference": references}
    )
    assert reward(torch.tensor([[2], [0]]), torch.tensor([2, 0])).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="row 1 has the reference nan, which is no text"):
        Rouge()(texts, reference=["a", float("nan"), "b"])
    for nothing in (None, float("nan"), pd.NA):
        with pytest.raises(ValueError, match="row 1 has .* in 'w', which is no word: give a word, or several"):
            Lexical(required_column="w")(texts, w=["a", nothing, ["b"]])
        with pytest.raises(ValueError, match="row 2 has the reference .*, in which there is no answer"):
            MathAnswer(references="n", symbolic=False)(texts, n=[1, 2, nothing])
    with pytest.raises(ValueError, match="prompts 0 is a int: give its text"):
        Classifier("sentiment", "positive", given="prompts")(["a"], prompts=[1])
