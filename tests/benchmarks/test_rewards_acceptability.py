"""Acceptability: sound and broken English told apart, faults and their marks, and training that shares nothing."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.rewards import acceptability as script
from benchmarks.rewards.faults import OTHER, RULES, broken, filled, marks
from benchmarks.rewards.texts import in_words
from iterref.loading import load
from iterref.rewards import Classifier

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
WEIGHTS = ROOT / "benchmarks" / "rewards" / "weights"
NAMES = ("acceptability", "acceptability-judge")
ONE = ("acceptability", pytest.param("acceptability-judge", marks=pytest.mark.slow))
SOUND = [
    "The boy ran down the hill as fast as he could, and his dog ran after him.",
    "She looked out of the window and saw that the snow had begun to fall again.",
    "The old man took off his hat. He sat down by the fire and did not say a word.",
    "We went back to the house together, for it was getting dark.",
    "I do not know where my brother has put the key of the garden door.",
    "When the ship came in, the captain was the first to go ashore.",
    "There was a little girl who lived with her mother at the edge of the wood.",
    "You must not be afraid of the water, said the boy.",
]


def shuffled(text: str, seed: int) -> str:
    words = in_words(text)
    return " ".join(random.Random(seed).sample(words, len(words)))


# --- the classifiers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE)
def test_sound_text_is_told_from_its_words_in_another_order(name: str) -> None:
    acceptable = Classifier(WEIGHTS / name, "acceptable", value="probability")
    sound = acceptable(SOUND)
    mixed = [np.mean(acceptable([shuffled(text, seed) for seed in range(4)])) for text in SOUND]
    assert all(one > other for one, other in zip(sound, mixed, strict=True))
    assert np.mean(sound) > 0.5 > np.mean(mixed) + 0.2
    # the other label says the opposite, so a swap of labels could not go unseen
    other = Classifier(WEIGHTS / name, "unacceptable", value="probability")
    assert other(SOUND) == pytest.approx([1 - value for value in sound], abs=1e-6)


@pytest.mark.parametrize("name", ONE)
def test_gaps_that_a_model_fills_in_all_at_once_are_seen(name: str) -> None:
    """By both, and more of them the more; text that went the same way without gaps is the control."""
    model: Any = load("tiny-books")
    canvases = model.encode([text.lower() for text in SOUND] * 2)
    acceptable = Classifier(WEIGHTS / name, "acceptable", value="probability")
    means = [np.mean(acceptable(model.decode(canvases)))]
    means += [np.mean(acceptable(model.decode(filled(model, canvases, (s, s), 0.9, 0)))) for s in (0.2, 0.6)]
    assert means[0] > means[1] + 0.1 > means[2] + 0.1 and means[0] > means[2] + 0.25


@pytest.mark.parametrize("name", ONE)
def test_what_the_labels_taught_is_little_and_not_nothing(name: str) -> None:
    """The area under the curve on CoLA's dev file; labels of other texts are the control."""
    from sklearn.metrics import roc_auc_score

    file = DATA / "cola.dev.jsonl.gz"
    if not file.is_file():
        pytest.skip("cola.dev is not here")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        labelled = [json.loads(line) for line in lines]
    labels = [row["label"] for row in labelled]
    p = Classifier(WEIGHTS / name, "acceptable", value="probability")([row["text"] for row in labelled])
    assert 0.55 < roc_auc_score(labels, p) < 0.75  # more would mean that dev was trained on
    assert abs(roc_auc_score(random.Random(0).sample(labels, len(labels)), p) - 0.5) < 0.06


# --- faults -----------------------------------------------------------------------------------------------------------


def test_marks_are_where_the_fault_is() -> None:
    clean = "the old dog ran home .".split()

    def marked(bad: str) -> str:
        words = bad.split()
        return " ".join(word for word, fault in zip(words, marks(clean, words), strict=True) if fault)

    assert marked("the old dog ran home .") == ""
    assert marked("the old cat ran home .") == "cat"
    assert marked("the dog ran home .") == "dog"  # where a word is missing, the next one is
    assert marked("the old dog dog ran home .") == "dog"
    assert marked("the old dog ran") == "ran" and marked("fish") == "fish"


def test_every_rule_makes_the_fault_that_it_says() -> None:
    words, pool = "she was glad that the dogs were home again .".split(), ["zebra"]
    rng = random.Random(0)
    found: dict[str, list[str]] = {}
    for rule in dict.fromkeys(RULES):
        found[rule.__name__] = list(words)
        rule(found[rule.__name__], pool, rng)
    assert all(bad != words and bad[-1] == "." for bad in found.values())
    assert sorted(found["swapped"]) == sorted(found["moved"]) == sorted(words)
    assert len(found["dropped"]) == len(words) - 1 == len(found["doubled"]) - 2
    assert found["foreign"].count("zebra") == 1
    changed = [(a, b) for a, b in zip(words, found["disagreeing"], strict=True) if a != b]
    assert changed in ([("she", "her")], [("was", "were")], [("were", "was")], [("that", "those")])
    assert all(OTHER[one] != one for one in OTHER)


def test_a_broken_text_is_another_and_is_the_same_again() -> None:
    words = in_words(SOUND[0])
    first = [broken(words, ["zebra"], random.Random(seed)) for seed in range(30)]
    assert words not in first and len({" ".join(one) for one in first}) > 20
    assert first == [broken(words, ["zebra"], random.Random(seed)) for seed in range(30)]
    assert broken(["a", "a", "a", "."], ["b"], random.Random(0)) != ["a", "a", "a", "."]  # though most rules do nothing


def test_gaps_leave_the_rest_and_the_end_alone() -> None:
    model: Any = load("tiny-books")
    canvases = model.encode([text.lower() for text in SOUND])
    out = filled(model, canvases, (0.2, 0.5), 1.0, 3)
    assert torch.equal(out, filled(model, canvases, (0.2, 0.5), 1.0, 3))
    assert not torch.equal(out, filled(model, canvases, (0.2, 0.5), 1.0, 4))
    text = (canvases != model.codec.end).cumprod(1).bool()
    assert torch.equal(out[~text], canvases[~text]) and torch.equal(out[:, 0], canvases[:, 0])
    share = (out != canvases).sum(1) / text.sum(1)
    assert 0.05 < float(share.min()) and float(share.max()) < 0.75  # a gap may get the word that stood there


# --- their training ---------------------------------------------------------------------------------------------------


def test_the_two_share_no_label_and_no_sentence(tmp_path: Path) -> None:
    first, second = (set(script.part(100, which)) for which in (True, False))
    assert len(first) == 60 and not first & second and first | second == set(range(100))
    authors = [f"Author {i}/Book" for i in range(4)] + ["Hugh Lofting/Dolittle"]
    books = [{"text": f"The {a} dog ran {p} times. It was good.", "source": name}
             for name, a in zip(authors, ("red", "blue", "green", "black", "white"), strict=True)
             for p in ("two", "three", "four", "five", "six")]  # fmt: skip
    reviews = [{"text": f"a {word} film .", "label": 1} for word in ("dull", "warm", "long", "short")]
    for name, lines in (("plain.books.train", books), ("sentiment.train", reviews)):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    model: Any = load("tiny-books")
    parts = [model.decode(script.canvases(tmp_path, *which)) for which in ((True,), (False,), (True, True))]
    one, other, held = (" ".join(texts) for texts in parts)
    for word in ("red", "blue", "green", "black", "dull", "warm", "long", "short"):
        assert (word in one) != (word in other) and word not in held
    assert "white" in held and "white" not in one + other


@pytest.mark.parametrize("name", NAMES)
def test_a_text_s_loss_is_its_own(name: str) -> None:
    """Padding changes nothing, marked words count, and for a text without marks its label alone does."""
    recipe = script.RECIPES[name]
    size = 6_144 if not recipe.first else 50
    learner = script.Learner(recipe.network(torch.randn(size, script.WIDTH))).eval()

    def loss(batch: list[script.Example]) -> float:
        return learner.loss(batch).item()

    told = [script.Example([1, 9, 8, 2], 1, [False] * 4), script.Example([1, 9, 7, 2], 0, [False, False, True, False])]
    texts = [script.Example(one.ids, one.label) for one in told]
    assert loss(told) > loss(texts) > 0
    uneven = [*texts, script.Example([1, 9, 8, 7, 6, 5, 2], 1)]
    assert loss(uneven) == pytest.approx(np.mean([loss([one]) for one in uneven]), abs=1e-5)
    wrong = [script.Example(one.ids, 1 - one.label) for one in texts]
    assert loss(wrong) != pytest.approx(loss(texts), abs=1e-4)  # the control


@pytest.mark.parametrize("name", NAMES)
def test_words_become_the_tokens_that_the_saved_tokenizer_gives(name: str) -> None:
    """Training hands over words, a reward raw text."""
    reward = Classifier(WEIGHTS / name, "acceptable")
    tokenizer = reward.tokenizer.backend_tokenizer
    for text in (*SOUND, "“It didn’t rain in 1,997 towns,” he said – twice."):
        made = script.example(tokenizer, in_words(text), 1, None)
        assert made.ids == reward.encode([(None, text)])[0]["input_ids"] and made.ids[0] == 1 and made.ids[-1] == 2
    words = in_words(SOUND[0])
    fault = script.example(tokenizer, words, 0, [word == "hill" for word in words]).fault
    assert fault is not None and 1 <= sum(fault) <= 2 and not fault[0] and not fault[-1]
