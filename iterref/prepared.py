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
from numpy.typing import NDArray
from torch import Tensor

from iterref.arrays import arrays, tensor
from iterref.philox import Path, derive_all, doubles

# Steps that are made at once at the most, and numbers of all rows, on a CPU and on a GPU.
STEPS, NUMBERS = 16, (2**17, 2**22)

# Paths, with as many numbers as `Rng.uniform` is asked for there, and 0; or with as many positions as tokens are drawn
# at, and as many draws of each.
Sizes = tuple[tuple[Path, int, int], ...]
Keys = tuple[NDArray[np.uint32], NDArray[np.uint32]]
Make = Callable[..., Tensor]


@dataclass(frozen=True)
class Block:
    """What streams have in S steps at some paths beyond theirs: the `keys` (S,) there and on the way, first `numbers`
    (S, R, size), or (S, R, positions, draws), arrays where the host computes, and what was `made` of them."""

    keys: Mapping[Path, tuple[list[int], list[int]]]
    numbers: Mapping[Path, Any]
    steps: range
    made: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What is at hand of one step, the `step`-th of a block, for paths beyond the first `length` items."""

    block: Block
    step: int
    length: int

    def key(self, path: Path) -> tuple[int, int] | None:
        """The key of a path, None where it is not at hand."""
        words = self.block.keys.get(path[self.length :])
        return None if words is None else (words[0][self.step], words[1][self.step])

    def numbers(self, path: Path, size: int, draws: bool = False) -> Any:
        """The first numbers (R, size) of a path, or of so many draws (R, positions, size); None if not at hand."""
        found = self.block.numbers.get(path[self.length :])
        if found is None or found.ndim != 3 + draws or found.shape[-1] < size:
            return None
        return found[self.step][..., :size]

    def ordered(self, path: Path, length: int, make: Make, given: tuple[Any, ...]) -> Tensor | None:
        """What `make(order, *given)` makes of the order (S, R, length) of a path's numbers in all steps, (S, *): the
        entry of this one; None where the numbers are not at hand."""
        if self.numbers(path, length) is None:
            return None
        tail = path[self.length :]
        key = tail, length, make, given
        if key not in self.block.made:
            self.block.made[key] = make(order_of(self.block.numbers[tail][..., :length]), *given)
        return self.block.made[key][self.step]


class Origin:
    """The key that paths begin at, the `keys` of the steps that were prepared last, and what is at hand beyond them."""

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.keys: dict[Path, tuple[int, int]] = {}
        self._blocks: dict[tuple[Path, tuple[int, ...], Sizes], Block] = {}

    def prepared(self, path: Path, sizes: Sizes, copies: tuple[int, ...], rows: Tensor, branch: Tensor) -> Prepared:
        """What streams (R,) have at some paths beyond `path`, made with that of the steps that follow it: it is the
        last whole number of the path that counts them. `copies` tells one set of streams from another."""
        counts = [at for at, item in enumerate(path) if isinstance(item, int)]
        at, step = (counts[-1], path[counts[-1]]) if counts else (len(path), 0)
        assert isinstance(step, int)
        pattern = ((*path[:at], *path[at + 1 :]), copies, sizes)
        block = self._blocks.get(pattern)
        if block is None or step not in block.steps:
            rooms, room = len(rows) * _counts(sizes) * 2, NUMBERS[rows.is_cuda]
            drawn = np.array([draws > 0 for *_, draws in sizes])
            if rooms[drawn].sum() * 2 > room or not counts:  # numbers of draws that nobody may make, and no saving
                sizes, rooms = tuple(one for one in sizes if not one[2]), rooms[~drawn]
            several = int(room // max(1, rooms.sum())) if counts else 1
            steps = range(step, step + min(max(several, 1), STEPS))
            block = self._blocks[pattern] = _block(self._words(path, at, steps), sizes, steps, rows, branch)
        return Prepared(block, block.steps.index(step), len(path))

    def _words(self, path: Path, at: int, steps: range) -> Keys:
        """The keys (S,) of the steps of a path whose item `at` counts them, and on the way to them, which are kept."""
        words = np.array([self.key], dtype=np.uint32).T
        for place, item in enumerate(path):
            words = np.stack(derive_all(tuple(words), steps if place == at else (item,))).reshape(2, -1)
            if place >= at:
                self.keys = self.keys if place > at else {}
                for k, (word_0, word_1) in zip(steps, words.T.tolist(), strict=True):
                    self.keys[(*path[:at], k, *path[at + 1 : place + 1])] = word_0, word_1
        return words[0], words[1]


def _block(words: Keys, sizes: Sizes, steps: range, rows: Tensor, branch: Tensor) -> Block:
    """The keys and the numbers of all streams at all paths, in one call for each length of a path, and one more."""
    levels, lanes, of = _layout(sizes)
    keys: dict[Path, Any] = {(): words}
    for nodes in levels:
        parents = tuple(np.stack([keys[node[:-1]][half] for node in nodes], -1) for half in (0, 1))
        found = derive_all(parents, tuple(node[-1] for node in nodes))
        keys.update(zip(nodes, zip(found[0].T, found[1].T, strict=True), strict=True))
    ends = [np.stack([keys[path][half] for path, *_ in sizes], -1)[:, of].reshape(-1) for half in (0, 1)]
    xp, of_row, of_branch = arrays(rows, branch)
    position, pair = (xp.there(np.tile(lane, len(steps)), of_row) for lane in lanes)
    whole = doubles((position, pair, of_row[:, None], of_branch[:, None]), (ends[0], ends[1]), 2)
    whole, begin, numbers = whole.reshape(len(rows), len(steps), 2 * len(of)).swapaxes(0, 1), 0, {}
    for (path, size, draws), count in zip(sizes, 2 * _counts(sizes), strict=True):
        part = whole[..., begin : begin + count]
        numbers[path] = part.reshape(*part.shape[:2], size, -1) if draws else part[..., :size]
        begin += count
    return Block({path: tuple(half.tolist() for half in key) for path, key in keys.items()}, numbers, steps)


def order_of(u: Any) -> Tensor:
    """The place (*, L) long of each number in its row's order, of numbers (*, L), equal ones as they stand."""
    xp, u = arrays(u)
    return tensor(xp.ranks(u))


def _counts(sizes: Sizes) -> NDArray[np.int64]:
    """How many blocks of two numbers each path takes."""
    return np.array([size * ((draws + 1) // 2) if draws else (size + 1) // 2 for _, size, draws in sizes])


@lru_cache(maxsize=256)
def _layout(sizes: Sizes) -> tuple[list[list[Path]], NDArray[np.int64], NDArray[np.int64]]:
    """Of streams side by side: their paths and the beginnings of these, by length; the first two words of the counters
    of their blocks, (2, K), and the stream of each, (K,)."""
    paths, counts = [path for path, *_ in sizes], _counts(sizes)
    levels = [
        list(dict.fromkeys(path[:length] for path in paths if len(path) >= length))
        for length in range(1, max(map(len, paths), default=0) + 1)
    ]
    lanes = [
        np.divmod(np.arange(count), (draws + 1) // 2) if draws else (np.arange(count), np.zeros(count, dtype=np.int64))
        for count, (_, _, draws) in zip(counts, sizes, strict=True)
    ]
    return levels, np.concatenate(lanes, 1), np.repeat(np.arange(len(counts)), counts)
