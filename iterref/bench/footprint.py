"""Footprint: how many bytes of tensors are alive on a device while some work is done.

    live = sum of the sizes of all storages that an operation made since the count began and that still exist

Every operation is seen as torch dispatches it; views share a storage, in-place results are none. A weak reference tells
when a storage is gone: torch keeps its Python object as long as the storage. What one operation allocates and frees by
itself is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Footprint(TorchDispatchMode):
    """Counts while it is entered: `live` bytes now, and `peak` at the most."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device).type
        self.live = self.peak = 0
        self._alive: dict[int, ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode these come whole: their parts are to be seen
                return func.decompose(*args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        fresh = [result.alias_info is None for result in func._schema.returns]
        for is_fresh, result in zip(fresh, (made,) if len(fresh) == 1 else made, strict=False):
            for tensor in tree_leaves(result) if is_fresh else ():
                if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                    self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone(_: object) -> None:
            del self._alive[key]
            self.live -= size

        self._alive[key] = ref(storage, gone)
