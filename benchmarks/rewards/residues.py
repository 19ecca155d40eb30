"""Residues: what makes a stretch of a protein easy to work with: its charge, its hydropathy, motifs that degrade.

    r = -( distance of the net charge to a band + 2 x mean hydropathy above a bound + number of liabilities )

Charge at pH 7.4: K and R +1, D and E -1, H +0.1. Hydropathy: Kyte and Doolittle 1982. Liabilities, as developability
reviews count them (Jarasch et al. 2015, J. Pharm. Sci. 104:1885; Raybould et al. 2019, PNAS 116:4025): glycosylation
N[^P][ST], deamidation N[GNST], isomerisation D[GSDT], a free C, oxidation M and W. Motifs may overlap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

CHARGE = {"K": 1.0, "R": 1.0, "H": 0.1, "D": -1.0, "E": -1.0}
HYDROPATHY = {
    "A": 1.8, "R": -4.5, "N": -3.5, "D": -3.5, "C": 2.5, "Q": -3.5, "E": -3.5, "G": -0.4, "H": -3.2, "I": 4.5,
    "L": 3.8, "K": -3.9, "M": 1.9, "F": 2.8, "P": -1.6, "S": -0.8, "T": -0.7, "W": -0.9, "Y": -1.3, "V": 4.2,
}  # fmt: skip
LIABILITIES = tuple(re.compile(f"(?={motif})") for motif in ("N[^P][ST]", "N[GNST]", "D[GSDT]", "C", "M", "W"))
BAND = (1.5, 2.5)  # of the net charge: a positive loop, which few antibodies have
MOST = -0.8  # of the mean hydropathy
WEIGHT = 2.0


def charge(residues: str) -> float:
    """The net charge at pH 7.4, without the ends."""
    return sum(CHARGE.get(residue, 0.0) for residue in residues)


def hydropathy(residues: str) -> float:
    """The mean of Kyte and Doolittle's index; positive is greasy. 0 for nothing."""
    return sum(HYDROPATHY[residue] for residue in residues) / max(1, len(residues))


def liabilities(residues: str) -> int:
    """How many motifs that degrade begin within it."""
    return sum(len(motif.findall(residues)) for motif in LIABILITIES)


def developability(completions: Sequence[str], region: Sequence[tuple[int, int]], **columns: Any) -> list[float]:
    """R sequences and the region (first, one after the last) of each that is judged -> R numbers, 0 at the most."""
    low, high = BAND
    values = []
    for text, (first, last) in zip(completions, region, strict=True):
        loop = text[first:last]
        found = charge(loop)
        apart = max(low - found, found - high, 0.0)
        values.append(-(apart + WEIGHT * max(0.0, hydropathy(loop) - MOST) + liabilities(loop)))
    return values
