"""Editing: a chain over an existing summary; refine it, go back, write marked words anew, and compare.

The reward wants exactly nine words that stand in the article, in its order; the drift from the first text is bounded.
"""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from iterref import edit

ARTICLE = "A lorry overturned on the coast road near Penmoor early on Friday, blocking traffic in both directions."
SUMMARY = "a lorry overturned on the road , police say ."
MARKED = "a lorry overturned on [the road , police say] ."


def nine_words_of_the_article(completions: list[str], prompts: list[str], **columns: list[object]) -> list[float]:
    """Minus the words more or fewer than nine, and 2 for every word that the article does not have in its order."""
    rewards = []
    for text, prompt in zip(completions, prompts, strict=True):
        words, known = text.rstrip(" .").split(), prompt.lower().replace(",", "").rstrip(".").split()
        foreign = len(words) - LCSseq.similarity(words, known)
        rewards.append(-abs(len(words) - 9) - 2.0 * foreign)
    return rewards


def main() -> None:
    """Prints what each step made, the history as a tree, and the best text of the session."""
    chain = edit("tiny-news", [SUMMARY], prompts=[ARTICLE], reward=nine_words_of_the_article, drift=0.7)
    print(f"start       {chain.texts[0]}")
    refined = chain.refine(strength=0.5, budget=128)
    print(f"refined     {refined.texts[0]}")
    branch = refined.back(0).infill([MARKED], length=(5, 8), budget=192)
    print(f"infilled    {branch.texts[0]}")
    print(f"\n{branch.history}\n")  # every state is there, whichever branch it is on
    best = branch.best()
    print(f"best        {best.texts[0]}  (node {best.nodes[0]}, reward {float(best.rewards[0]):.0f})")
    print(f"in all {branch.cost.nfe:g} NFE")


if __name__ == "__main__":
    main()
