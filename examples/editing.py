"""Editing: a chain over an existing summary; refine it, write marked words anew, compare alternatives, and go back.

The reward wants exactly ten words that stand in the article, in its order; the drift from the first text is bounded.
"""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from iterref import edit

ARTICLE = "A lorry overturned on the coast road near Penmoor early on Friday, blocking traffic in both directions."
SUMMARY = "a truck overturned on the coast road , police say ."
MARKED = "a truck overturned on the coast road [, police say] ."


def ten_words_of_the_article(completions: list[str], prompts: list[str], **columns: list[object]) -> list[float]:
    """Minus the words more or fewer than ten, and 2 for every word that the article does not have in its order."""
    rewards = []
    for text, prompt in zip(completions, prompts, strict=True):
        words, known = text.rstrip(" .").split(), prompt.lower().replace(",", "").rstrip(".").split()
        foreign = len(words) - LCSseq.similarity(words, known)
        rewards.append(-abs(len(words) - 10) - 2.0 * foreign)
    return rewards


def main() -> None:
    """Prints what each step made, the history as a tree, and the best text of the session."""
    chain = edit("tiny-news", [SUMMARY], prompts=[ARTICLE], reward=ten_words_of_the_article, drift=0.7)
    print(f"start       {chain.texts[0]}")
    refined = chain.refine(strength=0.5, budget=64)
    print(f"refined     {refined.texts[0]}")
    branch = refined.back(0).infill([MARKED], budget=64)
    print(f"infilled    {branch.texts[0]}")
    varied = branch.vary(2, strength=0.5, budget=64)
    print(f"\n{varied.history}\n")  # every state is there, whichever branch it is on
    best = varied.best()
    print(f"best        {best.texts[0]}  (node {best.nodes[0]}, reward {float(best.rewards[0]):.0f})")
    print(f"in all {varied.cost.nfe:g} NFE")


if __name__ == "__main__":
    main()
