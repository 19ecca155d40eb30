"""Surroundings: the process that a training run lives in: torch's global state, and the memory that glibc keeps."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


def keep_freed_memory() -> None:
    """Asks glibc not to give large freed blocks back to the kernel: every step needs them again, and fetching them page
    by page costs a third of a step. Does nothing where there is no glibc."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads
            mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is kept
            mallopt(-2, 2**28)  # M_TOP_PAD: grow in large pieces


@contextmanager
def own_torch_state(seed: int, threads: int) -> Iterator[None]:
    """A seed and a number of threads of the run's own, float32 on the CPU with gradients and without autocast, whatever
    the caller has set; all of it is as it was afterwards."""
    count, dtype = torch.get_num_threads(), torch.get_default_dtype()
    # a device that is entered is looked at in every call of torch: only where another one is the default
    device = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.random.fork_rng(devices=[]), device, torch.inference_mode(False), torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):  # fmt: skip
            torch.random.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(count)
        torch.set_default_dtype(dtype)
