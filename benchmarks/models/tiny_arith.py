"""Trains `tiny-arith`, a small masked model of worked sums: what `iterref train` makes of problems made here.

    python -m benchmarks.models.tiny_arith --work out/tiny-arith --out benchmarks/models/weights/tiny-arith

Writes the problems as JSON lines into the folder --work, trains there, and puts the model into --out. The run is meant
for 3,000 steps and stops at step 2,379 on purpose: a model that is always right leaves nothing to search for. One that
was interrupted goes on when it is started again, and ends as if it had not been. Same seed, torch version and kind of
processor: the same weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from itertools import islice
from pathlib import Path

from benchmarks.sums import sums
from iterref.training import TrainConfig, train

WEIGHTS = Path(__file__).parent / "weights" / "tiny-arith"
EXPORT = ("config.json", "tokenizer.json", "train_curve.csv", "weights.safetensors")
TRAINED, VALIDATED = 200_000, 500


def write(file: Path, count: int, seed: int, held: bool) -> str:
    """Writes so many problems as `document` and their workings as `summary`."""
    lines = [json.dumps({"document": one.prompt, "summary": one.working}) for one in islice(sums(seed, held), count)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def config(work: Path, steps: int, seed: int) -> TrainConfig:
    """The run: its files, written first, and its options."""
    work.mkdir(parents=True, exist_ok=True)
    return TrainConfig(
        train=(write(work / "sums.jsonl", TRAINED, 2 * seed, held=False),), out=str(work / "run"),
        validation=write(work / "held.jsonl", VALIDATED, 2 * seed + 1, held=True), seed=seed, steps=steps,
        cooldown=steps // 2, length=32, source_length=40, vocab=200, width=96, heads=4, hidden=192, encoder_layers=2,
        decoder_layers=3, keep_weight=0.0, end_weight=0.2, precision="bfloat16", threads=1, form="plain", batch=48,
        validation_every=250, checkpoint_minutes=2.0,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--stop", type=int, default=2_379)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = train(config(options.work, options.steps, options.seed), stop=options.stop)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in EXPORT:
        shutil.copyfile(folder / name, options.out / name)


if __name__ == "__main__":
    main()
