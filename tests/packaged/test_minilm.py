"""MiniLM: the embeddings of its class, pooled as its files say, and stories that follow a meaning."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from iterref import packaged
from iterref.rewards import Similarity
from tests.support.packages import needs

pytestmark = needs("minilm")
EXAMPLE = Path(__file__).parents[2] / "examples" / "meaning.py"
TEXTS = ["The ship went down in the storm.", "A vessel sank in bad weather", "Taxes will rise again next year."]


def test_embeddings_are_those_of_the_class_with_mean_pooling() -> None:
    folder = packaged.located("minilm")
    assert folder is not None
    tokenizer, network = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    reward = Similarity("minilm", to=TEXTS[0])
    for text, found in zip(TEXTS, reward.embed([(None, text) for text in TEXTS]), strict=True):
        with torch.inference_mode():
            states = network(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].double()
        wanted = torch.nn.functional.normalize(states.mean(0), dim=0)
        assert found is not None and (found - wanted).abs().max() < 1e-6
    same, near, far = reward(TEXTS)
    assert same == pytest.approx(1) and near > 0.5 > 0.2 > far
    assert reward.length == 256  # as sentence_bert_config.json says, not the 512 positions of the network


def stories(told: str) -> dict[str, list[tuple[list[float], str]]]:
    """By what they were steered towards: each story with its two cosines."""
    found = {}
    for part in told.split("steered towards: ")[1:]:
        aim, *lines = part.strip().splitlines()
        parts = [re.fullmatch(r"\s*(-?[\d.]+)\s+(-?[\d.]+)  (.*)", line) for line in lines]
        found[aim] = [([float(one[1]), float(one[2])], one[3]) for one in parts if one]
    return found


def test_stories_follow_the_meaning_and_are_others_without_the_reward(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    example["main"]()
    told = stories(capsys.readouterr().out)
    plain, *steered = (told[aim] for aim in ("nothing", *example["MEANINGS"]))
    assert all(len(group) == len(example["OPENINGS"]) for group in told.values())

    def mean(group: list[tuple[list[float], str]], at: int) -> float:
        return sum(near[at] for near, _ in group) / len(group)

    for at, group in enumerate(steered):
        for (_, text), (_, other), opening in zip(group, plain, example["OPENINGS"], strict=True):
            assert text != other and text.startswith(opening) and other.startswith(opening)
        assert mean(group, at) > mean(plain, at) + 0.1 and mean(group, at) > mean(group, 1 - at) + 0.05
