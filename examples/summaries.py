"""Summaries at a length, offline: three methods at one budget, compared prompt by prompt with 95 % intervals.

`compare` runs every method on the same prompts and seeds. What it writes goes into a temporary folder here.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from iterref import compare

ROWS, SHOWN, BUDGET, WORDS = 16, 14, 96, 8
METHODS = {"plain": "ancestral:order=confidence", "best of N": "best_of_n", "auto": "auto"}


def eight_words(completions: list[str], **columns: object) -> list[float]:
    """Minus the words more or fewer than eight."""
    return [-float(abs(len(text.rstrip(" .").split()) - WORDS)) for text in completions]


def main() -> None:
    """Prints the table of the comparison, the texts of one article, and what was written."""
    lines = (files("iterref") / "data" / "news.jsonl").read_text(encoding="utf-8").splitlines()
    articles = [json.loads(line)["document"] for line in lines[:ROWS]]
    found = compare("tiny-news", articles, METHODS, reward=eight_words, budgets=BUDGET)
    print("\n".join(line.rpartition("  ")[0].rstrip() or line for line in str(found).split("\n\n")[0].splitlines()))
    print()
    better = ", ".join(entry.name for entry in found.better())
    print(f"significantly more reward than plain decoding: {better}\n\n{articles[SHOWN]}")
    for entry in found.entries:
        print(f"  {entry.name:10} {entry.rewards[0, SHOWN]:4.0f}  {entry.texts[0][SHOWN]}")
    with TemporaryDirectory() as folder:
        table = found.to_csv(Path(folder) / "lengths.csv")
        print(f"\n{table.name}: {len(table.read_text(encoding='utf-8').splitlines())} lines")


if __name__ == "__main__":
    main()
