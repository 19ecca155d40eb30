"""Rewards as the samplers know them: the protocol and its checks, the algebra's base class, the memory of answers.

A deterministic reward needs to be asked once for each different (row, tokens) pair: r(x) is looked up afterwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from iterref.rewards.algebra import Composable
from iterref.rewards.checks import Reward, RewardError, checked, verified

__all__ = ["Composable", "Memory", "Remembered", "Reward", "RewardError", "checked", "verified"]

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

    def fetch(self, keys: Sequence[Key], evaluate: Callable[[list[int]], Iterable[Value]]) -> list[Value]:
        """One value a key; `evaluate` gets the positions in `keys` of the new ones, each once, in order of appearance.

        Nothing is remembered when `evaluate` raises.
        """
        # the last write wins, so reading backwards leaves the first position of every key
        first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        known = self._known
        values = {key: known[key] for key in first if key in known}
        new = sorted(position for key, position in first.items() if key not in values)
        for key in values:
            known.move_to_end(key)
        if new:
            fresh = zip((keys[position] for position in new), evaluate(new), strict=True)
            for key, value in fresh:
                values[key] = known[key] = value
            while len(known) > self.limit:
                known.popitem(last=False)
        return [values[key] for key in keys]


class Remembered(Composable):
    """A deterministic reward that is asked once for each different (row, tokens) pair.

    Equal pairs within a call are asked once and the latest `limit` pairs are remembered between calls; keys are the
    token bytes themselves, so no two texts can be confused. `asked` counts the rows that came in, `evaluated` those
    that reached the reward. The answers are those of the reward itself, provided that it is deterministic and judges
    every row on its own.
    """

    def __init__(self, reward: Reward, limit: int = 200_000) -> None:
        self.reward = reward
        self.asked = 0
        self.evaluated = 0
        self._memory: Memory[bytes, float] = Memory(limit)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64. Raises RewardError as `checked` does."""

        def evaluate(positions: list[int]) -> list[float]:
            index = torch.tensor(positions, device=tokens.device)
            values: list[float] = checked(self.reward, tokens[index], rows[index.to(rows.device)]).tolist()
            self.evaluated += len(positions)
            return values

        values = self._memory.fetch(_keys(tokens, rows), evaluate)
        self.asked += len(values)
        return torch.tensor(values, dtype=torch.float64, device=tokens.device)


def _keys(tokens: Tensor, rows: Tensor) -> list[bytes]:
    table = _on_host(torch.cat([rows.to(tokens.device)[:, None], tokens], dim=1).long()).contiguous().numpy()
    width = table.shape[1] * table.itemsize
    stream = table.tobytes()
    return [stream[start : start + width] for start in range(0, len(stream), width)]


def _on_host(found: Tensor) -> Tensor:
    """A tensor on the host, from a GPU by way of pinned memory, which its copies need no detour to reach."""
    if not found.is_cuda:
        return found.cpu()
    held = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
    torch.cuda.current_stream(found.device).synchronize()
    return held
