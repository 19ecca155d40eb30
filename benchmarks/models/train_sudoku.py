"""Trains the bundled Sudoku models: masked diffusion on grids that are made up as they are needed, on one core.

    python -m benchmarks.models.train_sudoku --out iterref/demo/weights --seed 0      (about ten minutes)

    x_0    a grid by backtracking, its digits renamed, its rows, columns, bands, stacks and diagonal shuffled
    x_t    every cell masked with probability t, t uniform on (0, 1]
    loss   sum over masked cells of -log p(x_0^i | x_t) / how many there are     (1 / t of the evidence bound, realised)

AdamW, warm-up and a linear fall; the weights that are kept are an exponential average. Both networks are small on
purpose: a model that never errs leaves a benchmark nothing to fix. Writes sudoku4.safetensors, sudoku9.safetensors and
sudoku.json, which tells steps, seconds and losses. Same seed and torch version: the same weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from iterref.demo.grids import GridNetwork, GridOptions, save
from iterref.demo.puzzles import grids

logger = logging.getLogger(__name__)
WARMUP, AVERAGE, VALIDATION = 100, 0.998, 512


@dataclass(frozen=True)
class Plan:
    """A network's sizes and how long it is trained: `steps` of `batch` grids, shuffled from a pool of `grids`."""

    options: GridOptions
    steps: int
    batch: int
    grids: int
    rate: float


PLANS = {
    "sudoku4": Plan(GridOptions(side=4, width=24, blocks=2), steps=1_200, batch=64, grids=288, rate=3e-3),
    "sudoku9": Plan(GridOptions(side=9, width=48, blocks=3), steps=2_500, batch=64, grids=3_000, rate=3e-3),
}


def shuffled(pool: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Grids (R, side^2) under random symmetries of their own, (R, side^2)."""
    count, box = len(pool), isqrt(side)

    def ranks(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).argsort(-1)

    def lines() -> Tensor:
        """Bands in a random order, and the lines of each, (R, side)."""
        return (box * ranks(count, box)[:, :, None] + ranks(count, box, box)).flatten(1)

    table = ranks(count, side).gather(1, pool).view(count, side, side)
    table = table.gather(1, lines()[:, :, None].expand_as(table)).gather(2, lines()[:, None].expand_as(table))
    turned = torch.rand(count, generator=generator) < 0.5
    return torch.where(turned[:, None, None], table.transpose(1, 2), table).flatten(1)


def masked(x_0: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy grids and where they are masked, one cell at least."""
    t = (torch.rand(1, generator=generator) + torch.arange(len(x_0)) / len(x_0)) % 1  # spread over the batch
    noise = torch.rand(x_0.shape, generator=generator)
    where = (noise < t[:, None]) | (noise == noise.amin(1, keepdim=True))
    return x_0.masked_fill(where, side), where


def loss_of(network: GridNetwork, x_0: Tensor, generator: torch.Generator) -> Tensor:
    """The mean over grids of the mean over masked cells, in nats."""
    x_t, where = masked(x_0, network.options.side, generator)
    each = F.cross_entropy(network(x_t, where), x_0[where], reduction="none")
    return (each / where.sum(1, keepdim=True).expand(where.shape)[where]).sum() / len(x_0)


def train(plan: Plan, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The averaged weights, and what the run came to."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    side, start = plan.options.side, time.monotonic()
    pool, held = grids(side, plan.grids, seed), grids(side, VALIDATION, seed + 1)
    network = GridNetwork(plan.options)
    average = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1 - step / plan.steps)
    )
    for step in tqdm(range(plan.steps), mininterval=5, disable=None):
        x_0 = shuffled(pool[torch.randint(len(pool), (plan.batch,), generator=generator)], side, generator)
        loss = loss_of(network, x_0, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in network.parameters()], 1 - decay)
        if (step + 1) % 250 == 0:
            logger.info("step %d, %.0f s, loss %.4f", step + 1, time.monotonic() - start, float(loss))
    network.load_state_dict(average)
    with torch.no_grad():
        final = float(loss_of(network, held, torch.Generator().manual_seed(1)))
    seconds = time.monotonic() - start
    return average, {"steps": plan.steps, "grids": plan.steps * plan.batch, "seconds": round(seconds), "loss": final}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(PLANS), help="train one of the two")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "sudoku.json"
    found = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    for name in [options.only] if options.only else PLANS:
        weights, told = train(PLANS[name], options.seed)
        save(weights, PLANS[name].options, options.out / f"{name}.safetensors")
        found[name] = {"seed": options.seed, "weights": sum(p.numel() for p in weights.values()), **told}
        logger.info("%s %s", name, found[name])
        record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
