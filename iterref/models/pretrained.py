"""Pretrained: networks of `transformers` classes from checkpoints, as data and never as code, and without noise.

    tensors by the class' own names  ->  the class, in evaluation mode, in one precision, on one device

A network is refused where the checkpoint lacks a part of it or holds one that it has no place for: a layer of random
numbers would answer too, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iterref.hub import first_line, quiet
from iterref.models.checkpoint import Checkpoint


def settings(kind: Any, checkpoint: Checkpoint, **changes: Any) -> Any:
    """The configuration of a class of `transformers`, `kind`, from a checkpoint's config.json, with `changes` to it.

    Raises `ValueError` where the class refuses it.
    """
    written = {key: value for key, value in checkpoint.config.items() if key not in ("auto_map", "architectures")}
    try:
        return kind.from_dict({**written, **changes})
    except Exception as error:  # whatever the class objects to, one sentence says where
        raise ValueError(f"config.json of {checkpoint.name} is none of {kind.__name__} ({first_line(error)})") from None


def network(
    kind: Any,
    config: Any,
    checkpoint: Checkpoint,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    spare: Sequence[str] = (),
) -> nn.Module:
    """A network of the class `kind` with a configuration and weights that are named as in the class.

    Parts whose names contain one of `spare` may be missing or left over: nothing looks at them. Raises `ValueError` for
    other parts that are missing, left over or of another shape, and for a network that the device has no room for.
    """
    with quiet():
        try:
            made, info = kind.from_pretrained(
                None, config=config, state_dict=dict(weights), dtype=dtype, output_loading_info=True
            )
        except Exception as error:
            raise ValueError(
                f"the weights of {checkpoint.name} do not make a {kind.__name__} ({first_line(error)}): "
                "config.json and weights belong to different models"
            ) from None
    for problem, sentence in (("missing_keys", "lack"), ("unexpected_keys", "hold")):
        parts = sorted(name for name in info[problem] if not any(part in name for part in spare))
        if parts:
            raise ValueError(
                f"the weights of {checkpoint.name} {sentence} {parts[0]!r}, and a {kind.__name__} of these sizes "
                f"{'needs it' if sentence == 'lack' else 'has no place for it'}: they belong to another model"
            )
    placed: nn.Module = made.to(device).eval().requires_grad_(False)
    return placed
