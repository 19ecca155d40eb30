"""Constraints on the command line: expressions, schemas, grammars and choices."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.commands import call, refused

pytest.importorskip("outlines_core")
RUN = ("--model", "tiny-books", "--reward", "length:6", "--sampler", "ancestral:steps=2")
SCHEMA = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'


def test_texts_match_an_expression():
    result = call("generate", "--count", "2", "--regex", r"The (cat|dog) [a-z]+\.", *RUN)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and all(re.fullmatch(r"The (cat|dog) [a-z]+\.", line) for line in lines)


@pytest.mark.parametrize("as_file", [True, False])
def test_texts_are_of_a_schema(tmp_path, as_file):
    (tmp_path / "schema.json").write_text(SCHEMA)
    named = str(tmp_path / "schema.json") if as_file else SCHEMA
    result = call("generate", "--count", "2", "--json-schema", named, *RUN)
    assert all(list(json.loads(line)) == ["ok"] for line in result.stdout.splitlines())


def test_texts_are_of_a_grammar(tmp_path):
    (tmp_path / "rules").write_text('start: "the " noun (" and " start)?\nnoun: "cat" | "dog"\n')
    result = call("generate", "--count", "2", "--grammar", str(tmp_path / "rules"), *RUN)
    assert all(re.fullmatch("(the (cat|dog))( and the (cat|dog))*", line) for line in result.stdout.splitlines())


def test_lines_of_a_text_that_one_line_cannot_hold_are_told():
    two = ("generate", "--count", "1", "--regex", r"The cat\.\nThe dog\.", *RUN)
    plain, kept = call(*two), call(*two, "--json")
    assert plain.stdout == "The cat. The dog.\n" and "--json keeps their lines" in plain.stderr
    assert json.loads(kept.stdout)["text"] == "The cat.\nThe dog." and kept.stderr == ""


def test_choices_have_log_probabilities():
    result = call("infill", "--choices", "great,small", "--json", *RUN, text="The film was [good] to see.\n")
    line = json.loads(result.stdout)
    assert set(line["slots"][0]) == {"great", "small"} and re.search("was (great|small) to", line["text"])
    again = call("refine", "--json", "--budget", "16", *RUN[:4], text=json.dumps(line))  # and are gone in another run
    assert "slots" not in json.loads(again.stdout)


def test_what_makes_no_sense_is_one_sentence(tmp_path):
    both = ("--regex", "a", "--json-schema", SCHEMA)
    refused(call("generate", "--count", "1", *both, *RUN), "--regex and --json-schema all say what texts are")
    refused(call("generate", "--count", "1", "--json-schema", "no.json", *RUN), "no.json cannot be read")
    refused(call("generate", "--count", "1", "--regex", "([", *RUN), "cannot be compiled")
    refused(call("generate", "--count", "1", "--regex", "x{500}", *RUN), "no text of the constraint fits")
