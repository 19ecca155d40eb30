"""Slots: regions with a few choices, and their log-probabilities, against the enumeration of what may stand there."""

from __future__ import annotations

import re
from itertools import product
from math import exp

import pytest
import torch

import iterref
from iterref.constraint import Choices
from iterref.generation import unrewarded
from tests.support.scripts import PIECES, script

pytest.importorskip("outlines_core")
OPTIONS = {"reward": "length:1", "budget": 48}


def enumerated(model, ids: list[int], places: list[int], choices: list[str], temperature=1.0) -> dict[str, float]:
    """log P of choices at masked places, other masks of the canvas open too, by all ways to spell them."""
    problem = unrewarded(model, [""], temperature)
    x = torch.tensor([ids])
    where = x == model.noise.mask
    log_p = torch.full((len(ids), model.noise.vocab), 0.0, dtype=torch.float64)
    log_p[where[0]] = problem.denoiser(x, torch.tensor([0.5]), where, torch.tensor([0])).double()
    found = {}
    for choice in choices:
        ways = []
        for tokens in product(range(5), repeat=len(places)):
            if "".join(PIECES[token].replace("Ġ", " ") for token in tokens) == choice:
                ways.append(sum(float(log_p[place, token]) for place, token in zip(places, tokens, strict=True)))
        found[choice] = torch.tensor(ways, dtype=torch.float64).logsumexp(0)
    whole = torch.stack([*found.values()]).logsumexp(0)
    return {choice: float(value - whole) for choice, value in found.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.3, 1e-4])  # at the last, all their probabilities are 0
def test_log_probabilities_are_those_of_the_exact_posterior(temperature):
    model, choices = script("absorbing"), ["abb", "cca", "aba"]
    options = {**OPTIONS, "temperature": temperature}
    filled = iterref.infill(model, ["c[ccc]b"], prompts=[""], regions=Choices(*choices), length=3, **options)
    [[slot]] = filled.result.slots
    mask = model.noise.mask
    expected = enumerated(model, [2, mask, mask, mask, 1, 5, 5], [1, 2, 3], choices, temperature)
    assert slot.keys() == expected.keys()
    assert all(slot[choice] == pytest.approx(expected[choice], rel=1e-12, abs=1e-9) for choice in choices)
    assert filled.texts[0] in {f"c{choice}b" for choice in choices}


def test_every_slot_of_every_row_has_its_own_choices():
    model = script("absorbing")
    regions = [Choices("a", "c"), Choices("b", "c")]
    filled = iterref.infill(model, ["a[b]c[a]", "b[a]b[c]"], prompts=["", ""], regions=regions, length=1, **OPTIONS)
    for row, text in zip(filled.result.slots, filled.texts, strict=True):
        assert [set(slot) for slot in row] == [{"a", "c"}, {"b", "c"}]
        assert all(abs(sum(map(exp, slot.values())) - 1) < 1e-9 for slot in row)
        assert re.fullmatch(r"a[ac]c[bc]|b[ac]b[bc]", text)


def test_slots_side_by_side_are_two():
    """They were one, of all their tokens."""
    model, regions = script("absorbing"), [Choices("a", "c"), Choices("b", "c")]
    filled = iterref.infill(model, ["a[b][a]b"], prompts=[""], regions=regions, length=1, **OPTIONS)
    ids = [0, model.noise.mask, model.noise.mask, 1, 5, 5, 5]
    for place, slot, choices in zip((1, 2), filled.result.slots[0], ("ac", "bc"), strict=True):
        expected = enumerated(model, ids, [place], list(choices))
        assert slot == pytest.approx(expected, abs=1e-9)
    assert re.fullmatch("a[ac][bc]b", filled.texts[0])
    several = iterref.infill(model, ["a[bb][aa]b"], prompts=[""], regions=["a+", "b+"], length=(1, 2), **OPTIONS)
    assert re.fullmatch("aa+b+b", several.texts[0])


def test_a_region_is_what_a_pattern_says():
    filled = iterref.infill(script("absorbing"), ["a[bbb]c"], prompts=[""], regions="^a+b*$", **OPTIONS)
    assert re.fullmatch("aa+b*c", filled.texts[0]) and filled.result.slots is None


@pytest.mark.parametrize("how", [{"regions": "c(bb)?"}, {"constraint": "ac(bb)?a"}])
def test_a_region_of_several_sizes_takes_those_that_fit(how):
    """Of 1 to 4 tokens, two make a text of the language (or three, with one that is two letters)."""
    filled = iterref.infill(script("absorbing"), ["a[b]a"] * 4, prompts=[""] * 4, length=(1, 4), **how, **OPTIONS)
    assert all(re.fullmatch("ac(bb)?a", text) for text in filled.texts)


def test_slots_are_written_with_the_rows(tmp_path):
    options = {"regions": Choices("a", "c"), "length": 1, **OPTIONS}
    filled = iterref.infill(script("absorbing"), ["a[b]c"], prompts=[""], **options)
    filled.result.to_jsonl(tmp_path / "rows.jsonl")
    assert '"slots": [{"a": ' in (tmp_path / "rows.jsonl").read_text()
    options |= {"regions": Choices("a", "b"), "forbidden": [0]}  # null in JSON, which has no infinity
    filled = iterref.infill(script("absorbing"), ["c[b]"], prompts=[""], **options)
    assert filled.result.slots == [[{"a": -torch.inf, "b": 0.0}]]
    filled.result.to_jsonl(tmp_path / "rows.jsonl")
    assert '"slots": [{"a": null, "b": 0.0}]' in (tmp_path / "rows.jsonl").read_text()


@pytest.mark.parametrize(
    "options, told",
    [
        ({"regions": Choices("a", "c"), "constraint": "a+"}, "give one of them"),
        ({"regions": [Choices("a"), Choices("b"), Choices("c")], "length": 1}, "row 0 has 1 regions"),
        ({"regions": Choices("a", "bcb")}, "different numbers of tokens"),
        ({"regions": Choices("abcabc"), "length": 2}, "no text of the constraint fits"),
        ({"regions": Choices("a", "b"), "length": (1, 2)}, "has one size"),
        ({"regions": "c{5}", "length": (1, 2)}, "no text of the constraint fits"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        iterref.infill(script("absorbing"), ["a[b]c"], prompts=[""], **options, **OPTIONS)


def test_slots_need_a_mask():
    with pytest.raises(ValueError, match="slots need a model whose noise has a mask"):
        iterref.infill(script("uniform"), ["a[b]c"], prompts=[""], regions=Choices("a", "c"), length=1, **OPTIONS)
