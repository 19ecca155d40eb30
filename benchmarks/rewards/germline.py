"""Germline: how near the framework of a heavy chain is to human genes; a judge of what was humanised, never a reward.

    identity = ( most matches of FR1 to FR3 with one IGHV gene  +  most of FR4 with one IGHJ gene ) / 91
    matches    equal residues in the best alignment: 1 an equal residue, 0 another, -1 one put in or left out

Counted are the residues of the four frameworks as IMGT bounds them, and those alone: loops have no part in it, nor in
which gene is the nearest. A heavy chain has 25 + 17 + 38 + 11 of them, and so has every gene that is read here (places
10 and 73 are empty in all). Each framework is aligned by itself, up to `SHIFT` residues: one that was written a residue
late is none the less the gene's.

The genes are the alleles of OGRDB's human set (IGH, revision 9 of 2024-10-12), nucleotides numbered by IMGT, in the
package abstar 0.8.0 (MIT), which is not imported: `pip install --no-deps abstar==0.8.0`. Those with a stop codon are
left out, and of alleles with the same frameworks the first by name stands for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, pairwise, product
from pathlib import Path

import numpy as np

from iterref.packaged.source import Packaged

HOME = "germline_dbs/bcr/human/imgt_gapped"
SOURCE = Packaged("germline", "human germline genes of heavy chains (OGRDB)", "rewards", "abstar", "0.8.0", {
    f"{HOME}/v.fasta": "fe191a0fea25150dd784b195dae7898f21f8d3eb664dd348038be87c384c9b47",
    f"{HOME}/j.fasta": "b1ab1a7d10db54e5cf95ae852daa443f3a9d325cc191fb2ace82c164c309d60f",
})  # fmt: skip
FRAMEWORKS = ((1, 26), (39, 55), (66, 104))  # of a V gene by IMGT's numbers, the first and the last place of each
V, J = (25, 17, 38), (11,)  # residues of FR1, FR2 and FR3, and of FR4
OF_V, OF_ALL = sum(V), sum(V + J)
SHIFT = 4
WEIGHT = 256  # a score is WEIGHT x the alignment's + its matches, so that of equal ones that with more matches is best
BASES = "TCAG"  # the standard code, by the first, the second and the third
CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = {"...": ""} | dict(zip(map("".join, product(BASES, repeat=3)), CODE, strict=True))


@dataclass(frozen=True)
class Genes:
    """Genes by name, how many residues each of their frameworks has, and the residues, (G, L) of one byte each."""

    names: tuple[str, ...]
    pieces: tuple[int, ...]
    residues: np.ndarray

    @classmethod
    def of(cls, known: Mapping[str, str], pieces: tuple[int, ...]) -> Genes:
        """The genes that have all frameworks, each of these once."""
        whole = {name: text for name, text in known.items() if len(text) == sum(pieces) and "*" not in text}
        first = {text: name for name, text in sorted(whole.items(), reverse=True)}
        named = sorted((name, text) for text, name in first.items())
        return cls(tuple(name for name, _ in named), pieces, _letters([text for _, text in named]))

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """R texts, L long, against each gene, (R, G): `WEIGHT` times the alignment's score, and the matches."""
        written = _letters(texts)
        ends = pairwise(accumulate(self.pieces, initial=0))
        found: np.ndarray = np.sum([aligned(written[:, a:b], self.residues[:, a:b]) for a, b in ends], axis=0)
        return found


@dataclass(frozen=True)
class Germline:
    """The judge: V and J genes of one species."""

    v: Genes
    j: Genes

    def __call__(self, frameworks: Sequence[str]) -> np.ndarray:
        """The identity of R frameworks, FR1 to FR4 of each in one text, (R,) float64."""
        both = [scores.max(1) % WEIGHT for _, scores in self._scores(frameworks)]
        shares: np.ndarray = (both[0] + both[1]) / OF_ALL
        return shares

    def nearest(self, frameworks: Sequence[str]) -> list[tuple[str, str]]:
        """The V and the J gene that each is nearest to; of several the first by name."""
        both = [[genes.names[at] for at in scores.argmax(1)] for genes, scores in self._scores(frameworks)]
        return list(zip(*both, strict=True))

    def _scores(self, frameworks: Sequence[str]) -> list[tuple[Genes, np.ndarray]]:
        wrong = {len(text) for text in frameworks} - {OF_ALL}
        if wrong:
            raise ValueError(f"the frameworks of a heavy chain have {OF_ALL} residues together, not {min(wrong)}")
        parts = ((self.v, [text[:OF_V] for text in frameworks]), (self.j, [text[OF_V:] for text in frameworks]))
        return [(genes, genes.scores(part)) for genes, part in parts]


def germline(folder: Path | None = None) -> Germline:
    """The human genes, or those of another folder of the kind.

    Raises `MissingExtra` where abstar is not installed, and `ValueError` where it holds other files.
    """
    folder = folder or SOURCE.folder()
    v, j = ({name: _framework(name, bases) for name, bases in _fasta(folder / f"{kind}.fasta")} for kind in "vj")
    return Germline(Genes.of(v, V), Genes.of(j, J))


def aligned(texts: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """The best alignments of texts (R, L) with genes (G, L), none shifted by more than `SHIFT`, scored as
    `Genes.scores` says, (R, G)."""
    length = texts.shape[1]
    gap = np.full((len(texts), len(genes)), -WEIGHT)
    above = {place: place * gap for place in range(min(SHIFT, length) + 1)}
    for row in range(1, length + 1):
        here: dict[int, np.ndarray] = {}
        for place in range(max(0, row - SHIFT), min(length, row + SHIFT) + 1):
            ways = [above[place] + gap] if place in above else []
            if place > 0:
                ways += [above[place - 1] + (WEIGHT + 1) * (texts[:, row - 1, None] == genes[:, place - 1])]
                ways += [here[place - 1] + gap] if place - 1 in here else []
            here[place] = reduce(np.maximum, ways)
        above = here
    return above[length]


def _fasta(file: Path) -> Iterator[tuple[str, str]]:
    """The genes of heavy chains in a file: name and bases."""
    for entry in file.read_text(encoding="utf-8").split(">")[1:]:
        head, *lines = entry.splitlines()
        if head.startswith("IGH"):
            yield head.partition("__")[0], "".join(lines).upper()


def _framework(name: str, bases: str) -> str:
    """The residues of FR1 to FR3 of a V gene, or of FR4, before whose last base a J gene is spliced."""
    if name.startswith("IGHJ"):
        return _translated(bases[-3 * sum(J) - 1 : -1])
    return "".join(_translated(bases[3 * first - 3 : 3 * last]) for first, last in FRAMEWORKS)


def _translated(bases: str) -> str:
    return "".join(CODONS.get(bases[place : place + 3], "X") for place in range(0, len(bases), 3))


def _letters(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(texts).encode("ascii"), np.uint8).reshape(len(texts), -1)
