"""Offload: what a call costs, in time and memory, whose weights stay on the disk, against weights in memory.

    python -m benchmarks offload            makes a LLaDA of 200 MB in a temporary folder, and asks it in two processes

One CPU thread; the files were just written, so that they come out of the page cache. The first call is not counted.
The C library gives large blocks back at once (MALLOC_MMAP_THRESHOLD_); else it keeps some 200 MB of what it had lent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from safetensors.torch import save_file

import iterref

WIDTH, INNER, LAYERS, VOCAB, LENGTH = 512, 2048, 12, 1000, 32


def write(folder: Path) -> None:
    """A checkpoint in LLaDA's format with one number in all places."""
    written = {
        "model_type": "llada", "d_model": WIDTH, "n_layers": LAYERS, "n_heads": 4, "n_kv_heads": 4, "vocab_size": VOCAB,
        "mlp_hidden_size": INNER, "embedding_size": VOCAB, "weight_tying": False, "block_type": "llama", "rope": True,
        "layer_norm_type": "rms", "activation_type": "silu", "mask_token_id": VOCAB - 1, "eos_token_id": 0,
    }  # fmt: skip
    shapes = {
        "attn_norm": (WIDTH,), "ff_norm": (WIDTH,), "ff_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH),
        "ff_out": (WIDTH, INNER), **dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (WIDTH, WIDTH)),
    }  # fmt: skip
    named = {f"blocks.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in shapes.items()}
    named |= {"wte": (VOCAB, WIDTH), "ff_out": (VOCAB, WIDTH), "ln_f": (WIDTH,)}
    weights = {f"model.transformer.{name}.weight": torch.full(shape, 0.01) for name, shape in named.items()}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(weights, folder / "model.safetensors")


def peak() -> int:
    """The most bytes that this process ever held, pages of files too (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def ask(folder: str, way: str, rows: int, calls: int) -> str:
    """One line: the median time of a call of so many rows, and the memory over that at the start."""
    import_module("transformers.models.llama.modeling_llama")  # what the classes take is not the weights'

    torch.set_num_threads(1)
    before = peak()
    told: dict[str, Any] = {"device_map": {"": "disk"}} if way == "disk" else {}
    model: Any = iterref.load(folder, tokenizer="none", length=LENGTH, **told)
    law, took = model.bind([[1]]), []
    x_t = torch.full((rows, LENGTH), VOCAB - 1)
    given = (torch.ones(rows, dtype=torch.float64), torch.ones_like(x_t, dtype=torch.bool), torch.zeros(rows).long())
    for _ in range(calls + 1):
        start = time.perf_counter()
        law(x_t, *given)
        took.append(time.perf_counter() - start)
    return f"| {way} | {rows} | {median(took[1:]):.2f} | {(peak() - before) / 1e6:.0f} |"


@click.command("offload", help=__doc__.partition("\n")[0])
@click.option("--calls", default=7, show_default=True)
def command(calls: int) -> None:
    """Prints a table of both ways at two numbers of rows, each in a process of its own."""
    click.echo("| weights | rows | s a call | MB over the start |\n|---|---|---|---|")
    with TemporaryDirectory() as folder:
        write(Path(folder))
        for way in ("memory", "disk"):
            for rows in (1, 16):
                told = f"from benchmarks.tasks.offload import ask; print(ask({folder!r}, {way!r}, {rows}, {calls}))"
                shell = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
                done = subprocess.run(
                    [sys.executable, "-c", told], stdout=subprocess.PIPE, text=True, check=True, env=shell
                )
                click.echo(done.stdout.strip())
