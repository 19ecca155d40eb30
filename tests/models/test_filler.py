"""What fills a canvas up behind a text, in the families whose prompts begin the canvas: hidden unless trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import iterref
from iterref.loading import load
from tests.support.published import END, MASK, PAD, SEP, flat_config, sedd_config, tokenizer, weights, write

TEXT = "the cat saw a dog"
BLOCKS = {"mdlm": "absorbing", "sedd": "absorbing", "DUO": "uniform", "udlm": "uniform"}


def model_of(folder: Path, family: str, specials: list[str], length: int, **more: Any) -> Any:
    size = tokenizer(folder, specials)
    room = 0 if BLOCKS[family] == "uniform" or MASK in specials else 1
    config = sedd_config(size) if family == "sedd" else flat_config(family, size + room, **more)
    return load(write(folder, config, weights(size + room)), length=length)


def law(model: Any) -> torch.Tensor:
    """What a model says of two words of a text, (2, V)."""
    x_t = model.encode([TEXT])
    where = torch.zeros_like(x_t, dtype=torch.bool)
    where[0, [2, 4]] = True
    if model.noise.mask is not None:
        x_t[where] = model.noise.mask
    times = torch.full((1,), 0.5, dtype=torch.float64)
    found: torch.Tensor = model.denoiser(x_t, times, where, torch.zeros(1, dtype=torch.long)).exp()
    return found


@pytest.mark.parametrize("family", BLOCKS)
def test_a_text_reads_the_same_in_canvases_of_any_length(tmp_path: Path, family: str) -> None:
    """Training cut texts into blocks: what stands behind the end of one is no part of it."""
    own = law(model_of(tmp_path, family, [END], 7))
    for length in (8, 9, 16, 40):
        longer = model_of(tmp_path, family, [END], length)
        assert longer.encode([TEXT]).shape[1] == length
        assert law(longer).sub(own).abs().max() < 1e-5
    longer.denoiser.network.filler = None  # the control: all of it in sight
    assert law(longer).sub(own).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("family", "specials", "more"),
    [("udlm", [SEP, PAD, MASK], {}), ("mdlm", [SEP, PAD, MASK], {}), ("mdlm", [END], {"filler": True})],
)
def test_filler_that_was_trained_on_is_seen(tmp_path: Path, family: str, specials: list[str], more: Any) -> None:
    model = model_of(tmp_path, family, specials, 16, **more)
    assert model.denoiser.network.filler is None
    assert law(model).sub(law(model_of(tmp_path, family, specials, 9, **more))).abs().max() > 1e-4


def test_the_bundled_model_was_trained_on_it() -> None:
    assert iterref.load("tiny-books").denoiser.network.filler is None


def test_rows_of_different_lengths_are_each_their_own(tmp_path: Path) -> None:
    model = model_of(tmp_path, "mdlm", [END], 16)
    texts = [TEXT, "the cat", "a man and a dog saw the cat ran home"]
    x_t = model.encode(texts)
    x_t[:, 2] = model.noise.mask
    where, rows = x_t == model.noise.mask, torch.zeros(3, dtype=torch.long)
    both = model.denoiser(x_t, torch.full((3,), 0.5), where, rows).exp()
    for row in range(3):
        one = slice(row, row + 1)
        alone = model.denoiser(x_t[one], torch.full((1,), 0.5), where[one], rows[one]).exp()
        assert alone.sub(both[one]).abs().max() < 1e-5
