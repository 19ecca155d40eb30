"""Process rewards: the numbers at the steps' tags are those of transformers, and one number comes of them as said."""

from __future__ import annotations

from math import log, prod
from pathlib import Path
from typing import Any

import pytest
import torch

from iterref import generate
from iterref.rewards import ProcessReward
from tests.support.checkpoints import bert_config, gpt2_config, language, save
from tests.support.fakes import FakeModel

FIRST, SECOND, LAST = "police arrested a man", "a long chase", "good day"
TEXT = f"{FIRST} . {SECOND} . {LAST} ."


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal token classifier, so that a step cannot see those behind it."""
    return save(tmp_path_factory.mktemp("prm"), "GPT2ForTokenClassification", gpt2_config(num_labels=2), "gpt2")


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language(tmp_path_factory.mktemp("causal"))


def by_hand(folder: Path, kind: str, words: str) -> tuple[torch.Tensor, Any]:
    """The network's logits behind the last of some words, with the start token in front of them, and the tokenizer."""
    import transformers

    network = getattr(transformers, kind).from_pretrained(folder).eval().double()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(words)["input_ids"]]
    with torch.inference_mode():
        return network(torch.tensor([ids])).logits[0, -1], tokenizer


def test_the_steps_of_a_token_classifier_are_those_of_transformers(classifier: Path) -> None:
    reward = ProcessReward(classifier, step=".", dtype="float64")
    (steps,) = reward.steps([TEXT])
    parts = [f"{FIRST} .", f"{FIRST} . {SECOND} .", TEXT]
    wanted = [by_hand(classifier, "AutoModelForTokenClassification", part)[0].softmax(-1)[1].item() for part in parts]
    assert steps == pytest.approx(wanted, abs=1e-12) and len({round(one, 3) for one in steps}) == 3
    other = ProcessReward(classifier, step=".", label="LABEL_0", dtype="float64").steps([TEXT])[0]
    assert other == pytest.approx([1 - one for one in wanted], abs=1e-12)


def test_a_causal_model_says_good_or_bad_at_a_tag_of_its_own(causal: Path) -> None:
    reward = ProcessReward(causal, step=".", tag="##", good="good", bad="bad", given="prompts", dtype="float64")
    (steps,) = reward.steps([f"{FIRST} . {SECOND} ."], prompts=["sun rain"])
    wanted = []
    for words in (f"sun rain {FIRST} ##", f"sun rain {FIRST} ## {SECOND} ##"):
        logits, tokenizer = by_hand(causal, "AutoModelForCausalLM", words)
        good, bad = (logits[tokenizer.convert_tokens_to_ids(word)] for word in ("good", "bad"))
        wanted.append(torch.sigmoid(good - bad).item())
    assert steps == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("over", "summary"), [("min", min), ("mean", lambda p: sum(p) / 3), ("last", lambda p: p[-1]), ("product", prod)]
)
def test_one_number_of_all_steps(over: Any, summary: Any, classifier: Path) -> None:
    steps = ProcessReward(classifier, step=".").steps([TEXT])[0]
    assert ProcessReward(classifier, over, step=".")([TEXT]) == pytest.approx([summary(steps)])
    assert ProcessReward(classifier, over, step=".", log=True)([TEXT]) == pytest.approx([log(summary(steps))])


def test_a_batch_is_its_texts_alone_and_a_text_without_a_step_is_forbidden(classifier: Path) -> None:
    texts = [TEXT, FIRST, f"{FIRST} . {SECOND}", "", " . . ", f"{SECOND} ."]
    reward = ProcessReward(classifier, step=".", dtype="float64")
    together = reward(texts)
    alone = [ProcessReward(classifier, step=".", dtype="float64")([text])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-12)
    assert together[3] == together[4] == -float("inf") and min(together[:3]) > 0
    assert together[1] == pytest.approx(reward.steps([TEXT])[0][0])  # an end without a separator is a step, too


def test_of_an_unfinished_text_the_finished_steps_count(classifier: Path) -> None:
    reward = ProcessReward(classifier, "last", step=".", dtype="float64")
    steps = reward.steps([TEXT])[0]
    found = reward.unfinished([FIRST, f"{FIRST} .", f"{FIRST} . a", f"{FIRST} . {SECOND} . good", ""])
    assert found[0] is None and found[4] is None
    assert found[1:4] == pytest.approx([steps[0], steps[0], steps[1]], abs=1e-12)


def test_one_output_is_a_sigmoid(tmp_path: Path) -> None:
    folder = save(tmp_path, "BertForTokenClassification", bert_config(num_labels=1), "bert")
    steps = ProcessReward(folder, step=".").steps([TEXT])[0]
    assert len(steps) == 3 and all(0 < one < 1 for one in steps)


def test_steps_that_are_too_long_for_the_network_are_not_judged_and_told(classifier: Path) -> None:
    reward = ProcessReward(classifier, step=".", length=8)
    with pytest.warns(UserWarning, match="has 10 tokens and .* reads 8: its end was not judged"):
        assert len(reward.steps([TEXT])[0]) == 1
    assert reward.truncated == 1


@pytest.mark.filterwarnings("ignore:ProcessReward")
def test_it_is_a_reward_of_a_run_and_of_mixtures(classifier: Path) -> None:
    reward = 2.0 * ProcessReward(classifier, step=".")
    result = generate(FakeModel(), ["a"] * 4, reward=reward, sampler="best_of_n:n=2", alpha=1.0)
    assert result.rewards.isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"over": "most"}, "the steps have no summary 'most': use one of min, mean, last, product"),
        ({"step": ""}, "step='', .*: give a step, and both or none"),
        ({"good": "good"}, "good='good', bad=None: give a step, and both or none"),
        ({"label": "fine"}, "there is no label 'fine'"),
        ({"tag": " "}, "the tag ' ' has no token in"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str, classifier: Path) -> None:
    with pytest.raises(ValueError, match=said):
        ProcessReward(classifier, **({"step": "."} | options))


def test_a_word_of_several_tokens_and_a_network_without_the_head_are_refused(causal: Path) -> None:
    with pytest.raises(ValueError, match=r"'no way' is no one token of .*: give a word that is"):
        ProcessReward(causal, step=".", good="good", bad="no way")
    with pytest.raises(ValueError, match="so it is no token classifier: give a checkpoint that was trained as one"):
        ProcessReward(causal, step=".")
