"""The summariser of abstracts and openings: what it learns from, and that its weights read and write longer texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

import iterref
from benchmarks.models.tiny_digest import HELD, REPEATS, WEIGHTS, config, mixture, openings, principal, sentences
from benchmarks.tasks.summarization import task

TEXT = "a red cat sat on a mat . dogs run . the red cat and a dog sat on one mat today . is it late ?"
ABSTRACT = "We train a small network . It reads a long text and writes what the text says . The text is long ."


def test_the_principal_sentence_agrees_most_with_the_others() -> None:
    assert sentences(TEXT)[1] == "dogs run ." and " ".join(sentences(TEXT)) == TEXT
    assert principal(TEXT) == "the red cat and a dog sat on one mat today ."
    assert principal("dogs run . cats sit .") == principal("one sentence of enough words stands alone .") == ""


def test_openings_are_two_or_three_sentences_with_the_first_ones_summary() -> None:
    pairs = [(f"sentence {n} .", f"summary {n}") for n in range(50)]
    found = list(openings(pairs, np.random.default_rng(0)))
    assert {len(sentences(document)) for document, _ in found[:-1]} == {2, 3}
    assert all(sentences(d)[0].split()[1] == s.split()[1] for d, s in found)
    used = [one for document, _ in found for one in sentences(document)]
    assert len(used) == len(set(used)) == 50


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    """Files of the data sets' form; no file of CNN/DailyMail is there, so none is read."""
    count = HELD + 5
    rows = {
        "scitldr.train": [{"document": f"{ABSTRACT} Case {'abcdefghij'[n % 10]} .", "summary": f"Text {n}."}
                          for n in range(count)],
        "sentcomp.train": [{"document": f"sentence {n} .", "summary": "sentence"} for n in range(9)],
        "plain.wikitext2.train": [{"text": TEXT * 3}, {"text": f"{TEXT * 3} <unk> ."}, {"text": TEXT}],
    }  # fmt: skip
    for name, lines in rows.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
    pairs, held = mixture(tmp_path, 0)
    assert len(held) == HELD and held[0][0].startswith("we train a small network . it reads")
    papers, rest = pairs[: 5 * REPEATS], pairs[5 * REPEATS :]
    assert papers == papers[:5] * REPEATS
    assert rest[:5] == [(document, principal(document)) for document, _ in papers[:5]]
    assert sum("red cat" in document for document, _ in rest) == 1
    run = config(tmp_path, tmp_path / "work", 8, 0)
    assert run.init == "tiny-news" and len(Path(run.train[0]).read_text().splitlines()) == len(pairs)


def test_the_weights_read_an_abstract_and_write_more_than_a_news_line() -> None:
    model = iterref.load(WEIGHTS)
    assert model.length == 64 and (WEIGHTS / "weights.safetensors").stat().st_size <= 16e6
    result = iterref.generate(model, [ABSTRACT * 12], sampler="ancestral:steps=16,order=confidence")
    assert result.texts is not None and set(result.texts[0].split()) & set(ABSTRACT.lower().split())


def test_documents_with_characters_that_the_model_lacks_are_read_on_request(tmp_path: Path) -> None:
    data = tmp_path / "odd.jsonl"
    data.write_text(json.dumps({"document": "the rate ж is low .", "summary": ["low rate", "it is low"]}) + "\n")
    of = task(data=data, lossy=True)
    assert of.records.references == (("low rate", "it is low"),)
    assert of.model.prepare(list(of.records.documents))[1].shape == (1, of.model.length)


def test_a_longer_canvas_has_more_steps() -> None:
    short, long = task(), task(model=WEIGHTS)
    assert (short.plain("length"), short.drafts.steps) == (16, 8)
    assert (long.plain("length"), long.drafts.steps) == (32, 16)
