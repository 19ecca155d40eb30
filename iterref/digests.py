"""Digests: what rows of whole numbers are looked up by, 16 bytes each: texts by the reward, questions by the denoiser.

    two sums, modulo 2^64, of products with odd random numbers

Rows that differ in one number never have the same digest. Two others of the same shape have it with a probability below
2^-90 for numbers below 2^17, over the choice of the factors: each sum checks the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterref.arrays import Host, arrays


def digests(*parts: Tensor) -> list[bytes]:
    """16 bytes for each of R rows, from whole numbers or truth values that are theirs, parts (R, K) or (R,); rows of
    other sizes have other ones."""
    xp, *found = arrays(*parts)
    begin, factors = _factors(tuple(part.shape[1] if part.ndim > 1 else 0 for part in found))
    sums: Any = begin if xp is Host else torch.from_numpy(begin).to(parts[0].device)
    for part, by in zip(found, factors, strict=True):
        if xp is Host:
            part = np.asarray(part, np.int64)
            sums = sums + (np.einsum("nl,kl->nk", part, by) if part.ndim > 1 else part[:, None] * by[:, 0])
        else:  # what goes to the host are the digests alone
            there = torch.from_numpy(by).to(part.device)
            sums = sums + (part.reshape(len(part), 1, -1).long() * there).sum(2)
    line = (sums if xp is Host else on_host(sums).numpy()).tobytes()
    return [line[at : at + 16] for at in range(0, len(line), 16)]


def on_host(found: Tensor) -> Tensor:
    """A tensor on the host, from a GPU by way of pinned memory, which its copies need no detour to reach."""
    if not found.is_cuda:
        return found.cpu()
    held = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
    torch.cuda.current_stream(found.device).synchronize()
    return held


@lru_cache(maxsize=64)
def _factors(widths: tuple[int, ...]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Two rows of odd numbers of 64 random bits (2, K) for every part of a width, 0 for one number a row, and what the
    widths themselves add to the sums (2,): always the same."""
    begin, factors = np.zeros(2, dtype=np.int64), []
    for number, width in enumerate(widths):
        bits = np.random.Generator(np.random.PCG64(number)).integers(-(2**63), 2**63, (2, 2 + width), dtype=np.int64)
        begin += (bits[:, 0] | 1) * width
        factors.append(np.ascontiguousarray(bits[:, 1 : 1 + max(1, width)] | 1))
    return begin, factors
