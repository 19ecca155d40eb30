"""Consensus-guided summaries of real sentences: `tiny-news` on a test set, every method at equal denoiser rows.

    python -m benchmarks.news --data sentcomp.test.jsonl.gz --rows 500 --out benchmarks/results

The reward is the consensus with a pool of the model's own drafts, which sees no reference; the figure that counts is
ROUGE-L against the reference, which no method sees. Every method pays for its pool. The baselines are unguided
sampling at the temperature that comes out best *on this very test set*, in either unmasking order. Intervals are
paired bootstraps over sentences (95 %). Writes news.csv (one line a method and budget), news_sentences.csv (one line a
sentence) and news.md.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from iterref.drafts import Drafts, OwnDrafts
from iterref.generation import draw_drafts, generate
from iterref.models.tiny_news import Summarizer
from iterref.rewards import report_rouge_rows

UNGUIDED = {"random": (1.0, 0.5, 0.3, 0.1), "confidence": (1.0, 0.7, 0.5, 0.3)}  # temperatures by unmasking order
DRAFT_STEPS, DRAFT_TEMPERATURE = 8, 1.0  # of the pool and of mbr, in random order
TEMPERATURE, ALPHA = 0.5, 0.01  # of the guided methods
MOVES = "tries=16,blocks=1,early=0,span=0.75+0.5+0.25,objective=maximise"
# name: (method, whether it starts from the pool's best draft)
GUIDED = {
    "best_of_n": ("best_of_n:steps=8", False),
    "metropolis": ("metropolis:span=0.75+0.5+0.25,spacing=0", True),
    "iterref": (f"iterref:{MOVES},spacing=0", True),
    "iterref, own draft": (f"iterref:{MOVES},spacing=0,steps=8", False),
    "iterref, gap 2": (f"iterref:{MOVES},spacing=2", True),
    "iterref, gap 4": (f"iterref:{MOVES},spacing=4", True),
}


@dataclass(frozen=True)
class Row:
    """One method at one budget: means, and what every sentence scored."""

    method: str
    options: str
    budget: int
    reward: float
    rouge: dict[str, np.ndarray]
    denoiser_rows: float
    reward_rows: float
    words: float
    seconds: float
    acceptance: float


def read(path: Path, rows: int) -> tuple[list[str], list[str]]:
    """Documents and references of the first `rows` lines of a JSON-lines file."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as file:
        table = [json.loads(line) for _, line in zip(range(rows), file, strict=False)]
    return [row["document"] for row in table], [row["summary"] for row in table]


def bootstrap(difference: np.ndarray, repetitions: int = 10_000) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % bootstrap interval."""
    generator = np.random.default_rng(0)
    index = generator.integers(0, len(difference), (repetitions, len(difference)))
    means = difference[index].mean(1)
    return float(difference.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


@dataclass(frozen=True)
class Bench:
    """A model, documents and references; every method measured the same way."""

    model: Summarizer
    documents: list[str]
    references: list[str]
    seed: int

    def unguided(self, steps: int, temperature: float, order: str) -> Row:
        """Plain sampling."""
        return self.run("ancestral", f"ancestral:steps={steps},order={order}", steps, None, temperature)

    def run(
        self,
        name: str,
        method: str,
        budget: int,
        pool: Drafts | None,
        temperature: float = TEMPERATURE,
        start: bool = False,
    ) -> Row:
        """A method under the consensus of a pool, or without reward; `start` takes the best draft of the pool."""
        result = generate(
            self.model,
            self.documents,
            reward=pool if pool else _nothing,
            sampler=method,
            budget=budget if pool else None,
            start="drafts" if start else None,
            alpha=ALPHA,
            seed=self.seed,
            temperature=temperature,
        )
        assert result.texts is not None
        return self.row(
            name,
            f"{result.sampler} at temperature {temperature:g}" + (", from the best draft" if start else ""),
            budget,
            result.texts,
            float(result.rewards.mean()),
            (result.asked.nfe, result.asked.reward_calls if pool else 0),
            result.seconds,
            result.trace.acceptance(),
        )

    def pool(self, n: int) -> Drafts:
        """n drafts a sentence."""
        drafts = OwnDrafts(n, DRAFT_STEPS, temperature=DRAFT_TEMPERATURE)
        return draw_drafts(self.model, self.documents, drafts, seed=self.seed)

    def among_drafts(self, budget: int) -> Row:
        """Minimum Bayes risk decoding: the whole budget goes into drafts, and they judge each other."""
        start = perf_counter()
        n = budget // DRAFT_STEPS
        pool = self.pool(n)
        consensus = pool.reward()
        flat = [text for texts in pool.texts for text in texts]
        owners = [row for row, texts in enumerate(pool.texts) for _ in texts]
        values = np.asarray(consensus(flat, rows=owners)).reshape(len(self.documents), n)
        texts = [drafts[int(best)] for drafts, best in zip(pool.texts, values.argmax(1), strict=True)]
        rows = (pool.asked.nfe, float(n))
        options = f"best of {n} drafts of {DRAFT_STEPS} steps, judged by each other"
        return self.row("mbr", options, budget, texts, float(values.max(1).mean()), rows, perf_counter() - start)

    def row(
        self,
        method: str,
        options: str,
        budget: int,
        texts: list[str],
        reward: float,
        rows: tuple[float, float],
        seconds: float,
        acceptance: float = float("nan"),
    ) -> Row:
        """The record of one run."""
        rouge = {name: np.asarray(v) for name, v in report_rouge_rows(texts, self.references).items()}
        words = float(np.mean([len(text.split()) for text in texts]))
        return Row(method, options, budget, reward, rouge, rows[0], rows[1], words, seconds, acceptance)


def _nothing(completions: list[str]) -> list[float]:
    """No reward: for unguided sampling."""
    return [0.0] * len(completions)


def measure(bench: Bench, budgets: list[int], steps: int, share: float) -> tuple[list[Row], dict[str, Row]]:
    """All rows, and the baselines: the best unguided one in either order, at few steps or at the whole budget."""
    rows: list[Row] = []
    baselines: dict[str, Row] = {}
    for order, temperatures in UNGUIDED.items():
        found = {temperature: bench.unguided(steps, temperature, order) for temperature in temperatures}
        best = max(found, key=lambda temperature, found=found: score(found[temperature]))
        wide = [bench.unguided(budget, best, order) for budget in budgets]
        rows += [*found.values(), *wide]
        baselines[order] = max([found[best], *wide], key=score)
    for budget in budgets:
        rows.append(bench.among_drafts(budget))
        pool = bench.pool(max(2, int(share * budget) // DRAFT_STEPS))
        rows += [bench.run(name, method, budget, pool, start=start) for name, (method, start) in GUIDED.items()]
    return rows, baselines


def score(row: Row) -> float:
    """Mean ROUGE-L against the references."""
    return float(row.rouge["rougeL"].mean())


def write(out: Path, rows: list[Row], baselines: dict[str, Row], header: str) -> None:
    """The CSV files and the report."""
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for row in rows:
        record: dict[str, object] = {
            "method": row.method,
            "budget": row.budget,
            "options": row.options,
            "reward": round(row.reward, 4) if row.reward_rows else "",
            **{name: round(float(values.mean()), 4) for name, values in row.rouge.items()},
        }
        for order, baseline in baselines.items():
            gain, low, high = bootstrap(row.rouge["rougeL"] - baseline.rouge["rougeL"])
            record |= {f"gain_{order}": round(gain, 4), f"low_{order}": round(low, 4), f"high_{order}": round(high, 4)}
        record |= {
            "denoiser_rows": row.denoiser_rows,
            "reward_rows": row.reward_rows,
            "words": round(row.words, 2),
            "acceptance": "" if row.acceptance != row.acceptance else round(row.acceptance, 3),
            "seconds": round(row.seconds, 1),
        }
        records.append(record)
    with open(out / "news.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    with open(out / "news_sentences.csv", "w", newline="", encoding="utf-8") as file:
        plain = csv.writer(file)
        plain.writerow(["sentence", *(f"{row.method}@{row.budget} {row.options}" for row in rows)])
        plain.writerows(
            [i, *(f"{row.rouge['rougeL'][i]:.4f}" for row in rows)] for i in range(len(rows[0].rouge["rougeL"]))
        )
    lines = ["# tiny-news under its own consensus", "", header, ""]
    for order, baseline in baselines.items():
        lines.append(f"- best unguided in {order} order: {baseline.options}, ROUGE-L {score(baseline):.4f}")
    lines += [
        "",
        "| method | rows | consensus | ROUGE-1 | ROUGE-2 | ROUGE-L | gain over best random order (95 %) "
        "| gain over best confidence order (95 %) | words | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        gains = " | ".join(
            "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * float(str(record[f"{part}_{order}"])) for part in PARTS))
            for order in baselines
        )
        lines.append(
            f"| {record['method']}: `{record['options']}` | {record['denoiser_rows']:g}, {record['reward_rows']:g} "
            f"| {record['reward']} | {record['rouge1']:.4f} | {record['rouge2']:.4f} | {record['rougeL']:.4f} "
            f"| {gains} | {record['words']} | {record['seconds']} |"
        )
    (out / "news.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


PARTS = ("gain", "low", "high")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sentcomp.test.jsonl.gz"))
    parser.add_argument("--model", type=Path, default=None, help="a folder made by `iterref train`; the bundled one")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--budgets", type=int, nargs="+", default=[192])
    parser.add_argument("--steps", type=int, default=32, help="grid steps of the unguided runs")
    parser.add_argument("--share", type=float, default=0.67, help="part of the budget that the pool takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    documents, references = read(options.data, options.rows)
    bench = Bench(Summarizer.load(options.model, precision=options.precision), documents, references, options.seed)
    rows, baselines = measure(bench, options.budgets, options.steps, options.share)
    header = (
        f"`python -m benchmarks.news --data {options.data.name} --rows {options.rows} --budgets "
        f"{' '.join(map(str, options.budgets))} --steps {options.steps} --share {options.share} --seed {options.seed} "
        f"--precision {options.precision}` "
        f"({date.today()}, {platform.machine()} CPU, torch {torch.__version__}), {len(documents)} sentences. Rows are "
        "(denoiser, reward) a sentence as asked for, pool included. The pool's drafts have "
        f"{DRAFT_STEPS} steps at temperature {DRAFT_TEMPERATURE} in random order; guided methods have alpha {ALPHA}. "
        "ROUGE by rouge-score, no stemming; gains in points of ROUGE-L, paired bootstrap over sentences. ROUGE is "
        "held out: no method sees a reference."
    )
    write(options.out, rows, baselines, header)


if __name__ == "__main__":
    main()
