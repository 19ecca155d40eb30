"""Pretended devices: tensors that say they are on "cuda:0" or "cuda:1" and are computed on the CPU, with torch's rules.

    an operation on tensors of two devices is an error; `.to` copies; what is made with `device=` is there

`torch`'s own fake tensors hold no numbers, so that nothing which depends on them runs. Here every number is there, and
a run on two pretended devices has to give the same bytes as one on the CPU. What is done inside one call of torch is
not looked at. As on a real device, a number of no dimension and an index may be on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from iterref.models import device_map

INDEXED = (Tensor.__getitem__, Tensor.index_select)


def home(tensor: Tensor) -> torch.device:
    """Where a tensor pretends to be."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor, "home", tensor.device)


class Devices(TorchFunctionMode):
    """While it is entered, devices of the type "cuda" are pretended; `seen` are those where something was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[torch.device, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return home(args[0])
        if func == Tensor.is_cuda.__get__:
            return home(args[0]).type == "cuda"
        kwargs.pop("pin_memory", None)
        if func is torch.device:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        place = self._asked(func, args, kwargs)
        if place is None and tensors:
            place = self._together(func, args, tensors)
        if func is torch.histc:  # of whole numbers on a GPU alone
            args = (args[0].float(), *args[1:])
        real = tree_map(self._real, (args, kwargs))
        answer = func(*real[0], **real[1])
        if func is Tensor.__iter__:
            answer = iter([self._put(part, place) for part in answer])
        for result in tree_leaves(answer):
            if isinstance(result, Tensor):
                copied = func in (Tensor.to, Tensor.cpu) and result is args[0]
                if copied and place is not None and home(result) != place:
                    return self._put(result.detach().clone(), place)
                self._put(result, place)
        return answer

    def _asked(self, func: Any, args: Any, kwargs: Any) -> torch.device | None:
        """The device that a call names, if any; with `.to(tensor)` that tensor's."""
        if func is Tensor.cpu:
            return torch.device("cpu")
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            return home(args[1])
        named = [kwargs.get("device"), *(args[1:2] if func is Tensor.to else [])]
        return next((torch.device(one) for one in named if isinstance(one, str | torch.device)), None)

    def _together(self, func: Any, args: Any, tensors: list[Tensor]) -> torch.device:
        places = [home(one) for one in tensors if one.dim()] or [home(one) for one in tensors]
        if func in (Tensor.copy_, Tensor.__setitem__, Tensor.data.__set__):
            return places[0]
        if func in INDEXED:
            places = [places[0], *(one for one in places[1:] if one.type != "cpu")]
        if len(set(places)) > 1:
            raise RuntimeError(f"{getattr(func, '__name__', func)} of tensors on {' and '.join(map(str, places))}")
        self.seen[places[0]] = self.seen.get(places[0], 0) + 1
        return places[0]

    @staticmethod
    def _real(one: Any) -> Any:
        pretended = isinstance(one, torch.device) and one.type == "cuda" or isinstance(one, str) and one[:4] == "cuda"
        return torch.device("cpu") if pretended else one

    @staticmethod
    def _put(tensor: Tensor, place: torch.device | None) -> Tensor:
        if place is not None:
            tensor.home = place
        return tensor


def names(devices: Iterable[torch.device]) -> set[str]:
    """Devices in words."""
    return {str(one) for one in devices}


def pretend(monkeypatch: Any) -> None:
    """Takes out what asks a driver for the two devices: that they are there, how full they are, and their streams."""

    from accelerate import dispatch_model

    import_module("torch._dynamo")  # now: later it would find another signature than it knows

    def place(name: int | str) -> int | str:
        return name if name in device_map.HOST else f"cuda:{name}"

    def first(parts: Mapping[str, int | str]) -> int | str:
        return min(set(parts.values()) - set(device_map.HOST))

    def dispatched(model: Any, device_map: Mapping[str, int | str], skip_keys: Any = None, **given: Any) -> Any:
        return dispatch_model(model, device_map, first(device_map), skip_keys=skip_keys, **given)

    def parameter(kind: Any, data: Tensor, *given: Any, make: Any = Tensor._make_subclass) -> Tensor:
        return Devices._put(make(kind, data, *given), home(data))  # modes do not see it

    monkeypatch.setattr(Tensor, "_make_subclass", parameter)
    monkeypatch.setattr(device_map, "_place", place)  # a bare number is a device of a driver's
    monkeypatch.setattr(device_map, "_first", first)  # of names a set has no order
    monkeypatch.setattr("transformers.integrations.accelerate.dispatch_model", dispatched)
    monkeypatch.setattr("transformers.modeling_utils.caching_allocator_warmup", lambda *given: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: MagicMock())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *given: (7, 0))  # no grouped products of experts
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # a mode is one thread's
