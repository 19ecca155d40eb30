"""Infilling with a locked phrase: only what stands in brackets is written anew, every other token is frozen.

The locked phrase is no part of the reward: its positions are never opened, so that it stands in every candidate. The
reward says what the rest should be, here words of the article, in its order.
"""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from iterref import infill

ARTICLES = [
    "A lorry overturned on the coast road near Penmoor early on Friday, blocking traffic in both directions.",
    "The orchestra of Aldmere will play on the roof of the market hall on Saturday.",
]
MARKED = ["[a vehicle had an accident] on the coast road [in some place] .", "[some people] will play on the roof [of it] ."]
LOCKED = ["on the coast road", "will play on the roof"]


def words_of_the_article(completions: list[str], prompts: list[str], **columns: object) -> list[float]:
    """The words that a text takes from its article in the order in which they stand there, less all its others."""
    rewards = []
    for text, prompt in zip(completions, prompts, strict=True):
        words, known = text.rstrip(" .").split(), prompt.lower().replace(",", "").rstrip(".").split()
        rewards.append(float(2 * LCSseq.similarity(words, known) - len(words)))
    return rewards


def main() -> None:
    """Prints every text before and after, its reward, and that the phrase stands where it stood."""
    filled = infill("tiny-news", MARKED, prompts=ARTICLES, reward=words_of_the_article, budget=96)
    for marked, phrase, text, reward in zip(MARKED, LOCKED, filled.texts, filled.rewards.tolist(), strict=True):
        if phrase not in text:
            raise SystemExit(f"the locked phrase is gone: {text}")
        print(f"  marked   {marked}\n  written  {text}\n  reward   {reward:.0f}, {phrase!r} kept\n")
    drift = " and ".join(f"{share:.2f}" for share in filled.drift.tolist())
    print(f"{filled.cost.nfe:g} NFE a text; drift from the first texts {drift}")


if __name__ == "__main__":
    main()
