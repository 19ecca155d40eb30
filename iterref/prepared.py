"""Prepared numbers: what the streams of a run are going to be asked for, made in one call for several steps to come.

    path   ("step", 3, "move", "decide", 0, "accept")      the next steps' are the same with 4, 5, ... in place of 3

Every number is a function of its stream's key and its place, so that it does not matter when it is made; but a call of
the generator costs as much for a few numbers as for some hundreds, and a key on the way to a stream a call each. What
follows from an order of positions alone, whatever the state, is made for the same steps at once, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterref.arrays import arrays, tensor
from iterref.philox import Path, derive_all, doubles

# Steps that are made at once at the most, and numbers of all rows, on a CPU and on a GPU.
STEPS, NUMBERS = 16, (2**15, 2**22)

Sizes = tuple[tuple[Path, int], ...]
Make = Callable[..., Tensor]


@dataclass(frozen=True)
class Prepared:
    """Some streams' `keys` by path, and their first `numbers` (R, S K), those of S steps side by side, an array where
    the host computes; each path's are at its place. `made` is what was made of them."""

    keys: Mapping[Path, tuple[int, int]]
    numbers: Any
    places: Mapping[Path, slice]
    steps: int
    made: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def ordered(self, place: slice, length: int, make: Make, given: tuple[Any, ...]) -> Tensor:
        """What `make(order, *given)` makes of the order (S, R, length) of one purpose's numbers in all steps, (S, *): the
        entry of the step whose numbers are at the place."""
        rows, width = self.numbers.shape[0], self.numbers.shape[1] // self.steps
        step, begin = divmod(place.start, width)
        key = begin, length, make, given
        if key not in self.made:
            u = self.numbers.reshape(rows, self.steps, width)[:, :, begin : begin + length]
            self.made[key] = make(order_of(u.swapaxes(0, 1)), *given)
        return self.made[key][step]


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
            several = NUMBERS[rows.is_cuda] // max(1, len(rows) * sum(size for _, size in sizes)) if counts else 1
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
        xp, of_row, of_branch = arrays(rows, branch)
        counter = xp.there(lanes, of_row), 0, of_row[:, None], of_branch[:, None]
        numbers = doubles(counter, (words[:, 0], words[:, 1]), 2).reshape(len(rows), 2 * len(lanes))
        return Prepared(keys, numbers, dict(zip(whole, places, strict=True)), len(paths))


def order_of(u: Any) -> Tensor:
    """The place (*, L) long of each number in its row's order, of numbers (*, L), equal ones as they stand."""
    xp, u = arrays(u)
    return tensor(xp.ranks(u))


@lru_cache(maxsize=256)
def _layout(sizes: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[slice, ...]]:
    """The blocks of several streams side by side: their lanes, the stream of each, and where a stream's numbers are."""
    counts = np.array([(size + 1) // 2 for size in sizes])
    begin = 2 * (counts.cumsum() - counts)
    lanes = np.concatenate([np.arange(count) for count in counts])
    places = tuple(slice(int(at), int(at) + size) for at, size in zip(begin, sizes, strict=True))
    return lanes, np.repeat(np.arange(len(counts)), counts), places
