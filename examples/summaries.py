"""Summaries, offline: agreement with the model's own drafts, mixed with a rule on their length; two methods compared.

The drafts are drawn once and charged to every run, so that both methods have the same reward and the same budget.
Reference summaries stay out of sight until the end: ROUGE-L against them is the figure that nobody optimised.
"""

from __future__ import annotations

import json
from importlib.resources import files

from iterref import OwnDrafts, generate
from iterref.generation import draw_drafts
from iterref.rewards import Lexical, report_rouge

ROWS, BUDGET = 4, 96  # sentences; NFE a sentence, the drafts included
SAMPLERS = {"best_of_n": "best_of_n", "iterref": None}  # None is what `generate` recommends for texts


def main() -> None:
    """Prints reward and held-out ROUGE-L of both methods, a summary of each, and where the rows are written."""
    written = (files("iterref") / "data" / "news.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in written[:ROWS]]
    documents = [pair["document"] for pair in pairs]
    references = [pair["summary"] for pair in pairs]
    drafts = draw_drafts("tiny-news", documents, OwnDrafts(n=8, steps=8, temperature=1.0))
    reward = 0.8 * drafts + 0.2 * Lexical(words=(8, 14), hard=False)
    runs = {
        name: generate(
            "tiny-news", documents, reward=reward, sampler=sampler,
            budget=BUDGET, alpha=0.01, temperature=0.5,
        )
        for name, sampler in SAMPLERS.items()
    }  # fmt: skip
    for name, result in runs.items():
        found = report_rouge(result.texts or [], references)["rougeL"]
        print(f"{name:10} reward {float(result.rewards.mean()):.3f}   ROUGE-L, held out, {found:.3f}")
    print(f"\n{documents[0]}")
    for name, result in runs.items():
        print(f"  {name:10} {result.texts[0] if result.texts else ''}")
    runs["iterref"].to_jsonl("summaries.jsonl")
    print("\nall rows are in summaries.jsonl")


if __name__ == "__main__":
    main()
