"""Weights of 8 and 4 bits: made at load, or so in the checkpoint; what they keep of a network, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import iterref
from iterref.estimation import estimate
from iterref.hub import quiet
from iterref.loading import load
from iterref.models.quantized import GROUP
from tests.support import masked, published
from tests.support.decoders import laws

pytest.importorskip("torchao", reason="needs torchao: pip install 'iterref[quantized]'")
WIDTH, LENGTH = 2 * GROUP, 6
SIZES = {**masked.SIZES, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "initializer_range": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("bert")
    masked.write_tokenizer(made)
    masked.write_model(made, "BertForMaskedLM", **SIZES)
    return made


def answers(model: Any) -> Tensor:
    denoiser, canvas, _ = model.prepare(["the cat", "a dog saw the man"])
    return laws(denoiser, canvas)


def held(model: Any) -> int:
    """The bytes of a model's weights, as `iterref.estimate` counts them."""
    return estimate(model, ["the cat"], reward="length:2", sampler="ancestral:steps=2").weights


def test_fewer_bits_are_nearly_the_same_distribution_in_less_memory(folder: Path) -> None:
    whole = load(folder, length=LENGTH)
    found = {name: load(folder, length=LENGTH, quantize=name) for name in ("int8", "int4")}
    far = {name: float(answers(one).sub(answers(whole)).abs().sum(-1).mean() / 2) for name, one in found.items()}
    assert 0 < far["int8"] < 0.02 and far["int8"] < far["int4"] < 0.2, far
    assert held(found["int4"]) < held(found["int8"]) < 0.5 * held(whole)
    network: Any = found["int8"]
    inside = network._network.model
    assert type(inside.cls.predictions.decoder.weight.data) is Tensor  # the head stays as it is
    apart = answers(network)
    for row, prompt in enumerate(["the cat", "a dog saw the man"]):
        denoiser, canvas, _ = network.prepare([prompt])
        assert laws(denoiser, canvas)[0].sub(apart[row]).abs().max() < 1e-5  # batch equals single
    result = iterref.generate(found["int4"], ["the cat"], reward="length:2", budget=8)
    assert result.texts is not None and len(result.texts) == 1
