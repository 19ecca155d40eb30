"""Tokenizers that are shipped as a *.model of sentencepiece alone: read by the classes of transformers, compared with
sentencepiece itself, and a text model beside one."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref import generate, infill
from iterref.models.text.codec import Codec
from iterref.optional import MissingExtra
from tests.support.tokenizers import knowing_nothing

spm = pytest.importorskip("sentencepiece")

SHARED = TemporaryDirectory(prefix="sentencepiece")
TEXTS = ["the cat sat on the mat .", "a dog ran home with the cat", "police arrest two men in london",
         "Stra\u00dfe, \u00e9t\u00e9"]  # fmt: skip
IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
KINDS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "t5": ("spiece.model", "T5Tokenizer", {"extra_ids": 3}, IDS),
    "albert": ("spiece.model", "AlbertTokenizer", {}, {
        "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]",
        "normalization_rule_name": "nmt_nfkc_cf",
    }),
    "xlm-roberta": ("sentencepiece.bpe.model", "XLMRobertaTokenizer", {}, {}),
    "llama": ("tokenizer.model", "LlamaTokenizer", {"pad_token": "<unk>"}, {
        "vocab_size": 400, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }),
}  # fmt: skip
FRAMES = {"t5": ([], [1]), "albert": ([2], [3]), "xlm-roberta": ([0], [2]), "llama": ([], [])}


@cache
def folder(kind: str) -> Path:
    """A folder with a small model that was trained on a few sentences, and what a checkpoint says of it."""
    where, (file, name, config, options) = Path(SHARED.name) / kind, KINDS[kind]
    where.mkdir()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 40), model_prefix=str(where / "made"), minloglevel=2, hard_vocab_limit=False,
        **{"vocab_size": 120, **options},
    )  # fmt: skip
    (where / "made.model").rename(where / file)
    (where / "config.json").write_text(json.dumps({"model_type": kind}))
    (where / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **config}))
    return where


def itself(kind: str) -> Any:
    """The same model, read by sentencepiece."""
    return spm.SentencePieceProcessor(model_file=str(folder(kind) / KINDS[kind][0]))


def numbered(kind: str, text: str) -> list[int]:
    """The ids that sentencepiece gives, as the family numbers them: XLM-R puts a token of its own before them."""
    ids = itself(kind).encode(text)
    return [token + 1 if kind == "xlm-roberta" else token for token in ids]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_sentencepiece(kind: str) -> None:
    codec = Codec.load(folder(kind))
    assert codec.frame == FRAMES[kind]
    texts = [text if kind != "albert" else text.lower() for text in TEXTS[:3]] + ["the men sat", "cat"]
    assert codec.ids(texts) == [numbered(kind, text) for text in texts]
    assert codec.text(codec.ids(texts)) == texts


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_vocabulary_lacks_is_named_and_bytes_bring_it_back(kind: str) -> None:
    codec, text = Codec.load(folder(kind)), "the cat \u4e2d \U0001f600"
    if kind == "llama":  # has a token for every byte
        assert codec.text(codec.ids([text])) == [text]
        return
    with pytest.raises(ValueError, match="text 0 holds .*\u4e2d.*which its tokenizer does not know"):
        codec.ids([text])
    assert codec.unknown in Codec.load(folder(kind), lossy=True).ids([text])[0]
    with pytest.raises(ValueError, match="text 0 .*(does not know|spells the special token)"):
        codec.ids(["the </s> cat"])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("the catsmn.,\u00e9 A\u00bd\u00df\u200b\u4e2d\n\t[]</>"), max_size=24))
def test_a_text_comes_back_or_is_refused(kind: str, text: str) -> None:
    """Up to blanks, and to what the model's own rules rewrite: case, compatibility forms, ALBERT's accents."""
    codec = Codec.load(folder(kind))
    try:
        [ids] = codec.ids([text])
    except ValueError as error:
        assert str(error).startswith("text 0 ")
        return
    form = itself(kind).normalize(text).replace("\u2581", " ")
    assert codec.text([ids])[0].split() == (form.replace("\u00e9", "e") if kind == "albert" else form).split()


def free(completions: list[str]) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.parametrize("kind", ["albert", "xlm-roberta"])
def test_a_text_model_beside_one_writes_and_reads_its_texts(kind: str) -> None:
    model = knowing_nothing(Codec.load(folder(kind)), 24)
    result = generate(model, ["", "", ""], reward=lambda completions: [len(text) for text in completions],
                      sampler="best_of_n:steps=4,n=3")  # fmt: skip
    assert result.texts is not None and torch.equal(model.encode(result.texts), result.tokens)
    edited = infill(model, ["the [cat] sat on the mat ."], prompts=[""], reward=free,
                    sampler="iterref:steps=2,moves=2")  # fmt: skip
    assert edited.texts[0].startswith("the ") and edited.texts[0].endswith("sat on the mat .")


def test_a_model_that_nothing_names_and_a_missing_package_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.model").write_bytes((folder("t5") / "spiece.model").read_bytes())
    with pytest.raises(ValueError, match="^some.model of .* may belong to any model: write its class into"):
        Codec.load(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    told = r"^spiece.model of .* needs sentencepiece: pip install 'iterref\[sentencepiece\]'$"
    with pytest.raises(MissingExtra, match=told):
        Codec.load(folder("t5"))
