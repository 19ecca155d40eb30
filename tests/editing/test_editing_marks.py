"""Marks: reading them, and from characters to tokens with a model's own encode and decode, whatever its tokens are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterref.editing.drift import text_lengths
from iterref.editing.marks import Frame, Regions, place, read
from iterref.models.tiny_news import Summarizer
from iterref.noise import absorbing
from tests.support.bundled import tiny_news

LENGTH = 24


class Pieces:
    """A tokeniser alone: words in pieces of at most three letters, a blank before each word but the first; numbers are
    one sign, case is lost and full stops stand apart, as in the bundled model."""

    noise = absorbing(2)
    pad = 0

    def __init__(self) -> None:
        self.ids: dict[str, int] = {"": 0}

    def prepare(self, prompts: Sequence[str]) -> tuple[None, Tensor, Tensor]:
        raise AssertionError("nobody asks for a denoiser here")

    def pieces(self, text: str) -> list[str]:
        words = re.sub(r"\d+", "##", text.lower().replace(".", " . ")).split()
        return [("_" if not k else "") + part for word in words for k, part in enumerate(re.findall(".{1,3}", word))]

    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = [[self.ids.setdefault(part, len(self.ids)) for part in self.pieces(text)] for text in texts]
        return torch.tensor([ids + [self.pad] * (LENGTH - len(ids)) for ids in rows])

    def decode(self, tokens: Tensor) -> list[str]:
        names = {i: part for part, i in self.ids.items()}
        texts = []
        for ids in tokens.tolist():
            kept = ids[: ids.index(self.pad)] if self.pad in ids else ids
            texts.append("".join(names[i] for i in kept).replace("_", " ").strip())
        return texts


def placed(marked: str, length: int | None = None, model: Pieces | Summarizer | None = None) -> tuple[str, Regions]:
    """The opened pieces of one marked text, joined by |, and its regions."""
    model, text = model or Pieces(), read(marked, 0)
    tokens, blank = model.encode([text.text]), model.encode([""])[0]
    sizes = None if length is None else [length] * len(text.regions)
    regions = place(model, blank, tokens, text_lengths(tokens, blank).tolist(), [text], [sizes])[0]
    opened = regions.open[0].tolist()
    parts, at = [], 0
    while at < len(opened):
        if opened[at]:
            end = next((k for k in range(at, len(opened)) if not opened[k]), len(opened))
            cut = torch.cat([regions.canvas[0, at:end], blank])[None]
            parts.append(model.decode(cut[:, : len(blank)])[0])
            at = end
        at += 1
    return "|".join(parts), regions


@pytest.mark.parametrize(
    ("marked", "text", "regions"),
    [
        ("police [arrest two] in [london]", "police arrest two in london", ((7, 17), (21, 27))),
        (r"a \[note\] [here]", "a [note] here", ((9, 13),)),
        ("[]go", "go", ((0, 0),)),
        (r"back\slash [x]", r"back\slash x", ((11, 12),)),
    ],
)
def test_marks_are_read(marked, text, regions):
    assert read(marked, 0).text == text
    assert read(marked, 0).regions == regions


def test_marks_are_configurable():
    assert read("a [b] <<c d>> e", 0, ("<<", ">>")).text == "a [b] c d e"
    assert read("a [b] <<c d>> e", 0, ("<<", ">>")).regions == ((6, 9),)


@pytest.mark.parametrize(
    ("marked", "sentence"),
    [
        ("a [b", "text 3 leaves a region open"),
        ("a b]", "text 3 closes a region that is not open"),
        ("a [b [c]]", "text 3 opens a region inside another one"),
        ("a b", "text 3 marks nothing"),
    ],
)
def test_marks_that_do_not_pair_up_are_refused(marked, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(marked, 3)


@pytest.mark.parametrize("marks", [("", "]"), ("|", "|")])
def test_marks_must_differ(marks):
    with pytest.raises(ValueError, match="two different strings"):
        read("a", 0, marks)


@pytest.mark.parametrize(
    ("marked", "opened"),
    [
        ("the [cat] sat", "cat"),
        ("the[ cat ]sat", "cat"),
        ("[The] cat [sat].", "the|sat"),
        ("the cat sat[.]", "."),
        ("the cat [sat.]", "sat ."),
        ("the [pol]iceman sat", "pol"),
        ("the pol[ice]man sat", "ice"),
        ("it cost [1234 now]", "## now"),
        ("[aa] aa aa", "aa"),
        ("aa aa [aa]", "aa"),
        ("[whole text]", "whole text"),
    ],
)
def test_whole_tokens_are_opened(marked, opened):
    assert placed(marked)[0] == opened


@pytest.mark.parametrize(
    ("marked", "region", "token"),
    [
        ("the poli[ceman] sat", "ceman", "iceman"),  # the pieces are pol, ice, man
        ("the po[l]iceman sat", "l", "pol"),
        ("it cost 12[34] now", "34", "##"),
        ("it cost [12]34 now", "12", "##"),
        ("it cost 1[23]4 now", "23", "##"),
        ("po[li]ce[man] sat", "li", "police"),
    ],
)
def test_a_mark_that_cuts_a_token_in_two_is_refused(marked, region, token):
    """What it leaves out would change with the rest: outside of a region a text stays as it is."""
    with pytest.raises(ValueError, match=f"text 0: the region '{region}' cuts '{token}' in two"):
        placed(marked)


def test_repeated_words_are_told_apart():
    for k in range(3):
        words = ["aa"] * 3
        words[k] = "[aa]"
        assert placed(" ".join(words))[1].open[0].nonzero()[:, 0].tolist() == [k]


def test_a_length_moves_what_follows_and_inserts():
    model = Pieces()
    _, regions = placed("the [cat] sat", 3, model)
    the, sat = model.encode(["the"])[0, 0], model.encode(["a sat"])[0, 1]
    assert regions.open[0].nonzero()[:, 0].tolist() == [1, 2, 3]
    assert regions.canvas[0, 0] == the and regions.canvas[0, 4] == sat
    _, inserted = placed("the cat [] sat", 2, model)
    assert inserted.open[0].nonzero()[:, 0].tolist() == [2, 3] and inserted.canvas[0, 4] == sat
    _, first = placed("[]the cat", 1, model)
    assert first.open[0].nonzero()[:, 0].tolist() == [0]


def test_no_room_and_empty_regions_are_refused():
    with pytest.raises(ValueError, match="text 0 has an empty region: say"):
        placed("the [] cat")
    with pytest.raises(ValueError, match="text 0 would have 32 tokens and the canvas holds 24"):
        placed("the [] cat", 30)


def test_a_marked_text_must_be_the_rows_own():
    model = Pieces()
    tokens, blank = model.encode(["the cat sat"]), model.encode([""])[0]
    with pytest.raises(ValueError, match="text 0 reads 'the dog sat' without its marks, the row 'the cat sat'"):
        place(model, blank, tokens, [3], [read("the [dog] sat", 0)])
    none = place(model, blank, tokens, [3], [None])[0]
    assert not none.open.any() and torch.equal(none.canvas, tokens)


@pytest.fixture(scope="module")
def bundled() -> Summarizer:
    return tiny_news()


@pytest.mark.parametrize(
    ("marked", "opened"),
    [
        ("Police [arrest two men] in London, 12 miles away.", "arrest two men"),
        ("police arrest [two] men [in london]", "two|in london"),
        ("it cost [3,000] in the U.S. on monday", "##"),
        ('"we ca[n\'t] wait," she [said].', "n't|said"),
    ],
)
def test_the_bundled_models_tokens(bundled, marked, opened):
    assert placed(marked, model=bundled)[0] == opened


WORD = st.text("abc", min_size=1, max_size=8)


@given(st.lists(WORD, min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_every_marked_character_is_opened_and_no_other_token_is(words, data):
    """The law of the mapping: exactly the tokens with a marked character."""
    text = " ".join(words)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    if not text[start:end].strip():
        return
    model = Pieces()
    edges, at = {0}, 0  # of tokens
    for piece in model.pieces(text):
        at += len(piece.removeprefix("_")) + (piece.startswith("_") and at > 0)
        edges |= {at, at + 1} if text[at : at + 1] in (" ", "") else {at}
    marked = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    if not {start, end} <= edges:
        with pytest.raises(ValueError, match="cuts .* in two"):
            placed(marked, model=model)
        return
    _, regions = placed(marked, model=model)
    at, expected = 0, []
    for piece in model.pieces(text):
        at += piece.startswith("_") and at > 0
        size = len(piece.removeprefix("_"))
        expected.append(bool(text[max(start, at) : min(end, at + size)].strip()) if start < at + size else False)
        at += size
    assert regions.open[0, : len(expected)].tolist() == expected
    assert not regions.open[0, len(expected) :].any()


@pytest.mark.parametrize(
    ("judged", "composed"),
    [("x = 1\n\nreturn", "x = 1\n\nreturn"), ("x =\n1\nreturn", "x = 1\nreturn"), ("x = 1\nyield", "x = 1\nyield")],
)
def test_a_text_that_has_what_stands_around_its_region_is_the_one_that_was_judged(judged: str, composed: str) -> None:
    """The controls: one whose region begins with another blank than the user's, and one that lost what is around."""
    frame = Frame(("x =", "\nreturn"), ("x = ", "\nreturn"), (("", ""),), apart=(True,))
    assert frame.compose(judged) == composed


@pytest.mark.parametrize(
    ("judged", "composed"),
    [
        ("the young woman went home", "The young\nwoman  went home"),
        ("the very old man went home", "The very\nold man  went home"),
        ("the old went went home", "The old\nwent  went home"),
        ("the youngish went home", "The youngish\n  went home"),  # one word is the first's
    ],
)
def test_two_regions_side_by_side_are_told_apart_by_a_blank(judged: str, composed: str) -> None:
    """The text of both was taken for the second's."""
    frame = Frame(("the", "", " went home"), ("The ", "\n", "  went home"), (("", ""),) * 2, (True, False))
    assert frame.compose(judged) == composed


def test_no_region_joins_what_stands_before_it() -> None:
    """The second was let through; the control is one that the user wrote without a blank before it."""
    frame = Frame(("the", " man", " home"), ("The ", " man ", " home"), (("", ""),) * 2, (True, True))
    assert frame.regions("the old mans home") is None and frame.regions("thes man went home") is None
    assert frame.regions("the old mans man went home") == [" old mans", " went"]
    assert replace(frame, apart=(True, False)).regions("the old mans home") == [" old", "s"]
