"""Memory: a deterministic reward is asked once for each different (row, tokens) pair, and r(x) looked up afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from iterref.digests import digests
from iterref.rewards.base import Reward
from iterref.rewards.partial import WrappedReward

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# The bytes that a remembered number takes at the most, key and all: `limit` of them bound a memory.
ENTRY = 280
# How many answers a memory holds, where nothing is said.
ENTRIES = 200_000


class Memory(Generic[Key, Value]):
    """Answers by key, at most `limit` of them: the one used longest ago is forgotten first.

    Keys are kept as digests of 16 bytes, so that an answer that is a number takes `ENTRY` bytes, however long the text
    is that it belongs to."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a memory of {limit} entries cannot work: give a limit of at least 1")
        self.limit = limit
        self._known: OrderedDict[bytes, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def look_up(self, keys: Sequence[bytes]) -> tuple[dict[bytes, Value], list[int]]:
        """What is known of the digests, and the positions of the others, each once, in order of appearance."""
        first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))  # the last that is set stays
        known, new = {}, list(first.values())
        if not self._known.keys().isdisjoint(first):
            new = []
            for key, position in first.items():
                if key in self._known:
                    known[key] = self._known[key]
                    self._known.move_to_end(key)
                else:
                    new.append(position)
        return known, sorted(new)

    def store(self, answers: dict[bytes, Value]) -> None:
        """Remembers answers by digest."""
        for key, value in answers.items():
            self._known[key] = value
        while len(self._known) > self.limit:
            self._known.popitem(last=False)

    def fetch(self, keys: Sequence[Key], evaluate: Callable[[list[int]], Iterable[Value]]) -> list[Value]:
        """One value a key; `evaluate` gets the positions of the new ones. Nothing is stored when it raises."""
        short = [blake2b(repr(key).encode(), digest_size=16).digest() for key in keys]
        known, new = self.look_up(short)
        if new:
            fresh = dict(zip((short[position] for position in new), evaluate(new), strict=True))
            self.store(fresh)
            known |= fresh
        return [known[key] for key in short]


class Remembered(WrappedReward):
    """A reward that is asked once for each different (row, tokens) pair: deterministic, and judging each by itself.

    The latest `limit` pairs are remembered, each by 16 bytes (`digests`), so that they take at most limit x `ENTRY`
    bytes, 56 MB, whatever the texts' length. `asked` counts the texts that came in, `evaluated` those that reached the
    reward. Values of unfinished states are remembered by the run."""

    def __init__(self, reward: Reward, limit: int = ENTRIES) -> None:
        super().__init__(reward)
        self.asked = self.evaluated = 0
        self._memory: Memory[bytes, float] = Memory(limit)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64. Raises `RewardError` as the reward does."""
        keys = digests(tokens, rows)
        known, new = self._memory.look_up(keys)
        if new and len(new) == len(keys):  # as most are
            values = self.reward(tokens, rows)
            self._memory.store(dict(zip(keys, values.tolist(), strict=True)))
            self.evaluated += len(new)
            self.asked += len(keys)
            return values
        if new:
            index = torch.tensor(new, device=tokens.device)
            values = self.reward(tokens[index], rows[index.to(rows.device)])
            fresh = dict(zip((keys[position] for position in new), values.tolist(), strict=True))
            self._memory.store(fresh)
            known |= fresh
        self.evaluated += len(new)
        self.asked += len(keys)
        return torch.from_numpy(np.array([known[key] for key in keys], dtype=np.float64)).to(tokens.device)
