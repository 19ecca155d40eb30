"""Tokens: the check of a denoiser, whatever made it, on finished texts as tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.check.form import FORM, shape
from iterref.check.meaning import MEANING
from iterref.check.probe import Finding, Probe
from iterref.denoiser import Denoiser


def check(
    denoiser: Denoiser,
    texts: Tensor,
    free: Tensor | None = None,
    rows: Tensor | None = None,
    *,
    real: bool = False,
    forbidden: Sequence[int] = (),
    seed: int = 0,
    tolerance: float = 1e-4,
) -> list[Finding]:
    """What holds of a denoiser, tried on R >= 2 finished texts (R, L) long.

    `free` (R, L) bool marks the positions that are corrupted (all unless given) and `rows` (R,) names the prompts (all
    the first unless given). `real` says that the texts are of the kind that the model writes, a few hundred tokens or
    more of them; without, meaning is not judged. `forbidden` lists tokens that must be impossible. `tolerance` is the
    largest difference of two probabilities that count as equal: 1e-4 suits float32, half precision needs about 1e-2.

    Raises `ValueError` for fewer than two texts or a row without a free position.
    """
    free = torch.ones_like(texts, dtype=torch.bool) if free is None else free
    if len(texts) < 2 or not bool(free.any(1).all()):
        raise ValueError("the check needs two texts or more, each with a free position")
    rows = torch.zeros(len(texts), dtype=torch.long, device=texts.device) if rows is None else rows
    banned = torch.as_tensor(list(forbidden), dtype=torch.long, device=texts.device)
    probe = Probe(denoiser, texts, free, rows, banned, seed, tolerance)
    with torch.inference_mode():
        findings = [shape(probe)]
        if findings[0].passed:  # without its shape, an answer cannot be compared with another
            findings += [one(probe) for one in FORM]
            findings += [one(probe) if real else Finding(one.__name__, None, "needs real texts") for one in MEANING]
    return findings


def table(findings: Sequence[Finding]) -> str:
    """One line a finding: pass, FAIL or a dash, its name, its sentence."""
    marks = {True: "pass", False: "FAIL", None: "-"}
    width = max(len(finding.name) for finding in findings)
    return "\n".join(f"{marks[one.passed]:<5}{one.name:<{width + 2}}{one.sentence}" for one in findings)
