"""Footprint: the most bytes of tensors that are alive at once during some work, and those that objects hold.

On a GPU the allocator keeps the record. On a CPU every operation is seen as torch dispatches it: a storage counts from
the operation that returns it until its last tensor is gone; what one operation allocates and frees within is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from gc import get_referents
from types import FrameType, FunctionType, ModuleType
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Footprint(TorchDispatchMode):
    """Counts the tensors on a device while it is entered: bytes that are alive now, `live`, and at the `peak`."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device).type
        self.live = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        composite = torch._C.DispatchKey.CompositeImplicitAutograd
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
            with self:  # in inference mode these come whole: take them apart, so that their parts are seen
                return func.decompose(*args, **kwargs)
        known = {id(tensor.untyped_storage()) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        out = func(*args, **kwargs)
        for result in tree_leaves(out):
            if isinstance(result, Tensor) and result.device.type == self.device:
                self._add(result, known)
        return out

    def _add(self, tensor: Tensor, known: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive or key in known:  # a view, or a result in place
            return
        self._alive.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def free() -> None:
            self._alive.discard(key)
            self.live -= size

        finalize(storage, free).atexit = False


def peak_memory(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors alive at once on a device during some work, besides what was alive before it."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with Footprint(device) as count:
        work()
    return count.peak


def held(*roots: object, device: torch.device | str = "cpu") -> int:
    """Bytes of all tensors on a device that can be reached from some objects: a network's weights, encoded prompts."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = list(roots)
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | ModuleType | FrameType | str | bytes | int | float):
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            if found.device.type == torch.device(device).type:
                storages[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
        elif isinstance(found, FunctionType):  # what it closes over, and not its module's names
            waiting += found.__closure__ or ()
        else:
            waiting += get_referents(found)
    return sum(storages.values())
