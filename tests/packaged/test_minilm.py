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


def test_summaries_follow_the_meaning_and_are_others_without_the_reward(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    example["main"]()
    printed = capsys.readouterr().out.splitlines()
    lines = [re.fullmatch(r"  (.+?)  +(-?[\d.]+) (-?[\d.]+)  (.*)", line) for line in printed]
    told = [(float(one[2]), float(one[3]), one[4]) for one in lines if one]
    assert len(told) == 3 * len(example["ARTICLES"])
    for plain, *steered in zip(*[iter(told)] * 3, strict=True):
        for at, near in enumerate(steered):
            assert near[2] != plain[2] and near[at] > plain[at]
