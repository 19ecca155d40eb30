"""Keywords, offline: texts that must hold given words, by a soft rule that counts and a hard one that forbids.

A hard rule alone says nothing until a text with all its words is met; a soft one says which text is nearer. So the
soft one steers here, and the hard one is asked at the end. What the language pays is printed beside it.
"""

from __future__ import annotations

from iterref import generate
from iterref.rewards import Lexical, Perplexity

WORDS = [["king", "sea"], ["tree", "child"]]
PROMPTS = ["", ""]  # tiny-books writes whole texts; a prompt would be what a text begins with


def main() -> None:
    """Prints how many keywords each method gets into its texts, what they cost in likelihood, and the texts."""
    wanted = Lexical(required_column="keep", hard=False)
    fluent = Perplexity("prose")
    columns = {"keep": WORDS}
    plain = "steps=16,order=confidence"
    methods = {"unsteered": f"ancestral:{plain}", "best of n": f"best_of_n:{plain}", "auto": "auto"}
    runs = {
        name: generate(
            "tiny-books", PROMPTS, reward=wanted, columns=columns, sampler=sampler,
            budget=None if name == "unsteered" else 48, alpha=0.1,
        )
        for name, sampler in methods.items()
    }  # fmt: skip
    strict = Lexical(required_column="keep")
    for name, result in runs.items():
        texts = result.texts or []
        missing = sum(abs(value) for value in wanted(texts, keep=WORDS))
        complete = sum(value == 0 for value in strict(texts, keep=WORDS))
        likelihood = sum(fluent(texts)) / len(texts)
        print(f"{name:10} {missing:g} of 4 words missing, {complete} of 2 complete, log-likelihood {likelihood:.2f}")
    print()
    for keep, text in zip(WORDS, runs["auto"].texts or [], strict=True):
        print(f"{' + '.join(keep):14} {text}")


if __name__ == "__main__":
    main()
