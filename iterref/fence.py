"""Fence: what a caller set torch to is kept out of what runs inside: a seed gives one text whatever stands around it.

    with fenced(device):      float32 by default and in products, on the CPU unless said, no autocast, no gradients

And what every run needs of the process: that memory which is freed in one step is at hand in the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def fenced(device: torch.device) -> Iterator[None]:
    """Keeps the caller's autocast, default dtype and device, precision of products and grad mode out of what runs."""
    _keeps_freed_memory()
    dtype, products = torch.get_default_dtype(), _rounded()
    torch.set_default_dtype(torch.float32)
    for backend, _ in products:
        backend.fp32_precision = "ieee"
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
        for backend, precision in products:
            backend.fp32_precision = precision


@cache
def _keeps_freed_memory() -> None:
    """Has glibc's allocator, where it is the process's, keep up to 64 MB of what is freed.

    It takes what is larger than a threshold from the system and gives it back at once, so that every page of it costs
    a fault in every step: a tenth of a run's time. The threshold is 128 KB until larger blocks were freed, and follows
    these up to 32 MB (mallopt(3), M_MMAP_THRESHOLD). Nothing is written into this one: it takes no memory."""
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


def _rounded() -> list[tuple[Any, str]]:
    """The backends that multiply float32 in fewer bits, as `torch.set_float32_matmul_precision` lets them, with how."""
    backends = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    found = [(backend, getattr(backend, "fp32_precision", "none")) for backend in backends]
    return [(backend, precision) for backend, precision in found if precision not in ("none", "ieee")]
