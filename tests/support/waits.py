"""A counter of operations that make the host wait for a device, on a CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A number that Python reads, and results whose sizes depend on data.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::bincount"}
# What comes to the host as a whole, which is no operation on a CPU.
BROUGHT = ("cpu", "tolist")


class Waits(TorchDispatchMode):
    """Counts waiting operations by name while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Counts what comes to the host as a whole, too."""
        for name in BROUGHT:
            patch.setattr(Tensor, name, self._brought(name, getattr(Tensor, name)))

    def _brought(self, name: str, bring: Any) -> Any:
        def brought(tensor: Tensor, *given: Any) -> Any:
            self.seen[name] += 1
            return bring(tensor, *given)

        return brought

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        name = func._schema.name
        masked = name.startswith(("aten::index", "aten::_index_put")) and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in tree_leaves(args[1])
        )
        repeated = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or masked or repeated:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))
