"""Fence: what a caller set torch to is kept out of what runs inside: a seed gives one text whatever stands around it.

    with fenced(device):      float32 by default, on the CPU unless said, no autocast, no gradients
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def fenced(device: torch.device) -> Iterator[None]:
    """Keeps the caller's autocast, default dtype, default device and grad mode out of what runs inside."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            if torch.get_default_device().type != "cpu":  # or every call of torch would pay for the context
                stack.enter_context(torch.device("cpu"))
            for kind in {"cpu", device.type} - {"meta"}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(torch.no_grad())
            yield
    finally:
        torch.set_default_dtype(dtype)
