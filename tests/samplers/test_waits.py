"""Tests of how often a move makes the host wait for a device, by the operations that do, counted on a CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.shapes import Case
from iterref.registry import parse
from iterref.run import sample

# A number that Python reads, and results whose sizes depend on data.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::bincount"}
MOVES = 6


class Waits(TorchDispatchMode):
    """Counts waiting operations by name while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

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


def waits(moves: int, watch: tuple[int, ...] = ()) -> int:
    method = parse(f"iterref:steps=1,moves={moves},tries=16,blocks=1,span=1.0+0.5,spacing=0,early=0")
    problem = Case("random-2").problem(4)
    sample(method, problem)  # the plan of levels is made once, on the host
    with Waits() as count:
        sample(method, problem, watch=watch)
    return count.seen.total()


def test_a_move_waits_for_the_device_no_more_than_it_has_to():
    """17 a move, 2 of them on numbers of the reward that are on the host already; 22 before they were counted."""
    assert 10 < (waits(MOVES) - waits(0)) / MOVES <= 17.5


def test_watching_waits_for_nothing():
    """States and proposals of watched rows stay where they are until the run has ended."""
    assert waits(MOVES, (0, 2)) == waits(MOVES)


def test_what_waits_is_counted():
    given = torch.ones(3)
    with Waits() as count:
        bool(given.any())
        given[given > 0]
        given.repeat_interleave(torch.tensor([1, 2, 3]))
        given.where(given > 0, 2.0)  # no wait
    assert count.seen.total() >= 3 and "aten::where" not in count.seen
