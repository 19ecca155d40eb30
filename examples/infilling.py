"""Infilling with a locked phrase: only what stands in brackets is written anew, every other token is frozen.

The locked phrase is no part of the reward: its positions are never opened, so that it stands in every candidate. The
reward says what the rest should be, here words of the article in its order, and the day. A region has 3 to 6 tokens.
"""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from iterref import infill

ARTICLES = [
    "A lorry overturned on the coast road near Penmoor early on Friday, blocking traffic in both directions.",
    "Thousands of people danced in the streets of Westmark on Saturday as the spring festival returned.",
]
MARKED = [
    "a lorry overturned [at some time and place] .",
    "thousands of people danced [at some time and place] .",
]
DAYS = ["friday", "saturday"]
LOCKED = ["a lorry overturned", "thousands of people danced"]


def its_words_and_the_day(completions: list[str], prompts: list[str], day: list[str], **columns: object) -> list[float]:
    """Minus the words that the article does not have in its order, and 3 where the day is missing."""
    rewards = []
    for text, prompt, word in zip(completions, prompts, day, strict=True):
        words, known = text.rstrip(" .").split(), prompt.lower().replace(",", "").rstrip(".").split()
        rewards.append(LCSseq.similarity(words, known) - len(words) - 3.0 * (word not in words))
    return rewards


def main() -> None:
    """Prints every text before and after, its reward, and that the phrase stands where it stood."""
    given = {"prompts": ARTICLES, "columns": {"day": DAYS}}
    filled = infill("tiny-news", MARKED, reward=its_words_and_the_day, length=(3, 6), budget=192, **given)
    for marked, phrase, text, reward in zip(MARKED, LOCKED, filled.texts, filled.rewards.tolist(), strict=True):
        if phrase not in text:
            raise SystemExit(f"the locked phrase is gone: {text}")
        print(f"  marked   {marked}\n  written  {text}\n  reward   {reward:.0f}, {phrase!r} kept\n")
    drift = " and ".join(f"{share:.2f}" for share in filled.drift.tolist())
    print(f"{filled.cost.nfe:g} NFE a text; drift from the first texts {drift}")


if __name__ == "__main__":
    main()
