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
    """16 bytes for each of R rows, from their whole numbers or truth values, parts (R, K) or (R,), and their sizes."""
    return cut(on_host(sums(*parts)))  # what a device gives away are the sums alone


def sums(*parts: Tensor) -> Any:
    """The two sums of every row, (R, 2), as an array where the host computes."""
    xp, *found = arrays(*parts)
    place = "" if xp is Host else str(parts[0].device)
    made, factors = _factors(tuple(part.shape[1] if part.ndim > 1 else 0 for part in found), place)
    for part, by in zip(found, factors, strict=True):
        if part.ndim == 1:
            made = made + part[:, None] * by[:, 0]
        elif xp is Host:
            made = made + np.einsum("nl,kl->nk", np.asarray(part, np.int64), by)
        else:
            made = made + (part[:, None] * by).sum(2)
    return made


def cut(table: NDArray[np.int64]) -> list[bytes]:
    """The digests of sums (R, 2)."""
    line = table.tobytes()
    return [line[at : at + 16] for at in range(0, len(line), 16)]


def on_host(found: Any) -> NDArray[Any]:
    """An array of the host, from a GPU by way of pinned memory, which its copies need no detour to reach."""
    if not isinstance(found, Tensor):
        return found
    if not found.is_cuda:
        return found.cpu().numpy()
    held = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
    torch.cuda.current_stream(found.device).synchronize()
    return held.numpy()


@lru_cache(maxsize=64)
def _factors(widths: tuple[int, ...], device: str) -> tuple[Any, list[Any]]:
    """Two rows of odd numbers of 64 random bits (2, K) for every part of a width, 0 for one number a row, and what the
    widths themselves add to the sums (2,), always the same: arrays of the host, or tensors of a device."""
    begin, factors = np.zeros(2, dtype=np.int64), []
    for number, width in enumerate(widths):
        bits = np.random.Generator(np.random.PCG64(number)).integers(-(2**63), 2**63, (2, 2 + width), dtype=np.int64)
        begin += (bits[:, 0] | 1) * width
        factors.append(np.ascontiguousarray(bits[:, 1 : 1 + max(1, width)] | 1))
    if not device:
        return begin, factors
    return torch.from_numpy(begin).to(device), [torch.from_numpy(by).to(device) for by in factors]
