"""Arrays: one formula for small tensors of a host, computed by numpy, and for those of a device, computed by torch.

    xp, x, y = arrays(x, y)      xp has the few functions that the formulas need
    tensor(x)                    leads back; like(given, x) where tensors were given: between formulas they stay arrays

Numpy begins an operation sooner than torch does, which is what a decision among a few numbers costs, and going from one
to the other costs as much as an operation. Both share the memory. What runs along an axis runs along the last one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Where numpy computes.
HOST = "cpu"


class Host:
    """Numpy's functions, by way of its ufuncs, which have the least to do before they begin."""

    amax = staticmethod(lambda x: np.maximum.reduce(x, -1))
    cumsum = staticmethod(lambda x: np.add.accumulate(x, -1))
    count = staticmethod(lambda x: np.add.reduce(x, -1, np.int64))
    all = staticmethod(lambda x: bool(np.logical_and.reduce(x, None)))
    cat = staticmethod(np.concatenate)
    exp, where, maximum = np.exp, np.where, np.maximum
    most = staticmethod(np.minimum)
    doubles = staticmethod(lambda x: np.ascontiguousarray(x, np.float64))
    arange = staticmethod(lambda n, like: np.arange(n))
    there = staticmethod(lambda x, like: x)

    @staticmethod
    def raised(x: Any, at: Any, values: Any) -> Any:
        """Numbers (B,), or the values (K,) that stand for their places `at` (K,) where these are larger."""
        raised = x.copy()
        np.maximum.at(raised, at, values)
        return raised

    @staticmethod
    def ranks(x: Any) -> Any:
        """The place (*, K) of each number in its row's order, equal ones as they stand."""
        return x.argsort(-1, kind="stable").argsort(-1)


class Device:
    """The same of torch."""

    amax = staticmethod(lambda x: x.amax(-1))
    cumsum = staticmethod(lambda x: x.cumsum(-1))
    count = staticmethod(lambda x: x.sum(-1))
    all = staticmethod(lambda x: bool(x.all()))
    cat = staticmethod(torch.cat)
    exp, where, maximum = torch.exp, torch.where, torch.maximum
    most = staticmethod(lambda x, value: x.clamp_max(value))
    doubles = staticmethod(lambda x: x.double().contiguous())
    arange = staticmethod(lambda n, like: torch.arange(n, device=like.device))
    there = staticmethod(lambda x, like: torch.from_numpy(x).to(like.device))
    raised = staticmethod(lambda x, at, values: x.scatter_reduce(0, at, values, "amax"))

    @staticmethod
    def ranks(x: Tensor) -> Tensor:
        order = x.argsort(dim=-1, stable=True)
        places = torch.arange(x.shape[-1], device=x.device).expand(order.shape)
        return torch.empty_like(order).scatter_(-1, order, places)


def arrays(*given: Any) -> tuple[Any, ...]:
    """`Host` and numpy's arrays of tensors on a host, or of arrays, `Device` and the tensors themselves on a device."""
    if isinstance(given[0], np.ndarray) or given[0].device.type == HOST:
        return Host, *[x if isinstance(x, np.ndarray) else x.numpy() for x in given]
    return Device, *given


def tensor(x: Any) -> Tensor:
    """The tensor of an array of either kind."""
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def like(given: Any, x: Any) -> Any:
    """An array of either kind as what was given is, an array of the host or a tensor."""
    return x if isinstance(given, np.ndarray) else tensor(x)
