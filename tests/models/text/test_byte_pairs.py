"""A tokenizer in vocab.json and merges.txt: the pieces of the class that `transformers` has for it, and its ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from iterref.models.text.codec import Codec
from tests.support.byte_pairs import write_pairs

TEXTS = [
    "the cat saw the dog", " the  cat\n\n  saw", "THE Cat's dog'LL, we'Re; 1234 dogs: x2y", "", "   ", "\t a\r\n b \n",
    "cafe\u0301 na\u00efve \u4e2d\u6587, \U0001f600 \u212b", "<|im_start|>user\nthe cat<|im_end|>\n",
    "a<|mask|> the<|endoftext|>", "\u2019quoted\u2019 \u2014 \u00a0\u3000 the", "(the)[cat]{dog} == the_cat/dog\n",
]  # fmt: skip


def test_its_pieces_are_those_of_transformers(tmp_path: Path) -> None:
    size = write_pairs(tmp_path / "ours")
    write_pairs(tmp_path / "theirs", tokenizer_class="Qwen2Tokenizer", auto_map={})
    codec = Codec.load(tmp_path / "ours")
    theirs = transformers.Qwen2Tokenizer.from_pretrained(tmp_path / "theirs")
    plain = [text for text in TEXTS if "<|" not in text]
    assert codec.ids(plain) == theirs(plain).input_ids and codec.text(codec.ids(plain)) == theirs.batch_decode(
        theirs(plain).input_ids
    )
    spelled = [text for text in TEXTS if "<|" in text]  # of a user's: text, and no special tokens
    assert codec.text(codec.ids(spelled)) == spelled and not set(codec.special) & set(sum(codec.ids(spelled), []))
    assert codec.tokenizer.encode(spelled[0]).ids == theirs(spelled[0]).input_ids  # a template's
    assert codec.reach == size and [codec.start, codec.end, codec.pad, codec.mask] == [
        theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.mask_token_id
    ]  # fmt: skip
    assert codec.ends == [codec.end, codec.turns[0]] and codec.turns == [codec.tokenizer.token_to_id("<|im_end|>")]
    said = [{"role": "user", "content": "the cat"}]
    assert codec.asked("the cat") == theirs.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert codec.ids(["the1"]) != codec.ids(["the 1"])  # a control: the words are cut before the pairs are merged


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        Codec.load(tmp_path)
    write_pairs(tmp_path, added_tokens_decoder={"999": {"content": "<|mask|>", "special": True}})
    with pytest.raises(ValueError, match=r"vocab\.json and merges\.txt of .*mask\|>' is said to be 999.*get it again"):
        Codec.load(tmp_path)
    write_pairs(tmp_path)
    (tmp_path / "vocab.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="cannot be read"):
        Codec.load(tmp_path)


def test_files_of_transformers_own_are_read_as_ever(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", tokenizer_class="Qwen2Tokenizer", auto_map={})
    transformers.Qwen2Tokenizer.from_pretrained(tmp_path / "pairs").save_pretrained(tmp_path / "json")
    assert (tmp_path / "json" / "tokenizer.json").is_file()
    assert Codec.load(tmp_path / "json").ids(TEXTS) == Codec.load(tmp_path / "pairs").ids(TEXTS)
