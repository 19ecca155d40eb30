"""Agreement: whether a device writes what a CPU writes, judged by the same network call and the same random numbers.

    distance   sum_v |p(v) - q(v)| / 2         of the two distributions of a position: what rounding makes of it
    expected   sum_v |[P(v-1), P(v)] n [Q(v-1), Q(v)]|     the share of numbers u that draw the same token from both
    alike      the share of tokens that were drawn alike from both
    draws      likewise, where both draw from the device's distributions: rounding apart, all of them

Equal texts cannot be asked for: the order of a sum changes bfloat16's last bits, and a text goes on from its tokens. So
a call of the run is repeated on the CPU with the same weights, and the draws are right where `alike` is as `expected`
says, within four standard errors, and `draws` is 1 but for one draw in ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import ranged, told
from iterref.problem import Problem
from iterref.random import Rng

# A CPU repeats a call of so many sequences and weights at the most: 8B weights would take it minutes.
SEQUENCES, WEIGHTS = 2, 10**9
COLUMNS = ("distance", "expected", "alike", "draws")


def compared(call: tuple[Callable[..., Any], tuple[Tensor, ...]], problem: Problem, n: int) -> dict[str, Any]:
    """The figures of one recorded call of a run, with `n` draws a position; nothing for a network too large."""
    ask, given = call
    denoiser: Any = problem.denoiser
    weights = sum(weight.numel() for module in networks(denoiser) for weight in module.parameters())
    if weights > WEIGHTS:
        return {"agreement": f"{weights / 1e9:.0f}B weights are too many for a CPU to repeat a call in the time"}
    x_t, t, where, rows = (one[:SEQUENCES] for one in given)
    with torch.inference_mode():
        p = ask(x_t, t, where, rows)
        drawn = Rng.seeded(0, len(x_t), x_t.device).categorical(p, where, n, log=False).cpu()
        host = on_host(denoiser)
        q = host.probabilities(*(one.cpu() for one in (x_t, t, where, rows)))
        rng, where, p = Rng.seeded(0, len(x_t)), where.cpu(), p.cpu()
        alike = drawn == rng.categorical(q, where, n, log=False)
        same = drawn == rng.categorical(p, where, n, log=False)
        p, q = p.double(), q.double()
        p_to, q_to = p.cumsum(1) / p.sum(1, keepdim=True), q.cumsum(1) / q.sum(1, keepdim=True)
        both = torch.minimum(p_to, q_to) - torch.maximum(p_to - p, q_to - q)
        expected = both.clamp_min(0).sum(1).clamp_max(1)
        distance = (p - q).abs().sum(1) / 2
        error = float((expected * (1 - expected) * n).sum().sqrt() / alike.numel())
    shares = {"expected": expected, "alike": alike.double(), "draws": same.double()}
    figures = {name: ranged([float(share.mean())]) for name, share in shares.items()}
    near = abs(float(alike.double().mean() - expected.mean())) <= 4 * error + 1e-4
    return {"distance": ranged(distance.tolist()), **figures, "agrees": bool(near and same.double().mean() >= 1 - 1e-4)}


def networks(denoiser: Any) -> list[nn.Module]:
    """The network of a denoiser of `benchmarks.shapes`."""
    network = denoiser.network
    return [network if isinstance(network, nn.Module) else network.model]


def on_host(denoiser: Any) -> Any:
    """The same denoiser, its weights moved to the CPU: the last thing that is done with a cell."""
    moved = copy(denoiser)
    networks(denoiser)[0].to("cpu")
    for name, value in vars(denoiser).items():
        if isinstance(value, Tensor):
            setattr(moved, name, value.cpu())
    return moved


def table(cells: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table in markdown, and how it is judged."""
    lines = [
        "## The same tokens as on the CPU", "",
        "Equal texts cannot be asked for in bfloat16. So a call of the run is repeated on the CPU with the same "
        "weights: `distance` is the total variation between the two distributions of a position, `expected` the share "
        "of draws that agree if both use the same random numbers, `alike` the share that did, and `draws` the share "
        "where both draw from the device's distributions. A cell agrees where `alike` is within four standard errors "
        "of `expected` and `draws` misses at most one in ten thousand.", "",
        "| shape | vocabulary | positions | distance | expected | alike | draws | agrees |", "|---" * 8 + "|",
    ]  # fmt: skip
    for cell in cells:
        head = f"| {cell['shape']} | {cell['vocab']:,} | {cell['positions']:,} | "
        if "agrees" in cell:
            shown = " | ".join(told(cell[name]) for name in COLUMNS)
            lines.append(f"{head}{shown} | {'yes' if cell['agrees'] else 'NO'} |")
        elif "agreement" in cell:
            lines.append(f"{head}{cell['agreement']} | | | | |")
    return lines
