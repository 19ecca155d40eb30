"""`iterref.log_likelihood`: of given texts, what a run says of its own."""

import pytest
import torch

import iterref
from iterref.demo import sentences

DOCUMENTS = [row["document"] for row in sentences()[:4]]


@pytest.fixture(scope="module")
def model():
    return iterref.load("tiny-news")


def nothing(completions, **_):
    return [0.0] * len(completions)


@pytest.fixture(scope="module")
def plain(model):
    sampler = "ancestral:order=confidence"
    return iterref.generate(model, DOCUMENTS, reward=nothing, sampler=sampler, budget=16, log_likelihood=True)


def test_a_run_s_texts_get_its_own_log_likelihood(model, plain):
    found = iterref.log_likelihood(model, plain.texts, prompts=DOCUMENTS)
    assert found.dtype == torch.float64 and torch.equal(found, plain.log_likelihood)


def test_written_texts_and_those_without_their_tokens(model, plain):
    written = ["".join(text) for text in plain.texts]
    found = iterref.log_likelihood(model, written, prompts=DOCUMENTS)
    assert torch.allclose(found, plain.log_likelihood, atol=0.5)  # another split into pieces at the most


def test_the_text_of_another_document_and_a_broken_one_are_less_likely(model, plain):
    own = iterref.log_likelihood(model, plain.texts, prompts=DOCUMENTS)
    assert bool((iterref.log_likelihood(model, plain.texts, prompts=DOCUMENTS[::-1]) < own - 5).all())
    turned = [" ".join(text.split()[::-1]) for text in plain.texts]
    assert bool((iterref.log_likelihood(model, turned, prompts=DOCUMENTS) < own - 5).all())


def test_neither_the_batch_nor_its_parts_matter(model, plain):
    own = iterref.log_likelihood(model, plain.texts, prompts=DOCUMENTS, max_rows=1)
    alone = iterref.log_likelihood(model, plain.texts[2:3], prompts=DOCUMENTS[2:3])
    assert torch.equal(alone[0], own[2])


@pytest.mark.parametrize(
    ("texts", "given", "error", "told"),
    [
        (["a ."], {"prompts": DOCUMENTS}, ValueError, "there are 1 texts for 4 prompts"),
        ([None], {"prompts": DOCUMENTS[:1]}, TypeError, "text 0"),
        (["word " * 40], {"prompts": DOCUMENTS[:1]}, ValueError, "text 0 takes .* positions"),
        (["a ."], {"prompts": DOCUMENTS[:1], "evaluations": 0}, ValueError, "at least 1 evaluation"),
        (["a ."], {"prompts": DOCUMENTS[:1], "evaluations": "many"}, TypeError, "evaluations"),
        ("a .", {"prompts": DOCUMENTS[:1]}, TypeError, "list"),
    ],
)
def test_what_is_refused(model, texts, given, error, told):
    with pytest.raises(error, match=told):
        iterref.log_likelihood(model, texts, **given)
