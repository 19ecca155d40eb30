"""Footprint: how many bytes of tensors are alive on a device, after every operation, and where in the code.

    live = sum of the sizes of all storages that an operation made since the count began and that still exist

Every operation is seen as torch dispatches it; a storage counts from the operation that returns it until its last
tensor is gone, views share one, in-place results are none. A weak reference tells when it is gone: torch keeps a
storage's Python object as long as the storage (as `torch.distributed._tools.mem_tracker`, 2024, relies on too). What
a kernel allocates and frees within one operation is not seen: on a CPU that is one block of a draw (4 MB) with fewer
than 4,096 tokens and next to nothing with more: the allocator's own record (`torch.profiler`, profile_memory) had the
same peak to 0.1 % in runs of three methods on `tiny-news`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from gc import get_referents
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iterref.random import Rng

PACKAGE = str(Path(__file__).parents[1])
# Rooms that are no place of their own: what they hold, they hold for the code that called them.
PASSED_OVER = (str(Path(__file__).parent), str(Path(PACKAGE, "evaluation.py")))
DRAW = Rng.categorical.__code__
Place = tuple[str, int]


@dataclass(frozen=True)
class Moment:
    """The most that was ever alive at one place of the code: `live` bytes, `before` of them since before the last call
    of the denoiser, `drawn` of them since a draw of tokens began, where one is under way; the `rows` of the question
    that was asked last, how many of them one call may hold, `portion`, and how many `draws` of a cell were last."""

    live: int = 0
    before: int = 0
    drawn: int = 0
    rows: int = 0
    portion: int = 0
    draws: int = 0

    @property
    def inside(self) -> int:
        """Bytes that came since the last call of the denoiser, besides those of a draw."""
        return self.live - self.drawn - self.before


class Footprint(TorchDispatchMode):
    """Counts while it is entered: `live` bytes now, `peak` at the most, and `places`, the highest moment of each.

    A place is a file and line of this package, the innermost of the calls that led to an operation. It is told of every
    question (`asked`), call of the denoiser (`called`) and number of `draws` of a cell.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device).type
        self.live = self.peak = 0
        self.places: dict[Place, Moment] = {}
        self.draws = 0
        self._before = self._rows = self._portion = 0
        self._undrawn: int | None = None
        self._alive: dict[int, ref[Any]] = {}

    def asked(self, rows: int, portion: int) -> None:
        """Takes note of a question of so many rows, `portion` of which a call may hold."""
        self._rows, self._portion = rows, min(rows, portion)
        self.called()

    def called(self) -> None:
        """Takes note that a call of the denoiser begins."""
        self._before = self.live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):  # in inference mode these come whole: take them apart, so that their parts are seen
            with self:
                return func.decompose(*args, **kwargs)
        place, drawing = _place(sys._getframe(1))
        if not drawing:
            self._undrawn = None
        elif self._undrawn is None:
            self._undrawn = self.live
        out = func(*args, **kwargs)
        fresh = _fresh(func)
        if isinstance(out, Tensor):
            if fresh[0]:
                self._made(out)
        elif any(fresh):
            results = (out,) if len(fresh) == 1 else out
            for result in tree_leaves([one for one, made in zip(results, fresh, strict=True) if made]):
                if isinstance(result, Tensor):
                    self._made(result)
        if place not in self.places or self.live > self.places[place].live:
            drawn = 0 if self._undrawn is None else self.live - self._undrawn
            self.places[place] = Moment(self.live, self._before, drawn, self._rows, self._portion, self.draws)
        return out

    def _made(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive or tensor.device.type != self.device:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone(_: object) -> None:
            del self._alive[key]
            self.live -= size

        self._alive[key] = ref(storage, gone)


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


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operation is only written in terms of others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))


@cache
def _fresh(func: Any) -> tuple[bool, ...]:
    """Which results of an operation are new, rather than views or what it was given."""
    return tuple(result.alias_info is None for result in func._schema.returns)


@cache
def _is_ours(code: CodeType) -> bool:
    """Whether a function is a place of this package."""
    return code.co_filename.startswith(PACKAGE) and not code.co_filename.startswith(PASSED_OVER)


def _place(frame: FrameType | None) -> tuple[Place, bool]:
    """The innermost place in this package among the calls that led here, and whether it is within a draw of tokens."""
    while frame is not None and not _is_ours(frame.f_code):
        frame = frame.f_back
    if frame is None:
        return ("", 0), False
    place = frame.f_code.co_filename, frame.f_lineno
    while frame is not None and frame.f_code.co_filename == DRAW.co_filename and frame.f_code is not DRAW:
        frame = frame.f_back
    return place, frame is not None and frame.f_code is DRAW
