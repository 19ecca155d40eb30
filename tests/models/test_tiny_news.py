"""Tests of the bundled summariser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from rapidfuzz.distance import LCSseq
from torch import Tensor

from iterref.models.tiny_news import WEIGHTS, Summarizer, SummaryDenoiser, normalise
from iterref.models.transformer import Transformer

PROMPTS = [
    "A bakery in the old town was closed on Monday after a fire in its kitchen, the mayor said.",
    "The museum will lend twelve paintings to galleries in the north while its roof is repaired this winter.",
    "Two hikers were found safe on Thursday after a night in the hills, police said.",
]


@pytest.fixture(scope="module")
def model() -> Summarizer:
    return Summarizer.load()


def greedy(denoiser: SummaryDenoiser, canvas: Tensor, free: Tensor) -> Tensor:
    """The most certain open token first, one a pass."""
    x_t, rows = canvas.clone(), torch.arange(len(canvas))
    for _ in range(canvas.shape[1]):
        log_p = denoiser(x_t, torch.ones(len(rows)), free, rows).view(*canvas.shape, -1)
        best, token = log_p.max(-1)
        cell = best.masked_fill(x_t != denoiser.noise.mask, -torch.inf).argmax(1)
        x_t[rows, cell] = token[rows, cell]
    return x_t


def copied_share(texts: list[str], prompts: list[str] = PROMPTS) -> float:
    """The share of the words of summaries that stand in their documents in the same order."""
    words = [text.split() for text in texts]
    kept = [LCSseq.similarity(normalise(p).split(), w) for p, w in zip(prompts, words, strict=True)]
    return sum(kept) / sum(map(len, words))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("The U.S. team won 14-6 on Friday.", "the u.s. team won ## - ## on friday ."),
        ("It didn't rise 5.5%, Mr. Hill said.", "it did n't rise ## % , mr. hill said ."),
        ('"We can\'t wait," she said in 2011.', "`` we ca n't wait , '' she said in ## ."),
        ("The players' bus (a 20-year-old van) cost $3,000!", "the players ' bus ( a ## van ) cost $ ## !"),
        (
            "Anna\u2019s shop sells \u201cred tea\u201d at 9pm; No. 4 is shut.",
            "anna 's shop sells `` red tea '' at ## ; no. ## is shut .",
        ),
        ("well-known  firms\tgrew", "well-known firms grew"),
        ("<unk> and <unk> <unk>, of <unk>", "<unk> and <unk> <unk> , of <unk>"),
    ],
)
def test_normalise_follows_the_training_text(raw: str, words: str) -> None:
    assert normalise(raw) == words
    assert normalise(words) == words


def test_special_tokens_cannot_be_typed(model: Summarizer) -> None:
    with pytest.raises(ValueError, match="text 0 holds '<', which its tokenizer does not know"):
        model.encode(["stop <eos> here"])
    with pytest.raises(ValueError, match="prompt 0 holds '<'"):
        model.prepare(["a <mask> here"])
    with pytest.raises(ValueError, match="text 0 holds '<unk>', which its tokenizer does not know"):
        model.encode(["<unk> said"])
    assert model.codec.ids(["<unk> said"], "prompt")[0][0] == 3  # the training text has such words


def test_text_survives_the_canvas(model: Summarizer) -> None:
    texts = ["the mayor of qwxzburg said ## ovens were sold .", ""]
    tokens = model.encode(texts)
    assert tokens.shape == (2, model.length)
    assert model.decode(tokens) == texts
    assert (tokens[1] == model.eos).all()


def test_prepare_gives_an_open_canvas(model: Summarizer) -> None:
    denoiser, canvas, free = model.prepare(PROMPTS)
    assert canvas.shape == free.shape == (3, model.length)
    assert (canvas == model.noise.mask).all() and free.all()
    assert denoiser.time_independent and denoiser.noise is model.noise
    assert model.noise.mask == model.network.options.mask


def test_answers_are_laws_and_keep_what_is_known(model: Summarizer) -> None:
    denoiser, canvas, free = model.prepare(PROMPTS)
    canvas[0, 3] = 77
    log_p = denoiser(canvas, torch.ones(3), free, torch.arange(3)).view(3, model.length, -1)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(3, model.length), atol=1e-4, rtol=0)
    assert (log_p[..., model.noise.mask] == -torch.inf).all()
    assert log_p[0, 3, 77] == 0 and log_p[0, 3].exp().sum() == 1
    assert log_p[0, 4, 77] != 0  # a masked neighbour is not known


def test_rows_stand_alone(model: Summarizer) -> None:
    """Whatever else is in the batch, padding and closed rows included, a row's answer is the same."""
    denoiser, canvas, free = model.prepare(PROMPTS)
    rows = torch.tensor([2, 0, 2, 1])
    x_t, where = canvas[rows].clone(), free[rows].clone()
    x_t[0, :4] = 50
    where[1] = False
    packed = denoiser(x_t, torch.rand(4), where, rows)
    assert len(packed) == 3 * model.length
    together = packed[: model.length]
    lonely, _, _ = model.prepare(PROMPTS[2:])
    alone = lonely(x_t[:1], torch.rand(1), where[:1], torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(together.exp(), alone.exp(), atol=1e-5, rtol=0)
    open_cells = ~together.isinf()
    torch.testing.assert_close(together[open_cells], alone[open_cells], atol=1e-3, rtol=1e-5)
    other = packed[model.length : 2 * model.length]  # the same prompt with another canvas differs
    assert not torch.allclose(together.exp(), other.exp(), atol=1e-2)


def test_nothing_open_is_no_work(model: Summarizer) -> None:
    denoiser, canvas, free = model.prepare(PROMPTS)
    assert denoiser(canvas, torch.ones(3), ~free, torch.arange(3)).shape == (0, model.noise.vocab)


def test_the_bundled_weights_summarise(model: Summarizer) -> None:
    denoiser, canvas, free = model.prepare(PROMPTS)
    texts = model.decode(greedy(denoiser, canvas, free))
    assert all(2 <= len(text.split()) <= 16 for text in texts), texts
    assert copied_share(texts) > 0.9


def test_weights_that_were_not_trained_do_not(model: Summarizer) -> None:
    torch.manual_seed(0)
    blank = Summarizer(
        Transformer(model.network.options), model.tokenizer, model.length, model.eos, model.source_length
    )
    assert copied_share(blank.decode(greedy(*blank.prepare(PROMPTS[:1]))), PROMPTS[:1]) < 0.5


def test_bad_prompts_are_named(model: Summarizer) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        model.prepare([])
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        model.prepare(["words", " \n"])
    with pytest.raises(ValueError, match="prompt 0 has"):
        model.prepare(["word " * 200])
    with pytest.raises(ValueError, match="text 1 takes"):
        model.encode(["word", "word " * 60])


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Summarizer.load(tmp_path)
    for name in ("tokenizer.json", "weights.safetensors"):
        shutil.copy(WEIGHTS / name, tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"format": "other"}), encoding="utf-8")
    with pytest.raises(ValueError, match="iterref-summarizer"):
        Summarizer.load(tmp_path)
