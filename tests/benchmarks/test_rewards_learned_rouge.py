"""The learned ROUGE: what it reads, that it prefers what references keep, and how it is trained."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from benchmarks.rewards import train_learned_rouge as script
from benchmarks.rewards.learned_rouge import AROUND, KEPT, LEFT, NEW, LearnedRouge, kept, marked, pieces
from benchmarks.rewards.texts import END, START, byte_pairs, in_words

DOCUMENT = "the mayor of fennbridge said on monday that the old bridge will be closed for repairs until next spring ."
GOOD = "the old bridge will be closed for repairs ."
WORSE = ("the mayor of fennbridge said on that .", "of on the for until .", "fennbridge", "the the the next spring")


def test_words_of_a_summary_are_found_in_the_document_in_order():
    words = "a b c a d".split()
    assert kept(words, "b a d".split()) == ([False, True, False, True, True], [])
    assert kept(words, "d x b".split())[1] in (["d", "x"], ["x", "b"])
    assert kept(words, []) == ([False] * 5, [])


def test_the_network_sees_the_document_and_what_is_kept():
    tokenizer = byte_pairs(iter([DOCUMENT, GOOD]), 600)
    ids, types = marked(tokenizer, DOCUMENT, in_words("The bridge, closed by rain."))
    words, inner, places = pieces(tokenizer, DOCUMENT)
    assert ids[0] == START and ids.count(END) == 2 and ids[1 : len(inner) + 1] == inner
    shown = {words[place] for place, kind in zip(places, types[1:], strict=False) if kind == KEPT}
    assert shown == {"the", "bridge", "closed", "."} and types[len(inner) + 1] == types[-1] == AROUND
    assert set(types[len(inner) + 2 : -1]) == {NEW} and LEFT in types
    assert tokenizer.decode(ids[len(inner) + 2 : -1]).split() == [",", "by", "rain"]


def test_what_references_keep_is_worth_more_whatever_stands_beside_it():
    reward = LearnedRouge()
    texts = [GOOD, *WORSE]
    values = reward(texts, prompts=[DOCUMENT] * len(texts))
    assert all(0 < value < 1 for value in values) and max(values) == values[0] > max(values[1:]) + 0.1
    alone = [LearnedRouge()([text], prompts=[DOCUMENT])[0] for text in texts]
    assert values == pytest.approx(alone, abs=1e-5)
    with pytest.raises(ValueError, match="prompts"):
        reward(texts)


def test_long_documents_are_cut_with_a_warning():
    with pytest.warns(UserWarning, match="its end was not judged"):
        assert len(LearnedRouge()([GOOD], prompts=[DOCUMENT * 12])) == 1


def test_values_are_rouge_and_changed_candidates_are_words_of_the_document():
    one = script.Document(DOCUMENT, GOOD).valued([GOOD, WORSE[0]])
    wide = script.widened(one, byte_pairs(iter([DOCUMENT]), 600), random.Random(1))
    assert wide.candidates[:2] == one.candidates and len(wide.candidates) == 2 + script.CHANGED
    scorer = RougeScorer(["rougeL"])
    assert list(wide.values) == pytest.approx([scorer.score(GOOD, text)["rougeL"].fmeasure for text in wide.candidates])
    assert all(set(text.split()) <= set(in_words(DOCUMENT)) for text in wide.candidates)


def test_the_loss_of_pairs_asks_for_their_order_alone():
    values = torch.tensor([0.2, 0.9, 0.5])
    right, wrong = script.order(10 * values, values), script.order(-10 * values, values)
    assert right < 0.05 < wrong and torch.allclose(script.order(10 * values + 3, values), right)
    assert script.order(values, torch.full((3,), 0.4)) == 0


def test_figures_of_pools():
    one = script.Document(DOCUMENT, GOOD).valued([GOOD, *WORSE])
    found = script.figures([one, one], lambda texts, prompts: [float(text == GOOD) for text in texts])
    assert found["chosen"] == found["best"] == 1 > found["mean"] and found["documents"] == 2
    blind = script.figures([one, one], lambda texts, prompts: [float(text != GOOD) for text in texts])
    assert blind["chosen"] < 1 and blind["within"] < 0 < found["within"]


def test_training_learns_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    for name, value in {"VOCAB": 400, "SIZES": script.SIZES | {"hidden_size": 32, "num_hidden_layers": 1}}.items():
        monkeypatch.setattr(script, name, value)
    documents = [script.Document(DOCUMENT, GOOD).valued([GOOD, *WORSE])] * 24
    tokenizer = byte_pairs(iter([DOCUMENT]), 400)

    def learned(folder: Path, parts: int) -> list[float]:
        folder.mkdir(exist_ok=True)
        learner = script.Learner(tokenizer)
        before = float(learner.judged(documents[:4], random.Random(0)).detach())
        for passes in range(1, parts + 1):
            script.train(
                learner, documents, 7, 8 * passes / parts, 3e-3,
                lambda group, step: learner.judged(group, random.Random(step)), folder / "state.pt",
            )  # fmt: skip
        learner.eval()
        return [before, float(learner.judged(documents[:4], random.Random(0)).detach())]

    before, after = learned(tmp_path / "once", 1)
    assert after < before - 0.1 and np.isfinite(after)
    assert learned(tmp_path / "once", 1)[1] == after  # from its checkpoint, which is the end already
