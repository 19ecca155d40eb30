"""Memory: a deterministic reward is asked once for each different (row, tokens) pair, and r(x) looked up afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterref.rewards.algebra import Composable, as_reward, values_states
from iterref.rewards.base import Reward

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# The bytes that a remembered number takes at the most, key and all: `limit` of them bound a memory.
ENTRY = 280
# How many answers a memory holds, where nothing is said.
ENTRIES = 200_000


class Memory(Generic[Key, Value]):
    """Answers by key, at most `limit` of them: the one used longest ago is forgotten first.

    Keys are kept as digests of 16 bytes, so that an answer that is a number takes `ENTRY` bytes, however long the text
    is that it belongs to.
    """

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


class Remembered(Composable):
    """A reward that is asked once for each different (row, tokens) pair: deterministic, and judging each by itself.

    The latest `limit` pairs are remembered, each by 16 bytes (`digests`), so that they take at most limit x `ENTRY`
    bytes, 56 MB, whatever the texts' length. `asked` counts the texts that came in, `evaluated` those that reached the
    reward.
    """

    checks: ClassVar[bool] = True

    def __init__(self, reward: Reward, limit: int = ENTRIES) -> None:
        self.reward = as_reward(reward)
        self.asked = self.evaluated = 0
        self._memory: Memory[bytes, float] = Memory(limit)
        self.has_partial = values_states(self.reward)

    def partial(self, tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        """As the reward's own; not remembered here, but by the run."""
        assert isinstance(self.reward, Composable)
        values: Tensor = self.reward.partial(tokens, masked, rows)
        return values

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


def digests(tokens: Tensor, rows: Tensor) -> list[bytes]:
    """16 bytes for each of (R, L) tokens and (R,) rows: two sums, modulo 2^64, of products with odd random numbers.

    Texts that differ in one token never have the same digest. Two others of one length have it with a probability
    below 2^-90 for token ids below 2^17, over the choice of the numbers: each sum checks the other.
    """
    tokens, rows = tokens.long(), rows.long()
    by = _multipliers(tokens.shape[1])
    if tokens.is_cuda:  # what goes to the host are the digests alone
        factors = torch.from_numpy(by).to(tokens.device)
        row, length, positions = factors[:, 0], factors[:, 1], factors[:, 2:].T
        sums = (tokens[..., None] * positions).sum(1) + rows.to(tokens.device)[:, None] * row
        table: NDArray[np.int64] = _on_host(sums + length * tokens.shape[1]).numpy()
    else:
        canvas, named = tokens.numpy(), rows.cpu().numpy()
        table = np.einsum("nl,kl->nk", canvas, by[:, 2:])
        table += named[:, None] * by[:, 0] + by[:, 1] * canvas.shape[1]
    line = table.tobytes()
    return [line[at : at + 16] for at in range(0, len(line), 16)]


@lru_cache(maxsize=64)
def _multipliers(length: int) -> NDArray[np.int64]:
    """Two rows of odd numbers of 64 random bits (2, 2 + length), for row, length and positions, always the same."""
    bits = np.random.Generator(np.random.PCG64(1)).integers(-(2**63), 2**63, (2 + length, 2), dtype=np.int64)
    return np.ascontiguousarray((bits | 1).T)


def _on_host(found: Tensor) -> Tensor:
    """A tensor on the host, from a GPU by way of pinned memory, which its copies need no detour to reach."""
    if not found.is_cuda:
        return found.cpu()
    held = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
    torch.cuda.current_stream(found.device).synchronize()
    return held
