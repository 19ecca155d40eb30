"""Options for text: what `generate` should do when nobody says, measured on `tiny-news`.

    python -m benchmarks.text_defaults --data sentcomp.validation.jsonl.gz --rows 48 --out benchmarks/results

Two rewards that see no reference: agreement with a pool of the model's own drafts (drawn once, free of charge here),
and a rule (eight words, three of the source's long ones). Budgets are k plain runs of 16 denoiser rows, in three
accounts: cheap (16 reward rows a denoiser row), even (a reward row is as dear as a denoiser row), dear (ten times so).
Writes text_defaults.csv and text_defaults.md: the mean of the best reward seen, with the standard error of the paired
difference to the default.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iterref import Budget, Cost, OwnDrafts, generate
from iterref.generation import draw_drafts, text_model
from iterref.models.tiny_news import COPYING

TEMPERATURE, SEED, PLAIN = 0.5, 1, 16
TEXT = "tries=16,blocks=1,spacing=0,objective=maximise"
METHODS = {
    "default": COPYING,
    "early=0": COPYING + ",early=0",
    "steps=8": COPYING + ",steps=8",
    "small spans": f"iterref:{TEXT},span=0.75+0.5+0.25",
    "whole": f"iterref:{TEXT},span=1.0",
    "spaced (the default of `iterref`)": "iterref:objective=maximise",
    "best_of_n": "best_of_n:steps=8",
}
ACCOUNTS: dict[str, Callable[[int], Budget]] = {
    "cheap": lambda rows: Budget(nfe=rows, reward_calls=16 * rows),
    "even": lambda rows: Budget(total=rows),
    "dear": lambda rows: Budget(total=10 * rows, price=10.0),
}


def rule(completions: list[str], prompts: list[str]) -> list[float]:
    """Eight words, and up to three of the source's long ones."""
    values = []
    for text, prompt in zip(completions, prompts, strict=True):
        long, words = {word for word in prompt.lower().split() if len(word) > 6}, text.lower().split()
        found = len(long.intersection(words))
        values.append(-abs(len(words) - 8) / 8 + 0.5 * min(found, 3) / max(1, min(3, len(long))))
    return values


def measure(documents: list[str], budgets: list[int]) -> list[dict[str, Any]]:
    """One record a (reward, account, budget, method); `best` holds one reward a document."""
    model = text_model(None)
    pool = draw_drafts(model, documents, OwnDrafts(n=16, steps=8, temperature=1.0), seed=7)
    free = replace(pool, cost=Cost(), asked=Cost(), seconds=0.0)
    records = []
    for name, reward, alpha in (("rule", rule, 0.05), ("consensus", free, 0.02)):
        for account, budget in ACCOUNTS.items():
            for k in budgets:
                for method, written in METHODS.items():
                    result = generate(
                        model, documents, reward=reward, sampler=written, alpha=alpha, budget=budget(PLAIN * k),
                        seed=SEED, temperature=TEMPERATURE,
                    )  # fmt: skip
                    records.append(
                        {
                            "reward": name, "account": account, "budget": k, "method": method,
                            "fitted": str(result.sampler), "denoiser_rows": result.asked.nfe,
                            "reward_rows": result.asked.reward_calls, "best": result.best.reward.numpy(),
                            "acceptance": result.trace.acceptance(), "seconds": result.seconds,
                        }
                    )  # fmt: skip
                    print(name, account, k, method, round(float(result.best.reward.mean()), 4), flush=True)
    return records


def table(records: list[dict[str, Any]], header: str) -> str:
    """One markdown table a reward: a line a method, a column a cell; differences to the default in brackets."""
    lines = ["# Options for text", "", header, ""]
    for name in dict.fromkeys(r["reward"] for r in records):
        group = [r for r in records if r["reward"] == name]
        cells = list(dict.fromkeys((r["account"], r["budget"]) for r in group))
        lines += [f"## {name}", "", "| options | " + " | ".join(f"{a}, {k}x" for a, k in cells) + " |"]
        lines.append("|---" * (len(cells) + 1) + "|")
        for method in METHODS:
            line = []
            for cell in cells:
                here = {r["method"]: r["best"] for r in group if (r["account"], r["budget"]) == cell}
                gap = here[method] - here["default"]
                error = float(gap.std(ddof=1)) / np.sqrt(len(gap))
                told = "" if method == "default" else f" ({gap.mean():+.3f} ± {error:.3f})"
                line.append(f"{here[method].mean():.3f}{told}")
            lines.append(f"| {method} | " + " | ".join(line) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with a field `document`, gzipped")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--budgets", type=int, nargs="+", default=[2, 8])
    options = parser.parse_args()
    with gzip.open(options.data, "rt", encoding="utf-8") as file:
        documents = [json.loads(line)["document"] for _, line in zip(range(options.rows), file, strict=False)]
    records = measure(documents, options.budgets)
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "text_defaults.csv", "w", newline="", encoding="utf-8") as file:
        written = [{**r, "best": f"{r['best'].mean():.5f}"} for r in records]
        writer = csv.DictWriter(file, list(written[0]))
        writer.writeheader()
        writer.writerows(written)
    header = (
        f"`python -m benchmarks.text_defaults --data {options.data.name} --rows {options.rows} --budgets "
        f"{' '.join(map(str, options.budgets))}`, {date.today()}, seed {SEED}, temperature {TEMPERATURE}, torch "
        f"{torch.__version__}. Mean of the best reward of {len(documents)} documents; in brackets the paired "
        "difference to the default and its standard error."
    )
    (options.out / "text_defaults.md").write_text(table(records, header), encoding="utf-8")


if __name__ == "__main__":
    main()
