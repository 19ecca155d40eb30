"""Device: the published shapes on one accelerator, by one command that ends within its time.

    python -m benchmarks device              benchmarks/results/device.md and device.json, within eight minutes
    python -m benchmarks device --quick      tiny sizes on a CPU, which shows that the command works

Random weights in bfloat16: 170M as MDLM has them, 8B as LLaDA has them, 128 and 1,024 positions, 50,258 and 126,464
tokens; uncompiled first, then compiled for any size, then static shapes with CUDA graphs. A cell that does not fit the
memory or fails is a sentence in the table, and so is one that the time left is too short for.
"""

from __future__ import annotations

import gc
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import click
import torch

from benchmarks import agreement
from benchmarks.shapes import Case
from benchmarks.tasks.speed import device_name
from benchmarks.timing import Recorder, ranged, timed, told
from iterref.cli.refusals import refusals
from iterref.denoiser import Denoiser
from iterref.estimation import estimate, peak_memory
from iterref.hub import device_of
from iterref.problem import Problem
from iterref.rewards.base import Reward
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

RESULTS = Path(__file__).parents[1] / "results"
METHOD = "iterref:tries={tries},steps=1,moves={moves}"
NOBODY = "No GPU has been measured yet."
TRIAL = (
    "Its figures say nothing of a GPU: they show that the command works, uncompiled, and what it writes. On a GPU: "
    "`python -m benchmarks device`."
)
COLUMNS = {
    "run_over_forwards": "run / forwards",
    "tries_64_over_1": "tries 64 / 1",
    "tokens_a_second": "tokens a second",
    "peak_over_estimate": "peak / estimate",
    "peak_bytes": "peak bytes",
    "first_seconds": "s of the first run",
}


@dataclass(frozen=True)
class Sizes:
    """How large and how long: the shapes with their `rows`, lengths, vocabularies, and the runs of a cell."""

    rows: dict[str, int]
    lengths: tuple[int, ...]
    vocabs: tuple[int, ...]
    modes: tuple[str, ...] = ("", "dynamic", "static")
    tries: int = 16
    moves: int = 8
    repeats: int = 3

    def cells(self, device: str) -> Iterator[Case]:
        """All cases: every shape uncompiled, before any is compiled."""
        for mode in self.modes:
            for name in self.rows:
                for vocab in self.vocabs:
                    for length in self.lengths:
                        yield Case(name, length, device, "bfloat16", compiled=cast(Any, mode), vocab=vocab)


WHOLE = Sizes({"mdlm-170m": 32, "llada-8b": 8}, (128, 1_024), (50_258, 126_464))
QUICK = Sizes({"mdlm-170m": 2, "llada-8b": 2}, (8, 16), (64, 128), ("",), tries=4, moves=2, repeats=1)
# What the command's own shapes are on a CPU: all of it is the same but the sizes.
TINY = {"mdlm-170m": {"width": 16, "blocks": 1, "heads": 2, "condition": 8},
        "llada-8b": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "num_key_value_heads": 2}}  # fmt: skip


class OutOfTime(BaseException):
    """The time is over. No `Exception`, which what compiles might take for a failure of its own."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Ends what runs inside by `OutOfTime` when its seconds are over."""

    def end(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(case: Case, sizes: Sizes) -> dict[str, Any]:
    """The figures of a cell."""
    problem = case.problem(sizes.rows[case.name])
    method, one, many = (sampler_from_string(METHOD.format(tries=tries, moves=sizes.moves))
                         for tries in (sizes.tries, 1, 4 * sizes.tries))  # fmt: skip
    device, denoiser = problem.canvas.device, Recorder(problem.denoiser)
    reward = Recorder(problem.reward)
    recorded = replace(problem, denoiser=cast(Denoiser, denoiser), reward=cast(Reward, reward))
    first = timed(lambda: sample(method, recorded, seed=0), device)[0]
    found: dict[str, list[float]] = {"run_over_forwards": [], "tries_64_over_1": [], "tokens_a_second": []}
    for _ in range(sizes.repeats):
        run = run_seconds(method, problem)
        found["run_over_forwards"].append(run / timed(denoiser.again, device)[0])
        found["tokens_a_second"].append(problem.canvas.numel() / run)
        found["tries_64_over_1"].append(run_seconds(many, problem) / run_seconds(one, problem))
    peak, stated = peak_memory(lambda: sample(method, problem, seed=0), device), estimate(method, problem).bytes
    figures = {name: ranged(values) for name, values in found.items()}
    singles = {"peak_bytes": peak, "peak_over_estimate": peak / stated, "first_seconds": first}
    alike = {} if case.compiled else agreement.compared(denoiser.calls[-1], problem, sizes.tries)
    return {**figures, **{name: ranged([float(value)]) for name, value in singles.items()}, **alike}


def run_seconds(method: Any, problem: Problem) -> float:
    """The time of one run."""
    return timed(lambda: sample(method, problem, seed=0), problem.canvas.device)[0]


def measured(cases: Sequence[Case], sizes: Sizes, seconds: float, keep: Callable[[list[dict[str, Any]]], None]) -> None:
    """All cells, as far as the time goes; `keep` is given all that is known after each."""
    begun, cells, longest = perf_counter(), list[dict[str, Any]](), dict[str, float]()
    for case in cases:
        told_by = {"shape": case.name, "vocab": case.vocab, "positions": case.length, "rows": sizes.rows[case.name],
                   "compiled": case.compiled or "no"}  # fmt: skip
        start, left = perf_counter(), seconds - (perf_counter() - begun)
        took = longest.get(case.compiled, 0.0)
        if left < 1.2 * took:
            cells.append({**told_by, "skipped": f"{left:.0f} s were left, and a cell took up to {took:.0f} s"})
            keep(cells)
            continue
        try:
            with within(left):
                cells.append({**told_by, **measure(case, sizes)})
        except OutOfTime:
            cells.append({**told_by, "skipped": "the time was over"})
        except torch.cuda.OutOfMemoryError:
            cells.append({**told_by, "skipped": "out of memory"})
        except Exception as error:  # what a compiler or a driver raises is its own, and the other cells go on
            line = (str(error).strip().splitlines() or [""])[0]
            cells.append({**told_by, "skipped": f"{type(error).__name__}: {line[:160]}"})
        forget(case)
        longest[case.compiled] = max(took, perf_counter() - start)
        keep(cells)


def forget(case: Case) -> None:
    """Frees what a cell held, so that the next one finds the memory empty."""
    vars(case).pop("_model", None)
    gc.collect()
    if case.compiled:
        torch._dynamo.reset()  # type: ignore[no-untyped-call]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def page(found: dict[str, Any]) -> str:
    """The page of what was measured."""
    on_gpu, cells = found["device"] != "cpu", found["cells"]
    what = f"Measured on {found['device']}" if on_gpu else f"**{NOBODY}** This is a trial at tiny sizes on a CPU"
    repeats = found["sizes"]["repeats"]
    often = f"Medians of {repeats} runs with least and largest. " if repeats > 1 else "Each figure is of one run. "
    lines = [
        "# The published shapes on an accelerator", "",
        f"{what}: torch {found['torch']}, `{found['command']}`, {found['seconds']:.0f} seconds in all. {often}"
        + ("" if on_gpu else TRIAL), "",
        "`run / forwards` is the time of a run over that of its own network calls, made again. A run has "
        f"{found['sizes']['moves']} moves of {found['sizes']['tries']} tries; `tries 64 / 1` compares "
        f"{4 * found['sizes']['tries']} tries with one. Tokens are those of finished texts. The first run of a "
        "compiled cell compiles.", "",
        f"| shape | vocabulary | positions | rows | compiled | {' | '.join(COLUMNS.values())} |",
        "|---" * (5 + len(COLUMNS)) + "|",
    ]  # fmt: skip
    for cell in cells:
        head = [cell["shape"], f"{cell['vocab']:,}", f"{cell['positions']:,}", str(cell["rows"]), cell["compiled"]]
        rest = [told(cell[name]) if name in cell else "" for name in COLUMNS]
        if "skipped" in cell:
            rest[0] = f"not measured: {cell['skipped']}"
        lines.append(f"| {' | '.join([*head, *rest])} |")
    return "\n".join([*lines, "", *agreement.table(cells)]) + "\n"


@click.command("device", help=__doc__.partition("\n")[0])
@click.option("--quick", is_flag=True, help="Tiny sizes, on a CPU unless --device says otherwise.")
@click.option("--device", help="[default: cuda; with --quick cpu]")
@click.option("--seconds", type=click.FloatRange(min=1), default=450.0, show_default=True, help="At the most.")
@click.option("--out", type=click.Path(file_okay=False), help="A folder.  [default: benchmarks/results; --quick: out]")
def command(quick: bool, device: str | None, seconds: float, out: str | None) -> None:
    """The published shapes on one accelerator."""
    with refusals():
        device = device or ("cpu" if quick else "cuda")
        device_of(device)
        if device == "cpu" and not quick:
            raise ValueError("8B weights would take a CPU hours: add --quick for tiny sizes")
        sizes, begun, folder = QUICK if quick else WHOLE, perf_counter(), Path(out or ("out" if quick else RESULTS))
        folder.mkdir(parents=True, exist_ok=True)
        cases = [replace(case, shape=TINY[case.name] if quick else None) for case in sizes.cells(device)]
        facts = {"device": device_name(device), "torch": torch.__version__, "sizes": asdict(sizes),
                 "command": f"python -m benchmarks device{' --quick' if quick else ''}"}  # fmt: skip

        def keep(cells: list[dict[str, Any]]) -> None:
            found = {**facts, "seconds": perf_counter() - begun, "cells": cells}
            (folder / "device.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            (folder / "device.md").write_text(page(found), encoding="utf-8")
            click.echo(f"{len(cells)} of {len(cases)} cells, {perf_counter() - begun:.0f} s", err=True)

        measured(cases, sizes, seconds, keep)
        click.echo(f"written: {folder / 'device.md'} and device.json")
