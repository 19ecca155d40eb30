"""Prepared numbers: what the streams of a run are going to be asked for, made in one call for several steps to come.

    path   ("step", 3, "move", "decide", 0, "accept")      the next steps' are the same with 4, 5, ... in place of 3

Every number is a function of its stream's key and its place, so that it does not matter when it is made; but a call of
the generator costs as much for a few numbers as for some hundreds, and a key on the way to a stream a call each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterref.philox import Path, derive_all, doubles

# Steps that are made at once at the most, and numbers of all rows.
STEPS, NUMBERS = 16, 2**15

Sizes = tuple[tuple[Path, int], ...]


@dataclass(frozen=True)
class Prepared:
    """Some streams' `keys` by path, and their first `numbers` (R, K) float64, each path's at its place."""

    keys: Mapping[Path, tuple[int, int]]
    numbers: Tensor
    places: Mapping[Path, slice]


class Origin:
    """The key that paths begin at, the `keys` known on them, and the numbers that were prepared last."""

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.keys: dict[Path, tuple[int, int]] = {}
        self._blocks: dict[tuple[Path, tuple[int, ...], Sizes], tuple[range, Prepared]] = {}

    def prepared(self, path: Path, sizes: Sizes, copies: tuple[int, ...], rows: Tensor, branch: Tensor) -> Prepared:
        """The numbers of streams (R,) at some paths beyond `path`, with those of the steps that follow it: it is the
        last whole number of the path that counts them. `copies` tells one set of streams from another."""
        counts = [at for at, item in enumerate(path) if isinstance(item, int)]
        at, step = (counts[-1], path[counts[-1]]) if counts else (len(path), 0)
        assert isinstance(step, int)
        pattern = ((*path[:at], *path[at + 1 :]), copies, sizes)
        steps, block = self._blocks.get(pattern, (range(0), None))
        if block is None or step not in steps:
            several = NUMBERS // max(1, len(rows) * sum(size for _, size in sizes)) if counts else 1
            steps = range(step, step + min(max(several, 1), STEPS))
            paths = [(*path[:at], k, *path[at + 1 :]) for k in steps] if counts else [path]
            block = self._made(paths, sizes, rows, branch)
            self._blocks[pattern] = steps, block
            self.keys = {path: key for _, held in self._blocks.values() for path, key in held.keys.items()}
        return block

    def _made(self, paths: list[Path], sizes: Sizes, rows: Tensor, branch: Tensor) -> Prepared:
        """The numbers of all streams at all paths, and beyond each of them, in one call."""
        whole = [(*path, *beyond) for path in paths for beyond, _ in sizes]
        lanes, of, places = _layout(tuple(size for _ in paths for _, size in sizes))
        keys = derive_all(self.key, whole)
        words = np.array([keys[path] for path in whole], dtype=np.int64)[of]
        counter = (torch.from_numpy(lanes).to(rows.device), 0, rows[:, None], branch[:, None])
        pairs = doubles(counter, (words[:, 0], words[:, 1]), 2)
        return Prepared(keys, pairs.flatten(1), dict(zip(whole, places, strict=True)))


@lru_cache(maxsize=256)
def _layout(sizes: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[slice, ...]]:
    """The blocks of several streams side by side: their lanes, the stream of each, and where a stream's numbers are."""
    counts = np.array([(size + 1) // 2 for size in sizes])
    begin = 2 * (counts.cumsum() - counts)
    lanes = np.concatenate([np.arange(count) for count in counts])
    places = tuple(slice(int(at), int(at) + size) for at, size in zip(begin, sizes, strict=True))
    return lanes, np.repeat(np.arange(len(counts)), counts), places
