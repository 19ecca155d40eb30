"""Constraints of small checkpoints of every family, and of tokenizers of four kinds."""

from __future__ import annotations

import re

import pytest
import torch

import iterref
from iterref.constraint import Regex
from iterref.constraint.canvas import Reading
from iterref.constraint.texts import of_texts
from iterref.random import Rng
from tests.support import families
from tests.support.tokenizers import KINDS, codec, knowing_nothing

pytest.importorskip("outlines_core")


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_writes_texts_of_the_language(family, tmp_path):
    model = iterref.load(str(families.folder(tmp_path, family)), length=6)
    language = "the( (cat|dog|saw|a))+"
    options = {"reward": families.length, "alpha": 0.5, "sampler": "iterref:steps=2,moves=2"}
    result = iterref.generate(model, families.PROMPTS, constraint=language, **options)
    assert all(re.fullmatch(language, text) for text in result.texts or [])


@pytest.mark.parametrize("kind", KINDS)
def test_draws_and_modes_decode_to_texts_of_the_language(kind, tmp_path):
    """Whatever the decoder does at a text's beginning and between its tokens."""
    model, language = knowing_nothing(codec(tmp_path, kind), length=14), "(the (cat|dog)( sat on|,)? )?a[a-z ]*"
    denoiser, canvas, free = model.prepare(["", ""])
    constraint = of_texts(Regex(language), model, canvas)
    p = denoiser(canvas, torch.ones(2), free, torch.arange(2))
    reading = Reading(constraint, p, canvas, free, True)
    drawn = canvas.expand(60, *canvas.shape).clone()
    drawn[:, free] = reading.draw(Rng.seeded(0, 2), 60)[0]
    texts = model.decode(drawn.flatten(0, 1))
    assert all(re.fullmatch(language, text) for text in texts) and len(set(texts)) > 20
    mode = canvas.clone()
    mode[free] = reading.modes()
    assert all(re.fullmatch(language, text) for text in model.decode(mode))
