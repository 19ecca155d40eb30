"""The bundled reward models: that they load by name, say the right thing of plain sentences, and steer offline."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.rewards import loop
from iterref import generate
from iterref.registry import bundled
from iterref.rewards import Classifier, Perplexity
from tests.support import checkpoints
from tests.support.bundled import tiny_news

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
CLASSIFIERS = ("sentiment", "sentiment-judge")
GOOD = [
    "a warm , funny and beautifully acted film .",
    "One of the most moving and intelligent comedies in years.",
    "the performances are wonderful and the story is a delight .",
    "A fresh, inventive and touching portrait of a family.",
    "an enjoyable , heartfelt and often powerful drama .",
]
BAD = [
    "a dull , lifeless and badly written mess .",
    "One of the worst and most tedious comedies in years.",
    "the jokes are stale and the plot is stupid .",
    "A flat, unfunny and pointless waste of time.",
    "an awkward , boring and pretentious failure .",
]
PROSE = [
    "the police said on monday that two men were arrested after a fire in the city centre .",
    "The boy ran down the hill as fast as he could, and his dog ran after him.",
    "the company said it will cut hundreds of jobs by the end of the year .",
    "She looked out of the window and saw that the snow had begun to fall again.",
]


def rows(name: str) -> list[dict[str, Any]]:
    file = DATA / f"{name}.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"{name} is not here")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def shuffled(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="module")
def prose() -> Perplexity:
    return Perplexity("prose")


# --- the folders ------------------------------------------------------------------------------------------------------


def test_the_folders_are_small_safe_and_have_cards() -> None:
    total = 0
    for name, folder in bundled("rewards").items():
        files = {file.name for file in folder.iterdir()}
        assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files
        assert {Path(file).suffix for file in files} == {".md", ".json", ".safetensors"}
        total += sum(file.stat().st_size for file in folder.iterdir())
        card = (folder / "README.md").read_text(encoding="utf-8")
        for needed in ("CC BY 4.0", "Pang and Lee", "## Limits", "benchmarks.rewards."):
            assert needed in card, (name, needed)
    assert total < 12e6


@pytest.mark.filterwarnings("ignore:.*as unknown")  # which tells that it is the other tokenizer
def test_a_folder_of_the_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.sentiment(tmp_path / "sentiment")
    ours = Classifier("sentiment", "positive")
    assert ours.checkpoint.folder == bundled("rewards")["sentiment"]
    monkeypatch.chdir(tmp_path)
    own = Classifier("sentiment", "positive")
    assert own.checkpoint.folder == Path("sentiment") and own(GOOD[:1]) != ours(GOOD[:1])


def test_a_name_that_is_none_is_told_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"'sentimant' .* a bundled one \(prose, sentiment, "):
        Classifier("sentimant", "positive")
    with pytest.raises(ValueError, match="there is no label 'happy'|has no label 'happy'"):
        Classifier("sentiment", "happy")
    with pytest.raises(ValueError, match="no causal|no weights for|cannot be read"):
        Perplexity("sentiment")


# --- the classifiers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_tells_good_from_bad(name: str) -> None:
    positive = Classifier(name, "positive", value="probability")
    assert min(positive(GOOD)) > 0.5 > max(positive(BAD))
    assert sum(positive(GOOD)) / len(GOOD) > 0.8 and sum(positive(BAD)) / len(BAD) < 0.2
    # the other label says the opposite, so a swap of labels could not go unseen
    negative = Classifier(name, "negative", value="probability")
    assert negative(GOOD + BAD) == pytest.approx([1 - value for value in positive(GOOD + BAD)], abs=1e-6)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_accuracy_on_the_test_file(name: str) -> None:
    labelled = rows("sentiment.test")
    texts, labels = [row["text"] for row in labelled], [row["label"] == 1 for row in labelled]
    positive = [value > 0.5 for value in Classifier(name, "positive", value="probability")(texts)]
    right = sum(a == b for a, b in zip(positive, labels, strict=True)) / len(labels)
    assert right >= FLOOR[name]
    wrong = random.Random(0).sample(labels, len(labels))  # the control: labels that belong to other texts
    assert sum(a == b for a, b in zip(positive, wrong, strict=True)) / len(labels) < 0.58


FLOOR = {"sentiment": 0.75, "sentiment-judge": 0.73}


# --- the language model -----------------------------------------------------------------------------------------------


def test_the_order_of_words_matters(prose: Perplexity) -> None:
    for text in PROSE:
        mixed = prose([shuffled(text, seed) for seed in range(5)])
        assert prose([text])[0] > max(mixed) + 0.3


def test_one_form_of_text(prose: Perplexity) -> None:
    printed = "\u201cIt didn\u2019t rain in 1,997 towns,\u201d he said \u2013 twice."
    tokenised = "`` it did n't rain in ## towns , '' he said - twice ."
    assert prose([printed]) == pytest.approx(prose([tokenised]), abs=1e-6)
    assert prose([tokenised])[0] > prose([tokenised.replace("rain", "zqxv")])[0]  # no hole for unknown words
    assert all(value > -30 for value in prose(["\u6226\u5834 \U0001f600", "\x00", "...", "A"]))


def test_summaries_held_out_against_their_words_in_another_order(prose: Perplexity) -> None:
    texts = [row["summary"] for row in rows("sentcomp.validation")[:200]]
    right, mixed = prose(texts), prose([shuffled(text, 1) for text in texts])
    assert sum(a > b for a, b in zip(right, mixed, strict=True)) > 0.95 * len(texts)


# --- steering ---------------------------------------------------------------------------------------------------------


def test_steering_offline_goes_where_it_is_told() -> None:
    document = (
        "The new library, which visitors praised as a beautiful and inspired building, opened two years late after a "
        "series of dull and pointless arguments about money."
    )
    reading = Classifier("sentiment", "positive", value="probability")
    judge = Classifier("sentiment-judge", "positive", value="probability")
    means, prose = {}, Perplexity("prose")
    for label in ("positive", "negative"):
        reward = 0.9 * Classifier("sentiment", label) + 0.1 * prose
        result = generate(tiny_news(), [document] * 2, reward=reward, budget=12, alpha=0.1, temperature=0.7)
        texts = result.texts or []
        means[label] = (sum(reading(texts)) / len(texts), sum(judge(texts)) / len(texts))
    assert means["positive"][0] > means["negative"][0] + 0.5
    assert means["positive"][1] > means["negative"][1] + 0.2  # a judge that learned from other sentences agrees


# --- their training ---------------------------------------------------------------------------------------------------


def test_muon_makes_matrices_orthogonal() -> None:
    for shape in ((12, 30), (30, 12)):
        values = torch.linalg.svdvals(loop.orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    lengths = [3 + row % 5 for row in range(40)]
    order = loop.by_length(lengths, 24, seed=3)

    def trained(name: str, stops: tuple[int, ...], again: bool = False) -> dict[str, Tensor]:
        for steps in stops:
            torch.manual_seed(0)
            network = nn.Sequential(nn.Embedding(40, 6), nn.Dropout(0.3), nn.Linear(6, 1))
            run = loop.Loop(network, loop.Plan(steps=30, warmup=3, cooldown=10), lambda n, b: n(b).square().mean())

            def batches(step: int, until: int = steps) -> Iterator[Tensor]:
                found = (torch.tensor(group) for group in order(0 if again else step))
                return (next(found) for _ in range(until - step))

            network = run.run(batches, tmp_path / name, every=5)
        return network.state_dict()

    once, resumed = trained("once", (30,)), trained("resumed", (10, 30))
    assert all(torch.equal(once[key], resumed[key]) for key in once)
    anew = trained("anew", (10, 30), again=True)  # the control: one whose batches begin anew
    assert not all(torch.equal(once[key], anew[key]) for key in once)
