"""Device maps: the same bytes wherever parts of a network are, on one device as seen from outside; what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import find_tied_parameters
from safetensors.torch import load_file, save_file
from torch import Tensor

import iterref
from iterref.models import canvases, device_map
from iterref.models.bidirectional import Bidirectional
from iterref.models.device_map import spread, whole
from iterref.result import Result
from tests.support.commands import call, refused
from tests.support.decoders import write
from tests.support.devices import Devices, names, pretend
from tests.support.engine_work import Here
from tests.support.families import FAMILIES, PROMPTS, folder, run
from tests.support.llada import config


def same(one: Result, other: Result) -> bool:
    return one.texts == other.texts and all(
        torch.equal(a.to("cpu"), b.to("cpu")) for a, b in ((one.tokens, other.tokens), (one.rewards, other.rewards))
    )


def places(model: Any) -> set[str]:
    """Where the weights are while nothing is computed."""
    return {str(weight.device) for weight in model._network.model.parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_on_the_disk_give_the_same_bytes(tmp_path: Path, family: str) -> None:
    where = folder(tmp_path, family)
    wanted = run(iterref.load(where, length=5, device="cpu"))
    for told in ({"device_map": {"": "disk"}}, {"device_map": "auto", "max_memory": {"cpu": "4KB"}}):
        model = iterref.load(where, length=5, **told)
        assert places(model) == {"meta"} and model.device == torch.device("cpu")
        assert same(run(model), wanted)
        assert places(model) == {"meta"}
    # controls: everything may stay on the host, and what is on the disk is read in every call
    assert places(iterref.load(where, length=5, device_map="auto")) == {"cpu"}
    (where / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        run(model)


def test_commands_and_engines_spread_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines with weights in memory and on the disk, from one process and from the jobs of an engine."""
    monkeypatch.setattr("iterref.engine.local.Local", lambda work, workers, **options: Here(work))
    loaded: list[set[str]] = []
    load = iterref.loading.load

    def noted(*given: Any, **told: Any) -> Any:
        model = load(*given, **told)
        loaded.append(places(model))
        return model

    monkeypatch.setattr("iterref.loading.load", noted)
    model = ["--model", str(folder(tmp_path, "llada")), "--length", "5"]
    command = ["generate", *model, "--sampler", "best_of_n:steps=3,n=2", "--reward", "length:2"]
    spread = ["--device-map", "auto", "--max-memory", "cpu=4KB"]
    engine = ["--engine", "local", "--job-rows", "1", "--workers", "2", "--gpus", "0"]
    text, found = "\n".join(PROMPTS) + "\n", []
    for number, more in enumerate(([], spread, engine, [*engine, *spread])):
        out = tmp_path / f"out-{number}"
        done = call(*command, *more, *(["--out", str(out)] if engine[0] in more else ["--json"]), text=text)
        assert done.exit_code == 0, done.output
        told = (out / "results.jsonl").read_text() if engine[0] in more else done.stdout
        found.append([(line["text"], line["reward"]) for line in map(json.loads, told.splitlines())])
    assert found[0] == found[1] == found[2] == found[3] and len(found[0]) == 2
    assert loaded == [{"cpu"}, {"meta"}, {"cpu"}, {"meta"}]
    assert json.loads((out / "manifest.json").read_bytes())["options"]["device_map"] == "auto"
    refused(call(*command, *engine, "--out", str(out), text=text), 'options.device_map "auto" and not nothing')


def test_parts_go_where_their_names_say(tmp_path: Path) -> None:
    where = folder(tmp_path, "dream")
    wanted = run(iterref.load(where, length=5))
    model = iterref.load(where, length=5, device_map={"": "cpu", "model.layers.1": "disk"})
    waiting = {name for name, weight in model._network.model.named_parameters() if weight.is_meta}
    assert waiting and {name.rpartition("model.layers.1.")[0] for name in waiting} == {""}
    assert same(run(model), wanted)


def two(model: torch.nn.Module) -> dict[str, int | str]:
    """A map over two accelerators, the host and the disk: where inputs enter on the first, layers in turns."""
    turns: tuple[int | str, ...] = (1, "disk")
    parts: dict[str, int | str] = {}
    for name, _ in device_map._units(model, device_map._unsplit(model)):
        layer, late = re.search(r"layers?\.(\d)$", name), "norm" in name or name.startswith(("lm_head", "cls"))
        parts[name] = turns[int(layer[1])] if layer else int(late)
    for group in find_tied_parameters(model):
        first, *rest = [next(part for part in parts if device_map._within(weight, part)) for weight in group]
        for part in rest:
            parts[part] = parts[first] = min(parts[first], parts[part], key=str)
    return parts


@pytest.mark.parametrize("family", FAMILIES)
def test_two_devices_give_the_same_bytes_on_the_first(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder(tmp_path, family)
    model = iterref.load(where, length=5)
    wanted, parts = run(model), two(model._network.model)
    assert {0, 1, "disk"} <= set(parts.values())
    pretend(monkeypatch)
    with Devices() as devices:
        model = iterref.load(where, length=5, device_map=parts)
        assert model.device == torch.device("cuda:0") and {"cuda:0", "cuda:1", "meta"} >= places(model) >= {"meta"}
        found = run(model)
        assert found.tokens.device == found.rewards.device == torch.device("cuda:0")
    assert same(found, wanted)
    assert names(device for device, count in devices.seen.items() if count > 50) >= {"cuda:0", "cuda:1"}


def test_two_pretended_devices_find_what_mixes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative controls: without each `.to` of the families a run fails, so the test above needs them."""

    def picked(self: Bidirectional, stack: Any, given: Any, answer: Any) -> Any:
        answer.last_hidden_state = answer.last_hidden_state[self._chosen][None]
        return answer

    def taken(cache: Any, which: Tensor) -> Any:
        made = copy(cache)
        made.layers = [copy(layer) for layer in cache.layers]
        for layer in made.layers:
            layer.keys, layer.values = layer.keys[which], layer.values[which]
        return made

    pretend(monkeypatch)
    for family, kind, name, broken in (
        ("dream", Bidirectional, "_pick", picked),
        ("diffusion_gemma", canvases, "taken", taken),
    ):
        where = folder(tmp_path, family)
        parts = two(iterref.load(where, length=5)._network.model)
        parts |= {name: 1 for name in parts if ".layers." in name}
        with monkeypatch.context() as patch, Devices():
            patch.setattr(kind, name, broken)
            model = iterref.load(where, length=5, device_map=parts)
            with pytest.raises(RuntimeError, match="__getitem__ of tensors on cuda:1 and cuda:0"):
                run(model)


@pytest.mark.parametrize(
    ("way", "limits", "layers"),
    [
        ("sequential", {0: 40_000, 1: 60_000, "cpu": 0}, [0, 1]),
        ("balanced", {0: 40_000, 1: 60_000, "cpu": 0}, [0, 1]),
        ("balanced_low_0", {0: 40_000, 1: 20_000, "cpu": 0}, [1, "disk"]),
    ],
)
def test_a_map_is_spread_over_what_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, limits: dict[int | str, int], layers: list[int | str]
) -> None:
    """DiffusionGemma's encoder has its decoder's layers: they count once, and go together; what adds up the inputs goes
    with the table of tokens."""
    model = iterref.load(folder(tmp_path, "diffusion_gemma"), length=5)._network.model
    pretend(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    bare = partial(device_map._bare, type(model), model.config)
    found = whole(spread(way, limits, bare(), torch.float32), bare())
    for part in ("encoder.language_model", "decoder"):
        assert [found[f"model.{part}.layers.{layer}"] for layer in (0, 1)] == layers
        assert found[f"model.{part}.embed_tokens"] == 0
    assert found["model.decoder.self_conditioning"] == found["lm_head"] == 0


def test_weights_that_outgrow_the_host_are_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(tmp_path, "llada")
    monkeypatch.setattr("iterref.hub.free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="GiB as float32 and cpu has"):
        iterref.load(where, length=5)
    assert places(iterref.load(where, length=5, device_map={"": "disk"})) == {"meta"}


def test_half_precision_is_read_from_files_of_another(tmp_path: Path) -> None:
    where = folder(tmp_path, "llada")
    wanted = run(iterref.load(where, length=5, dtype="bfloat16"))
    assert same(run(iterref.load(where, length=5, dtype="bfloat16", device_map={"": "disk"})), wanted)


LAYERS = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"device_map": "auto", "device": "cpu"}, "device='cpu' is one device and device_map spreads"),
        ({"device_map": "auto", "compile": True}, "leave compile out"),
        ({"max_memory": {"cpu": 1}}, "belong to a device map: say device_map='auto'"),
        ({"offload_folder": "x"}, "belong to a device map"),
        ({"device_map": "evenly"}, "unknown device_map 'evenly': choose one of auto, .* device= for one device"),
        ({"device_map": {}}, "device_map names no part"),
        ({"device_map": {"": 7}}, "there is no device 'cuda:7' on this machine"),
        ({"device_map": {"": "gpu"}}, "there is no device 'gpu' on this machine"),
        ({"device_map": "auto", "max_memory": {0: "1GB"}}, "there is no device 'cuda:0' on this machine"),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "max_memory of 'much' is no number of bytes"),
        ({"device_map": {"": "cpu"}, "max_memory": {"cpu": 1}}, "max_memory is for a map that is made"),
        ({"device_map": {"": "cpu", "lm_heat": "disk"}}, "names 'lm_heat', and a Qwen2ForCausalLM has no such part"),
        ({"device_map": {"lm_head": "cpu"}}, "device_map has no place for 'model'"),
        ({"device_map": LAYERS | {"model.layers.0": "cpu"}}, "device_map has no place for 'model.layers.1'"),
        ({"device_map": "tensor_parallel"}, "needs ranks, and there are none: torchrun"),
        ({"device_map": "tensor_parallel", "max_memory": {"cpu": 1}}, "gives every rank an equal part"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        iterref.load(folder(tmp_path, "dream"), length=5, **told)


@pytest.mark.parametrize("name", ["tiny-news", "tiny-books"])
def test_other_networks_have_one_device(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.* has one device: say device=, for device_map is of .*LLaDA"):
        iterref.load(name, device_map="auto")


def test_parts_that_belong_together_are_not_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)

    def refused(family: str, parts: dict[str, int | str], sentence: str) -> None:
        model = iterref.load(tmp_path / family, length=5)._network.model
        bare = device_map._bare(type(model), model.config)
        with pytest.raises(ValueError, match=sentence):
            whole(parts, bare)

    for family in ("llada", "diffusion_gemma"):
        folder(tmp_path, family)
    block = {"": 0, "model.layers.0.mlp": 1}
    refused("llada", block, "computes parts of 'model.layers.0' in different places")
    refused("llada", {"": 0, "lm_head": 1}, "'.*' and '.*' are the same weight")
    refused("llada", {"": 0, "model.embed_tokens": 1, "lm_head": 1}, "'model.embed_tokens', where inputs enter, apart")
    refused("diffusion_gemma", {"": 0, "model.decoder.layers.1": 1}, "are the same weight")
    refused("diffusion_gemma", {"": 0, "model.decoder.self_conditioning": 1}, "self_conditioning', where inputs enter")
    # what waits on the host is computed on the first: these two are one place
    model = iterref.load(tmp_path / "llada", length=5)._network.model
    found = whole(block | {"model.layers.0.mlp": "cpu"}, device_map._bare(type(model), model.config))
    assert found["model.layers.0.mlp"] == "cpu" and found["model.layers.0.self_attn"] == 0 == found["model.layers.1"]


def test_a_model_that_feeds_itself_needs_its_table(tmp_path: Path) -> None:
    where = folder(tmp_path, "diffusion_gemma")
    with pytest.raises(ValueError, match="self_condition mixes the rows of the token table on cpu"):
        iterref.load(where, length=5, self_condition=1, device_map={"": "disk"})
    layers = {f"model.{part}.layers": "disk" for part in ("encoder.language_model", "decoder")}
    model = iterref.load(where, length=5, self_condition=1, device_map={"": "cpu"} | layers)
    assert "meta" in places(model) and same(run(model), run(iterref.load(where, length=5, self_condition=1)))


def test_files_are_checked_as_without_a_map(tmp_path: Path) -> None:
    where = folder(tmp_path, "dream")
    config = where / "config.json"
    was, wider = config.read_text(), json.loads(config.read_text()) | {"intermediate_size": 32}
    config.write_text(json.dumps(wider))
    with pytest.raises(ValueError, match="do not make a Qwen2ForCausalLM .* is of another size"):
        iterref.load(where, length=5, device_map={"": "disk"})
    config.write_text(was)
    (where / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter"):
        iterref.load(where, length=5, device_map={"": "disk"})
    (where / "adapter_config.json").unlink()
    weights = load_file(where / "model.safetensors")
    lost = weights.pop("model.norm.weight")
    save_file(weights, where / "model.safetensors")
    with pytest.raises(ValueError, match="lack 'model.norm.weight'"):
        iterref.load(where, length=5, device_map={"": "disk"})
    save_file(weights | {"model.norm.weight": lost, "more": lost.clone()}, where / "model.safetensors")
    with pytest.raises(ValueError, match="hold 'more'"):
        iterref.load(where, length=5, device_map={"": "disk"})
    (where / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="model.safetensors of .* cannot be read .* get it again"):
        iterref.load(where, length=5, device_map={"": "disk"})


def test_weights_that_have_to_be_written_anew_need_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only classes that fuse a checkpoint's weights need it: here the library's own refusal is raised for one."""
    from transformers import Qwen2ForCausalLM
    from transformers.integrations.accelerate import offload_weight

    asked = []

    def made(*given: Any, offload_folder: Path | None, **told: Any) -> None:
        asked.append(offload_folder)
        offload_weight(torch.zeros(1), "fused", offload_folder, {})

    monkeypatch.setattr(Qwen2ForCausalLM, "from_pretrained", made)
    where = folder(tmp_path, "dream")
    with pytest.raises(ValueError, match="that go to the disk are not in its files .*: say offload_folder="):
        iterref.load(where, length=5, device_map={"": "disk"})
    with pytest.raises(ValueError, match="TypeError"):  # past the refusal, into nothing
        iterref.load(where, length=5, device_map={"": "disk"}, offload_folder=tmp_path)
    assert asked == [None, tmp_path] and (tmp_path / "fused.safetensors").is_file()


def test_without_accelerate_a_map_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iterref.optional.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs accelerate: pip install 'iterref\\[large\\]'"):
        iterref.load(folder(tmp_path, "dream"), length=5, device_map="auto")
    assert places(iterref.load(tmp_path / "dream", length=5)) == {"cpu"}


@pytest.mark.parametrize(
    ("family", "count", "sentence"),
    [
        ("masked_lm", 2, "a BertForMaskedLM has no plan of slices that was tried"),
        ("diffusion_gemma", 2, "has no plan of slices that was tried"),
        ("dream", 3, "heads of keys cannot be cut into 3"),
    ],
)
def test_slices_are_of_networks_that_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, count: int, sentence: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    with pytest.raises(ValueError, match=sentence):
        iterref.load(folder(tmp_path, family), length=5, device_map="tensor_parallel")


PEAK = """
import sys, torch, iterref
from transformers import LlamaForCausalLM
def most():  # resident memory, which counts pages of files
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = most()
told = {"device_map": {"": "disk"}} if sys.argv[2] == "disk" else {}
model = iterref.load(sys.argv[1], tokenizer="none", length=4, **told)
law = model.bind([[1]])
canvas = torch.full((1, 4), law.noise.mask)
for _ in range(2):
    law(canvas, torch.ones(1, dtype=torch.float64), canvas == law.noise.mask, torch.zeros(1, dtype=torch.long))
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not say how much memory was held")
def test_memory_stays_below_the_weights_on_the_disk(tmp_path: Path) -> None:
    """200 MB of weights of which no more than one layer is ever there; without a map all of them are."""
    width, inner, layers, vocab = 512, 2048, 12, 1000
    sizes = {"d_model": width, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": inner, "n_layers": layers}
    written = config(vocab, **sizes, mask_token_id=999, eos_token_id=0, pad_token_id=0)
    shapes = {
        "attn_norm": (width,), "ff_norm": (width,), "ff_proj": (inner, width), "up_proj": (inner, width),
        "ff_out": (width, inner), **dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (width, width)),
    }  # fmt: skip
    weights = {
        f"model.transformer.blocks.{layer}.{name}.weight": torch.full(shape, 0.01)
        for layer in range(layers) for name, shape in shapes.items()
    }  # fmt: skip
    ends = {"wte": (vocab, width), "ff_out": (vocab, width), "ln_f": (width,)}
    weights |= {f"model.transformer.{name}.weight": torch.full(shape, 0.01) for name, shape in ends.items()}
    write(tmp_path, written, weights)
    size = sum(weight.nbytes for weight in weights.values())
    assert 190e6 < size < 220e6
    ask = partial(subprocess.run, stdout=subprocess.PIPE, text=True, check=True)
    peak = {way: int(ask([sys.executable, "-c", PEAK, tmp_path, way]).stdout) for way in ("disk", "cpu")}
    assert peak["disk"] < 0.5 * size < 0.9 * size < peak["cpu"]


SLICES = """
import hashlib, sys, torch, iterref
from tests.support.families import FAMILIES, PROMPTS, folder, run
from tests.support.llada import config
def told(model):
    law, canvas, free = model.prepare(PROMPTS)
    logs = law(canvas, torch.ones(2, dtype=torch.float64), free, torch.arange(2))
    return logs, hashlib.sha256(logs.numpy().tobytes()).hexdigest(), run(model).texts
def numbers(model):
    return sum(getattr(weight, "to_local", lambda: weight)().numel() for weight in model._network.model.parameters())
sliced = iterref.load(sys.argv[1], length=5, device_map="tensor_parallel")
alone = iterref.load(sys.argv[1], length=5)
(a, bits, texts), (b, _, wanted) = told(sliced), told(alone)
part = numbers(sliced) / numbers(alone)
print("RANK", bits, float((a.exp() - b.exp()).abs().max()), texts == wanted, part, flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_ranks_of_slices_agree_to_the_bit(tmp_path: Path, family: str) -> None:
    """Two processes with a half of every matrix each: the same logits on both, and those of one process to rounding."""
    (tmp_path / "slices.py").write_text(SLICES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launch, tmp_path / "slices.py", folder(tmp_path, family)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = re.findall(r"RANK (\w{64}) (\S+) (\w+) (\S+)", done.stdout)
    assert len(lines) == 2, done.stderr[-2000:]
    assert lines[0][0] == lines[1][0]
    for _, apart, texts, part in lines:
        assert float(apart) < 1e-5 and texts == "True" and float(part) < 0.6
