"""Regions of texts under real tokenizers: what stands around them stays letter by letter, or the text is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterref import infill
from iterref.models.text.codec import Codec
from tests.support.tokenizers import KINDS, codec, knowing_nothing

METHOD = "iterref:steps=2,moves=2,tries=4"


def level(completions: list[str], **others: Any) -> list[float]:
    return [0.0] * len(completions)


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Codec]:
    return {kind: codec(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def filled(of: Codec, marked: str, **options: Any) -> str:
    return infill(knowing_nothing(of, 40), [marked], prompts=[""], reward=level, sampler=METHOD, **options).texts[0]


PIECE = st.lists(st.sampled_from([*"theca sTod.,' ", "\u00e9", "\u4e2d", "\u2603", "the ", " cat", " sat"]),
                 max_size=6)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@given(before=PIECE.map("".join), inside=PIECE.map("".join), after=PIECE.map("".join), seed=st.integers(0, 9))
@settings(max_examples=8, deadline=None)
def test_the_text_around_a_region_stays(
    codecs: Any, kind: str, before: str, inside: str, after: str, seed: int
) -> None:
    try:
        found = filled(codecs[kind], f"{before}[{inside}]{after}", seed=seed)
    except ValueError as error:
        assert "text 0" in str(error)
        return
    assert found.startswith(before) and found.endswith(after) and len(found) >= len(before) + len(after)


@pytest.mark.parametrize(
    ("kind", "marked"),
    [("pieces", "the cat [\u2603] sat on the mat"), ("words", "the man [\u4e2d] ran home ."),
     ("unigram", "the cat [\u4e2d] sat"), ("pieces", "the [\U0001f600] cat"), ("words", "[bird] the cat"),
     ("pieces", "the cat [\u4e2d]")],
)  # fmt: skip
def test_a_region_without_text_for_the_tokenizer_takes_no_neighbour(tmp_path: Path, kind: str, marked: str) -> None:
    with pytest.raises(ValueError, match="text 0 holds"):
        filled(codec(tmp_path / "strict", kind), marked)
    lossy = codec(tmp_path / "lossy", kind, lossy=True)
    with pytest.raises(ValueError, match="text 0 has an empty region: say how many tokens"):
        filled(lossy, marked)
    before, after = marked.replace("]", "[").split("[")[::2]
    found = filled(lossy, marked, length=1)
    assert found.startswith(before) and found.endswith(after)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_no_text_ends_within_a_region(codecs: Any, kind: str, seed: int) -> None:
    """A reward for short texts would end all of them there; padding and every other end are forbidden."""
    done = infill(
        knowing_nothing(codecs[kind], 40), ["the [cat sat on] mat"], prompts=[""], seed=seed, alpha=0.01,
        reward=lambda completions, **others: [-float(len(text)) for text in completions],
        sampler="iterref:steps=4,moves=8,tries=8",
    )  # fmt: skip
    assert done.texts[0].startswith("the ") and done.texts[0].endswith(" mat")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("marked", "before", "after"),
    [("the [MASK] sat", "the ", " sat"), ("the <mask> sat", "the ", " sat"), ("[MASK] cat", "", " cat"),
     ("the cat [MASK]", "the cat ", ""), ("the [MASK][MASK] sat", "the ", " sat"),
     ("the [MASK] <mask> sat", "the ", " sat"), ("the [MASK] sat [on] mat", "the ", " mat")],
)  # fmt: skip
def test_a_mask_is_a_region_of_one_token(codecs: Any, kind: str, marked: str, before: str, after: str) -> None:
    model = knowing_nothing(codecs[kind], 40)
    done = infill(model, [marked], prompts=[""], reward=level, sampler=METHOD)
    assert done.texts[0].startswith(before) and done.texts[0].endswith(after)
    holes = marked.count("[MASK]") + marked.count("<mask>")
    first = done.history[0].tokens
    grown = int((done.tokens != 0).sum()) - int((first != 0).sum())
    assert grown == holes


@pytest.mark.parametrize("marked", ["the  [cat] [sat] .", "the  [cat]\n[MASK] [sat] on"])
def test_regions_side_by_side_are_told_apart(codecs: Any, marked: str) -> None:
    """Each has text of its own, between the blanks that were written; the text of all of them was given to the last."""
    around = re.compile(r"\S.*".join(map(re.escape, re.split(r"\[\w+\]", marked))), re.DOTALL)
    found = {filled(codecs["words"], marked, seed=seed) for seed in range(4)}
    assert len(found) > 1 and all(around.fullmatch(text) for text in found), found


def test_behind_a_literal_end_a_region_is_where_it_is(codecs: Any) -> None:
    done = filled(codecs["bytes"], r"the \[SEP\] [cat] sat")
    assert done.startswith("the [SEP] ") and done.endswith(" sat")


def test_a_literal_mask_is_escaped(codecs: Any) -> None:
    done = filled(codecs["bytes"], r"the \<mask> [cat] sat")
    assert done.startswith("the <mask> ") and done.endswith(" sat")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regex", ["[a-z ]{3}", "[^.]*t?", "(the )?cat ?"])
def test_a_region_is_of_its_pattern_between_the_blanks_around_it(codecs: Any, kind: str, regex: str) -> None:
    """Blanks at its ends belong to the text around it, so no text of the pattern that needs them is drawn."""
    pytest.importorskip("outlines_core")
    for seed in range(2):
        text = filled(codecs[kind], "the cat [sat] on the cat", regions=regex, length=(1, 4), seed=seed)
        assert text.startswith("the cat ") and text.endswith(" on the cat")
        assert re.fullmatch(regex, text[len("the cat ") : -len(" on the cat")])
    with pytest.raises(ValueError, match="blanks at their ends.*leave the blanks out"):
        filled(codecs[kind], "the [cat] sat", regions=" [a-z]+")
