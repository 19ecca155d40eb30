"""Weights of 8 and 4 bits: made at load, or so in the checkpoint; what they keep of a network, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
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


def write_quantized(whole: Path, folder: Path) -> Any:
    """The same checkpoint as `transformers` writes it with int8 weights; its network."""
    from torchao.quantization import Int8WeightOnlyConfig

    with quiet():
        made = transformers.BertForMaskedLM.from_pretrained(
            whole, quantization_config=transformers.TorchAoConfig(Int8WeightOnlyConfig()), device_map="cpu"
        )
        made.save_pretrained(folder)
    masked.write_tokenizer(folder)
    return made


def test_what_a_checkpoint_says_of_itself_is_read(folder: Path, tmp_path: Path) -> None:
    made = write_quantized(folder, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "torchao"
    model: Any = load(tmp_path, length=LENGTH)
    network = model._network.model
    weight = network.bert.encoder.layer[0].attention.self.query.weight
    assert type(weight.data) is type(made.bert.encoder.layer[0].attention.self.query.weight.data) is not Tensor
    assert answers(model).sub(answers(load(folder, length=LENGTH, quantize="int8"))).abs().max() < 1e-5
    with pytest.raises(ValueError, match="are quantised already, by torchao: get the whole ones for an adapter or an"):
        load(tmp_path, quantize="int4")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"quant_method": "gptq"}, "are quantised by 'gptq', and this library reads those of torchao and bitsandbytes"),
        ({"quant_method": "bitsandbytes"}, "holds weights of bitsandbytes, which is not installed: pip install bitsa"),
        ({}, "are quantised by 'None'"),
    ],
)
def test_other_schemes_are_refused_by_name(folder: Path, tmp_path: Path, written: Any, message: str) -> None:
    made = masked.checkpoint(tmp_path)
    config = made.config.to_dict() | {"quantization_config": {"bits": 4, **written}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\\n]*$"):
        load(tmp_path)


def test_what_has_no_place_for_it_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown quantize='int3': choose one of int8, int4"):
        load(folder, quantize="int3")
    with pytest.raises(ValueError, match="takes neither an adapter nor quantize=: leave them out"):
        load("tiny-news", quantize="int8")
    with pytest.raises(ValueError, match="quantize= makes weights on one device: say device= in place of device_map="):
        load(folder, quantize="int8", device_map={"": "cpu"})
    masked.checkpoint(tmp_path / "small")
    with pytest.raises(ValueError, match="has no matrix that could be int4, in groups of 32: leave quantize out"):
        load(tmp_path / "small", quantize="int4")
    vocab = published.tokenizer(tmp_path / "mdlm", [published.END, published.PAD]) + 1
    config = published.flat_config("mdlm", vocab, quantization_config={"quant_method": "torchao"})
    published.write(tmp_path / "mdlm", config, published.weights(vocab))
    with pytest.raises(ValueError, match="quantised by torchao, and this family puts them into a form of its own: ge"):
        load(tmp_path / "mdlm")
    monkeypatch.setattr("iterref.optional.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quantize='int8' needs torchao: pip install 'iterref\[quantized\]'"):
        load(folder, quantize="int8")


def test_a_network_of_this_package_is_quantised_too(tmp_path: Path) -> None:
    vocab = published.tokenizer(tmp_path, [published.END, published.PAD]) + 1
    published.write(tmp_path, published.flat_config("mdlm", vocab), published.weights(vocab))
    whole, found = load(tmp_path), load(tmp_path, quantize="int8")
    far = float(answers(found).sub(answers(whole)).abs().sum(-1).mean() / 2)
    assert 0 < far < 0.02
    matrices = [layer for layer in found.denoiser.network.modules() if isinstance(layer, nn.Linear)]  # type: ignore
    assert sum(type(layer.weight.data) is Tensor for layer in matrices) == 1  # the head
