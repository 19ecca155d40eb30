"""Quickstart: summaries with exactly the words asked for and a name that must be in, before and after.

The reward is a function of texts in the form that TRL's trainers take. Nothing else is needed: no training, no options.
"""

from __future__ import annotations

from iterref import generate

ARTICLES = {  # with the number of words and the name that the summary is to have
    "The village of Aldmere has won a national prize for its orchard, where volunteers grow apples.": (9, "aldmere"),
    "The orchestra of Aldmere will play on the roof of the market hall on Saturday.": (9, "aldmere"),
    "The central bank left its main interest rate unchanged at 4 percent on Thursday, analysts said.": (8, "bank"),
}


def keeps_the_rule(completions: list[str], words: list[int], name: list[str], **columns: object) -> list[float]:
    """Minus the words too many or too few, and 2 where the name is missing: 0 is a rule that is kept."""
    rewards = []
    for text, size, needed in zip(completions, words, name, strict=True):
        told = text.rstrip(" .").split()
        rewards.append(-abs(len(told) - size) - 2.0 * (needed not in told))
    return rewards


def main() -> None:
    """Prints every article, its plain summary and the one with the reward, at the same NFE."""
    words, names = zip(*ARTICLES.values(), strict=True)
    options = {"reward": keeps_the_rule, "columns": {"words": words, "name": names}, "budget": 96, "alpha": 0.25}
    plain = generate("tiny-news", list(ARTICLES), sampler="ancestral:order=confidence", **options)
    best = generate("tiny-news", list(ARTICLES), **options)
    for row, (article, (size, name)) in enumerate(ARTICLES.items()):
        print(f"{article}\n  asked for {size} words with {name.title()!r}")
        for title, result in (("before", plain), ("after", best)):
            assert result.texts is not None
            print(f"  {title:7} {float(result.rewards[row]):5.1f}  {result.texts[row]}")
    print(f"\n{best.asked.nfe:g} NFE and {best.asked.reward_calls:g} reward calls a text")


if __name__ == "__main__":
    main()
