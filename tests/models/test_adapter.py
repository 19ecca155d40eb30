"""Adapters of PEFT: merged into their base by its own names, found by their configuration, refused where they are not
of it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

import iterref
from iterref.cli import main
from iterref.engine.manifest import model_told
from iterref.hub import quiet
from iterref.loading import load
from iterref.models.text.prompted import PromptedModel
from tests.support import llada, masked, published
from tests.support.decoders import laws

peft = pytest.importorskip("peft", reason="needs peft: pip install 'iterref[peft]'")
PROMPTS, LENGTH = ["the cat", "a dog saw the man"], 4
TARGETS = ["query", "value"]


def write(network: Any, folder: Path, base: str, **changes: Any) -> Any:
    """An adapter with random weights of a network, in its folder; the network with it on top."""
    kind = changes.pop("kind", peft.LoraConfig)
    usual = {"r": 3, "lora_alpha": 7} if kind is peft.LoraConfig else {}
    with quiet():
        tuned = peft.get_peft_model(network, kind(**{**usual, "target_modules": TARGETS, **changes}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if any(kind in name for kind in ("lora_", "ia3", "hada_", "lokr_", "modules_to_save")):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.7)
    tuned.peft_config["default"].base_model_name_or_path = base
    with quiet():
        tuned.save_pretrained(folder)
    return tuned.eval()


@pytest.fixture
def base(tmp_path: Path) -> tuple[Path, Any]:
    folder = tmp_path / "base"
    masked.checkpoint(folder)
    import transformers

    return folder, transformers.BertForMaskedLM.from_pretrained(folder).eval()  # its own: peft changes it


def opened(folder: Path, **options: Any) -> PromptedModel:
    model = load(folder, length=LENGTH, **options)
    assert isinstance(model, PromptedModel)
    return model


def answers(model: PromptedModel) -> Tensor:
    denoiser, canvas, _ = model.prepare(PROMPTS)
    return laws(denoiser, canvas)


def wanted(network: Any, model: PromptedModel) -> Tensor:
    """The distributions of empty answers, by the class with the adapter on top."""
    found = []
    for prompt in PROMPTS:
        ids = model.codec.ids([prompt])[0]
        tokens = torch.tensor([[masked.CLS, *ids, *[masked.MASK] * LENGTH, masked.SEP]])
        with torch.no_grad():
            logits = network(input_ids=tokens).logits[0, 1 + len(ids) : -1]
        logits[:, : len(masked.SPECIAL)] = -torch.inf  # this family writes no special tokens within a text
        logits[:, len(masked.SPECIAL) + len(masked.WORDS) :] = -torch.inf
        found.append(logits.softmax(-1))
    return torch.stack(found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"layer.1.attention.self.query": 2}},
        {"use_dora": True},
        {"target_modules": r".*\.(query|dense)"},
        {"kind": peft.IA3Config, "target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]},
        {"kind": peft.LoHaConfig, "r": 3, "alpha": 7},
        {"kind": peft.LoKrConfig, "r": 3, "alpha": 7},
        {"modules_to_save": ["transform"], "bias": "lora_only"},
    ],
)  # fmt: skip
def test_an_adapter_is_what_its_class_and_peft_make_of_it(base: tuple[Path, Any], changes: dict[str, Any]) -> None:
    folder, network = base
    plain = answers(opened(folder))
    tuned = write(network, folder.parent / "adapter", str(folder), **changes)
    model = opened(folder.parent / "adapter")
    found = answers(model)
    assert found.sub(wanted(tuned, model)).abs().max() < 3e-5
    assert found.sub(plain).abs().max() > 0.01  # a control: without it the model is another


def test_it_is_read_by_the_names_of_the_published_files(tmp_path: Path) -> None:
    """LLaDA's and MDLM's files have names of their own; the adapter is written by hand, and so is the sum."""
    weights = llada.checkpoint(tmp_path / "llada")
    vocab = len(published.WORDS) + 3  # with the mask behind the tokenizer's last
    dit = published.weights(vocab)
    published.write(tmp_path / "mdlm", published.flat_config("mdlm", vocab), dit)
    published.tokenizer(tmp_path / "mdlm", [published.END, published.PAD])
    names = {
        "llada": ("model.transformer.blocks.1.q_proj", weights),
        "mdlm": ("backbone.blocks.0.attn_qkv", {f"backbone.{name}": weight for name, weight in dit.items()}),
    }
    for kind, (layer, held) in names.items():
        matrix = held[f"{layer}.weight"]
        a, b = torch.randn(2, matrix.shape[1]), torch.randn(matrix.shape[0], 2)
        adapter = by_hand(tmp_path / f"{kind}-adapter", str(tmp_path / kind), {layer: (a, b)})
        whole = tmp_path / f"{kind}-whole"
        copytree(tmp_path / kind, whole)
        saved = load_file(whole / "model.safetensors")
        [own] = [name for name in saved if name.endswith(layer.removeprefix("backbone.") + ".weight")]
        save_file({**saved, own: saved[own] + 8 / 2 * b @ a}, whole / "model.safetensors")
        found = [answers_of(load(one)) for one in (adapter, whole, tmp_path / kind)]
        assert found[0].sub(found[1]).abs().max() < 1e-5
        assert found[0].sub(found[2]).abs().max() > 1e-3


def by_hand(folder: Path, base: str, layers: dict[str, tuple[Tensor, Tensor]], **changes: Any) -> Path:
    """A LoRA of rank 2 and alpha 8 as its two files."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "base_model_name_or_path": base,
              "target_modules": sorted({name.rpartition(".")[2] for name in layers})}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    tensors = {f"base_model.model.{name}.lora_{one}.weight": weight.contiguous()
               for name, pair in layers.items() for one, weight in zip("AB", pair, strict=True)}  # fmt: skip
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def answers_of(model: Any) -> Tensor:
    denoiser, canvas, _ = model.prepare(["the cat"])
    return laws(denoiser, canvas)


QUERY = "bert.encoder.layer.0.attention.self.query"


def test_its_own_tokenizer_comes_first_and_a_base_may_be_said(base: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = base
    layers = {QUERY: (torch.randn(2, 16), torch.randn(16, 2))}
    adapter = by_hand(tmp_path / "adapter", "somewhere/else", layers)
    with pytest.raises(FileNotFoundError, match=r"base of the adapter .*adapter is missing, say base=: 'somewhere/els"):
        load(adapter)
    assert opened(adapter, base=folder).codec.template is None
    masked.write_tokenizer(adapter, template=masked.TEMPLATE)
    assert opened(adapter, base=folder).codec.template == masked.TEMPLATE  # what it was trained with
    result = iterref.generate(opened(adapter, base=folder), ["Q : the cat A :"], reward="length:2", budget=8)
    assert result.texts is not None and len(result.texts) == 1
    copytree(adapter, folder, dirs_exist_ok=True)  # beside whole weights
    with pytest.raises(ValueError, match="holds an adapter and model.safetensors besides: say base="):
        load(folder)
    assert answers(opened(folder, base=folder)).sub(answers(opened(adapter, base=folder))).abs().max() == 0


@pytest.mark.parametrize(
    ("changes", "layers", "message"),
    [
        ({"base_model_name_or_path": None}, {QUERY: (2, 16, 16)}, "does not name its model: say base="),
        ({}, {QUERY: (2, 24, 16)}, "cannot be merged into .*size mismatch.*it belongs to another model: say base="),
        ({}, {QUERY.replace("0", "7"): (2, 16, 16)}, "changes 'bert.encoder.layer.7.*', and .* has no such layer: it"),
        ({"target_modules": ["query", "gate"]}, {QUERY: (2, 16, 16)}, "lists 'gate' among its target_modules, and ada"),
        ({"peft_type": "PREFIX_TUNING"}, {}, "is of the kind PREFIX_TUNING, which changes no weights: .*merged"),
        ({"peft_type": "NEWEST"}, {QUERY: (2, 16, 16)}, "cannot be merged into .*NEWEST"),
        ({}, {"cls.other": (2, 16, 16)}, "has no such layer: .*a head that is tied to them, merge it where it was"),
        ({}, {"bert.embeddings.LayerNorm": (2, 16, 16)}, "changes 'bert.embeddings.LayerNorm', which is no linear lay"),
    ],
)
def test_what_is_no_adapter_of_it_is_one_sentence(
    base: tuple[Path, Any], tmp_path: Path, changes: dict[str, Any], layers: dict[str, Any], message: str
) -> None:
    made = {name: (torch.randn(r, width), torch.randn(height, r)) for name, (r, width, height) in layers.items()}
    adapter = by_hand(tmp_path / "adapter", str(base[0]), made, **changes)
    with pytest.raises(ValueError, match=f"(?s)^[^\n]*{message}[^\n]*$"):
        load(adapter)


def test_tokens_that_were_added_beside_an_adapter_are_no_other_model(base: tuple[Path, Any], tmp_path: Path) -> None:
    adapter = by_hand(tmp_path / "adapter", str(base[0]), {QUERY: (torch.randn(2, 16), torch.randn(16, 2))})
    held, table = load_file(adapter / "adapter_model.safetensors"), "bert.embeddings.word_embeddings.weight"
    save_file({**held, f"base_model.model.{table}": torch.zeros(99, 16)}, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"by one of shape \(99, 16\), .*where it changes tokens .*merge it where it"):
        load(adapter)


def test_where_an_adapter_has_no_place(base: tuple[Path, Any], tmp_path: Path) -> None:
    adapter = by_hand(tmp_path / "adapter", str(base[0]), {QUERY: (torch.randn(2, 16), torch.randn(16, 2))})
    with pytest.raises(ValueError, match="base=.* is for adapters, and .* has no adapter_config.json: leave it out"):
        load(base[0], base="x")
    with pytest.raises(ValueError, match="takes neither an adapter nor quantize=: leave them out"):
        load(adapter, base="tiny-news")
    with pytest.raises(ValueError, match="is an adapter, which is merged on one device: say device= for device_map"):
        load(adapter, device_map={"": "cpu"})
    with pytest.raises(ValueError, match="in memory has no name, revision, device_map or base"):
        load(base[1], base="x")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has adapter_config.json and no adapter_model.safetensors: save"):
        load(adapter)


def test_without_peft_it_is_one_sentence(
    base: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = by_hand(tmp_path / "adapter", str(base[0]), {QUERY: (torch.randn(2, 16), torch.randn(16, 2))})
    monkeypatch.setattr("iterref.optional.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the adapter .* needs peft: pip install 'iterref\[peft\]'"):
        load(adapter)


def test_on_the_command_line_a_run_is_known_by_its_base_too(base: tuple[Path, Any], tmp_path: Path) -> None:
    adapter = by_hand(tmp_path / "adapter", "somewhere/else", {QUERY: (torch.randn(2, 16), torch.randn(16, 2))})
    told = model_told(str(adapter), base=str(base[0]))
    assert told["hash"] != told["base"]["hash"] and told["base"] == model_told(str(base[0]))
    with pytest.raises(ValueError, match="base=.* is for adapters"):
        model_told(str(base[0]), base=str(adapter))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    command = ["generate", str(tmp_path / "prompts.txt"), "--model", str(adapter), "--base", str(base[0])]
    options = ["--reward", "length:2", "--sampler", "ancestral:steps=2", "--length", str(LENGTH), "--json"]
    done = CliRunner().invoke(main, [*command, *options, "--quantize", "int8"])
    if find_spec("torchao") is None:
        assert done.exit_code == 2 and "iterref[quantized]" in done.output
    else:
        assert done.exit_code == 0, done.output
        assert len(done.stdout.splitlines()) == 2
