"""Prompts as frozen prefixes, texts as canvases, and the tokenizer's special tokens."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.models.text.codec import Codec, unwritten
from iterref.models.text.prefix import PrefixModel
from iterref.noise import Noise, absorbing, uniform
from tests.support.published import CLS, END, MASK, PAD, SEP, WORDS, tokenizer


class Flat(Denoiser):
    """A denoiser that knows nothing."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros(int(where.sum()), self.noise.vocab)


def gpt(folder, length=8, framed=True):
    size = tokenizer(folder, [END])
    return PrefixModel(Flat(absorbing(size + 1)), length, Codec.load(folder), framed)


def bert(folder, length=8):
    size = tokenizer(folder, [CLS, SEP, PAD, MASK])
    return PrefixModel(Flat(uniform(size)), length, Codec.load(folder))


def test_prompts_of_any_length_begin_the_canvases(tmp_path):
    model = gpt(tmp_path)
    denoiser, canvas, free = model.prepare(["the cat saw", "", "a dog"])
    end, mask = WORDS.index("home") + 1, model.noise.mask
    ids = [WORDS.index(word) for word in "the cat saw a dog".split()]
    assert denoiser is model.denoiser and canvas.dtype == torch.long
    assert canvas.tolist() == [
        [end, *ids[:3], mask, mask, mask, mask],
        [end, *[mask] * 7],
        [end, *ids[3:], mask, mask, mask, mask, mask],
    ]
    assert free.equal(canvas == mask)
    for row, prompt in enumerate(["the cat saw", "", "a dog"]):
        _, alone, opened = model.prepare([prompt])
        assert alone[0].equal(canvas[row]) and opened[0].equal(free[row])
    bare = gpt(tmp_path, framed=False).prepare([""])[1]
    assert bare.tolist() == [[mask] * 8]


def test_free_positions_hold_a_token_of_the_vocabulary_under_uniform_noise(tmp_path):
    model = bert(tmp_path)
    _, canvas, free = model.prepare(["the cat"])
    assert free.sum() == 5 and set(canvas[free].tolist()) == {model.codec.pad}


@pytest.mark.parametrize("make", [gpt, bert])
def test_texts_come_back(tmp_path, make):
    model = make(tmp_path)
    texts = ["the cat saw a dog", "a man ran home and saw", ""]
    tokens = model.encode(texts)
    assert tokens.shape == (3, 8) and model.decode(tokens) == texts
    assert int(tokens.max()) < model.codec.size
    full = "the cat saw a dog and a"  # seven words and the start: no room for an end
    assert model.decode(model.encode([full])) == [full]


def test_a_text_ends_at_its_first_end(tmp_path):
    model = gpt(tmp_path)
    end, mask = model.codec.end, model.noise.mask
    tokens = torch.tensor([[end, 0, 1, end, 2, 3, end, end], [end, 0, mask, 1, end, end, end, end], [0, 1] + [end] * 6])
    assert model.decode(tokens) == ["the cat", "the cat", "the cat"]


def test_what_does_not_fit_is_named(tmp_path):
    model = gpt(tmp_path, length=4)
    with pytest.raises(ValueError, match="prompt 1 takes 4 of the canvas' 4 positions"):
        model.prepare(["the", "the cat saw"])
    with pytest.raises(ValueError, match="text 1 takes 5 positions and the canvas has 4"):
        model.encode(["the cat saw", "the cat saw a"])
    with pytest.raises(ValueError, match="no prompts"):
        model.prepare([])
    with pytest.raises(ValueError, match="length=0"):
        gpt(tmp_path, length=0)
    with pytest.raises(ValueError, match="without a tokenizer"):
        PrefixModel(model.denoiser, 4, None).prepare([""])


def test_special_tokens_are_found_by_usual_names_and_as_configured(tmp_path):
    tokenizer(tmp_path, [CLS, SEP, PAD, MASK])
    codec, first = Codec.load(tmp_path), len(WORDS)
    assert (codec.start, codec.end, codec.pad, codec.mask) == (first, first + 1, first + 2, first + 3)
    assert codec.fill == codec.pad and codec.size == first + 4
    config = {"bos_token": {"content": "the"}, "eos_token": "cat", "pad_token": None, "mask_token": "nowhere"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    codec = Codec.load(tmp_path)
    assert (codec.start, codec.end, codec.pad, codec.mask) == (0, 1, first + 2, first + 3)


def test_a_tokenizer_without_special_tokens_still_serves(tmp_path):
    tokenizer(tmp_path, ["<unk>"])
    codec = Codec.load(tmp_path)
    assert (codec.start, codec.end, codec.pad, codec.mask, codec.fill) == (None, None, None, None, 0)
    model = PrefixModel(Flat(absorbing(codec.size + 1)), 2, codec)
    assert model.decode(model.encode(["the cat"])) == ["the cat"]
    longer = PrefixModel(Flat(absorbing(codec.size + 1)), 4, codec)
    with pytest.raises(ValueError, match="text 0 takes 2 of the canvas' 4 positions, and its tokenizer has no end"):
        longer.encode(["the cat"])  # there is nothing to tell the end by


def test_a_token_added_at_the_mask_s_id_is_no_role(tmp_path):
    """GPT-2's tokenizer is given a padding token by many scripts; it takes the id of MDLM's mask."""
    size = tokenizer(tmp_path, [END])
    tools = Codec.load(tmp_path)
    tools.tokenizer.add_special_tokens([PAD])
    tools.tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = Codec.load(tmp_path)
    assert codec.size == size and codec.tokenizer.get_vocab_size() == size + 1
    assert unwritten(codec, size + 3).tolist() == [size + 1, size + 2]
    beside = codec.within(size + 1, size)  # MDLM's network: the mask behind GPT-2's tokens
    assert codec.pad == size and (beside.pad, beside.mask, beside.fill) == (None, size, beside.end)
    assert unwritten(None, 5).tolist() == [] and unwritten(codec, 4).tolist() == []


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json, .*: name the tokenizer"):
        Codec.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json of .* cannot be read"):
        Codec.load(tmp_path)
