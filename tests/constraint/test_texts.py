"""Constraints of text models: every method writes texts of the language, by every entry, or says why it cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch

import iterref
from iterref.constraint import Choices, Regex
from iterref.constraint.texts import of_texts
from iterref.decoding import ORDERS
from iterref.registry import names
from tests.support.scripts import END, script
from tests.support.word_model import WordModel

pytest.importorskip("outlines_core")
LANGUAGE = r"(ab?)+( [bc]+)*"
KINDS = ["absorbing", "uniform"]
SMALL = {  # options with which a method takes few evaluations
    "auto": dict(budget=10), "beam": dict(budget=24), "smc": dict(budget=12), "svdd": dict(budget=12),
    "hex": dict(budget=24), "select_refine": dict(budget=80), "waste_free": dict(budget=20),
    "particle_gibbs": dict(budget=130),
}  # fmt: skip


def many_c(completions: Sequence[str], **columns: object) -> list[float]:
    """The letters c of a text of the language; what is none is never judged."""
    assert all(re.fullmatch(LANGUAGE, text) for text in completions)
    return [float(text.count("c")) for text in completions]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", names())
def test_every_method_writes_texts_of_the_language(name, kind):
    options = {"reward": many_c, "alpha": 0.5, "sampler": name, **SMALL.get(name, {"budget": 16})}
    result = iterref.generate(script(kind), [""] * 4, constraint=LANGUAGE, **options)
    assert all(re.fullmatch(LANGUAGE, text) for text in result.texts or [])
    assert bool(result.rewards.isfinite().all())
    declared = result.sampler.cost()
    assert (result.asked.nfe, result.asked.reward_calls) == (declared.nfe, declared.reward_calls)


@pytest.mark.parametrize(
    "kind, order", [*(("absorbing", order) for order in ORDERS), ("uniform", "random"), ("uniform", "bounded")]
)
def test_in_every_order(kind, order):
    options = {"reward": many_c, "alpha": 1.0, "constraint": LANGUAGE}
    result = iterref.generate(script(kind), [""] * 8, sampler=f"ancestral:steps=4,order={order}", **options)
    assert all(re.fullmatch(LANGUAGE, text) for text in result.texts or []) and len(set(result.texts or [])) > 1


def test_without_it_few_are(monkeypatch):
    """Negative control: the same runs without the constraint."""
    result = iterref.generate(script("absorbing"), [""] * 32, reward="length:1", sampler="ancestral:steps=4")
    assert sum(re.fullmatch(LANGUAGE, text) is not None for text in result.texts or []) < 16


def test_a_text_does_not_depend_on_the_batch():
    options = {"reward": many_c, "alpha": 0.5, "constraint": LANGUAGE, "sampler": "iterref:moves=4", "seed": 3}
    model = script("absorbing")
    together = iterref.generate(model, [""] * 4, rows=[0, 1, 2, 3], **options)
    alone = iterref.generate(model, [""], rows=[2], max_rows=1, **options)
    assert torch.equal(alone.tokens[0], together.tokens[2])


def test_a_prompt_is_part_of_the_text_and_rows_have_their_own_languages():
    asked = [r"ab c+", r"ab? b+", "c(a|b)*"]
    result = iterref.generate(
        script("absorbing"), ["ab", "a", "c"], reward="length:1", sampler="ancestral:steps=3", constraint=asked
    )
    assert all(re.fullmatch(one, text) for one, text in zip(asked, result.texts or [], strict=True))
    with pytest.raises(ValueError, match="row 0: no text of the constraint fits the 6 free positions"):
        iterref.generate(script("absorbing"), ["c"], reward="length:1", constraint="ab c")
    with pytest.raises(ValueError, match="2 constraints for 1 prompts"):
        iterref.generate(script("absorbing"), ["c"], reward="length:1", constraint=["c", "c"])


def test_behind_the_end_stands_filler():
    model = script("absorbing")
    result = iterref.generate(model, [""] * 8, reward="length:1", sampler="ancestral:steps=3", constraint="a b?")
    for ids in result.tokens.tolist():
        at = ids.index(END)
        assert set(ids[at:]) == {END} and re.fullmatch("a b?", model.decode(torch.tensor([ids]))[0])
    assert bool(of_texts(Regex("a b?"), model, result.tokens).accepts(result.tokens).all())


@pytest.mark.parametrize(
    "language, told",
    [
        ("a{8}", "row 0: no text of the constraint fits the 7 free positions of its canvas: give a longer canvas"),
        ("d+", "row 0: no text"),
        ("([", "cannot be compiled"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_run(language, told):
    with pytest.raises(ValueError, match=told):
        iterref.generate(script("absorbing"), [""], reward="length:1", constraint=language)


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="has no tokenizer"):
        iterref.generate(WordModel(), [""], reward="length:1", constraint="alpha")


def test_particle_gibbs_says_which_option_it_cannot_keep():
    with pytest.raises(ValueError, match="ancestors=true needs steps of closed form"):
        iterref.generate(
            script("absorbing"), [""], reward="length:1", constraint="a+",
            sampler="particle_gibbs:ancestors=true,fresh=true,sweeps=1,steps=2",
        )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_refined_within_the_language(kind):
    model = script(kind)
    options = {"prompts": ["", ""], "reward": many_c, "alpha": 0.3, "constraint": LANGUAGE, "budget": 20}
    refined = iterref.refine(model, ["ab b", "aab"], strength=0.8, **options)
    assert all(re.fullmatch(LANGUAGE, text) for text in refined.texts)
    with pytest.raises(ValueError, match="row 1: the given text is none of the constraint's"):
        iterref.refine(model, ["ab b", "bca"], strength=0.8, **options)


def test_a_filled_in_text_is_one_of_the_language_as_a_whole():
    filled = iterref.infill(
        script("absorbing"), ["ab [a] b", "a[bc] c"], prompts=["", ""], reward="length:1", constraint=LANGUAGE, budget=8
    )
    assert all(re.fullmatch(LANGUAGE, text) for text in filled.texts)
    assert filled.texts[0].startswith("ab ") and filled.texts[1].endswith(" c")


def test_methods_are_compared_within_the_language():
    options = {"reward": many_c, "alpha": 0.5, "budgets": 8, "constraint": LANGUAGE}
    found = iterref.compare(script("absorbing"), [""] * 4, ["best_of_n", "iterref"], **options)
    assert all(re.fullmatch(LANGUAGE, text) for one in found.entries for texts in one.texts for text in texts)


def test_the_consensus_is_among_drafts_of_the_language():
    options = {"reward": "consensus", "constraint": Choices("ab", "a b"), "budget": 200}
    result = iterref.generate(script("absorbing"), [""] * 2, **options)
    assert set(result.texts or []) <= {"ab", "a b"}
