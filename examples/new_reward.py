"""Eight words that keep one: a reward of your own, in the form that TRL's trainers take too.

Summaries of about eight words, and a hard constraint: every document names a word that its summary must keep, and a
summary without it has reward -inf, which is weight zero.
"""

from __future__ import annotations

import math

from iterref import generate

DOCUMENTS = {
    "The village of Aldmere has won a national prize for its community orchard, where more than sixty kinds of apple "
    "are grown by volunteers.": "orchard",
    "Engineers working through the night have repaired the damaged railway bridge at Stoke Ferry, and trains will run "
    "again from Tuesday morning.": "bridge",
}


def eight_words_that_keep(completions: list[str], keep: list[str], **columns: list[object]) -> list[float]:
    """1 for a summary of eight words, less for a longer or shorter one, -inf where the word to keep is missing."""
    rewards = []
    for text, word in zip(completions, keep, strict=True):
        words = text.split()
        rewards.append(1 - abs(len(words) - 8) / 8 if word in words else -math.inf)
    return rewards


def main() -> None:
    """Prints a summary a document, with its reward and whether a row met forbidden candidates only."""
    result = generate(
        "tiny-news",
        list(DOCUMENTS),
        reward=eight_words_that_keep,
        columns={"keep": list(DOCUMENTS.values())},
        sampler="iterref:tries=16,span=0.3",
        budget=48,
        alpha=0.05,
        temperature=0.7,
    )
    assert result.texts is not None
    for document, text, reward in zip(DOCUMENTS, result.texts, result.rewards.tolist(), strict=True):
        print(f"{document}\n  must keep {DOCUMENTS[document]!r}\n  {reward:.3f}  {text}\n")
    print(result)


if __name__ == "__main__":
    main()
