"""Every method on the exact Markov-chain world, where the tilted law is known in closed form.

    python benchmarks/worlds.py --out benchmarks/results

For both noises and several seeds of the run: mean reward, how far of the way from the unguided mean to the exact
tilted one, mean log-likelihood a token under the untilted law, and total variation of the pair marginals to the exact
tilted law beside its Monte-Carlo floor (exact draws of as many rows). Writes worlds.csv and worlds.md.
"""

from __future__ import annotations

import argparse
import csv
import platform
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from iterref import Problem, parse, sample
from iterref.models.markov import Markov, TiltedMarkov, world
from iterref.random import Rng

# (method, budget of (denoiser rows, reward rows) a sample); None runs the options as they stand
RUNS: list[tuple[str, tuple[float, float] | None]] = [
    ("ancestral:steps=24", None),
    ("best_of_n:steps=8", (256, 32)),
    ("metropolis:steps=8", (64, 1024)),
    ("metropolis:steps=8", (256, 1024)),
    ("iterref:kernel=published,steps=8,tries=8,spacing=0,late=1.0,span=0.25", (64, 1024)),
    ("iterref:kernel=published,steps=8,tries=8,spacing=0,late=1.0,span=0.25", (256, 1024)),
    ("iterref:kernel=independent,steps=8,tries=4,spacing=2,span=0.25", (256, 1024)),
    ("iterref:kernel=trajectory,steps=24,tries=4,span=0.25", (256, 1024)),
    ("iterref:steps=4,blocks=1,spacing=0,span=0.25", (64, 1024)),
    ("iterref:steps=4,blocks=1,span=0.25", (64, 1024)),
    ("iterref:steps=4,blocks=4,span=0.5", (32, 256)),
    ("iterref:steps=4,blocks=4,span=0.5", (64, 256)),
    ("iterref:steps=4,blocks=4,span=0.5", (64, 1024)),
    ("iterref:steps=4,blocks=4,span=0.5", (256, 4096)),
]


def pair_distance(tokens: Tensor, exact: Tensor) -> float:
    """Total variation between the pair marginals of (R, L) tokens and exact ones (L - 1, K, K), a mean over pairs."""
    vocab = exact.shape[-1]
    pairs = tokens[:, :-1] * vocab + tokens[:, 1:]
    counts = torch.nn.functional.one_hot(pairs, vocab * vocab).double().mean(0)
    return float((counts - exact.flatten(1)).abs().sum(1).mean() / 2)


def floor(tilted: TiltedMarkov, rows: int, repetitions: int = 200) -> list[float]:
    """Distances of exact draws, sorted."""
    exact, rng = tilted.pair_marginals(), Rng.seeded(12345, rows)
    return sorted(pair_distance(tilted.sample(rng.fork("floor", k)), exact) for k in range(repetitions))


def measure(noise: str, rows: int, seeds: range) -> tuple[list[dict[str, object]], dict[str, float]]:
    """All runs of one noise, one record a run and seed, and the exact figures."""
    model, reward, tilted = world(noise=noise)
    low, high, exact = model.mean(reward), tilted.mean_reward(), tilted.pair_marginals()
    floors = floor(tilted, rows)
    facts = {
        "unguided": low,
        "tilted": high,
        "log_likelihood": tilted.mean_log_prob(model),
        "floor": mean(floors),
        "floor_high": floors[int(0.975 * len(floors))],
    }
    problem = Problem(model, reward, torch.zeros(rows, model.length, dtype=torch.long), alpha=0.5)
    records: list[dict[str, object]] = []
    for written, budget in RUNS:
        for seed in seeds:
            result = sample(parse(written), problem, seed=seed, budget=budget)
            records.append(_record(noise, written, seed, result, model, low, high, exact))
            print(records[-1], flush=True)
    return records, facts


def _record(
    noise: str, written: str, seed: int, result: object, model: Markov, low: float, high: float, exact: Tensor
) -> dict[str, object]:
    from iterref import Result

    assert isinstance(result, Result)
    got = float(result.rewards.mean())
    return {
        "noise": noise,
        "method": str(result.sampler),
        "base": written,
        "seed": seed,
        "denoiser_rows": result.asked.denoiser,
        "reward_rows": result.asked.reward,
        "denoiser_rows_made": round(result.cost.denoiser, 2),
        "reward_rows_made": round(result.cost.reward, 2),
        "reward": round(got, 4),
        "reached": round((got - low) / (high - low), 4),
        "log_likelihood": round(float(model.log_prob(result.tokens).mean()) / model.length, 4),
        "pair_distance": round(pair_distance(result.tokens, exact), 4),
        "acceptance": round(result.trace.acceptance(), 3),
        "seconds": round(result.seconds, 2),
    }


def table(records: list[dict[str, object]], facts: dict[str, dict[str, float]], header: str) -> str:
    """The markdown report: one table a noise, mean and standard deviation over seeds."""
    lines = ["# The exact Markov world", "", header, ""]
    for noise, exact in facts.items():
        lines += [
            f"## {noise}",
            "",
            f"Unguided mean reward {exact['unguided']:.3f}, exact tilted {exact['tilted']:.3f}, log-likelihood a token "
            f"of the tilted law {exact['log_likelihood']:.4f}; pair distance of exact draws {exact['floor']:.4f} "
            f"(97.5 % quantile {exact['floor_high']:.4f}).",
            "",
            "| method | rows | reward | reached | log-likelihood | pair distance |",
            "|---|---|---|---|---|---|",
        ]
        methods = dict.fromkeys(record["method"] for record in records if record["noise"] == noise)
        for method in methods:
            group = [r for r in records if r["noise"] == noise and r["method"] == method]

            def cell(key: str, digits: int, group: list[dict[str, object]] = group) -> str:
                values = [float(r[key]) for r in group]
                spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
                return f"{mean(values):.{digits}f}{spread}"

            rows = f"{group[0]['denoiser_rows']:g}, {group[0]['reward_rows']:g}"
            reached = f"{100 * mean(float(r['reached']) for r in group):.1f} %"
            lines.append(
                f"| `{method}` | {rows} | {cell('reward', 2)} | {reached} | {cell('log_likelihood', 3)} "
                f"| {cell('pair_distance', 3)} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    records: list[dict[str, object]] = []
    facts: dict[str, dict[str, float]] = {}
    for noise in ("absorbing", "uniform"):
        found, facts[noise] = measure(noise, options.rows, range(options.seeds))
        records += found
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "worlds.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    header = (
        f"`python benchmarks/worlds.py --rows {options.rows} --seeds {options.seeds}`, {date.today()}, "
        f"{platform.machine()} CPU, torch {torch.__version__}. {options.rows} rows a run; mean ± standard deviation "
        f"over seeds 0 to {options.seeds - 1}. Rows are (denoiser, reward) a sample as asked for."
    )
    (options.out / "worlds.md").write_text(table(records, facts, header), encoding="utf-8")


if __name__ == "__main__":
    main()
