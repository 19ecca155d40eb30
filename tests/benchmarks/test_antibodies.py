"""Antibodies: what makes a loop easy to work with, regions and rows, and residues that are never touched."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.rewards.germline import SOURCE, germline
from benchmarks.rewards.residues import BAND, MOST, charge, developability, hydropathy, liabilities
from benchmarks.tasks.antibodies import CASES, CHAINS, LONGEST, Antibodies, task
from iterref.budget import Budget
from iterref.optional import MissingExtra
from tests.support.packages import needs, readme

both = needs("antiberty", "sapiens-vh", SOURCE)
H3 = torch.arange(9)


# --- the reward -------------------------------------------------------------------------------------------------------


def test_charge_hydropathy_and_liabilities_are_counted() -> None:
    assert charge("KRHDE") == pytest.approx(0.1) and charge("AVW") == 0
    assert hydropathy("IR") == 0 and hydropathy("") == 0 and hydropathy("AAGG") == pytest.approx(0.7)
    assert [liabilities(loop) for loop in ("NGS", "NPS", "NAS", "DG", "DGDG", "C", "MW", "NNS", "KRYF")] == [
        2, 0, 1, 1, 2, 1, 2, 3, 0,
    ]  # fmt: skip


def test_the_reward_looks_at_the_region_alone_and_is_zero_where_all_is_met() -> None:
    low, high = BAND
    loop = "ARKSYRDSY"[:7] + "Y"  # A R K S Y R D Y
    assert low <= charge(loop) <= high and hydropathy(loop) < MOST and liabilities(loop) == 0
    around = [f"CCCNGS{loop}DGW", f"{loop}", "DDDDDDDD"]
    found = developability(around, region=[(6, 6 + len(loop)), (0, len(loop)), (0, 8)])
    assert found[:2] == [0, 0]
    assert found[2] == -(low + 8) - 7  # its charge, and DD seven times
    greasy = developability(["IIII"], region=[(0, 4)])[0]
    assert greasy == pytest.approx(-(low + 2 * (4.5 - MOST)))


# --- chains and regions -----------------------------------------------------------------------------------------------


def test_chains_have_frameworks_and_loops_in_turn_and_are_heavy_ones() -> None:
    for name, chain in CHAINS.items():
        pieces = chain.split()
        assert len(pieces) == 7 and set("".join(pieces)) <= set("ACDEFGHIKLMNPQRSTVWY"), name
        assert 118 <= len("".join(pieces)) <= LONGEST and pieces[4].endswith("C") and pieces[6].startswith("WG"), name
        assert 7 <= len(pieces[1]) <= 10 and pieces[2].startswith(("I", "M", "V")), name
    assert len(CASES["cdr-h3"][0]) == 7


def test_what_is_free_is_the_loop_or_the_framework() -> None:
    made = Antibodies()
    loops, frameworks = (made.free(case, H3, LONGEST) for case in ("cdr-h3", "humanise"))
    for case, free in (("cdr-h3", loops), ("humanise", frameworks)):
        for row, text in enumerate(made.texts(case, H3)):
            names = CASES[case][0]
            pieces = CHAINS[names[row % len(names)]].split()
            opened = "".join(letter for letter, one in zip(text, free[row].tolist(), strict=False) if one)
            assert opened == (pieces[5] if case == "cdr-h3" else "".join(pieces[::2]))
            assert not free[row, len(text) :].any()


@needs("sapiens-vh")
def test_the_two_chains_of_sapiens_readme_are_as_it_writes_them() -> None:
    """Two of the sequences stand in a public document that is at hand."""
    told = readme("sapiens")
    assert "".join(CHAINS["r01"].split()) in told
    [masked] = set(re.findall(r"'(\*\*[A-Z*]+)'", told))
    chain = "".join(CHAINS["pembrolizumab"].split())
    assert len(chain) == len(masked) and all(a in (b, "*") for a, b in zip(masked, chain, strict=True))


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Antibodies:
    return task(steps=2)


@both
def test_residues_that_are_to_be_kept_are_kept_and_a_change_is_noticed(small: Antibodies) -> None:
    rows = torch.tensor([0, 4])
    result = small.sample("cdr-h3", "iterref:objective=maximise", Budget(nfe=4, reward_calls=32), rows, 0)
    known, free = small.texts("cdr-h3", rows), small.free("cdr-h3", rows, LONGEST)
    for text, before, open_ in zip(result.texts or [], known, free, strict=True):
        pairs = list(zip(text, before, open_.tolist(), strict=False))
        assert len(text) == len(before) and all(a == b for a, b, one in pairs if not one)
        assert any(a != b for a, b, one in pairs if one)
    judged = small.judge("cdr-h3", result, rows)
    assert judged["reward"].tolist() == result.rewards.tolist() and (judged["judge"] < 0).all()
    assert "germline" not in judged  # the framework is as it was
    assert (judged["identity"] < 1).all() and set(judged["solved"]) <= {0.0, 1.0}
    broken = [f"K{text[1:]}" for text in result.texts or []]
    with pytest.raises(ValueError, match="cdr-h3: a residue that is to be kept was changed"):
        small.judge("cdr-h3", replace(result, texts=broken), rows)


@both
def test_a_row_is_its_own_in_any_batch(small: Antibodies) -> None:
    both_rows, one_row = torch.tensor([1, 5]), torch.tensor([5])
    run = [small.sample("cdr-h3", "ancestral:steps=2", None, rows, 3) for rows in (both_rows, one_row)]
    assert (run[0].texts or [])[1:] == run[1].texts
    assert small.whole("cdr-h3", run[0], both_rows) == {"different": 1.0}


@both
def test_all_three_tell_murine_frameworks_from_human_ones_around_the_same_loops(small: Antibodies) -> None:
    """The scale of the page: the four chains as they are, and with the frameworks of trastuzumab or of their genes."""
    rows, names, human = torch.arange(4), CASES["humanise"][0], germline()
    result = small.sample("humanise", "ancestral:steps=2", None, rows, 0)
    own = ["".join(CHAINS[name].split()[::2]) for name in names]
    genes = [
        b"".join(bytes(one.residues[one.names.index(name)]) for one, name in zip((human.v, human.j), pair, strict=True))
        for pair in human.nearest(own)
    ]
    drug = "".join(CHAINS["trastuzumab"].split()[::2])
    found = {}
    for name, frameworks in (("murine", own), ("drug", [drug] * 4), ("genes", [gene.decode() for gene in genes])):
        letters = [iter(framework) for framework in frameworks]
        texts = [
            "".join(next(one) if open_ else letter for letter, open_ in zip(text, free, strict=False))
            for one, text, free in zip(
                letters, small.texts("humanise", rows), small.free("humanise", rows, LONGEST).tolist(), strict=True
            )
        ]
        rewards = torch.tensor(small._human(texts))
        judged = small.judge("humanise", replace(result, texts=texts, rewards=rewards), rows)
        found[name] = [judged[one].mean() for one in ("reward", "judge", "germline", "identity", "solved")]
    assert found["murine"] == pytest.approx([-8.18, -1.28, 0.714, 1, 0], abs=0.02)
    assert found["drug"][:3] == pytest.approx([-0.00, -0.49, 0.912], abs=0.02) and found["drug"][4] == 1
    assert found["genes"][:3] == pytest.approx([-0.00, -0.27, 1.0], abs=0.02) and found["genes"][4] == 1


def test_an_absent_package_is_one_sentence_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "antiberty", None)
    with pytest.raises(MissingExtra, match=r"^'antiberty' needs antiberty: pip install 'iterref"):
        task()
    with pytest.raises(ValueError, match="antibodies has its own chains"):
        task(data="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        task(steps=1)
