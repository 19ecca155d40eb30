"""Networks that are in memory: the model that their folder would give, and every other object in one sentence."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer

import iterref
from iterref.loading import load
from tests.support.masked import ENCODERS, SIZES, TEMPLATE, write_model, write_tokenizer

PROMPTS = ["the cat saw a man", "a dog"]


def made(folder: Path, name: str = "BertForMaskedLM", **tokens: Any) -> tuple[Any, Any]:
    """A folder, and the objects that it was written from."""
    write_tokenizer(folder, **tokens)
    network = write_model(folder, name, **({**SIZES, "num_key_value_heads": 1} if "Causal" in name else ENCODERS[name]))
    return network, transformers.AutoTokenizer.from_pretrained(folder)


def texts(model: Any) -> Any:
    result = iterref.generate(model, PROMPTS, reward=lambda completions: [len(one) for one in completions],
                              sampler="iterref:steps=1,moves=1,tries=2", seed=3)  # fmt: skip
    return result.tokens.tolist(), result.rewards.tolist()


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("BertForMaskedLM", {}),
        ("DistilBertForMaskedLM", {}),
        ("ModernBertForMaskedLM", {}),
        ("LlamaForCausalLM", {"template": TEMPLATE, "framed": False}),
    ],
)
def test_a_network_in_memory_is_the_model_of_its_folder(name: str, tokens: dict[str, Any], tmp_path: Path) -> None:
    network, tokenizer = made(tmp_path, name, **tokens)
    expected = texts(load(tmp_path, length=6))
    before = {key: weight.clone() for key, weight in network.state_dict().items()}
    for own in (tokenizer, Tokenizer.from_file(str(tmp_path / "tokenizer.json")), str(tmp_path)):
        if isinstance(own, Tokenizer) and tokens:
            continue  # which knows no chat template
        assert texts(load(model=network, tokenizer=own, length=6)) == expected
    if name == "BertForMaskedLM":
        assert texts(load(network, tokenizer=tokenizer, length=6)) == expected  # in the place of a name
        assert texts(load(model=torch.nn.DataParallel(network), tokenizer=tokenizer, length=6)) == expected
        assert texts(load(tmp_path, tokenizer=tokenizer, length=6)) == expected  # the tokenizer alone
    assert all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(weight, before[key]) for key, weight in network.state_dict().items())


def test_precision_and_device_are_the_network_s_own(tmp_path: Path) -> None:
    network, tokenizer = made(tmp_path)
    half, full = torch.bfloat16, torch.float32
    for dtype, asked, wanted in ((half, None, half), (half, "float32", full), (full, None, full)):
        model: Any = load(model=network.to(dtype), tokenizer=tokenizer, length=6, dtype=asked)
        assert next(model._network.model.parameters()).dtype == wanted


class Adapted(torch.nn.Linear):
    peft_config: dict[str, Any] = {}


def test_other_objects_are_one_sentence(tmp_path: Path) -> None:
    network, tokenizer = made(tmp_path)
    bare = transformers.BertModel(network.config)
    quantised = transformers.BertForMaskedLM(deepcopy(network.config))
    quantised.config.quantization_config = {"bits": 4}
    with torch.device("meta"):
        nowhere = transformers.BertForMaskedLM(network.config)
    pipeline = SimpleNamespace(model=network, tokenizer=tokenizer)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": network}, "tokenizer= is missing: pass the model's tokenizer, or 'none'"),
        ({"model": network, "tokenizer": 3}, "tokenizer= is a int: pass one of transformers"),
        ({"model": Adapted(1, 1), "tokenizer": tokenizer}, "has adapters: merge them into it"),
        ({"model": torch.nn.Linear(1, 1), "tokenizer": tokenizer}, "is a Linear: pass a network of transformers"),
        ({"model": pipeline, "tokenizer": tokenizer}, "pass its .model and .tokenizer"),
        ({"model": transformers.BertForMaskedLM, "tokenizer": tokenizer}, "model= is the class BertForMaskedLM: pass"),
        ({"model": quantised, "tokenizer": tokenizer}, "is quantised, and its weights"),
        ({"model": nowhere, "tokenizer": tokenizer}, "on the disk or on no device: load it without device_map"),
        ({"model": bare, "tokenizer": tokenizer}, "architecture"),
        ({"model": network, "tokenizer": tokenizer, "device_map": "auto"}, "has no name, revision, device_map or base"),
        ({"name": "tiny-news", "model": network, "tokenizer": tokenizer}, "has no name, revision, device_map or base"),
    ]
    for options, sentence in cases:
        with pytest.raises((TypeError, ValueError)) as caught:
            load(**options)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"is a BertForMaskedLM: wrap it by iterref.load\(model=..., tokenizer=...\)"):
        iterref.generate(network, PROMPTS)
