"""Keywords, offline: summaries that must hold given words, by a soft rule that counts and a hard one that forbids.

A hard rule alone says nothing until a text with all its words is met; a soft one says which text is nearer. So the
soft one steers here, and the hard one is asked at the end. What the language pays is printed beside it.
"""

from __future__ import annotations

from iterref import generate
from iterref.rewards import Lexical

ARTICLES = {  # with the words that a summary must have
    "A fire destroyed a warehouse near the harbour in Eastmere late on Monday, officials said.": ["fire", "monday"],
    "Heavy snow closed schools and several mountain roads in the valleys of Arrin on Friday.": ["schools", "valleys"],
    "The orchestra of Aldmere will play on the roof of the market hall on Saturday.": ["aldmere", "saturday"],
    "A lorry overturned on the motorway outside Fennbridge on Wednesday, causing long delays.": ["lorry", "delays"],
}


def main() -> None:
    """Prints how many keywords each method gets into its summaries, what they cost in likelihood, and the texts."""
    articles, words = list(ARTICLES), list(ARTICLES.values())
    options = {"reward": Lexical(required_column="keep", hard=False), "columns": {"keep": words}, "alpha": 0.05}
    methods = {"plain": "ancestral:order=confidence", "best of N": "best_of_n", "auto": "auto"}
    runs = {
        name: generate("tiny-news", articles, sampler=method, budget=96, log_likelihood=True, **options)
        for name, method in methods.items()
    }
    strict = Lexical(required_column="keep")
    for name, result in runs.items():
        assert result.texts is not None and result.log_likelihood is not None
        complete = sum(value == 0 for value in strict(result.texts, keep=words))
        likelihood = float(result.log_likelihood.mean())
        print(f"{name:10} {complete} of {len(articles)} summaries have all words, log-likelihood {likelihood:.1f}")
    for row, keep in enumerate(words):
        print(f"\nmust have {' and '.join(keep)}")
        for name, result in runs.items():
            print(f"  {name:10} {(result.texts or [])[row]}")


if __name__ == "__main__":
    main()
