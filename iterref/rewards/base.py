"""What a reward is, and the checks of its answers, made once, where the user's function is called.

A reward is r(tokens, rows) -> float64 in [-inf, +inf), one number a row; the target is p(x_0) exp(r(x_0) / alpha).
-inf forbids a text. NaN, +inf and numbers whose sums overflow are refused where they appear.
"""

from __future__ import annotations

from array import array
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping, Set
from math import inf
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from iterref.columns import table_columns
from iterref.numbers import name_rows

MOST = 1e100  # a sum of squares of such numbers is still a number
RETURN = f"return a number within +-{MOST:g}, or -inf to forbid a text"
UNJUDGED = "every part gave None for it, or -inf was taken from -inf; have one part give a number, or all of them -inf"


class RewardError(RuntimeError):
    """A reward failed or returned something that is no reward; the original exception, if any, is the cause.

    `partial` is what the run had reached, a `Result`, where a run was under way."""

    partial: Any = None


@runtime_checkable
class Reward(Protocol):
    """A reward of tokens: (R, L) long tokens and (R,) long rows (the prompt of each) -> (R,) float64."""

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor: ...


class guarded:  # noqa: N801 -- read as the verb that it is; a generator's context would cost twice as much to enter
    """Turns whatever a reward raises into a `RewardError` that names the rows (R,)."""

    __slots__ = ("rows",)

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __enter__(self) -> None:
        """Nothing is to be prepared."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # one that ends the process would end a command without a word, and a task that was cancelled with many
        if not isinstance(error, Exception | SystemExit | CancelledError) or isinstance(error, RewardError):
            return
        hint = "fix the reward, or return -inf for a text that it cannot judge"
        if isinstance(error, IndexError) and "string index" in str(error):
            hint = "a text may be empty; a function of messages says so by `completions: list[list[dict]]`"
        told = f"the reward raised {type(error).__name__} ({error}) in a call for {name_rows(self.rows.tolist())}"
        raise RewardError(f"{told}: {hint}") from error


def gather(answer: object) -> object:
    """An answer with all its values, a list of its own: a generator's errors belong to the reward. What has no order
    stays as it is, and so does a table, which would give the names of its columns."""
    whole = isinstance(answer, Tensor | np.ndarray | str | bytes | bytearray | Mapping | Set)
    if whole or not isinstance(answer, Iterable) or table_columns(answer) is not None:
        return answer
    return list(answer)


def verified(
    answer: object, rows: Tensor, describe: Callable[[int], str], skips: bool = False, nan: str = RETURN
) -> Tensor:
    """A gathered answer, a list, array or tensor of any real type, as (R,) float64, a copy, on the CPU. `skips` accepts
    None, which becomes NaN: the reward does not judge that text. Raises `RewardError` naming row and text
    (`describe(index)`) for another number of values, what is no number, NaN (`nan` says what to do), +inf and numbers
    beyond `MOST`."""
    if isinstance(answer, Tensor) and answer.layout != torch.strided:
        answer = answer.to_dense()
    plain = _plain(answer, len(rows))
    if plain is not None:
        return plain
    expected, found = f"{len(rows)} numbers were", type(answer).__name__
    if isinstance(answer, Tensor | np.ndarray):
        expected, found = f"({len(rows)},) was", f"shape {tuple(answer.shape)}"
        answer = answer.tolist() if answer.shape == (len(rows),) else None
    if not isinstance(answer, list) or len(answer) != len(rows):
        found = f"{len(answer)} values" if isinstance(answer, list) else found
        told = f"the reward gave {found} where {expected} expected, for {name_rows(rows.tolist())}"
        raise RewardError(f"{told}: return a list with one number for each text that it gets")
    skipped = [index for index, value in enumerate(answer) if value is None] if skips else []
    for index in skipped:
        answer[index] = 0.0
    try:
        # array("d") takes whatever converts itself to a float, and, unlike float(), refuses strings
        values = torch.frombuffer(array("d", answer), dtype=torch.float64) if answer else torch.zeros(0).double()
    except Exception as error:  # an object's own conversion may raise anything
        index = next(index for index, value in enumerate(answer) if not _is_number(value))
        told = f"the reward gave {repr(answer[index])[:100]} for row {int(rows[index])}, {describe(index)}"
        raise RewardError(f"{told}, which is not a number: return a float (-inf forbids a text)") from error
    low, high = map(float, values.aminmax()) if len(values) else (0.0, 0.0)  # NaN where there is one
    for index, value in enumerate(values.tolist() if not -MOST <= low <= high <= MOST else ()):
        if value != -inf and not abs(value) <= MOST:
            found = "NaN" if value != value else f"{value:+g}"
            told = f"the reward gave {found} for row {int(rows[index])}, {describe(index)}"
            raise RewardError(f"{told}: {nan if value != value else RETURN}")
    if skipped:
        values[skipped] = torch.nan
    return values


def _plain(answer: object, count: int) -> Tensor | None:
    """A tensor or an array of as many finite numbers as a copy, (R,) float64 on the CPU; None for all else."""
    if isinstance(answer, Tensor) and not answer.is_complex():
        values = np.array(answer.double().numpy(force=True))
    elif type(answer) is np.ndarray and answer.dtype.kind in "biuf":
        values = answer.astype(np.float64)
    else:
        return None
    if values.shape != (count,) or not np.logical_and.reduce(np.abs(values) <= MOST):
        return None
    return torch.from_numpy(values)


def _is_number(value: Any) -> bool:
    try:
        array("d", [value])
    except Exception:
        return False
    return True


def expect_choice(value: Any, choices: Any, lacks: str) -> None:
    """Raises `ValueError`, a sentence that begins with `lacks`, for a value that is none of a `Literal`'s."""
    if value not in get_args(choices):
        raise ValueError(f"{lacks} {value!r}: use one of {', '.join(get_args(choices))}")
