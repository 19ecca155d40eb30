"""Quantised: what 8 and 4 bits a weight cost a model and a method, against whole weights, on two published models.

    python -m benchmarks quantized           a table: memory, time of a call, likelihood, and the reward of a method

`log p` is the mean over positions of log p(x^i | the rest): of texts that the whole weights wrote (how far the model
is another), and of the method's texts under the whole weights (whether they are still texts). One CPU thread; int4 in bfloat16, the
others in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import click
import torch

import iterref
from iterref.estimation import network_weights
from iterref.rewards.likelihood import SelfLikelihood

WIDTHS = (None, "int8", "int4")


def charge(completions: list[str], **columns: Any) -> list[float]:
    """Positive residues less negative ones, in tens."""
    return [sum((one in "KR") - (one in "DE") for one in text) / 10 for text in completions]


CASES: dict[str, tuple[int | None, Callable[..., Any] | str]] = {
    "tiny-books": (None, "classifier:sentiment:positive"),
    "antiberty": (32, charge),
}


def measured(name: str, length: int | None, reward: Any, rows: int, budget: int, calls: int) -> Iterator[str]:
    """The lines of one model."""
    prompts, identities = [""] * rows, torch.arange(rows)
    models = {width: iterref.load(name, length=length, quantize=width) for width in WIDTHS}
    whole = models[None]
    denoiser, canvas, free = whole.prepare(prompts)
    plain = iterref.generate(whole, prompts, reward="length:8", sampler="ancestral:steps=32", seed=1).tokens
    for width, model in models.items():
        other = model.prepare(prompts)[0]
        likely = SelfLikelihood(other, canvas, free, groups=8)(plain, identities)
        result = iterref.generate(model, prompts, reward=reward, sampler="iterref", budget=budget, alpha=0.1, seed=2)
        kept = SelfLikelihood(denoiser, canvas, free, groups=8)(result.tokens, identities)
        told, took = (torch.full((rows,), 0.5).double(), free, identities), []
        for _ in range(calls + 1):
            start = time.perf_counter()
            other(plain.masked_fill(free, model.noise.mask or 0), *told)
            took.append(time.perf_counter() - start)
        size = sum({one.untyped_storage().data_ptr(): one.nbytes for one in network_weights(model)}.values())
        shown = [f"{float(one.mean()):.3f} +- {1.96 * float(one.std()) / rows**0.5:.3f}" for one in (
            likely, result.rewards.double(), kept)]  # fmt: skip
        cells = [name, width or "float32", f"{size / 1e6:.1f}", f"{median(took[1:]):.3f}", *shown]
        yield f"| {' | '.join(cells)} |"


@click.command("quantized", help=__doc__.partition("\n")[0])
@click.option("--rows", default=32, show_default=True, help="Texts.")
@click.option("--budget", default=32, show_default=True, help="NFE a text.")
@click.option("--calls", default=9, show_default=True)
def command(rows: int, budget: int, calls: int) -> None:
    """What 8 and 4 bits a weight cost a model and a method, against whole weights."""
    torch.set_num_threads(1)
    click.echo("| model | weights | MB | s a call | log p of plain texts | reward | log p of its texts |")
    click.echo("|---|---|---|---|---|---|---|")
    for name, (length, reward) in CASES.items():
        for line in measured(name, length, reward, rows, budget, calls):
            click.echo(line)
