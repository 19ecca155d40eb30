"""Trains `tiny-digest`, a summariser of abstracts and of openings of news: `tiny-news`, trained on by `iterref train`.

    python -m benchmarks.models.tiny_digest --data ../shared/data --work out/tiny-digest --out \
        benchmarks/models/weights/tiny-digest

    pairs of an epoch    document -> summary
    5,300  scitldr       abstract -> its TLDR (Cachola et al. 2020, arXiv:2004.15011), every pair three times
    1,800  scitldr       abstract -> the sentence that agrees most with the others (Zhang et al. 2020, arXiv:1912.08777)
    6,000  sentcomp      two or three news sentences -> the compression of the first
    3,000  wikitext-2    paragraph -> the sentence that agrees most with the others

Nothing of CNN/DailyMail is among them: its licence allows evaluation alone, and its articles are those of the openings
that the model is evaluated on. The last 100 abstracts measure the loss. An interrupted run goes on when it is started
again.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.models.tiny_arith import EXPORT
from benchmarks.records import read
from iterref.models.tiny_news import normalise
from iterref.rewards.rouge import report_rouge_rows
from iterref.training import TrainConfig, train

WEIGHTS = Path(__file__).parent / "weights" / "tiny-digest"
HELD, REPEATS, NEWS, PARAGRAPHS = 100, 3, 6_000, 3_000
WORDS = range(40, 221)  # of a paragraph
SHORTEST, LONGEST = 6, 40  # words of a sentence that may stand for the others
Pair = tuple[str, str]


def sentences(text: str) -> list[str]:
    """The sentences of a text in the model's form, in which a full stop is a word."""
    found: list[list[str]] = [[]]
    for word in text.split():
        found[-1].append(word)
        if word in (".", "?", "!"):
            found.append([])
    return [" ".join(one) for one in found if one]


def principal(text: str) -> str:
    """The sentence with the highest ROUGE-1 against the others, of those that have a summary's length; "" for none."""
    parts = sentences(text)
    rests = [" ".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    fit = [i for i, part in enumerate(parts) if SHORTEST <= len(part.split()) <= LONGEST and rests[i]]
    if not fit:
        return ""
    scores = report_rouge_rows([parts[i] for i in fit], [rests[i] for i in fit], ("rouge1",))["rouge1"]
    return parts[fit[int(np.argmax(scores))]]


def gaps(texts: Sequence[str]) -> Iterator[Pair]:
    """Texts and their principal sentences."""
    return ((text, summary) for text in texts if (summary := principal(text)))


def openings(pairs: Sequence[Pair], rng: np.random.Generator) -> Iterator[Pair]:
    """Two or three news sentences, and the compression of the first."""
    order = iter(rng.permutation(len(pairs)).tolist())
    for first in order:
        others = [pairs[i][0] for i in islice(order, int(rng.integers(1, 3)))]
        yield " ".join([pairs[first][0], *others]), pairs[first][1]


def pairs_of(file: Path) -> list[Pair]:
    """The pairs of a file, in the model's form."""
    found = read(file)
    told = zip(found.documents, found.references or (), strict=True)
    return [(normalise(document), normalise(str(summary))) for document, summary in told]


def write(file: Path, pairs: Sequence[Pair]) -> str:
    """Writes pairs as `document` and `summary`."""
    file.write_text("".join(json.dumps({"document": d, "summary": s}) + "\n" for d, s in pairs), encoding="utf-8")
    return str(file)


def mixture(data: Path, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs of an epoch, and those held out."""
    rng = np.random.default_rng(seed)
    papers = pairs_of(data / "scitldr.train.jsonl.gz")
    papers, held = papers[:-HELD], papers[-HELD:]
    news = pairs_of(data / "sentcomp.train.jsonl.gz")
    texts = [normalise(text) for text in read(data / "plain.wikitext2.train.jsonl.gz", document="text").documents]
    whole = [text for text in texts if len(text.split()) in WORDS and "<unk>" not in text.split()]
    paragraphs = [whole[i] for i in rng.permutation(len(whole))]
    parts = [papers * REPEATS, gaps([document for document, _ in papers]), islice(openings(news, rng), NEWS)]
    return [pair for part in [*parts, islice(gaps(paragraphs), PARAGRAPHS)] for pair in part], held


def config(data: Path, work: Path, steps: int, seed: int) -> TrainConfig:
    """The run: its files, written first, and its options."""
    work.mkdir(parents=True, exist_ok=True)
    pairs, held = mixture(data, seed)
    return TrainConfig(
        train=(write(work / "pairs.jsonl", pairs),), validation=write(work / "held.jsonl", held), init="tiny-news",
        out=str(work / "run"), seed=seed, steps=steps, warmup=100, cooldown=steps // 2, length=64, source_length=640,
        batch=16, matrix_rate=1e-3, rate=4e-4, ema=0.995, validation_every=200, checkpoint_minutes=3.0, threads=1,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_200)
    options = parser.parse_args()
    run = config(options.data, options.work, options.steps, options.seed)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)  # ROUGE's package set its own
    folder = train(run)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in EXPORT:
        shutil.copyfile(folder / name, options.out / name)


if __name__ == "__main__":
    main()
