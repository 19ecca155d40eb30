"""Quantised weights: 8 or 4 bits a weight, made at load by torchao or written so in a checkpoint.

    w ~ scale * q        int8: a scale a row of the matrix;    int4: a scale and an offset every 32 weights of a row

All matrices of a network's linear layers but its head's. A network is built with whole weights first, so that loading
takes their memory. What a checkpoint's `quantization_config` says is read by `transformers` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from iterref import hub
from iterref.optional import MissingExtra, require

SCHEMES = ("int8", "int4")
GROUP = 32  # weights of a row that share a scale, in int4
METHODS = ("torchao", "bitsandbytes")  # by which the weights of checkpoints are read, each of its package's name


def expect_scheme(name: str | None) -> None:
    """Raises `ValueError` for an unknown scheme, and `MissingExtra` without torchao."""
    if name is None:
        return
    if name not in SCHEMES:
        raise ValueError(f"unknown quantize={name!r}: choose one of {', '.join(SCHEMES)}")
    with hub.quiet():
        require("torchao", "quantized", f"quantize={name!r}")


def usual(scheme: str | None, dtype: str = "float32") -> str:
    """The precision in which a network computes unless it is given: int4 has kernels for bfloat16, and in float32 takes
    35 times as long on a CPU, or has none on a GPU."""
    return "bfloat16" if scheme == "int4" else dtype


def method_of(config: Mapping[str, Any], name: str) -> str | None:
    """By what the weights of a checkpoint `name` are quantised, as its config.json says; None for whole ones. Raises
    `ValueError` for a method that is not read, and `MissingExtra` where its package is not installed."""
    written = config.get("quantization_config")
    if written is None:
        return None
    method = str(written.get("quant_method") if isinstance(written, Mapping) else written)
    if method not in METHODS:
        told = f"the weights of {name} are quantised by {method!r}, and this library reads those of"
        raise ValueError(f"{told} {' and '.join(METHODS)}: get the whole ones, and say quantize='int8' or 'int4'")
    if find_spec(method) is None:
        install = "'iterref[quantized]'" if method == "torchao" else method
        raise MissingExtra(f"{name} holds weights of {method}, which is not installed: pip install {install}")
    return method


def quantized(network: nn.Module, scheme: str | None, head: nn.Module | None, name: str) -> nn.Module:
    """The network itself with the matrices of its linear layers, but its `head`'s, as `scheme` says. Raises
    `ValueError` where none of them can be."""
    if scheme is None:
        return network

    def fits(layer: nn.Module, _: str = "") -> bool:
        if not isinstance(layer, nn.Linear) or layer is head:
            return False
        return scheme == "int8" or layer.in_features % GROUP == 0

    if not any(map(fits, network.modules())):
        raise ValueError(f"{name} has no matrix that could be {scheme}, in groups of {GROUP}: leave quantize out")
    with hub.quiet():
        from torchao.quantization import quantize_

        try:
            quantize_(network, _config(scheme, next(network.parameters())), fits)
        except Exception as error:  # whatever a device or a build of torchao lacks
            told = f"torchao cannot make {scheme} weights of {name} here ({hub.first_line(error)})"
            raise ValueError(f"{told}: take another quantize=, or leave it out") from None
    return network


def _config(scheme: str, weight: torch.Tensor) -> Any:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if scheme == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)  # which is global
    if weight.device.type == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)
    return Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False)
