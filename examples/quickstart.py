"""Quickstart: three news sentences, summarised by the bundled model alone and then refined by its own consensus.

No reference is needed: a summary is good where it agrees with what the model writes again and again.
"""

from __future__ import annotations

from iterref import OwnDrafts, generate

SENTENCES = [
    "The museum in Harrowgate will close for eighteen months from January while its leaking roof is replaced, the "
    "director said on Wednesday.",
    "A lorry carrying nine tonnes of fresh oranges overturned on the coast road near Penmoor early on Friday, blocking "
    "traffic in both directions.",
    "Midfielder Ana Loredo has signed a new three-year contract with Westbury, the club announced on its website on "
    "Monday evening.",
]


def main() -> None:
    """Prints every sentence, its plain summary and its refined one, and what both cost."""
    drafts = OwnDrafts(n=8, steps=8, temperature=1.0)
    before = generate("tiny-news", SENTENCES, reward=drafts, sampler="ancestral:steps=16", temperature=0.5)
    after = generate(
        "tiny-news",
        SENTENCES,
        reward=drafts,
        start="drafts",  # refine the draft that agrees most with the others
        budget=96,  # NFE a sentence, the drafts included
        alpha=0.01,
        temperature=0.5,
    )
    assert before.texts is not None and after.texts is not None
    for row, sentence in enumerate(SENTENCES):
        print(sentence)
        print(f"  before  {float(before.rewards[row]):.3f}  {before.texts[row]}")
        print(f"  after   {float(after.rewards[row]):.3f}  {after.texts[row]}\n")
    print(f"{after.sampler}: {after.asked.nfe:g} NFE a sentence, of which the drafts took")
    print(f"{drafts.cost().nfe:g}, and {after.asked.reward_calls:g} reward calls; {after.seconds:.1f} s for all")


if __name__ == "__main__":
    main()
