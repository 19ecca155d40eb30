"""Old names and strings: every line of the table gives the new one, with one sentence of warning."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import pytest

import iterref
from iterref import legacy
from iterref.legacy import RENAMED, translated

# Options as they are to be: what each method reads.
DECODER = ("steps", "order", "block_length", "bound")
NEW = {
    "iterref": (*DECODER, "moves", "tries", "decisions", "span", "span_steps", "spacing", "early", "late",
                "reward_draft", "denoise_steps", "objective", "anneal", "chains", "adapt"),
    "trajectory": (*DECODER, "moves", "tries", "span", "span_steps", "objective", "anneal", "chains"),
    "mtm": (*DECODER, "moves", "tries", "span", "span_steps", "denoise_steps", "balance", "reward_draft", "objective"),
    "published": (*DECODER, "moves", "tries", "span", "span_steps", "denoise_steps", "objective"),
    "metropolis": (*DECODER, "moves", "span", "span_steps", "spacing"),
    "ancestral": DECODER,
    "tempering": (*DECODER, "width", "tries"),
}  # fmt: skip


def options_of(name: str) -> Collection[str]:
    return NEW.get(name, ())


@pytest.mark.parametrize(
    "old, new",
    [
        ("iterref:kernel=trajectory,span=0.5,order=left", "trajectory:span=0.5,order=left"),
        ("iterref:kernel=trajectory", "trajectory"),
        ("iterref: tries=4 , kernel = independent,balance=0.5", "mtm:tries=4,balance=0.5"),
        ("iterref:kernel=published,tries=8", "published:tries=8"),
        ("iterref:kernel=shared,tries=8", "iterref:tries=8"),
        ("iterref:blocks=4", "iterref:decisions=4"),
        ("ancestral:order=confidence,block=8", "ancestral:order=confidence,block_length=8"),
        ("iterref:guided=false", "iterref:reward_draft=false"),
        ("iterref:width=3", "iterref:chains=3"),
        ("iterref:kernel=trajectory,width=2", "trajectory:chains=2"),
        ("iterref:span=2", "iterref:span_steps=2"),
        ("metropolis:span=2", "metropolis:span_steps=2"),
        ("iterref:span=0.5+2", "iterref:span=0.5+0.5"),
        ("iterref:steps=8,span=2+0.5+1", "iterref:steps=8,span=0.25+0.5+0.125"),
    ],
)
def test_every_line_of_the_table(old, new):
    assert translated(old, options_of) == (new, f"{old!r} is written {new!r} now: write that")


def test_what_a_kernel_never_read_is_left_out_and_the_sentence_says_so():
    new, warning = translated("iterref:kernel=trajectory,spacing=3,moves=2,early=0,guided=true,balance=1", options_of)
    assert new == "trajectory:moves=2"
    assert warning is not None and "without spacing, early, guided, balance, which this kernel never read" in warning


@pytest.mark.parametrize(
    "text",
    [
        "iterref",
        "iterref:tries=16,span=0.2",
        "iterref:span=1.0+0.5",
        "iterref:span=1e-1",
        "iterref:span=0",
        "tempering:width=3",
        "trajectory:moves=3",
        "iterref:kernel=share",
        "iterref:kernal=trajectory",
        "no_such:blocks=2",
        "ancestral:blocks=2",
    ],
)
def test_new_strings_and_mistakes_stay_as_they_are(text):
    assert translated(text, options_of) == (text, None)


def test_mistakes_beside_an_old_option_are_left_for_the_reader_to_refuse():
    new, warning = translated("iterref:kernel=trajectory,tris=2", options_of)
    assert new == "trajectory:tris=2" and warning is not None


def test_a_method_that_still_has_its_old_options_is_read_as_it_is():
    text, before = "iterref:kernel=trajectory,width=2,span=2", {"iterref": ("kernel", "width", "span")}
    assert translated(text, before.__getitem__) == (text, None)


def test_an_old_string_warns_and_is_read(monkeypatch):
    monkeypatch.setattr(legacy, "OPTIONS", {"number": "n"})
    with pytest.warns(FutureWarning, match="'best_of_n:number=3' is written 'best_of_n:n=3' now: write that"):
        assert str(iterref.sampler_from_string("best_of_n:number=3")) == "best_of_n:n=3"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iterref.sampler_from_string("best_of_n:n=3")


def test_old_public_names_are_the_new_ones_with_a_warning():
    for old, new in RENAMED.items():
        if new not in iterref.__all__:  # not renamed yet
            continue
        with pytest.warns(FutureWarning, match=f"iterref.{old} is called iterref.{new} now: use that") as told:
            assert getattr(iterref, old) is getattr(iterref, new)
        assert told[0].filename == __file__
    assert "parse" not in dir(iterref) and "sampler_from_string" in dir(iterref)
