"""Editing: a chain over an existing summary; refine it, write marked words anew, compare alternatives, and go back.

The reward wants about eight words that stand in the document; the drift from the first text is bounded.
"""

from __future__ import annotations

from iterref import edit

DOCUMENT = (
    "A lorry carrying nine tonnes of fresh oranges overturned on the coast road near Penmoor early on Friday, blocking "
    "traffic in both directions."
)
SUMMARY = "a big truck carrying fruit overturned on the coast road , police say ."
MARKED = "a big truck carrying fruit overturned [on the coast road , police say] ."


def brief_and_faithful(completions: list[str], prompts: list[str], **columns: list[object]) -> list[float]:
    """The share of words that the document has, each once, less an eighth for every word more or less than eight."""
    rewards = []
    for text, prompt in zip(completions, prompts, strict=True):
        words, known = text.split(), set(prompt.lower().replace(",", " ,").replace(".", " .").split())
        rewards.append(len(known & set(words)) / max(len(words), 1) - abs(len(words) - 8) / 8)
    return rewards


def main() -> None:
    """Prints what each step made, the history as a tree, and the best text of the session."""
    chain = edit(
        "tiny-news", [SUMMARY], prompts=[DOCUMENT], reward=brief_and_faithful, alpha=0.05, drift=0.6, temperature=0.5
    )
    refined = chain.refine(strength=0.3, budget=24)
    print(f"refined     {refined.texts[0]}")
    varied = refined.vary(3, strength=0.5, budget=16)
    print(f"varied      {varied.texts[0]}")
    branch = varied.back(0).infill([MARKED], length=4, budget=24)
    print(f"infilled    {branch.texts[0]}")
    print(f"\n{branch.history}\n")  # every state is there, whichever branch it is on
    best = branch.best()
    print(f"best        {best.texts[0]}  (node {best.nodes[0]}, reward {float(best.rewards[0]):.3f})")
    print(f"in all {branch.cost.nfe:g} NFE")


if __name__ == "__main__":
    main()
