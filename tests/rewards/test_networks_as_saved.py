"""Network rewards answer as the checkpoint says: padding, labels, problem types, pooling, what a tokenizer knows."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from iterref.rewards import Classifier, Perplexity, Similarity
from iterref.rewards.similarity import Pooling
from tests.support import checkpoints

TEXTS = ["rain", "a good day", "police arrested a man in the city on monday after a long chase .", "sun , sun", "bad"]
SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, initializer_range=0.5)
CAUSAL = dict(SMALL, num_key_value_heads=2, max_position_embeddings=24)
PADDED = dict(SMALL, max_position_embeddings=26, pad_token_id=1)
KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("Bert", dict(SMALL, max_position_embeddings=24), "bert"),
    "roberta": ("Roberta", PADDED, "bert"),  # counts positions by its own pad token, which is not the tokenizer's
    "mpnet": ("MPNet", PADDED, "bert"),
    "fnet": ("FNet", dict(hidden_size=16, num_hidden_layers=1, intermediate_size=24, initializer_range=0.5,
                          max_position_embeddings=24), "bert"),  # mixes padding into every text
    "convbert": ("ConvBert", dict(SMALL, num_hidden_layers=2, embedding_size=16, conv_kernel_size=3, num_groups=1,
                                  head_ratio=1, max_position_embeddings=24), "bert"),
    "xlnet": ("XLNet", dict(d_model=16, n_layer=1, n_head=2, d_inner=24, initializer_range=0.5), "bert"),
    "bart": ("Bart", dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                          decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, init_std=0.5,
                          max_position_embeddings=24, eos_token_id=3, pad_token_id=0, bos_token_id=2), "bert"),
    "gpt2": ("GPT2", dict(n_positions=24, n_embd=16, n_layer=1, n_head=2, initializer_range=0.2, pad_token_id=0),
             "gpt2"),
    "gpt2 without a pad": ("GPT2", dict(n_positions=24, n_embd=16, n_layer=1, n_head=2, bos_token_id=4, eos_token_id=5,
                                        pad_token_id=None), "gpt2"),
    "llama": ("Llama", dict(CAUSAL, pad_token_id=5), "gpt2"),
}  # fmt: skip


def classifier(folder: Path, kind: str, **options: Any) -> Path:
    name, sizes, reads = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(vocab_size=checkpoints.SIZE, num_labels=3, **(sizes | options))
    return checkpoints.save(folder, f"{name}ForSequenceClassification", config, reads)


DOUBLED = {"mpnet", "convbert"}  # pad as "roberta" does, mix as "fnet" does


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in DOUBLED)) for k in KINDS])
def test_a_text_in_a_batch_is_judged_as_alone(kind: str, tmp_path: Path) -> None:
    folder = classifier(tmp_path / "kind", kind)
    reward = Classifier(folder, 2, value="logit", batch=4)
    together = reward(TEXTS)
    for text, value in zip(TEXTS, together, strict=True):
        ids = reward.tokenizer(text)["input_ids"]
        with torch.inference_mode():
            alone = reward.checkpoint.network(input_ids=torch.tensor([ids])).logits[0, 2]
        assert value == pytest.approx(float(alone), abs=1e-5)
    assert reward._blind is (kind not in ("fnet", "convbert", "xlnet"))
    assert len(set(together)) == len(TEXTS)


def test_padding_that_a_network_mixes_in_would_show(tmp_path: Path) -> None:
    reward = Classifier(classifier(tmp_path / "fnet", "fnet"), 2, value="logit", batch=8)
    right = reward(TEXTS)
    careless = Classifier(tmp_path / "fnet", 2, value="logit", batch=8)
    careless._blind = True
    assert max(abs(a - b) for a, b in zip(right, careless(TEXTS), strict=True)) > 1e-2


def test_a_tokenizer_that_was_saved_cutting_and_padding_does_neither(tmp_path: Path) -> None:
    folder = checkpoints.sentiment(tmp_path / "cut")
    before = Classifier(folder, 1, value="logit")(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer("a good day", truncation=True, max_length=4, padding="max_length")
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]["max_length"] == 4
    assert Classifier(folder, 1, value="logit")(TEXTS) == before
    assert Classifier(folder, 1, value="logit", tokenizer=tokenizer)(TEXTS) == before


# --- labels and problem types -----------------------------------------------------------------------------------------


def labelled(folder: Path, names: list[str], **options: Any) -> Path:
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    return checkpoints.sentiment(folder, **(labels | options))


def test_labels_are_found_by_name_before_number(tmp_path: Path) -> None:
    stars = labelled(tmp_path / "stars", ["3", "2", "1"])
    assert Classifier(stars, "1").label == 2 and Classifier(stars, "3").label == 0
    assert Classifier(stars, 0).label == 0  # a number that is no name
    with pytest.raises(ValueError, match="label 1 is the number of '2' and the name of number 2: give a string"):
        Classifier(stars, 1)
    plain = labelled(tmp_path / "plain", ["bad", "Good", "good"])
    assert [Classifier(plain, label).label for label in ("good", "Good", "BAD", "1", 1)] == [2, 1, 0, 1, 1]
    with pytest.raises(ValueError, match="no label 'GOOD'"):  # two of them, but for case
        Classifier(plain, "GOOD")
    with pytest.raises(ValueError, match="no label '3': choose one of 'bad'"):
        Classifier(plain, "3")


def test_two_tables_of_labels_that_disagree_are_refused(tmp_path: Path) -> None:
    folder = labelled(tmp_path / "wrong", ["bad", "good"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"label2id": {"good": 0, "bad": 1}}))
    with pytest.raises(ValueError, match="labels are .* and by name .*: correct its config.json"):
        Classifier(folder, "good")
    numbered = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"good": 0, "bad": 1}}
    (folder / "config.json").write_text(json.dumps(config | numbered))
    assert Classifier(folder, "good").label == 0  # only one of the tables has names


def test_problem_types_are_obeyed_or_refused(tmp_path: Path) -> None:
    values = labelled(tmp_path / "regression", ["helpful", "honest"], problem_type="regression")
    with pytest.raises(ValueError, match="2 outputs of a regression, 'helpful', 'honest', and no probabilities"):
        Classifier(values, "honest")
    one, other = (Classifier(values, label, value="logit")(TEXTS) for label in ("helpful", "honest"))
    assert one != other
    tags = labelled(tmp_path / "tags", ["sad", "glad"], problem_type="multi_label_classification")
    total = [a + b for a, b in zip(*(Classifier(tags, i, value="probability")(TEXTS) for i in (0, 1)), strict=True)]
    assert max(abs(each - 1) for each in total) > 1e-2  # each has a sigmoid of its own
    config = json.loads((tags / "config.json").read_text())
    (tags / "config.json").write_text(json.dumps(config | {"problem_type": "ranking"}))
    with pytest.raises(ValueError, match="problem type|problem_type"):
        Classifier(tags, "sad")


# --- what a tokenizer knows -------------------------------------------------------------------------------------------


def test_a_text_that_the_tokenizer_does_not_know_is_told_once_or_refused(tmp_path: Path) -> None:
    folder, language = checkpoints.sentiment(tmp_path / "bert"), checkpoints.language(tmp_path / "gpt2")
    encoder = checkpoints.encoder(tmp_path / "encoder")
    for make in (
        lambda **options: Classifier(folder, 1, **options),
        lambda **options: Perplexity(language, **options),
        lambda **options: Similarity(encoder, to="rain", **options),
    ):
        reward = make()
        with pytest.warns(UserWarning, match="reads 1 of its 1 tokens as unknown, of the text '警察逮捕了'") as told:
            reward(["rain", "警察逮捕了", "中"])
        assert len(told) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reward(["人"])
            make(lossy=False)(["a good day", "rain"])
        strict = make(lossy=False)
        for text in ("人", "a good 日 day", "goood"):
            with pytest.raises(ValueError, match=f"as unknown, of the text '{text}': give a model of this script"):
                strict([text])


def test_a_tokenizer_of_bytes_knows_every_text_and_an_unnamed_unknown_token_is_found(tmp_path: Path) -> None:
    assert Classifier("sentiment", "positive", lossy=False)(["警察逮捕了一名男子"])[0] < 0
    folder = checkpoints.sentiment(tmp_path / "bert")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            config = json.loads((folder / name).read_text())
            config.pop("unk_token", None)
            (folder / name).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="reads 1 of its 1 tokens as unknown"):
        Classifier(folder, 1, lossy=False)(["警察逮捕了"])


# --- sentence encoders ------------------------------------------------------------------------------------------------


def sentence_encoder(folder: Path, pooling: dict[str, Any] | None, **files: Any) -> Path:
    checkpoints.encoder(folder)
    steps = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16} | pooling))
        steps.append({"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"})
    for step in files.pop("steps", []):
        steps.append({"type": f"sentence_transformers.models.{step}", "path": f"{len(steps)}_{step}"})
    (folder / "modules.json").write_text(json.dumps(steps))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def states(reward: Similarity, text: str) -> torch.Tensor:
    """The last states (T, D) of a text, [CLS] and [SEP] included."""
    ids = torch.tensor([reward.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        return reward.checkpoint.network(input_ids=ids).last_hidden_state[0].double()


def mean(h: torch.Tensor) -> torch.Tensor:
    return h.mean(0)


def heavier(h: torch.Tensor) -> torch.Tensor:
    weights = torch.arange(1, len(h) + 1, dtype=torch.float64)[:, None]
    return (h * weights).sum(0) / weights.sum()


POOLINGS: list[tuple[dict[str, Any] | None, Any]] = [
    (None, mean),
    ({}, mean),
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda h: h[0]),
    ({"pooling_mode_max_tokens": True}, lambda h: h.amax(0)),
    ({"pooling_mode_lasttoken": True}, lambda h: h[-1]),
    ({"pooling_mode_weightedmean_tokens": True}, heavier),
    ({"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_cls_token": True},
     lambda h: torch.cat([h[0], h.sum(0) / len(h) ** 0.5])),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, lambda h: torch.cat([h.amax(0), h.mean(0)])),
    ({"pooling_mode": "cls"}, lambda h: h[0]),
    ({"pooling_mode": "mean_sqrt_len"}, mean),  # the same direction
    ({"pooling_mode": ["max", "lasttoken"]}, lambda h: torch.cat([h.amax(0), h[-1]])),
]  # fmt: skip


@pytest.mark.parametrize(("pooling", "by_hand"), POOLINGS)
def test_a_sentence_encoder_pools_as_its_files_say(pooling: Any, by_hand: Any, tmp_path: Path) -> None:
    reward = Similarity(sentence_encoder(tmp_path / "encoder", pooling), to="rain")
    one, other = (by_hand(states(reward, text)) for text in ("a long good day", "rain"))
    expected = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
    for texts in (["a long good day"], ["a long good day", "sun"]):
        reward._memory._known.clear()
        assert reward(texts)[0] == pytest.approx(expected, abs=1e-6)


def dense(folder: Path, activation: str) -> torch.Tensor:
    folder.mkdir()
    config = {"in_features": 16, "out_features": 4, "bias": True, "activation_function": activation}
    (folder / "config.json").write_text(json.dumps(config))
    weight, bias = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), torch.ones(4)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "model.safetensors")
    return torch.cat([weight, bias[:, None]], 1).double()


def test_dense_layers_prefixes_case_and_lengths_are_read(tmp_path: Path) -> None:
    folder = sentence_encoder(
        tmp_path / "encoder", {}, steps=["Dense", "Normalize"],
        sentence_bert_config={"max_seq_length": 6, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "sun , "}, "default_prompt_name": "query"},
    )  # fmt: skip
    weights = dense(folder / "2_Dense", "torch.nn.modules.activation.Tanh")
    reward = Similarity(folder, to="rain")
    found = [
        torch.tanh(weights @ torch.cat([states(reward, f"sun , {text}").mean(0), torch.ones(1)]))
        for text in ("good day", "rain")
    ]
    expected = float(torch.nn.functional.cosine_similarity(*found, dim=0))
    assert reward(["GOOD day"]) == pytest.approx([expected], abs=1e-6) and reward.length == 6
    with pytest.warns(UserWarning, match="reads 6"):
        reward(["good good good good good"])


@pytest.mark.parametrize(
    ("pooling", "files", "sentence"),
    [
        ({"pooling_mode": "median"}, {}, r"trained to pool by \['median'\]: known are cls"),
        ({"pooling_mode_median_tokens": True}, {}, "trained to pool by .*median"),
        ({"include_prompt": False}, {}, "leaves its prompt out"),
        ({}, {"steps": ["LSTM"]}, "has a step 'LSTM', which is not known"),
    ],
)
def test_a_sentence_encoder_that_is_not_understood_is_refused(
    pooling: Any, files: Any, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Similarity(sentence_encoder(tmp_path / "encoder", pooling, **files), to="rain")


def test_a_dense_layer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "encoder", {}, steps=["Dense"])
    dense(folder / "2_Dense", "mine.Activation")
    with pytest.raises(ValueError, match="a dense layer with mine.Activation, which is not known"):
        Pooling.read(folder)
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="a dense layer without 2_Dense/model.safetensors"):
        Pooling.read(folder)
