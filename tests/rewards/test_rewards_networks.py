"""Classifier, Perplexity and Similarity on tiny checkpoints: equal to the network asked by hand, batched as alone."""

from __future__ import annotations

import warnings
from functools import cache, partial
from math import exp, inf
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from iterref import generate
from iterref.models.base import Chat
from iterref.rewards import Classifier, Lexical, Perplexity, RewardError, Similarity, TextReward
from tests.support import checkpoints
from tests.support.bundled import tiny_news

TEXTS = [
    "a good day",
    "police arrested a man in the city on monday after a long chase .",
    "rain",
    "sun , sun , sun , good good day",
    "a bad man in the rain , bad day",
    "",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "sentiment": checkpoints.sentiment(root / "sentiment"),
        "language": checkpoints.language(root / "language"),
        "encoder": checkpoints.encoder(root / "encoder"),
    }


def ids(text: str, first: list[int], last: list[int]) -> torch.Tensor:
    vocabulary = [*checkpoints.SPECIAL, *checkpoints.WORDS]
    return torch.tensor([[*first, *map(vocabulary.index, text.split()), *last]])


def forget(reward: Any, batch: int) -> None:
    """Makes a reward read everything anew, so many texts at a time."""
    reward._memory._known.clear()
    reward.batch = batch


@cache
def network(kind: str, folder: Path, **options: Any) -> Any:
    """A network of `transformers`, loaded once."""
    return getattr(transformers, kind).from_pretrained(folder, **options).eval()


def in_every_way(make: Any, texts: list[str], columns: dict[str, list[Any]] | None = None) -> list[float]:
    """The values, found equal alone, in batches of 2 and all together, and in any order."""
    columns, reward = columns or {}, make(batch=64)
    together = reward(texts, **columns)
    order = list(range(len(texts)))[::-1]
    forget(reward, batch=2)
    turned = reward([texts[i] for i in order], **{k: [v[i] for i in order] for k, v in columns.items()})
    forget(reward, batch=1)
    alone = [reward([text], **{k: [v[i]] for k, v in columns.items()})[0] for i, text in enumerate(texts)]
    for found in (together, turned[::-1]):
        assert found == pytest.approx(alone, abs=1e-5, rel=1e-6)
    assert len(set(together)) > 2, "texts must differ for this to say anything"
    return together


# --- the classifier ---------------------------------------------------------------------------------------------------


def test_a_classifier_is_the_network_asked_by_hand(folders: dict[str, Path]) -> None:
    bert = network("BertForSequenceClassification", folders["sentiment"])
    with torch.no_grad():
        logits = torch.cat([bert(input_ids=ids(text, [2], [3])).logits for text in TEXTS]).double()
    log_p = logits.log_softmax(1)
    expected = {"log_probability": log_p[:, 1], "probability": log_p[:, 1].exp(), "logit": logits[:, 1]}
    for value, numbers in expected.items():
        found = in_every_way(
            lambda batch, value=value: Classifier(folders["sentiment"], 1, value=value, batch=batch), TEXTS
        )
        assert found == pytest.approx(numbers.tolist(), abs=1e-5)
    other = Classifier(folders["sentiment"], "negative", value="probability")(TEXTS)
    assert other == pytest.approx((1 - log_p[:, 1].exp()).tolist(), abs=1e-5)


def test_padding_that_is_read_would_show(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reward = Classifier(folders["sentiment"], 1)
    right = reward(TEXTS)
    padded = reward._padded
    monkeypatch.setattr(
        reward, "_padded", lambda e: {k: torch.ones_like(v) if "mask" in k else v for k, v in padded(e).items()}
    )
    reward._memory._known.clear()
    assert max(abs(a - b) for a, b in zip(right, reward(TEXTS), strict=True)) > 1e-2


def test_what_stands_before_is_read(folders: dict[str, Path]) -> None:
    prompts = ["rain on monday", "sun", "a long day in the city", "a", "the man", "sun"]
    columns = {"prompts": prompts}
    found = in_every_way(
        lambda batch: Classifier(folders["sentiment"], 1, given="prompts", batch=batch), TEXTS, columns
    )
    bert = network("BertForSequenceClassification", folders["sentiment"])
    before, text = ids(prompts[0], [2], [3]), ids(TEXTS[0], [], [3])
    types = torch.cat([torch.zeros_like(before), torch.ones_like(text)], 1)
    with torch.no_grad():
        logits = bert(input_ids=torch.cat([before, text], 1), token_type_ids=types).logits
    assert found[0] == pytest.approx(float(logits.log_softmax(1)[0, 1]), abs=1e-5)
    with pytest.raises(ValueError, match="needs the column 'prompts'"):
        Classifier(folders["sentiment"], 1, given="prompts")(TEXTS)


def test_one_output_and_labels_of_their_own(tmp_path: Path) -> None:
    one = checkpoints.sentiment(tmp_path / "one", id2label={0: "reward"}, label2id={"reward": 0})
    with pytest.raises(ValueError, match="one output, 'reward', and no probabilities: say value='logit'"):
        Classifier(one)
    in_every_way(lambda batch: Classifier(one, value="logit", batch=batch), TEXTS)
    many = checkpoints.sentiment(tmp_path / "many", problem_type="multi_label_classification")
    logit = Classifier(many, "positive", value="logit")(TEXTS)
    assert Classifier(many, "positive", value="probability")(TEXTS) == pytest.approx([1 / (1 + exp(-v)) for v in logit])


def test_a_reward_model_of_conversations_reads_its_template(tmp_path: Path) -> None:
    config = checkpoints.gpt2_config(num_labels=1)
    folder = checkpoints.save(tmp_path / "gpt2", "GPT2ForSequenceClassification", config, "gpt2")
    with pytest.raises(ValueError, match="has no chat template: leave chat=True out"):
        Classifier(folder, value="logit", chat=True)
    turns = "{% for one in messages %}{{ bos_token if one.role == 'user' else eos_token }}{{ one.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(turns)
    with pytest.raises(ValueError, match="one output and a chat template, .*: say chat=True, with given='prompts', or"):
        Classifier(folder, value="logit")
    gpt2, texts = network("GPT2ForSequenceClassification", folder), TEXTS[:3]
    prompts = ["rain", Chat([("user", "sun"), ("assistant", "a"), ("user", "rain")]), "sun"]
    written = ["[BOS]rain[EOS]", "[BOS]sun[EOS]a[BOS]rain[EOS]", "[BOS]sun[EOS]"]
    for chat, before in ((True, written), (False, prompts)):
        reward = Classifier(folder, value="logit", given="prompts", chat=chat)
        said = [[first + text] if chat else [first, text] for first, text in zip(before, texts, strict=True)]
        lines = [reward.tokenizer(*one, add_special_tokens=False)["input_ids"] for one in said]
        with torch.no_grad():
            expected = [float(gpt2(input_ids=torch.tensor([line])).logits) for line in lines]
        assert reward(texts, prompts=prompts) == pytest.approx(expected, abs=1e-5)


def test_a_causal_classifier_finds_the_last_token(tmp_path: Path) -> None:
    config = checkpoints.gpt2_config(num_labels=2)
    folder = checkpoints.save(tmp_path / "gpt2", "GPT2ForSequenceClassification", config, "gpt2")
    gpt2 = network("GPT2ForSequenceClassification", folder)
    found = in_every_way(lambda batch: Classifier(folder, 1, value="logit", batch=batch), TEXTS)
    with torch.no_grad():
        states = [gpt2.score(gpt2.transformer(input_ids=ids(text, [], [])).last_hidden_state) for text in TEXTS[:-1]]
    assert found[:-1] == pytest.approx([float(one[0, -1, 1]) for one in states], abs=1e-5)
    assert found[-1] == -inf  # no start, no words: nothing to judge


def test_double_precision_leaves_nothing_to_the_neighbours(folders: dict[str, Path]) -> None:
    makers = [
        lambda batch: Classifier(folders["sentiment"], 1, dtype="float64", batch=batch),
        lambda batch: Perplexity(folders["language"], dtype="float64", batch=batch),
    ]
    for make in makers:
        reward = make(8)
        together = reward(TEXTS[:5])
        forget(reward, batch=8)
        alone = [reward([text])[0] for text in TEXTS[:5]]
        assert together == pytest.approx(alone, abs=1e-13)


def test_long_texts_are_cut_and_told_once(folders: dict[str, Path]) -> None:
    long, longer = " ".join(["good"] * 30), " ".join(["good"] * 50)
    reward = Classifier(folders["sentiment"], 1)
    with pytest.warns(UserWarning, match=r"Classifier: the text 'good .*'... has 32 tokens and .* reads 24") as told:
        values = reward([long, "rain", longer])
    assert len(told) == 1 and reward.truncated == 2
    assert values[0] == pytest.approx(values[2], abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(["bad " * 40])
        cut = Classifier(folders["sentiment"], 1)([" ".join(["good"] * 22)])
    assert values[0] == pytest.approx(cut[0], abs=1e-6) and reward.truncated == 3
    with pytest.warns(UserWarning, match="reads 4"):
        Classifier(folders["sentiment"], 1, length=4)(["good good bad bad"])


def test_positions_counted_from_behind_the_padding(tmp_path: Path) -> None:
    from transformers import RobertaConfig

    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    config = RobertaConfig(vocab_size=checkpoints.SIZE, max_position_embeddings=14, pad_token_id=0, **sizes)
    folder = checkpoints.save(tmp_path / "roberta", "RobertaForSequenceClassification", config, "bert")
    reward = Classifier(folder, 0)
    assert reward.length == 13
    with pytest.warns(UserWarning, match="reads 13"):
        reward([" ".join(["good"] * 30)])


def test_answers_are_remembered_and_counted(folders: dict[str, Path]) -> None:
    reward = Classifier(folders["sentiment"], 1)
    first = reward(["rain", "sun", "rain"])
    assert (reward.asked, reward.evaluated) == (3, 2)
    assert reward(["sun", "rain"]) == [first[1], first[0]]
    assert (reward.asked, reward.evaluated) == (5, 2)


# --- perplexity -------------------------------------------------------------------------------------------------------


def by_hand(folder: Path, text: str, before: list[int], counted: int) -> float:
    """The sum of log p of the last tokens, one at a time, each from a pass of its own."""
    gpt2 = network("GPT2LMHeadModel", folder)
    tokens = ids(text, before, [])[0]
    total = 0.0
    for end in range(len(tokens) - counted, len(tokens)):
        with torch.no_grad():
            log_p = gpt2(input_ids=tokens[None, :end]).logits[0, -1].double().log_softmax(0)
        total += float(log_p[tokens[end]])
    return total


def test_a_likelihood_is_the_chain_rule(folders: dict[str, Path]) -> None:
    texts = TEXTS[:5]
    sizes = [len(text.split()) for text in texts]
    sums = [by_hand(folders["language"], text, [4], size) for text, size in zip(texts, sizes, strict=True)]
    means = [total / size for total, size in zip(sums, sizes, strict=True)]
    expected = {"sum": sums, "log_likelihood": means, "perplexity": [-exp(-mean) for mean in means]}
    for value, numbers in expected.items():
        found = in_every_way(
            lambda batch, value=value: Perplexity(folders["language"], value=value, batch=batch), TEXTS
        )
        assert found[:5] == pytest.approx(numbers, rel=1e-5) and found[5] == -inf


def test_without_a_start_the_first_token_is_given(folders: dict[str, Path]) -> None:
    found = in_every_way(lambda batch: Perplexity(folders["language"], value="sum", start=False, batch=batch), TEXTS)
    assert found[0] == pytest.approx(by_hand(folders["language"], TEXTS[0], [], 2), rel=1e-5)
    assert found[2] == found[5] == -inf  # one word and none


def test_what_is_given_does_not_count(folders: dict[str, Path]) -> None:
    prompts = ["rain on monday", "sun", "", "a", "the man", "sun"]
    columns = {"prompts": prompts}
    make = partial(Perplexity, folders["language"], value="sum", given="prompts")
    found = in_every_way(make, TEXTS, columns)
    before = ids(prompts[0], [4], [])[0].tolist()
    assert found[0] == pytest.approx(by_hand(folders["language"], TEXTS[0], before, 3), rel=1e-5)
    joint = Perplexity(folders["language"], value="sum")
    both, alone = joint([f"{prompts[0]} {TEXTS[0]}", prompts[0]])
    assert found[0] == pytest.approx(both - alone, abs=1e-4)


def test_what_is_too_long_goes_from_the_front_of_what_is_given(folders: dict[str, Path]) -> None:
    prompts = ["sun " * 10 + "rain " * 10 + "day"]
    reward = Perplexity(folders["language"], value="sum", given="prompts", length=12)
    with pytest.warns(UserWarning, match="Perplexity: the text .* has 25 tokens and .* reads 12"):
        found = reward([TEXTS[0]], prompts=prompts)
    before = ids("rain " * 7 + "day", [4], [])[0].tolist()
    assert found == pytest.approx([by_hand(folders["language"], TEXTS[0], before, 3)], rel=1e-5)
    with pytest.warns(UserWarning, match="reads 3"):
        cut = Perplexity(folders["language"], value="sum", given="prompts", length=3)([TEXTS[0]], prompts=["sun"])
    assert cut == pytest.approx([by_hand(folders["language"], "a good", [4], 2)], rel=1e-5)


def test_a_network_that_looks_ahead_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="looks at later tokens, so it is no causal language model"):
        Perplexity(folders["encoder"])


# --- similarity -------------------------------------------------------------------------------------------------------


def embedding(folder: Path, text: str) -> torch.Tensor:
    bert = network("BertModel", folder, add_pooling_layer=False)
    with torch.no_grad():
        mean = bert(input_ids=ids(text, [2], [3])).last_hidden_state[0].double().mean(0)
    return mean / mean.norm()


def test_similarity_is_the_cosine_of_means(folders: dict[str, Path]) -> None:
    references = ["rain", ["sun", "a bad day"], "city", "sun , sun", ["rain"], "good"]
    found = in_every_way(lambda batch: Similarity(folders["encoder"], batch=batch), TEXTS, {"reference": references})
    for text, entry, value in zip(TEXTS, references, found, strict=True):
        own = embedding(folders["encoder"], text)
        entry = [entry] if isinstance(entry, str) else entry
        assert value == pytest.approx(max(float(own @ embedding(folders["encoder"], one)) for one in entry), abs=1e-5)


def test_similarity_to_fixed_texts_and_to_the_source(folders: dict[str, Path]) -> None:
    near = Similarity(folders["encoder"], to=["rain", "a good day"])
    assert near(["rain", "a good day"]) == pytest.approx([1, 1]) and near(["bad"])[0] < 0.999
    assert near.evaluated == 3  # the references are texts like any other
    source = Similarity(folders["encoder"], references="prompts")
    assert source(["rain", "sun"], prompts=["rain", "sun"]) == pytest.approx([1, 1])


def test_mistakes_about_references_are_named(folders: dict[str, Path]) -> None:
    reward = Similarity(folders["encoder"])
    with pytest.raises(ValueError, match="needs the column 'reference', but there is only"):
        reward(["a"], prompts=["a"])
    with pytest.raises(ValueError, match="row 1 has an empty list"):
        reward(["a", "a"], reference=["a", []])
    with pytest.raises(ValueError, match="has 1 entries for 2"):
        reward(["a", "a"], reference=["a"])
    with pytest.raises(ValueError, match="to has an empty list"):
        Similarity(folders["encoder"], to=[])


# --- all of them ------------------------------------------------------------------------------------------------------


def test_they_are_rewards_of_trainers_and_of_each_other(folders: dict[str, Path]) -> None:
    fluent, glad, near = (
        Perplexity(folders["language"]),
        Classifier(folders["sentiment"], "positive"),
        Similarity(folders["encoder"]),
    )
    reward = (0.5 * glad + 0.1 * fluent.clip(-9, 0)).where(near > -1, -20) + Lexical(words=(1, None))
    table = {"prompts": ["rain", "sun"], "reference": ["a", "bad day"]}
    texts = ["good day", "a long chase"]
    expected = [0.5 * g + 0.1 * max(f, -9) for g, f in zip(glad(texts), fluent(texts), strict=True)]
    assert reward(completions=texts, **table) == pytest.approx(expected)
    assert TextReward(
        reward, lambda tokens: texts, **{"prompts": table["prompts"], "columns": {"reference": ["a", "b"]}}
    )
    assert [part.__name__ for part in (fluent, glad, near)] == ["Perplexity", "Classifier", "Similarity"]
    with pytest.raises(ValueError, match="completion 1 is a list: give its text"):
        glad(["a", [{"role": "assistant", "content": "a"}]])


@pytest.mark.filterwarnings("ignore:.*as unknown")  # the small tokenizer does not know all words of the model
def test_they_steer_a_run(folders: dict[str, Path]) -> None:
    prompts = [
        "police arrested a man in the city on monday after a long chase .",
        "rain , rain and sun on a long day .",
    ]
    glad, near = Classifier(folders["sentiment"], "positive"), Similarity(folders["encoder"], references="prompts")
    options = {"sampler": "best_of_n:n=3,steps=3", "seed": 2, "alpha": 0.1}
    result = generate(tiny_news(), prompts, reward=glad + near.clip(low=-1), **options)
    assert result.texts is not None
    expected = [g + n for g, n in zip(glad(result.texts), near(result.texts, prompts=prompts), strict=True)]
    assert result.rewards.tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(RewardError, match="needs the column 'reference'"):
        generate(tiny_news(), prompts, reward=Similarity(folders["encoder"]), **options)
