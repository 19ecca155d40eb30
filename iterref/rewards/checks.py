"""The door of rewards: what a reward is, and the checks of what it answers.

A reward is r(tokens, rows) -> float64 in [-inf, +inf), one number a row;
the sampler's target is p(x_0) exp(r(x_0) / alpha).
-inf forbids a text; NaN and +inf have no meaning in that law, so they are refused where they appear.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class RewardError(RuntimeError):
    """A reward failed or returned something that is no reward; the original exception, if any, is the cause.

    `partial` is what the run had reached, a `Result`, where a run was under way.
    """

    partial: Any = None


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
