"""Memory: a deterministic reward is asked once for each different (row, tokens) pair, and r(x) looked up afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from iterref.rewards.algebra import Composable, as_reward
from iterref.rewards.base import Reward

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """Answers by key, at most `limit` of them: the one used longest ago is forgotten first."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a memory of {limit} entries cannot work: give a limit of at least 1")
        self.limit = limit
        self._known: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def look_up(self, keys: Sequence[Key]) -> tuple[dict[Key, Value], list[int]]:
        """What is known of the keys, and the positions of the others, each once, in order of appearance."""
        # the last write wins, so reading backwards leaves the first position of every key
        first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        known = {key: self._known[key] for key in first if key in self._known}
        for key in known:
            self._known.move_to_end(key)
        return known, sorted(position for key, position in first.items() if key not in known)

    def store(self, answers: dict[Key, Value]) -> None:
        """Remembers answers."""
        self._known.update(answers)
        while len(self._known) > self.limit:
            self._known.popitem(last=False)

    def fetch(self, keys: Sequence[Key], evaluate: Callable[[list[int]], Iterable[Value]]) -> list[Value]:
        """One value a key; `evaluate` gets the positions of the new ones. Nothing is stored when it raises."""
        known, new = self.look_up(keys)
        if new:
            fresh = dict(zip((keys[position] for position in new), evaluate(new), strict=True))
            self.store(fresh)
            known |= fresh
        return [known[key] for key in keys]


class Remembered(Composable):
    """A reward that is asked once for each different (row, tokens) pair: deterministic, and judging each by itself.

    The latest `limit` pairs are remembered. A pair takes about 200 bytes whatever the texts' length: its key is a
    16-byte BLAKE2b digest (two of a million pairs collide with a probability of 1e-27). `asked` counts the texts that
    came in, `evaluated` those that reached the reward.
    """

    checks: ClassVar[bool] = True

    def __init__(self, reward: Reward, limit: int = 200_000) -> None:
        self.reward = as_reward(reward)
        self.asked = self.evaluated = 0
        self._memory: Memory[bytes, float] = Memory(limit)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64. Raises `RewardError` as the reward does."""
        keys = digests(tokens, rows)
        known, new = self._memory.look_up(keys)
        if new:
            index = torch.tensor(new, device=tokens.device)
            values = self.reward(tokens[index], rows[index.to(rows.device)])
            self.evaluated += len(new)
            fresh = dict(zip((keys[position] for position in new), values.tolist(), strict=True))
            self._memory.store(fresh)
            known |= fresh
        self.asked += len(keys)
        return torch.tensor([known[key] for key in keys], dtype=torch.float64, device=tokens.device)


def digests(tokens: Tensor, rows: Tensor) -> list[bytes]:
    """16 bytes for each of (R, L) tokens and (R,) rows."""
    table = _on_host(torch.cat([rows.to(tokens.device)[:, None], tokens], dim=1).long()).contiguous().numpy()
    return [blake2b(line, digest_size=16).digest() for line in table]


def _on_host(found: Tensor) -> Tensor:
    """A tensor on the host, from a GPU by way of pinned memory, which its copies need no detour to reach."""
    if not found.is_cuda:
        return found.cpu()
    held = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
    torch.cuda.current_stream(found.device).synchronize()
    return held
