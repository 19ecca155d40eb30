"""Offered: the rewards that a client may name.

    a name of the registry, whose options are numbers, switches or listed words        "length:12", "consensus:n=4"
    a reward that the server was started with, exactly as it was written there         "mine.py:short"
    none of the registry that runs code or asks addresses (TRUSTED in its file), unless the server was started with it

A file, an address, a folder or a checkpoint is never taken from a client: a reward runs code and reads what it names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from inspect import isclass
from typing import Any, get_type_hints

from iterref import registry
from iterref.registry import did_you_mean
from iterref.rewards.strings import read_options, reward_from_string
from iterref.serving.limits import Refused
from iterref.strings import kinds, split

KEPT = 32  # reward objects; the oldest goes


class Offered:
    """The rewards `given` when the server was started, of which the first is the default, and those of the registry.
    Raises `ValueError` where one of them cannot be made."""

    def __init__(self, given: Sequence[str]) -> None:
        self.given = tuple(given)
        self._made: dict[tuple[str, tuple[str, ...]], Any] = {}
        for name in self.given:
            self._made[name, ()] = reward_from_string(name)

    def expect(self, name: str) -> None:
        """Raises `Refused` for a reward that a client may not name."""
        if name in self.given:
            return
        try:
            allowed = _is_plain(name)
        except ValueError as error:  # an option that there is not
            raise Refused(str(error), param="reward") from None
        if not allowed:
            kind, known = name.partition(":")[0][:80], registry.entries("rewards")
            free = {one for one in known if kind not in known and not known[one].facts.get("TRUSTED")}
            told = f"the reward {name[:80]!r} is not offered{did_you_mean(kind, free)}"
            told += " Name one of the registry with numbers as its options, or one that this server was started with"
            raise Refused(f"{told}: {', '.join(self.given)}", param="reward")

    def reward(self, name: str, columns: Collection[str] = ()) -> Any:
        """The reward of a name that `expect` let pass, given the names of columns. Raises as `reward_from_string`."""
        key = name, tuple(sorted(columns)) if columns else ()
        if key not in self._made:
            if len(self._made) >= KEPT + len(self.given):
                del self._made[next(key for key in self._made if key[1] or key[0] not in self.given)]
            self._made[key] = reward_from_string(name, key[1])
        return self._made[key]


def _is_plain(text: str) -> bool:
    """Whether a reward is one of the registry, and no option of it is a string of the client's own."""
    name, _, written = text.partition(":")
    if name in registry.bundled("rewards"):
        return not written
    entry = registry.entries("rewards").get(name)
    if entry is None or entry.facts.get("TRUSTED"):
        return False
    reward = entry.load()
    if not written or not isclass(reward):
        return not written
    hints = get_type_hints(reward if hasattr(reward, "__dataclass_fields__") else reward.__init__)
    return not any({str, Any} & {*kinds(hints[one])[0]} for one in read_options(reward, name, *split(written)))
