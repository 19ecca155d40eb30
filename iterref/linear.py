"""Linear layers: x W^T + b on a CPU, by whichever of torch's libraries is fast on its processor.

    torch's own choice    MKL, which takes a slower path on a processor that is not Intel's
    on AMD's              oneDNN: half the time from eight rows on, more for a single row, which stays with MKL

Both come with torch, and round differently. oneDNN gives a row the same bits in every batch of two rows or more, MKL in
every one of four or more.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHOLE = (Tensor, nn.Parameter)  # and no quantised kind of them


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`, (*, K), (N, K), (N,) -> (*, N)."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not _prefers_onednn():
        return F.linear(x, weight, bias)
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and type(weight) in WHOLE
    if not plain or x.numel() <= x.shape[-1] or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    bias = None if bias is None else bias.contiguous()  # it reads one as if it were
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


class Linear(nn.Linear):
    """A linear layer that multiplies as `linear` does."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


@cache
def _prefers_onednn() -> bool:
    """Whether the processor is AMD's, as Linux says, and torch has oneDNN."""
    told = Path("/proc/cpuinfo")
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and told.is_file() and "AuthenticAMD" in told.read_text(encoding="utf-8", errors="replace")
