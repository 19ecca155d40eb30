"""Rewards: what a sampler asks about finished texts, and the checks at the door.

A reward is r(tokens, rows) -> float64 in [-inf, +inf), one number a row;
the sampler's target is p(x_0) exp(r(x_0) / alpha).
-inf forbids a text; NaN and +inf have no meaning in that law, so they are refused where they appear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Key = TypeVar("Key")
Value = TypeVar("Value")


class RewardError(RuntimeError):
    """A reward failed or returned something that is no reward; the original exception, if any, is the cause."""


@runtime_checkable
class Reward(Protocol):
    """A reward of tokens: (R, L) long tokens and (R,) long rows (the prompt of each) -> (R,) float64."""

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor: ...


def checked(reward: Reward, tokens: Tensor, rows: Tensor) -> Tensor:
    """Calls `reward` on (R, L) long tokens and (R,) long rows and returns (R,) float64 on the tokens' device, verified.

    Lists, generators, numpy arrays and tensors of any real type are accepted. Raises RewardError when the reward raises
    (that is the cause), gives another number of values than R, something that is not a number, NaN or +inf.
    """
    values = verified(lambda: reward(tokens, rows), rows, lambda index: f"tokens {tokens[index].tolist()}")
    return values.to(tokens.device)


def verified(ask: Callable[[], object], rows: Tensor, describe: Callable[[int], str]) -> Tensor:
    """The (R,) float64 answer of `ask`, or a RewardError that names rows and, through `describe`, the text."""
    try:
        answer = ask()
        if not isinstance(answer, Tensor | np.ndarray | str | bytes | Mapping) and isinstance(answer, Iterable):
            answer = list(answer)  # a generator runs here, inside the guard
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(
            f"the reward raised {type(error).__name__} ({error}) in a call for {_names(rows)}: mend the reward or "
            "return -inf for a text that it cannot judge"
        ) from error
    values = _numbers(answer, rows, describe)
    bad = torch.isnan(values) | (values == torch.inf)
    if bool(bad.any()):
        index = int(bad.nonzero()[0, 0])
        name = "NaN" if bool(values[index].isnan()) else "+inf"
        raise RewardError(
            f"the reward gave {name} for row {int(rows[index])}, {describe(index)}: return a finite number, or -inf to "
            "forbid a text"
        )
    return values


def _numbers(answer: object, rows: Tensor, describe: Callable[[int], str]) -> Tensor:
    expected = len(rows)
    if isinstance(answer, Tensor | np.ndarray):
        tensor = answer.detach().cpu() if isinstance(answer, Tensor) else None
        if tensor is None and isinstance(answer, np.ndarray) and answer.dtype.kind in "fiub":
            tensor = torch.from_numpy(answer.astype(np.float64))
        if tensor is not None and not tensor.is_complex():
            if tensor.shape != (expected,):
                raise RewardError(
                    f"the reward gave shape {tuple(tensor.shape)} where ({expected},) was expected, "
                    f"for {_names(rows)}: return one number a row"
                )
            return tensor.to(torch.float64)
        answer = answer.tolist()
    if not isinstance(answer, list):
        raise RewardError(
            f"the reward gave {type(answer).__name__} where {expected} numbers were expected, "
            f"for {_names(rows)}: return one number a row"
        )
    if len(answer) != expected:
        raise RewardError(
            f"the reward gave {len(answer)} values where {expected} were expected, for {_names(rows)}: "
            "return one number a row"
        )
    try:
        # array("d") takes whatever converts itself to a float, and, unlike float(), refuses strings
        return torch.from_numpy(np.array(array("d", answer)))
    except Exception as error:  # an object's own conversion may raise anything
        index = next(index for index, value in enumerate(answer) if not _is_number(value))
        raise RewardError(
            f"the reward gave {answer[index]!r} for row {int(rows[index])}, {describe(index)}, which is not a number: "
            "return a float"
        ) from error


def _is_number(value: object) -> bool:
    try:
        array("d", [value])  # type: ignore[type-var]
    except Exception:
        return False
    return True


def _names(rows: Tensor) -> str:
    distinct = torch.unique(rows).tolist()
    shown = ", ".join(map(str, distinct[:8]))
    return f"rows {shown}" + (f" and {len(distinct) - 8} more" if len(distinct) > 8 else "")


class Composable(ABC):
    """Gives a reward the operators of a weighted sum: `0.7 * fluent + 0.3 * short - toxic`."""

    @abstractmethod
    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64."""

    def __add__(self, other: Reward) -> Weighted:
        return Weighted(_parts(self) + _parts(other))

    def __radd__(self, other: Reward) -> Weighted:
        return Weighted(_parts(other) + _parts(self))

    def __sub__(self, other: Reward) -> Weighted:
        return self + Weighted(_parts(other)) * -1.0

    def __neg__(self) -> Weighted:
        return self * -1.0

    def __mul__(self, scale: float) -> Weighted:
        return Weighted(tuple((scale * weight, part) for weight, part in _parts(self)))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Weighted(Composable):
    """The weighted sum of rewards, sum_k weight_k r_k(x). A part of weight 0 is not asked at all.

    Raises RewardError when the sum has no meaning, such as -inf times a negative weight.
    """

    parts: tuple[tuple[float, Reward], ...]

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64."""
        total = torch.zeros(len(rows), dtype=torch.float64, device=tokens.device)
        for weight, part in self.parts:
            if weight != 0.0:
                total = total + weight * checked(part, tokens, rows)
        return total


def _parts(reward: Reward) -> tuple[tuple[float, Reward], ...]:
    if isinstance(reward, Weighted):
        return reward.parts
    if not callable(reward):
        raise TypeError(f"a reward can be added to a reward and scaled by a number, but {reward!r} is no reward")
    return ((1.0, reward),)


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
    table = torch.cat([rows.cpu().long()[:, None], tokens.cpu().long()], dim=1).contiguous().numpy()
    width = table.shape[1] * table.itemsize
    stream = table.tobytes()
    return [stream[start : start + width] for start in range(0, len(stream), width)]
