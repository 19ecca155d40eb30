"""Rules: how much of a rule a method's texts keep, and what they are worth as texts, at equal NFE.

    eight    minus the number of words that a summary has more or fewer than 8
    names    minus 2 for each of two long words of the sentence that the summary lacks
    both     the sum

The bundled sentences and `tiny-news`, no options and no alpha. Beside the reward stand the model's own log-likelihood a
word (`iterref.likelihood`, 8 evaluations outside the budget), that of `prose`, a language model that no method sees,
and ROUGE-L against the reference. Intervals are of paired differences to `auto`, 95 %.

    python -m benchmarks rules        (a quarter of an hour on one core)
    python -m benchmarks rules --data sentcomp.validation.jsonl.gz --rows 200 --budget 16,64,256
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import iterref
from benchmarks.frame import front, texts
from benchmarks.frame.command import OUT
from benchmarks.records import read
from iterref.demo import sentences
from iterref.generation import generate
from iterref.models.tiny_news import normalise
from iterref.paired import Mean, difference
from iterref.progress import Bar
from iterref.rewards.rouge import report_rouge_rows

METHODS = {
    "plain": "ancestral:order=confidence",
    "best_of_n": "best_of_n:steps=16,order=confidence",
    "trajectory": "trajectory:steps=16,order=confidence,objective=maximise",
    "smc, 16 guesses": "smc:steps=16,order=confidence,x0_samples=16,objective=maximise",
    "svdd": "svdd:steps=8,objective=maximise",
    "growth": "growth:steps=16,order=confidence,objective=maximise",
    "iterref": "iterref:objective=maximise",
    "beam": "beam",
    "auto": "auto",
}
Found = dict[tuple[str, str, int], list[tuple[dict[str, float], str]]]  # of a rule, method and NFE: measures and texts
MEASURES = ("reward", "log_likelihood", "prose", "rouge_l", "words")
REFERENCE = "reference"  # what a person wrote, beside the methods, at no NFE
WORDS, NAMES = 8, 2
SHOWN_AT = 128  # NFE of what the page shows
WRITTEN = ("plain", "best_of_n", "smc, 16 guesses", "iterref", "auto")  # whose texts stand side by side


def eight(completions: Sequence[str], **_: Any) -> list[float]:
    """Minus the words too many or too few."""
    return [-float(abs(len(text.split()) - WORDS)) for text in completions]


def names(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """Minus 2 for each of the last long words of the sentence that is missing."""
    wanted = [[word for word in prompt.split() if len(word) > 5][-NAMES:] for prompt in prompts]
    lacking = [sum(word not in text.split() for word in some) for text, some in zip(completions, wanted, strict=True)]
    return [-2.0 * count for count in lacking]


def both(completions: Sequence[str], prompts: Sequence[str], **_: Any) -> list[float]:
    """The sum of the two."""
    return [a + b for a, b in zip(eight(completions), names(completions, prompts), strict=True)]


RULES = {"eight": eight, "names": names, "both": both}


def measured(
    model: Any, judge: Any, rows: Sequence[Mapping[str, Any]], rule: str, method: str, nfe: int, seed: int
) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The texts of one run, and every measure a sentence."""
    result = generate(
        model, [row["document"] for row in rows], reward=RULES[rule], sampler=METHODS[method], budget=nfe, seed=seed,
        log_likelihood=True,
    )  # fmt: skip
    assert result.texts is not None and result.log_likelihood is not None
    return result.texts, _values(judge, rows, result.texts, result.rewards, result.log_likelihood)


def referred(model: Any, judge: Any, rows: Sequence[Mapping[str, Any]], rule: str) -> dict[str, torch.Tensor]:
    """Every measure of the reference summaries; no log-likelihood of those that are longer than the canvas."""
    texts, documents = [normalise(row["summary"]) for row in rows], [row["document"] for row in rows]
    fit = torch.tensor([len(ids) < model.length for ids in model.codec.ids(texts)])
    likely = torch.full((len(texts),), torch.nan, dtype=torch.float64)
    some = fit.nonzero()[:, 0].tolist()
    likely[fit] = iterref.log_likelihood(model, [texts[row] for row in some], prompts=[documents[row] for row in some])
    return _values(judge, rows, texts, torch.tensor(RULES[rule](texts, prompts=documents)), likely)


def _values(
    judge: Any, rows: Sequence[Mapping[str, Any]], texts: list[str], rewards: torch.Tensor, likely: torch.Tensor
) -> dict[str, torch.Tensor]:
    words = torch.tensor([max(1, len(text.split())) for text in texts], dtype=torch.float64)
    rouge = report_rouge_rows(texts, [normalise(row["summary"]) for row in rows])["rougeL"]
    return {
        "reward": rewards, "log_likelihood": likely / words, "words": words,
        "prose": torch.tensor(judge(texts), dtype=torch.float64), "rouge_l": torch.as_tensor(rouge),
    }  # fmt: skip


def tables(folder: Path, pictured: bool) -> dict[str, list[str]]:
    """What the page shows, by its marks, from the files of a folder: means, the fronts, and texts side by side; the
    picture of the fronts is drawn in the folder where `pictured`. Of sentences whose texts are not ours to pass on,
    without a `texts.txt`, the means at the largest budget alone."""
    found: Found = {}
    kept = folder / "texts.txt"
    written = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else None
    with (folder / "rules.csv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            own = found.setdefault((row["rule"], row["method"], int(row["nfe"])), [])
            text = "" if written is None else written[number].split("\t")[4]
            own.append(({name: float(row[name]) for name in MEASURES}, text))
    if written is None:
        nfe = max(nfe for _, _, nfe in found)
        return {folder.name: means(found, nfe), f"{folder.name} references": beside_references(found, nfe)}
    panels = {
        f"{rule}, {SHOWN_AT} NFE": [
            front.Place(method, _mean(found[rule, method, SHOWN_AT], "reward"),
                        _mean(found[rule, method, SHOWN_AT], "log_likelihood")) for method in METHODS
        ] for rule in RULES
    }  # fmt: skip
    if pictured:
        front.picture(panels, folder / "front.png", "auto", "log-likelihood under the model, nats a word")
    shown = {
        method: [
            texts.Sample(values["reward"], values["log_likelihood"], text)
            for values, text in found["both", method, SHOWN_AT]
        ] for method in WRITTEN
    }  # fmt: skip
    return {
        "rules": means(found, SHOWN_AT), "rules front": front.table(panels, "auto"),
        "rules texts": texts.table(shown, "log p"),
    }  # fmt: skip


def means(found: Found, nfe: int) -> list[str]:
    """The mean reward and log-likelihood of every rule and method; bold where `auto` differs significantly."""
    head = ["method", *(f"{rule}: {name}" for rule in RULES for name in ("reward", "log p"))]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in (one for one in METHODS if all((rule, one, nfe) in found for rule in RULES)):
        cells = []
        for rule, name in product(RULES, ("reward", "log_likelihood")):
            mine, auto = (np.array([of[name] for of, _ in found[rule, one, nfe]]) for one in (method, "auto"))
            mark = "**" if method != "auto" and difference(mine, auto).significant else ""
            cells.append(f"{mark}{mine.mean():.2f}{mark}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def beside_references(found: Found, nfe: int) -> list[str]:
    """Of the sentences whose reference keeps the rule: how likely what a person wrote is, and what methods write."""
    beside, names = ("plain", "auto"), {"log_likelihood": "log p", "prose": "`prose`"}
    head = ["rule", "sentences", *(f"{one}: {name}" for one in (REFERENCE, *beside) for name in names.values())]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for rule in RULES:
        own = found[rule, REFERENCE, 0]
        kept = [row for row, (of, _) in enumerate(own) if of["reward"] == 0 and of["log_likelihood"] < 0]
        if len(kept) < 2:
            continue
        sets = [own, *(found[rule, method, nfe] for method in beside)]
        cells = [f"{np.mean([of[row][0][name] for row in kept]):.2f}" for of in sets for name in names]
        lines.append(f"| {rule} | {len(kept)} | {' | '.join(cells)} |")
    return lines


def _mean(own: Sequence[tuple[dict[str, float], str]], name: str) -> Mean:
    values = np.array([measures[name] for measures, _ in own])
    return Mean(float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5)


def _rows(data: Path | None, count: int) -> Sequence[Mapping[str, Any]]:
    """The first sentences with their summaries, of a file or the bundled ones."""
    if data is None:
        return sentences()[:count]
    records = read(data, limit=count)
    if records.references is None:
        raise click.UsageError(f"{data} has no column summary, by which ROUGE-L is taken")
    return [
        {"document": text, "summary": of if isinstance(of, str) else of[0]}
        for text, of in zip(records.documents, records.references, strict=True)
    ]


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=OUT / "rules", show_default=True, help="The folder.")
@click.option("--budget", default="32,64,128,256", show_default=True, help="NFE a sentence.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="JSON lines of `document` and `summary`.")
@click.option("--sampler", multiple=True, type=click.Choice(list(METHODS)), help="All unless given.")
@click.option("--rows", type=click.IntRange(2), default=32, show_default=True, help="Sentences.")
@click.option("--seed", type=int, default=0, show_default=True)
def command(out: Path, budget: str, data: Path | None, sampler: Sequence[str], rows: int, seed: int) -> None:
    """Runs everything and writes `rules.csv` and all texts."""
    budgets = [int(part) for part in budget.split(",")]
    model, judge, given = iterref.load("tiny-news"), iterref.rewards.Perplexity("prose"), _rows(data, rows)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "rules.csv").open("w", newline="") as file, (out / "texts.txt").open("w", encoding="utf-8") as written:
        to = csv.writer(file)
        to.writerow(["rule", "method", "nfe", "row", *MEASURES])

        def keep(rule: str, method: str, nfe: int, completions: Sequence[str], values: dict[str, torch.Tensor]) -> None:
            for row, text in enumerate(completions):
                to.writerow([rule, method, nfe, row, *(f"{float(values[name][row]):.4f}" for name in MEASURES)])
                written.write(f"{rule}\t{method}\t{nfe}\t{float(values['reward'][row]):g}\t{text}\n")
            file.flush()
            written.flush()

        runs = [(rule, method, nfe) for rule in RULES for nfe in budgets for method in sampler or METHODS]
        for rule, method, nfe in Bar(runs, "rules", shown=True):
            keep(rule, method, nfe, *measured(model, judge, given, rule, method, nfe, seed))
        for rule in RULES:
            keep(rule, REFERENCE, 0, [normalise(row["summary"]) for row in given], referred(model, judge, given, rule))
