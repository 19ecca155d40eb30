"""A counter of the operations of torch that compute or copy something: on a device, of what it is asked to launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Besides views, what makes no kernel run.
FREE = {"aten::detach", "aten::alias", "aten::lift_fresh", "aten::resolve_conj", "aten::resolve_neg", "aten::empty"}


class Operations(TorchDispatchMode):
    """Counts operations by name while it is entered, but those of whatever runs within `left_out`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self._out = False

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What runs inside is not counted."""
        before, self._out = self._out, True
        try:
            yield
        finally:
            self._out = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if not (self._out or func.is_view or name in FREE):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))
