"""Arrays: one formula for small tensors of a host, computed by numpy, and for those of a device, computed by torch.

    xp, x, y = arrays(x, y)      xp has the few functions that the formulas need;  tensor(x) leads back

Numpy begins an operation sooner than torch does, which is what a decision among a few numbers costs. Both share the
memory. What runs along an axis runs along the last one, contiguous.
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
    exp, where, maximum, isfinite, isnan = np.exp, np.where, np.maximum, np.isfinite, np.isnan
    most = staticmethod(np.minimum)
    arange = staticmethod(lambda n, like: np.arange(n))

    @staticmethod
    def ranks(x: Any) -> Any:
        """The place (R, K) of each number in its row's order, equal ones as they stand."""
        order = x.argsort(-1, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(x.shape[-1])[None], -1)
        return ranks


class Device:
    """The same of torch."""

    amax = staticmethod(lambda x: x.amax(-1))
    cumsum = staticmethod(lambda x: x.cumsum(-1))
    exp, where, maximum, isfinite, isnan = torch.exp, torch.where, torch.maximum, torch.isfinite, torch.isnan
    most = staticmethod(lambda x, value: x.clamp_max(value))
    arange = staticmethod(lambda n, like: torch.arange(n, device=like.device))

    @staticmethod
    def ranks(x: Tensor) -> Tensor:
        """As `Host.ranks`."""
        order = x.argsort(dim=-1, stable=True)
        places = torch.arange(x.shape[-1], device=x.device).expand(order.shape)
        return torch.empty_like(order).scatter_(-1, order, places)


def arrays(*tensors: Tensor) -> tuple[Any, ...]:
    """`Host` and numpy's arrays of tensors on a host, `Device` and the tensors themselves on a device."""
    if tensors[0].device.type == HOST:
        return Host, *[x.numpy() for x in tensors]
    return Device, *tensors


def tensor(x: Any) -> Tensor:
    """The tensor of an array of either kind."""
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x
