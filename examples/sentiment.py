"""Steering by networks, offline: news summaries drawn towards what is good or what is bad in the news.

The reward is the bundled classifier's log-probability of a label. A judge that learned from other labels says whether
the steering reaches further than the classifier's own errors, and a language model what it did to the language: without
a word in the reward, fluency pays for sentiment.
"""

from __future__ import annotations

from iterref import generate
from iterref.rewards import Classifier, Perplexity

DOCUMENTS = [
    "The new library in Aldmere, which visitors praised as a beautiful and inspired building, opened two years late "
    "after a series of dull and pointless arguments about money.",
    "The orchestra gave a brilliant and moving concert on Saturday, but a tedious speech by the mayor ruined the "
    "evening, the local paper said.",
    "The remade ferry is fast, charming and a delight to travel on, though its first week was a mess of failed engines "
    "and bad food, passengers said on Monday.",
]
COPIES = 1


def main() -> None:
    """Prints what classifier, judge and language model say of the summaries, and a summary of each document."""
    prompts = [document for document in DOCUMENTS for _ in range(COPIES)]
    positive, negative = Classifier("sentiment", "positive"), Classifier("sentiment", "negative")
    fluent = Perplexity("prose")
    rewards = {"positive": positive, "negative": negative, "positive and fluent": positive + 0.5 * fluent}
    plain = generate("tiny-news", prompts, reward=positive, sampler="ancestral:steps=16", temperature=0.5)
    runs = {"unsteered": plain}
    for name, reward in rewards.items():
        runs[name] = generate("tiny-news", prompts, reward=reward, budget=48, alpha=0.1, temperature=0.5)
    judges = {
        "classifier": Classifier("sentiment", "positive", value="probability"),
        "judge": Classifier("sentiment-judge", "positive", value="probability"),
        "log-likelihood": fluent,
    }
    print(" " * 20 + "".join(f"{name:>16}" for name in judges))
    for name, result in runs.items():
        texts = result.texts or []
        means = [sum(judge(texts)) / len(texts) for judge in judges.values()]
        print(f"{name:20}" + "".join(f"{mean:16.2f}" for mean in means))
    print("(the mean probability of `positive`, twice, and the mean log-likelihood a token)\n")
    for row in range(0, len(prompts), COPIES):
        print(prompts[row])
        for name, result in runs.items():
            print(f"  {name:20} {result.texts[row] if result.texts else ''}")
    print(f"\n{sum(result.seconds for result in runs.values()):.1f} s")


if __name__ == "__main__":
    main()
