"""Texts through tokenizers of four kinds: nothing is lost, cut, or read as a special token without a word."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

import iterref
from iterref.models.base import Text
from iterref.models.text.codec import Codec
from iterref.models.text.prefix import PrefixModel
from iterref.models.tiny_news import WEIGHTS, Summarizer
from iterref.noise import absorbing
from tests.support.tokenizers import KINDS, SPECIAL, Flat, codec, knowing_nothing, tokenizer, written

LONG = "the cat sat on the mat a man ran home the dog sat"


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Codec]:
    return {kind: codec(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def solid(text: str) -> str:
    return "".join(text.split())


def test_what_a_vocabulary_without_an_unknown_token_lacks_is_refused_naming_the_row(tmp_path: Path) -> None:
    """Before, the library's bare Exception came through."""
    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[MASK]": 1, "the": 2, "cat": 3}, unk_token="none"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    read = Codec.load(written(tmp_path, made))
    assert read.ids(["the cat"]) == [[2, 3]]
    with pytest.raises(ValueError, match="^text 1 holds what its tokenizer has no token for .*: take it out$"):
        read.ids(["the cat", "the dog"])


# 1: settings that were stored with a tokenizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_truncation_and_padding_are_no_part_of_a_tokenizer(tmp_path: Path, kind: str, side: str) -> None:
    made = tokenizer(kind)
    want = made.encode(LONG, add_special_tokens=False).ids
    made.enable_truncation(4, direction=side)
    made.enable_padding(length=30, direction=side)
    assert made.encode(LONG, add_special_tokens=False).ids != want  # the control
    read = Codec.load(written(tmp_path, made))
    assert read.ids([LONG, "the cat"])[0] == want
    assert read.ids(["the cat"]) == read.ids([LONG, "the cat"])[1:]  # whatever stands beside it


def test_a_summariser_reads_no_stored_truncation(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "weights.safetensors"):
        shutil.copy(WEIGHTS / name, tmp_path / name)
    file = tmp_path / "tokenizer.json"
    stored = json.loads(file.read_text())
    stored["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(stored))
    text = ["police arrested two men in london on monday ."]
    assert torch.equal(Summarizer.load(tmp_path).encode(text), Summarizer.load().encode(text))


# 2: the frame


FRAMES: dict[str, tuple[Any, tuple[list[int], list[int]]]] = {
    "none": (None, ([], [])),
    "bert": (processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), ([2], [3])),
    "roberta": (processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)), ([2], [3])),
    "start alone": (processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)]), ([2], [])),
    "end alone": (processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)]), ([], [3])),
    "two and one": (
        processors.TemplateProcessing(single="[CLS] [PAD] $A [SEP]", special_tokens=[("[CLS]", 2), ("[PAD]", 0),
                                                                                     ("[SEP]", 3)]),
        ([2, 0], [3]),
    ),
    "in a sequence": (
        processors.Sequence([processors.ByteLevel(), processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))]),
        ([2], [3]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("words", [["THE", "SEQ"], ["the", "a"]])
def test_the_frame_is_the_post_processor_s(tmp_path: Path, name: str, words: list[str]) -> None:
    """Whatever the vocabulary holds: "a" is not in all of them."""
    made = tokenizer("words", words)
    processor, want = FRAMES[name]
    made.post_processor = processor or processors.Sequence([])
    assert Codec.load(written(tmp_path, made)).frame == want
    assert made.encode(words[0]).ids == [*want[0], made.token_to_id(words[0]), *want[1]]  # what the library does


# 6: tokens that were added later


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_token_that_the_network_knows_is_a_word(tmp_path: Path, kind: str) -> None:
    made = tokenizer(kind)
    made.add_tokens(["<num>"])
    made.add_special_tokens([AddedToken("<end>", special=True)])
    read = Codec.load(written(tmp_path, made))
    model = PrefixModel(Flat(absorbing(read.reach + 1, read.reach)), 24, read)
    assert model.decode(model.encode(["the <num> cat"])) == ["the <num> cat"]
    assert made.token_to_id("<num>") in model.encode(["the <num> cat"])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_token_without_a_row_in_the_network_is_refused(tmp_path: Path, kind: str) -> None:
    made = tokenizer(kind)
    size = made.get_vocab_size()
    made.add_tokens(["<num>"])
    model = PrefixModel(Flat(absorbing(size, 4)), 24, Codec.load(written(tmp_path, made)))
    with pytest.raises(ValueError, match="text 1 holds '<num>', of which the network has no row"):
        model.encode(["the cat", "the <num> cat"])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_at_the_mask_s_id_does_not_stop_refining(tmp_path: Path, kind: str) -> None:
    made = tokenizer(kind)
    size = made.get_vocab_size()
    made.add_special_tokens([AddedToken("<pad>", special=True)])  # takes the id behind the last, which is the mask's
    folder = written(tmp_path, made)
    (folder / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    model = PrefixModel(Flat(absorbing(size + 1, size)), 16, Codec.load(folder))
    assert size not in model.encode(["the cat"])
    done = iterref.refine(model, ["the cat"], prompts=[""], reward=level, sampler="iterref:steps=2,moves=1")
    assert len(done.texts) == 1


def level(completions: list[str], **others: Any) -> list[float]:
    return [0.0] * len(completions)


# 7: special tokens spelled out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPECIAL)
def test_a_special_token_that_is_spelled_out_is_text_or_refused(codecs: Any, kind: str, name: str) -> None:
    model, text = knowing_nothing(codecs[kind], 40), f"the cat {name} sat"
    try:
        back = model.decode(model.encode([text]))[0]
    except ValueError as error:
        assert "text 0 " in str(error)
    else:
        assert solid(back).lower() == solid(text).lower()
    assert codecs[kind].tokenizer.token_to_id(name) in codecs[kind].tokenizer.encode(text).ids[1:-1]  # the control


# 8: what the vocabulary does not know


@pytest.mark.parametrize(
    ("kind", "text", "named"),
    [
        ("words", "the bird sat", "'bird'"),
        ("words", "the \u4e2d sat", "'\u4e2d'"),
        ("words", "DVTLQI" * 20, "DVTLQIDVTLQI"),
        ("pieces", "the \u2603 sat", "'\u2603'"),
        ("pieces", "the \u4e2d\u6587 sat", "'\u4e2d', '\u6587'"),
        ("pieces", "the \U0001f600 sat", "'\U0001f600'"),
        ("pieces", "the \u0915\u0941 sat", "'\u0915'"),
        ("unigram", "the \u4e2d sat", "'\u4e2d'"),
        ("unigram", "the cat 7", "'7'"),
    ],
)
def test_what_a_vocabulary_does_not_know_is_refused_by_name(codecs: Any, kind: str, text: str, named: str) -> None:
    model = knowing_nothing(codecs[kind])
    with pytest.raises(ValueError, match=f"text 1 holds .*{named}.*lossy=True"):
        model.encode(["the cat", text])
    with pytest.raises(ValueError, match="prompt 2 holds"):
        model.prepare(["", "the", text])


def test_what_is_lost_may_be_asked_for(tmp_path: Path) -> None:
    model = knowing_nothing(codec(tmp_path, "pieces", lossy=True))
    assert model.decode(model.encode(["the \u2603 sat"])) == ["the sat"]


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_character_is_one_sentence(codecs: Any, kind: str) -> None:
    with pytest.raises(ValueError, match="text 1 holds half of a character"):
        codecs[kind].ids(["the", "the \ud83d cat"])


ALPHABET = st.sampled_from([*"thecatsondmgrTA .,'- \t\n7", "\u00e9", "\u4e2d", "\u2603", "\u0301", "\u0941", "\u200d",
                            "\ufb01", "\U0001f600", "[SEP]", "[MASK]", "the ", "cat ", " sat"])  # fmt: skip
TEXTS = st.lists(ALPHABET, max_size=10).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@settings(max_examples=25, deadline=None)
def test_a_text_comes_back_or_is_refused(codecs: Any, kind: str, text: str) -> None:
    """Up to what the normaliser declares (case, accents) and blanks; under the byte tokenizer to the letter."""
    model = knowing_nothing(codecs[kind], 60)
    try:
        back = model.decode(model.encode([text]))[0]
    except ValueError as error:
        assert "text 0 " in str(error)
        return
    normal = model.codec.tokenizer.normalizer
    assert solid(back) == solid(normal.normalize_str(text) if normal else text)
    assert kind != "bytes" or back == text


# 9: texts that carry their tokens


def test_a_text_of_the_model_s_own_goes_back_as_the_tokens_that_it_was(codecs: Any) -> None:
    model = knowing_nothing(codecs["bytes"], 8)
    letters = [model.codec.tokenizer.token_to_id(letter) for letter in "the"]
    odd = torch.tensor([[2, *letters, 3, 0, 0, 0]])  # the tokenizer itself has one token for it
    said = model.decode(odd)
    assert said == ["the"] and torch.equal(model.encode(said), odd)
    plain = model.encode([str(said[0])])
    assert not torch.equal(plain, odd) and model.decode(plain) == said  # the control: the text alone
    again = pickle.loads(pickle.dumps(said[0]))
    assert isinstance(again, Text) and torch.equal(model.encode([again]), odd)
    other = knowing_nothing(codecs["words"], 8)
    assert torch.equal(other.encode(said), other.encode(["the"]))  # a model that would read other words from them


@pytest.mark.parametrize("name", ["tiny-books", "tiny-news"])
def test_samples_are_refined_as_they_are(name: str) -> None:
    model = iterref.load(name)
    prompts = ["police arrested two men in london ."] * 12 if name == "tiny-news" else [""] * 12
    made = iterref.generate(model, prompts, reward=level, sampler="ancestral:steps=3", seed=3)
    assert torch.equal(model.encode(made.texts), made.tokens)
    assert made.texts == model.decode(made.tokens)
    done = iterref.edit(model, made.texts, prompts=prompts, reward=level)
    assert torch.equal(done.tokens, made.tokens)
