"""Infilling with a locked phrase: only what stands in brackets is written anew, every other token is frozen.

The locked phrase is no part of the reward: its positions are never opened, so that it stands in every candidate. The
reward says what the rest should be, here words of the document in likely English.
"""

from __future__ import annotations

from iterref import infill
from iterref.rewards import Perplexity

DOCUMENTS = [
    "A lorry carrying nine tonnes of fresh oranges overturned on the coast road near Penmoor early on Friday, blocking "
    "traffic in both directions.",
    "The orchestra of the city theatre will play on the roof of the old market hall on Saturday, after rain had forced "
    "it to cancel twice.",
]
MARKED = [
    "[a vehicle had an accident] on the coast road [in some place] .",
    "[some people] will play on the roof [of a building] .",
]
LOCKED = ["on the coast road", "will play on the roof"]


def from_the_document(completions: list[str], prompts: list[str], **columns: object) -> list[float]:
    """The share of a text's words that its document has, each counted once."""
    known = [set(prompt.lower().replace(",", " ").replace(".", " ").split()) for prompt in prompts]
    texts = [text.split() for text in completions]
    return [len(have & set(words)) / max(len(words), 1) for have, words in zip(known, texts, strict=True)]


def main() -> None:
    """Prints every text before and after, its reward, and that the phrase stands where it stood."""
    reward = 0.2 * Perplexity("prose") + from_the_document
    filled = infill("tiny-news", MARKED, prompts=DOCUMENTS, reward=reward, alpha=0.05, temperature=0.7, budget=24)
    rewards = filled.rewards.tolist()
    for marked, phrase, text, reward in zip(MARKED, LOCKED, filled.texts, rewards, strict=True):
        if phrase not in text:
            raise SystemExit(f"the locked phrase is gone: {text}")
        print(f"  marked   {marked}\n  written  {text}\n  reward   {reward:.2f}, {phrase!r} kept\n")
    drift = " and ".join(f"{share:.2f}" for share in filled.drift.tolist())
    print(f"{filled.cost.nfe:g} NFE a text; drift from the first texts {drift}")


if __name__ == "__main__":
    main()
