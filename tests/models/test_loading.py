"""One entry for all families: which is recognised by what, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from iterref import loading
from iterref.loading import family_of, load
from iterref.models.mdlm import MaskedDit
from iterref.models.sedd import ScoredDit
from iterref.models.tiny_news import Summarizer
from iterref.models.udlm import UniformDit
from tests.support.published import END, flat_config, sedd_config, tokenizer, weights, write


@pytest.mark.parametrize(
    ("config", "family", "denoiser"),
    [
        (flat_config("mdlm", 12), "mdlm", MaskedDit),
        (flat_config("MDLM", 12), "mdlm", MaskedDit),
        (flat_config("udlm", 12), "udlm", UniformDit),
        (flat_config("DUO", 12, architectures=["DUO"]), "duo", UniformDit),
        ({**flat_config("x", 12), "model_type": None, "architectures": ["UDLM"]}, "udlm", UniformDit),
        (sedd_config(11), "sedd", ScoredDit),
    ],
)
def test_a_family_is_recognised(tmp_path, config, family, denoiser):
    assert family_of(config, "x") == family
    model = load(write(tmp_path, config, weights(12)), tokenizer="none", length=5)
    assert isinstance(model.denoiser, denoiser) and model.length == 5


def test_another_architecture_is_refused_with_the_known_ones(tmp_path):
    for config, named in (({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "gpt2"), ({}, "not name")):
        with pytest.raises(ValueError, match=f"{named}.*LLaDA, LLaDA2, masked .*MDLM, Nemotron.*, SDAR, SEDD"):
            family_of(config, "x")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="architecture gpt2"):
        load(tmp_path)


def test_the_bundled_model_and_folders_of_our_own_are_read_too(monkeypatch):
    from iterref.models.tiny_news import WEIGHTS

    class Named:
        name = ""

    asked = []
    monkeypatch.setattr("iterref.models.tiny_news.load", lambda name, **options: asked.append(str(name)) or Named())
    for name in (None, "tiny-news", WEIGHTS):
        assert load(name).name == str(name or "tiny-news")
    assert asked == [str(WEIGHTS)] * 3
    monkeypatch.undo()
    assert isinstance(load(), Summarizer)
    assert load("tiny-news", dtype="bfloat16").half
    for wrong, sentence in (
        ({"length": 9}, "a summariser has its own length and tokenizer"),
        ({"tokenizer": "gpt2"}, "a summariser has its own length and tokenizer"),
        ({"compile": True}, "nothing that torch could compile"),
        ({"dtype": "float16"}, "runs in float32 or bfloat16, got dtype='float16'"),
        ({"device_map": "auto"}, "has one device: say device="),
    ):
        with pytest.raises(ValueError, match=sentence):
            load("tiny-news", **wrong)
    with pytest.raises(TypeError, match="label"):
        load("tiny-news", label=1)


def test_the_tokenizer_is_the_one_named_the_checkpoint_s_or_the_family_s(tmp_path, monkeypatch):
    own, other, bare = tmp_path / "own", tmp_path / "other", tmp_path / "bare"
    size = tokenizer(own, [END])
    tokenizer(other, [END])
    for folder in (own, bare):
        write(folder, flat_config("mdlm", size + 1), weights(size + 1))
    asked = []
    real = loading.Codec.load
    monkeypatch.setattr(loading.Codec, "load", lambda name, lossy: asked.append(str(name)) or real(own))
    load(own)
    load(own, tokenizer=other)
    load(bare)
    assert asked == [str(own), str(other), "gpt2"]
    with pytest.raises(ValueError, match="without a tokenizer"):
        load(own, tokenizer="none").encode(["the"])


def test_the_network_is_compiled_on_demand(tmp_path, monkeypatch):
    folder, asked = write(tmp_path, flat_config("mdlm", 12), weights(12)), []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: asked.append((type(self).__name__, options)))
    load(folder, tokenizer="none")
    assert asked == []
    load(folder, tokenizer="none", compile=True)
    assert asked == [("Dit", {"dynamic": True, "mode": None})]


def test_options_are_refused_early(tmp_path):
    folder = write(tmp_path, flat_config("mdlm", 12), weights(12))
    for wrong, sentence in (({"dtype": "int4"}, "unknown precision"), ({"device": "cuda:99"}, "no device 'cuda:99'")):
        with pytest.raises(ValueError, match=sentence):
            load(folder, tokenizer="none", **wrong)
    with pytest.raises(TypeError, match="label"):
        load(folder, tokenizer="none", label=1)


def test_a_model_too_large_for_its_device_is_one_sentence(tmp_path, monkeypatch):
    folder = write(tmp_path, flat_config("mdlm", 12), weights(12))
    for message, error in (("CUDA out of memory. Tried ...", ValueError), ("another matter", RuntimeError)):

        def fail(*args: object, text: str = message, **options: object) -> None:
            raise RuntimeError(text)

        monkeypatch.setattr("iterref.models.dit.build", fail)
        with pytest.raises(error, match="does not fit on cpu: load it with" if error is ValueError else message):
            load(folder, tokenizer="none")


def test_a_pipeline_of_images_is_recognised_by_its_index(tmp_path):
    from iterref import generate
    from tests.support.pipelines import pipeline

    folder = pipeline(tmp_path / "pipeline")
    model = load(folder)
    assert type(model).__name__ == "ImageModel"
    for wrong in ({"length": 4}, {"tokenizer": "none"}):
        with pytest.raises(ValueError, match="its own size and tokenizer"):
            load(folder, **wrong)
    with pytest.raises(ValueError, match="consensus compares texts"):
        generate(model, ["a bird"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"length": True}, r"length= is a bool \(True\) and no whole number"),
        ({"length": "48"}, "length= is a str .'48'. and no whole number"),
        ({"length": 32.0}, "length= is a float"),
        ({"length": 0}, "a canvas needs at least one position, got length=0"),
        ({"lossy": "no"}, "lossy= is a str .'no'.: pass True or False"),
        ({"compile": "yes"}, "compile= is a str .'yes'.: pass True or False"),
        ({"family": ""}, "unknown model family ''"),
    ],
)
def test_options_of_another_type_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        load("tiny-books", **options)
    assert load("tiny-books", length=np.int64(32)).length == 32
