"""Structure: how many texts are what a JSON schema or a regular expression asks for, with the constraint and without.

    python -m benchmarks structure        (some minutes on one core)

50 schemas and 50 expressions (`benchmarks/data/structure.json`), two texts of each by `tiny-books`, on canvases of 96
tokens. Schemas are checked by `jsonschema`, expressions by Python's `re`: neither has a part in writing the texts.
Writes `structure.csv`, and ends with status 1 where a constrained text is not valid.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import click

import iterref
from benchmarks.frame.command import OUT
from iterref.constraint import JSONSchema, Pattern, Regex
from iterref.progress import Bar

DATA = Path(__file__).parents[1] / "data" / "structure.json"
LENGTH, TEXTS = 96, 2
FIELDS = ("kind", "number", "language", "sampler", "constraint", "valid", "texts", "seconds", "example")


def languages() -> list[tuple[str, Any]]:
    """The schemas and the expressions."""
    read = json.loads(DATA.read_text(encoding="utf-8"))
    return [("schema", one) for one in read["schemas"]] + [("expression", one) for one in read["expressions"]]


def pattern(kind: str, language: Any) -> Pattern:
    """The constraint of one."""
    return JSONSchema(language) if kind == "schema" else Regex(language)


def valid(kind: str, language: Any, text: str) -> bool:
    """Whether a text is one of the language, by packages that did not write it."""
    if kind == "expression":
        return re.fullmatch(language, text) is not None
    import jsonschema

    try:
        jsonschema.validate(json.loads(text), language)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def no_reward(completions: list[str], **columns: Any) -> list[float]:
    """Every text is as good as another."""
    return [0.0 for _ in completions]


@click.command()
@click.option("--out", default=str(OUT / "structure"), show_default=True, help="The folder to write.")
@click.option("--sampler", default="ancestral:steps=16,order=confidence", show_default=True)
@click.option("--seed", default=0, show_default=True)
def command(out: str, sampler: str, seed: int) -> None:
    """How many texts are valid, of each schema and expression."""
    model, lines = iterref.load("tiny-books", length=LENGTH), []
    rows = [(kind, number, one) for number, (kind, one) in enumerate(languages())]
    with Bar(rows, "languages", shown=sys.stderr.isatty()) as bar:
        for kind, number, language in bar:
            for bound in (None, pattern(kind, language)):
                begun = perf_counter()
                texts = iterref.generate(
                    model, [""] * TEXTS, reward=no_reward, sampler=sampler, seed=seed + number, constraint=bound
                ).texts
                good = sum(valid(kind, language, text) for text in texts or [])
                told = (kind, number, json.dumps(language), sampler, bound is not None, good, TEXTS)
                lines.append((*told, round(perf_counter() - begun, 2), (texts or [""])[0]))
    path = Path(out) / "structure.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([FIELDS, *lines])
    wrong = 0
    for kind in ("schema", "expression"):
        for bound in (False, True):
            some = [line for line in lines if line[0] == kind and line[4] == bound]
            good, seconds = sum(line[5] for line in some), sum(line[7] for line in some)
            made, how = TEXTS * len(some), "constrained" if bound else "plain"
            click.echo(f"{kind}s {how:11}  {good} of {made} valid, {seconds:.0f} s")
            wrong += bound * (made - good)
    sys.exit(bool(wrong))
