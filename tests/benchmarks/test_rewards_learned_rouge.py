"""The learned ROUGE: what it expects, that it prefers what references keep, and how it is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from benchmarks.rewards import train_learned_rouge as script
from benchmarks.rewards.learned_rouge import LENGTH, LearnedRouge, chances_of, encoded, expected
from benchmarks.rewards.texts import END, START, byte_pairs, in_words

DOCUMENT = "the mayor of fennbridge said on monday that the old bridge will be closed for repairs until next spring ."
GOOD = "the old bridge will be closed for repairs ."
WORSE = ("the mayor of fennbridge said on that .", "of on the for until .", "fennbridge", "the the the next spring")


def test_with_certain_words_it_is_rouge_itself():
    words = [word for word in in_words(DOCUMENT) if word != "."]
    chances = [float(kept) for kept in script.kept(words, GOOD.split())]
    scorer = RougeScorer(["rougeL"])
    for text in (GOOD, "old bridge closed ##", "bridge , old !", *WORSE):
        assert expected(text, words, chances) <= scorer.score(GOOD, text)["rougeL"].fmeasure + 1e-12
    assert expected(GOOD, words, chances) == 1
    assert expected("old bridge closed ##", words, chances) == pytest.approx(6 / 11)
    assert expected(".", words, [0.0] * len(words)) == 0


def test_half_a_chance_is_half_a_hit():
    assert expected("a b", ["a", "b", "c"], [0.5, 1.0, 0.5]) == pytest.approx(2 * 1.5 / (2 + 2))


def test_words_of_a_summary_are_found_in_order():
    assert script.kept("a b c a d".split(), "b a d".split()) == [False, True, False, True, True]
    assert script.kept(["a"], []) == [False]


def test_what_references_keep_is_worth_more_whatever_stands_beside_it():
    reward = LearnedRouge()
    texts = [GOOD, *WORSE]
    values = reward(texts, prompts=[DOCUMENT] * len(texts))
    assert all(0 <= value <= 1 for value in values) and values[0] > max(values[1:]) + 0.1
    other = "a man was arrested on friday after police found ## stolen cars in his garage , officials said ."
    beside = LearnedRouge()([*texts, "a man was arrested ."], prompts=[DOCUMENT] * len(texts) + [other])
    assert values == pytest.approx(beside[:-1], abs=1e-5) and beside[-1] > 0.4


def test_the_end_of_a_long_document_is_never_kept():
    reward = LearnedRouge()
    long = " ".join([DOCUMENT] * 12)
    chances = chances_of(reward.network, reward.tokenizer, [long])[0]
    assert len(chances) == len(in_words(long)) and chances[-1] == 0 < max(chances)


def test_tokens_stand_between_marks_and_belong_to_words():
    tokenizer = byte_pairs(iter([DOCUMENT]), 300)
    tokens, owners = encoded(tokenizer, [DOCUMENT, "the mayor"])
    assert tokens[0, 0] == START and (tokens == END).sum() == 2 and tokens.shape[1] <= LENGTH
    assert sorted(set(owners[0])) == list(range(len(in_words(DOCUMENT)))) and len(owners[1]) < len(owners[0])


def test_figures_of_pools():
    pools = [[GOOD, *WORSE]] * 2
    pairs = [(DOCUMENT, GOOD)] * 2
    found = script.figures(pairs, pools, lambda texts, prompts: [float(text == GOOD) for text in texts])
    assert found["chosen"] == found["best"] == 1 > found["mean"] and found["documents"] == 2
    blind = script.figures(pairs, pools, lambda texts, prompts: [float(text != GOOD) for text in texts])
    assert blind["chosen"] < 1 and blind["within"] < 0 < found["within"]


def test_training_learns_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SIZES", script.SIZES | {"hidden_size": 32, "num_hidden_layers": 1})
    monkeypatch.setattr(script, "TOKENS", script.TOKENS // 16)
    pairs = [(DOCUMENT, GOOD)] * 25
    tokenizer = byte_pairs(iter([DOCUMENT]), 400)

    def learned(file: Path) -> tuple[float, float, torch.nn.Module]:
        model = script.network(tokenizer.get_vocab_size())
        before = float(script.loss(model.eval(), tokenizer, pairs[:4]).detach())
        script.train(model, tokenizer, pairs, file, passes=60.0)
        return before, float(script.loss(model, tokenizer, pairs[:4]).detach()), model

    before, after, model = learned(tmp_path / "state.pt")
    assert after < before - 0.05
    assert learned(tmp_path / "state.pt")[1] == after  # from its checkpoint, which is the end already
    script.save(model, tokenizer, tmp_path / "saved")
    value = LearnedRouge(tmp_path / "saved")([GOOD], prompts=[DOCUMENT])[0]
    words = [word for word in in_words(DOCUMENT) if word != "."]
    chances = [
        p
        for p, word in zip(chances_of(model.float(), tokenizer, [DOCUMENT])[0], in_words(DOCUMENT), strict=True)
        if word != "."
    ]
    assert value == pytest.approx(expected(GOOD, words, chances), abs=2e-3) and np.isfinite(value)
