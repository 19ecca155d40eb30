"""Lengths: counted up to the first end, and answers of at least so many tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import iterref
from iterref.check import check
from iterref.cli import main
from iterref.lengths import NoEarlyEnd, at_least, ends_of, lengths_of
from tests.support import llada, published
from tests.support.decoders import laws

LENGTH, FEWEST = 8, 5
PROMPTS = ["the cat", "a dog saw the man"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("llada")
    llada.checkpoint(made)
    return made


def words(completions: list[str], **columns: object) -> list[float]:
    return [-len(text.split()) / 10 for text in completions]  # short answers are better


def test_answers_have_at_least_so_many_tokens(folder: Path) -> None:
    model = iterref.load(folder, length=LENGTH, chat=False)
    told = {"reward": words, "budget": 8, "alpha": 0.05, "num_return_sequences": 4}
    for method in ("iterref", "ancestral", "auto"):
        free = iterref.generate(model, PROMPTS, sampler=method, **told)
        result = iterref.generate(model, PROMPTS, sampler=method, min_new_tokens=FEWEST, **told)
        assert free.lengths is not None and result.lengths is not None
        assert int(free.lengths.min()) < FEWEST <= int(result.lengths.min()), method  # a control beside it
        ends = ends_of(model)
        for row, tokens in enumerate(result.tokens.tolist()):
            first = next((at for at, token in enumerate(tokens) if token in ends.tolist()), LENGTH)
            assert first == int(result.lengths[row])
    result.to_jsonl(folder / "lines.jsonl")
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    assert [line["length"] for line in lines] == result.lengths.tolist()


def test_only_ends_at_early_positions_are_ruled_out(folder: Path) -> None:
    """What is left keeps its proportions, and later positions their distribution."""
    model = iterref.load(folder, length=LENGTH, chat=False)
    denoiser, canvas, free = model.prepare(PROMPTS)
    found, ends = laws(denoiser, canvas), ends_of(model)
    held = at_least(denoiser, free, model, FEWEST)
    kept = laws(held, canvas)
    assert torch.equal(kept[:, FEWEST:], found[:, FEWEST:]) and bool((kept[:, :FEWEST][..., ends] == 0).all())
    wanted = found[:, :FEWEST].index_fill(-1, ends, 0.0)
    assert kept[:, :FEWEST].sub(wanted / wanted.sum(-1, keepdim=True)).abs().max() < 1e-6
    time, rows = torch.full((2,), 0.5).double(), torch.arange(2)
    probabilities = held.probabilities(canvas, time, free, rows).view(kept.shape)
    assert probabilities.sub(kept).abs().max() < 1e-6
    assert all(one.passed is not False for one in check(held, canvas.masked_fill(free, 0)))


def test_positions_are_counted_behind_each_prompt(tmp_path: Path) -> None:
    """A model of prefixes: the answer begins where the prompt ends, and equal states of two prompts differ."""
    vocab = published.tokenizer(tmp_path, [published.END, published.PAD]) + 1
    published.write(tmp_path, published.flat_config("mdlm", vocab, filler=True), published.weights(vocab))
    model = iterref.load(tmp_path)
    denoiser, canvas, free = model.prepare(["the", "the cat saw"])
    held = at_least(denoiser, free, model, 3)
    assert isinstance(held, NoEarlyEnd) and held.uses_prompts and not denoiser.uses_prompts
    assert held.early.sum(1).tolist() == [3, 3] and bool((held.early <= free).all())
    result = iterref.generate(
        model, ["the", "the cat saw"], reward="length:1", sampler="ancestral", min_new_tokens=3,
        num_return_sequences=16,
    )  # fmt: skip
    assert result.lengths is not None and int(result.lengths.min()) >= 3
    assert lengths_of(canvas, free, torch.tensor([])).tolist() == free.sum(1).tolist()


def test_what_cannot_be_is_said_first(folder: Path, tmp_path: Path) -> None:
    model = iterref.load(folder, length=LENGTH, chat=False)
    for few, message in (
        (LENGTH + 1, "prompt 0 has 8 positions for its answer and min_new_tokens=9: ask for fewer, or for more posi"),
        (-1, "min_new_tokens=-1 is less than none"),
    ):
        with pytest.raises(ValueError, match=message):
            iterref.generate(model, PROMPTS, reward=words, min_new_tokens=few)
    with pytest.raises(TypeError, match="min_new_tokens"):
        iterref.generate(model, PROMPTS, reward=words, min_new_tokens=2.5)  # type: ignore[arg-type]


def test_a_constraint_without_texts_so_long_is_refused(folder: Path) -> None:
    """The control: of a constraint that has them, the texts are of both."""
    model = iterref.load(folder, length=LENGTH, chat=False)
    told = {"reward": words, "budget": 8, "sampler": "ancestral", "min_new_tokens": FEWEST}
    for allowed in ("the cat", ["the( cat)*", "a dog"]):
        with pytest.raises(ValueError, match=r"prompt [01]: no text of the constraint has min_new_tokens=5 tokens"):
            iterref.generate(model, PROMPTS, constraint=allowed, **told)
    result = iterref.generate(model, PROMPTS, constraint="the( cat)*", **told)
    assert result.lengths is not None and int(result.lengths.min()) >= FEWEST
    assert all(re.fullmatch("the( cat)*", text) for text in result.texts or [""])


def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS * 4) + "\n")
    told = [str(tmp_path / "prompts.txt"), "--model", str(folder), "--reward", "length:1", "--sampler", "ancestral"]
    found = {}
    for fewest in ("0", "12"):
        more = ["--json", "--max-new-tokens", "12", "--min-new-tokens", fewest]
        done = CliRunner().invoke(main, ["generate", *told, *more])
        assert done.exit_code == 0, done.output
        model = iterref.load(folder, length=12)
        tokens = torch.tensor([json.loads(line)["tokens"] for line in done.stdout.splitlines()])
        found[fewest] = lengths_of(tokens, torch.ones_like(tokens, dtype=torch.bool), ends_of(model))
    assert int(found["0"].min()) < 12 and found["12"].tolist() == [12] * 8
