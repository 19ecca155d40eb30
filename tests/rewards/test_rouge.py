"""ROUGE: equal to the `rouge-score` package to 1e-12, on hand-written and generated texts; consensus is its mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from iterref.rewards.consensus import Consensus
from iterref.rewards.rouge import Rouge, Targets, Tokenizer, report_rouge, report_rouge_rows, union_hits

KINDS = ("rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum")
HAND_WRITTEN = [
    "",
    " ",
    "...",
    "\n",
    "\n\n.\n",
    "a",
    "A a a A",
    "The dog ran.",
    "the dog's ball, 1,234 times; the dog",
    "Police said on Tuesday that a man was arrested.",
    "A man was arrested, police said on Tuesday.\nHe was running and ran, runs, runner.",
    "one two three\nthree two one\none two three",
    "three two one\n\none two three two one",
    "\u0130stanbul caf\u00e9 \u212aelvin na\u00efve \u4f60\u597d 42",
    "tab\tand\u00a0hard\u2003spaces",
]
# few words and many repeats, so that overlaps, ties and double counts are common
texts = st.lists(
    st.sampled_from(["a", "b", "c", "Running", "runs", "dogs", "the", ".", "\n", "\u00e9"]), max_size=14
).map(" ".join)


def packaged(kind: str, prediction: str, reference: str, stem: bool = False) -> list[float]:
    score = RougeScorer([kind], use_stemmer=stem).score(reference, prediction)[kind]
    return [score.precision, score.recall, score.fmeasure]


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_hand_written_texts_score_as_in_the_package(kind: str, stem: bool) -> None:
    ours = Targets(HAND_WRITTEN, kind, Tokenizer(stem)).score(HAND_WRITTEN)
    for i, prediction in enumerate(HAND_WRITTEN):
        for j, reference in enumerate(HAND_WRITTEN):
            np.testing.assert_allclose(ours[i, j], packaged(kind, prediction, reference, stem), atol=1e-12, rtol=0)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(texts, min_size=1, max_size=3),
    st.lists(texts, min_size=1, max_size=3),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_generated_texts_score_as_in_the_package(
    predictions: list[str], references: list[str], kind: str, stem: bool
) -> None:
    ours = Targets(references, kind, Tokenizer(stem)).score(predictions)
    theirs = [[packaged(kind, prediction, reference, stem) for reference in references] for prediction in predictions]
    np.testing.assert_allclose(ours, theirs, atol=1e-12, rtol=0)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40) | texts)
def test_tokens_are_the_packages(text: str) -> None:
    assert Tokenizer()(text) == tokenize(text, None)


def test_known_numbers_by_hand() -> None:
    # Lin 2004, section 3.1: the reference against two candidates that share three words, 3 and 2 of them in order
    def scores(kind: str, candidate: str, reference: str) -> list[float]:
        return Targets([reference], kind, Tokenizer()).score([candidate])[0, 0].tolist()

    reference = "police killed the gunman"
    assert scores("rougeL", "police kill the gunman", reference) == [0.75] * 3
    assert scores("rougeL", "the gunman kill police", reference) == [0.5] * 3
    assert scores("rouge1", "a a a b", "a a c") == pytest.approx([2 / 4, 2 / 3, 4 / 7])
    assert scores("rougeL", "", "a") == scores("rouge2", "a", "a") == [0.0] * 3


def test_subsequence_without_double_count_guard_would_differ() -> None:
    # two reference lines meet the same candidate word: without the guard the word would count twice
    assert union_hits([["a"], ["a"]], [["a", "b"]]) == 1


def test_the_order_of_words_matters_to_rouge_l_alone() -> None:
    straight, turned = "a b c d", "d c b a"
    assert Rouge("rougeL")([turned], reference=[straight]) == [0.25]
    assert Rouge("rouge1")([turned], reference=[straight]) == [1.0]


@pytest.mark.parametrize("measure", ["precision", "recall", "f"])
@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_many_references_keep_the_one_of_best_f(kind: str, measure: str) -> None:
    references = ["a b c d e f", "a b", "c d e"]
    predictions = ["a b c", "c d", "x y", ""]
    scorer = RougeScorer([kind])
    theirs = [scorer.score_multi(references, prediction)[kind] for prediction in predictions]
    field = "fmeasure" if measure == "f" else measure
    ours = Rouge(kind, measure)(predictions, reference=[references] * 4)
    assert ours == pytest.approx([getattr(score, field) for score in theirs], abs=1e-12)


def test_bound_references_agree_with_the_column() -> None:
    rouge = Rouge("rougeL", references="summary")
    references: list[str | Sequence[str]] = ["a b c", ["d e", "a"], "a b c"]
    completions, rows = ["a c", "d", "b c x", "a", "c b a"], [0, 1, 2, 1, 0]
    column = [references[row] for row in rows]
    expected = rouge(completions, summary=column, unused=[1] * 5)
    assert rouge.against(references)(completions, rows) == expected
    assert expected == pytest.approx([0.8, 2 / 3, 2 / 3, 1.0, 1 / 3])


def test_a_reference_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    original = Targets.__init__

    def counting(self: Targets, *arguments: object) -> None:
        built.append(1)
        original(self, *arguments)

    monkeypatch.setattr(Targets, "__init__", counting)
    rouge = Rouge()
    for _ in range(3):
        rouge(["a", "b", "c"], reference=["x", "y", "x"])
    assert len(built) == 2


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no ROUGE called 'rouge0'"):
        Rouge("rouge0")
    with pytest.raises(ValueError, match="no measure called 'f1'"):
        Rouge("rouge1", "f1")
    with pytest.raises(ValueError, match="needs the column 'reference'"):
        Rouge()(["a"], summary=["a"])
    with pytest.raises(ValueError, match="row 1 has an empty list of references"):
        Rouge().against(["a", []])
    with pytest.raises(ValueError, match="row 0 has the reference {'a': 1}, which is no text"):
        Rouge()(["a"], reference=[{"a": 1}])
    with pytest.raises(ValueError, match="has 2 entries for 1 completions"):
        Rouge()(["a"], reference=["a", "b"])
    with pytest.raises(ValueError, match="row 3 has no reference"):
        Rouge().against(["a"])(["a"], [3])


def test_no_completions_no_numbers() -> None:
    assert Rouge()([], reference=[]) == []
    assert Consensus([["a"]])([], []) == []


def test_report_is_the_package() -> None:
    predictions, references = ["a b c", "the runner"], ["a c", ["the run", "a"]]
    rows = report_rouge_rows(predictions, references)
    assert set(rows) == {"rouge1", "rouge2", "rougeL"}
    np.testing.assert_allclose(rows["rougeL"], [0.8, 0.5])
    assert report_rouge(predictions, references) == {kind: float(rows[kind].mean()) for kind in rows}
    np.testing.assert_allclose(report_rouge_rows(["the running"], ["the run"], stem=True)["rouge1"], [1.0])
    with pytest.raises(ValueError, match="no predictions"):
        report_rouge([], [])
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        report_rouge_rows(["a"], ["a", "b"])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(texts, min_size=1, max_size=6),
    st.lists(texts, min_size=1, max_size=4),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_consensus_is_the_mean_over_the_pool(pool: list[str], candidates: list[str], kind: str, stem: bool) -> None:
    assume(any(map(Tokenizer(), pool)))
    ours = Consensus([["unused"], pool], kind, stem=stem, tokenizer="words")(candidates, [1] * len(candidates))
    theirs = [np.mean([packaged(kind, candidate, draft, stem)[2] for draft in pool]) for candidate in candidates]
    np.testing.assert_allclose(ours, theirs, atol=1e-12, rtol=0)


def test_copies_of_a_draft_weigh_by_their_number() -> None:
    assert Consensus([["a b", "A b.", "c", "d"]])(["a b"], [0]) == [0.5]
    assert Consensus([["a b", "c", "d"]])(["a b"], [0]) == pytest.approx([1 / 3])  # what dropping the counts would give


def test_consensus_belongs_to_rows_and_ignores_neighbours() -> None:
    rng = np.random.default_rng(0)
    pools = [[" ".join(rng.choice(list("abcdefgh"), 9)) for _ in range(16)] for _ in range(4)]
    completions = [" ".join(rng.choice(list("abcdefgh"), 7)) for _ in range(40)]
    rows = rng.integers(0, 4, 40).tolist()
    together = Consensus(pools)(completions, rows)
    alone = [Consensus(pools)([text], [row])[0] for text, row in zip(completions, rows, strict=True)]
    assert together == alone  # to the last bit
    assert Consensus(pools)(completions, [(row + 1) % 4 for row in rows]) != together


def test_consensus_remembers_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = Consensus([["a b"], ["b c"]])
    first = reward(["a", "b", "a", "a"], [0, 1, 0, 1])
    monkeypatch.setattr(Targets, "score", lambda *_: pytest.fail("asked again"))
    assert reward(["a", "a", "b"], [1, 0, 1]) == [first[3], first[0], first[1]]


def test_consensus_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="row 1 has an empty pool"):
        Consensus([["a"], []])
    with pytest.raises(ValueError, match="row -1 has no pool"):
        Consensus([["a"]])(["a"], [-1])
