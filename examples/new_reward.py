"""Eight words that keep one: a reward of your own, in the form that TRL's trainers take too.

Summaries of about eight words, and a hard constraint: every article names a word that its summary must keep, and a
summary without it has reward -inf, which is weight zero.
"""

from __future__ import annotations

import math

from iterref import generate

ARTICLES = {
    "The orchestra of Aldmere will play on the roof of the market hall on Saturday.": "saturday",
    "A fire destroyed a warehouse near the harbour in Eastmere late on Monday, officials said.": "monday",
    "Heavy snow closed schools and several mountain roads in the valleys of Arrin on Friday.": "valleys",
}


def eight_words_that_keep(completions: list[str], keep: list[str], **columns: list[object]) -> list[float]:
    """1 for a summary of eight words, less for a longer or shorter one, -inf where the word to keep is missing."""
    rewards = []
    for text, word in zip(completions, keep, strict=True):
        words = text.split()
        rewards.append(1 - abs(len(words) - 8) / 8 if word in words else -math.inf)
    return rewards


def main() -> None:
    """Prints a summary of every article, with its reward."""
    result = generate(
        "tiny-news", list(ARTICLES), reward=eight_words_that_keep, columns={"keep": list(ARTICLES.values())}, budget=128
    )
    assert result.texts is not None
    for article, text, reward in zip(ARTICLES, result.texts, result.rewards.tolist(), strict=True):
        print(f"{article}\n  must keep {ARTICLES[article]!r}\n  {reward:.3f}  {text}\n")
    print(f"{result.asked.nfe:g} NFE and {result.asked.reward_calls:g} reward calls a text")


if __name__ == "__main__":
    main()
