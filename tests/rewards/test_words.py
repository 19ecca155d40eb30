"""Words of every script: consensus, ROUGE and rules find in other scripts what they find in English."""

from __future__ import annotations

import unicodedata
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref.budget import Cost
from iterref.drafts import Drafts
from iterref.rewards import Consensus, Lexical, Rouge
from iterref.rewards.words import ascii_words, characters, split_of, unicode_words

SENTENCES = {
    "Chinese": "警察逮捕了一名男子",
    "Japanese": "東京タワーに行った",
    "Thai": "ตำรวจจับกุมชายคนหนึ่ง",
    "Russian": "полиция задержала мужчину",
    "Hindi": "पुलिस ने एक आदमी को गिरफ्तार किया",
    "Arabic": "اعتقلت الشرطة رجلا",
    "Korean": "경찰이 남자를 체포했다",
    "Greek": "η αστυνομία συνέλαβε άνδρα",
    "French": "être né à l'été",
    "emoji": "😀🎉",
    "points": "...!",
}


@pytest.mark.parametrize("text", SENTENCES.values(), ids=SENTENCES)
def test_equal_drafts_agree_whatever_their_script(text: str) -> None:
    other = "a text that shares nothing"
    reward = Consensus([[text, text, text], [other, text]])
    assert reward([text, other, text], [0, 0, 1]) == [
        1.0,
        0.0,
        0.0 if text == "...!" else 0.5,
    ]  # beside words, points are no words


def test_a_draft_that_shares_half_agrees_by_half() -> None:
    assert Consensus([["警察逮捕"]])(["警察释放"], [0]) == [0.5]
    assert Consensus([["полиция города"]])(["Полиция страны"], [0]) == [0.5]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_texts_in_ascii_have_the_words_of_the_package(text: str) -> None:
    assert unicode_words(text) == ascii_words(text)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=20))
def test_composition_and_case_change_no_word(text: str) -> None:
    words = unicode_words(text)
    assert unicode_words(unicodedata.normalize("NFD", text)) == words
    assert characters(text.replace(" ", "")) == characters(text)
    assert all(words)


def test_words_of_scripts_by_hand() -> None:
    assert unicode_words("İstanbul café, 2 km²") == ["i̇stanbul", "café", "2", "km²"]
    assert unicode_words("我喜欢 Python3 和猫") == ["我", "喜", "欢", "python3", "和", "猫"]
    assert unicode_words("हिन्दी में") == ["हिन्दी", "में"]
    assert characters("A b\n中") == ["a", "b", "中"]
    assert split_of(str.split)("a b") == ["a", "b"]
    with pytest.raises(ValueError, match="no tokenizer 'letters': use one of words, unicode, characters"):
        Rouge(tokenizer="letters")


def test_a_reference_without_a_word_is_refused_and_others_are_read() -> None:
    for text in ("Москва 2020", "上海的大学 AI"):
        with pytest.raises(ValueError, match=f"only '(2020|ai)' in the reference '{text}': say tokenizer='unicode'"):
            Rouge()(["a"], reference=[text])
        assert Rouge(tokenizer="unicode")([text], reference=[text]) == [1.0]
    for text in ("警察", "полиция"):
        with pytest.raises(ValueError, match=f"no word in the reference '{text}': say tokenizer='unicode'"):
            Rouge()(["a"], reference=[text])
        with pytest.raises(ValueError, match="no word"):
            Rouge().against([text])
        with pytest.raises(ValueError, match="no word"):
            Consensus([[text]], tokenizer="words")
        for tokenizer in ("unicode", "characters", lambda text: list(text)):
            assert Rouge(tokenizer=tokenizer)([text, "a"], reference=[text, text]) == [1.0, 0.0]
    assert Rouge()(["a", "b"], reference=["", "..."]) == [0.0, 0.0]  # as the package has it: there is nothing to find


def test_own_drafts_in_chinese_are_a_reward() -> None:
    drafts = Drafts([["警察逮捕", "警察逮捕"]], torch.zeros(2, 1, 3), "rougeL", Cost(), Cost(), 0.0)
    assert drafts.reward()(["警察逮捕", "x"], [0, 0]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("苹果", "我喜欢苹果。", True),  # no blanks: wherever it stands
        ("苹果", "我喜欢苹", False),
        ("猫", "black猫sat", True),
        ("cat", "猫cat猫", True),
        ("cat", "猫cats猫", False),
        ("タワー", "東京タワーに", True),
        ("мир", "Мир вам", True),
        ("мир", "мирный", False),
        ("हिन", "हिन्दी", False),  # a vowel sign belongs to the word
        ("हिन्दी", "हिन्दी में", True),
        ("café", "Cafe\u0301 noir", True),  # however the accent is composed
        ("cafe\u0301", "CAFÉ", True),
        ("cafe", "cafe\u0301", False),
        ("straße", "STRASSE", True),
        ("จับ", "ตำรวจจับกุม", True),
        ("snake", "snake_case", False),
        ("a a", "ba a a", True),
        ("العربية", "اللغة العربية", True),
    ],
)
def test_rules_find_whole_words_of_every_script(word: str, text: str, found: bool) -> None:
    assert Lexical([word])([text]) == [0.0 if found else -inf]
    assert Lexical(forbidden=[word])([text]) == [-inf if found else 0.0]
    assert Lexical(required_column="w")([text], w=[word]) == [0.0 if found else -inf]


def test_case_counts_where_it_is_asked_for_and_composition_never_does() -> None:
    assert Lexical(["É"], case=True)(["E\u0301", "é"]) == [0.0, -inf]
    with pytest.raises(ValueError, match="both required and forbidden"):
        Lexical(["é"], ["E\u0301"])
    with pytest.raises(ValueError, match="3 is no word"):
        Lexical([3])
