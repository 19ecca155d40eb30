"""Steering by networks, offline: news sentences, summarised as they come and as good news.

The reward is the bundled classifier's log-probability of a label, less the words that the sentence does not have. A
judge that learned from other labels says whether the steering reaches further than the classifier's own errors, and the
model's own log-likelihood what it does to the language.
"""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from iterref import Budget, generate
from iterref.rewards import Classifier

SENTENCES = [
    "A happy couple was married in the ugly hall of a school in Ashby.",
    "A beautiful island will be ruined by an ugly airport, residents said on Friday.",
    "A wonderful party was held in the dull office of the mayor on Friday.",
]


def own_words(completions: list[str], prompts: list[str], **columns: object) -> list[float]:
    """Minus the words of a summary that its sentence does not have, in its order."""
    rewards = []
    for text, prompt in zip(completions, prompts, strict=True):
        words, known = text.rstrip(" .").split(), prompt.lower().replace(",", "").rstrip(".").split()
        rewards.append(float(LCSseq.similarity(words, known) - len(words)))
    return rewards


def main() -> None:
    """Prints every sentence with its summaries, and what judge and model say of them."""
    judge = Classifier("sentiment-judge", "positive", value="probability")
    good = Classifier("sentiment", "positive") + own_words
    options = {"reward": good, "budget": Budget(nfe=128, reward_calls=1024), "alpha": 0.1, "log_likelihood": True}
    results = {
        name: generate("tiny-news", SENTENCES, sampler=method, **options)
        for name, method in {"as it comes": "ancestral:order=confidence", "good news": "auto"}.items()
    }
    for row, sentence in enumerate(SENTENCES):
        print(sentence)
        for name, result in results.items():
            assert result.texts is not None and result.log_likelihood is not None
            text = result.texts[row]
            print(f"  {name:12} judged {judge([text])[0]:.2f}, log p {float(result.log_likelihood[row]):5.1f}  {text}")
    print("(judged: how good the news is, from 0 to 1, by a network that no method sees)")


if __name__ == "__main__":
    main()
