"""Kept: what a network has read before, by the tokens that it is of, as far as there is room.

Nothing depends on what is kept: what is not there is read anew, and comes to the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

from torch import Tensor

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")
# How many bytes are kept on a CPU and on a GPU, beside what the last call used.
KEPT = (2**30, 2**34)


class Kept(Generic[Name, Value]):
    """Values by name; what was used longest ago goes first. What is in `always` stays."""

    def __init__(self, always: Collection[Name] = ()) -> None:
        self.always, self.total = frozenset(always), 0
        self._held = dict[Name, tuple[Value, int]]()

    def __contains__(self, name: Name) -> bool:
        return name in self._held

    def __getitem__(self, name: Name) -> Value:
        return self._held[name][0]

    def __len__(self) -> int:
        return len(self._held)

    def names(self) -> list[Name]:
        """All names, what was used longest ago first."""
        return list(self._held)

    def add(self, name: Name, value: Value, nbytes: int) -> None:
        self._held[name] = value, nbytes
        self.total += nbytes

    def settle(self, used: Collection[Name], cuda: bool) -> None:
        """Takes note of the names that a call used, and drops others where there is no room."""
        for name in used:
            self._held[name] = self._held.pop(name)
        for name in list(self._held)[: len(self._held) - len(used)]:
            if self.total <= KEPT[cuda]:
                break
            if name not in self.always:
                self.total -= self._held.pop(name)[1]


def name_of(ids: Tensor) -> bytes:
    """By what the keys and values of tokens (P,) are kept."""
    return bytes(ids.cpu().numpy().tobytes())
