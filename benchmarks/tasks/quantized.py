"""Quantised: what 8 and 4 bits a weight cost a model and a method, against whole weights, on two published models.

    python -m benchmarks quantized           a table: memory, CPU time of a call, likelihood, and a method's reward

`log p` is the mean over positions of log p(x^i | the rest): of texts that the whole weights wrote (how far the model
is another), and of the method's texts under the whole weights (whether they are still texts). One CPU thread; int8 in
float32, int4 in bfloat16.
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

WEIGHTS: dict[str, dict[str, Any]] = {
    "float32": {}, "bfloat16": {"dtype": "bfloat16"}, "int8": {"quantize": "int8"}, "int4": {"quantize": "int4"},
}  # fmt: skip


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
    models = {told: iterref.load(name, length=length, **options) for told, options in WEIGHTS.items()}
    whole = models["float32"]
    denoiser, canvas, free = whole.prepare(prompts)
    plain = iterref.generate(whole, prompts, reward="length:8", sampler="ancestral:steps=32", seed=1).tokens
    for told, model in models.items():
        other = model.prepare(prompts)[0]
        likely = SelfLikelihood(other, canvas, free, groups=8)(plain, identities)
        result = iterref.generate(model, prompts, reward=reward, sampler="iterref", budget=budget, alpha=0.1, seed=2)
        kept = SelfLikelihood(denoiser, canvas, free, groups=8)(result.tokens, identities)
        given, took = (torch.full((rows,), 0.5).double(), free, identities), []
        for _ in range(calls + 1):
            start = time.process_time()
            other(plain.masked_fill(free, model.noise.mask or 0), *given)
            took.append(time.process_time() - start)
        size = sum({one.untyped_storage().data_ptr(): one.nbytes for one in network_weights(model)}.values())
        shown = [f"{float(one.mean()):.3f} +- {1.96 * float(one.std()) / rows**0.5:.3f}" for one in (
            likely, result.rewards.double(), kept)]  # fmt: skip
        cells = [name, told, f"{size / 1e6:.1f}", f"{median(took[1:]):.3f}", *shown]
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
