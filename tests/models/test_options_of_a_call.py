"""Options of a call and of a load: how long an answer is, and what the caller set torch to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import iterref
from iterref.loading import load
from iterref.models.diffusion_gemma import VISION
from tests.support import gemma, masked
from tests.support.families import FAMILIES, PROMPTS, folder
from tests.support.published import END, flat_config, sedd_config, tokenizer, weights, write

METHOD = "best_of_n:steps=2,n=2"


def ending(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_as_long_as_a_call_says(tmp_path: Path, family: str) -> None:
    where = folder(tmp_path, family)
    model, told = load(where, length=5), {"reward": ending, "sampler": METHOD, "seed": 3}
    wanted = iterref.generate(load(where, length=3), PROMPTS, **told)
    found = iterref.generate(model, PROMPTS, max_new_tokens=3, **told)
    assert found.tokens.shape == (2, 3) and torch.equal(found.tokens, wanted.tokens) and found.texts == wanted.texts
    assert iterref.generate(model, PROMPTS, **told).tokens.shape == (2, 5)  # the model itself is as it was
    assert found.show.encode(found.texts).equal(found.tokens)
    given = {"reward": [ending], "sampler": METHOD, "reward_weights": torch.tensor([2.0])}
    stated = iterref.estimate(model, PROMPTS, max_new_tokens=3, **given)
    assert stated.cost == found.asked and stated.bytes < iterref.estimate(model, PROMPTS, **given).bytes


def test_a_length_that_cannot_be_is_refused(tmp_path: Path) -> None:
    gemma.made().save_pretrained(tmp_path)
    gemma.tokenizer(tmp_path)
    drawn = load(tmp_path)
    masked.checkpoint(tmp_path / "bert")
    bounded = load(tmp_path / "bert", length=3)
    cases: list[tuple[Any, Any, str]] = [
        (drawn, 41, "its answer 41, and the model reads 40"),
        (drawn, 0, "at least one token"),
        (bounded, 40, "takes 1 positions and its answer 40, and the model reads 24"),
        ("tiny-books", 9, "has a canvas of 48 positions"),
        ("tiny-news", 9, "has a canvas of 28 positions"),
    ]
    for model, size, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            iterref.generate(model, [""], reward=ending, max_new_tokens=size)
    with pytest.raises(TypeError, match="max_new_tokens= is a str"):
        iterref.generate(bounded, [""], reward=ending, max_new_tokens="9")


@contextmanager
def hostile(device: str = "meta") -> Iterator[None]:
    """Everything that a caller may have set, other than it was when a model was tried."""
    torch.set_default_dtype(torch.float64)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.device(device))
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
            stack.enter_context(torch.inference_mode())
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def small(tmp_path: Path, family: str) -> Any:
    """The name of a small model of a family."""
    if family in FAMILIES:
        return folder(tmp_path, family)
    if family in ("mdlm", "udlm", "sedd"):
        size = tokenizer(tmp_path, [END])
        config = sedd_config(size) if family == "sedd" else flat_config(family, size + 1)
        return write(tmp_path, config, weights(size + 1))
    return family


def network(model: Any) -> torch.nn.Module:
    inner = model.network if hasattr(model, "network") else model._network
    found: torch.nn.Module = getattr(inner, "model", inner)
    return found


@pytest.mark.parametrize("family", [*FAMILIES, "mdlm", "udlm", "sedd", "tiny-news"])
def test_a_load_is_fenced_from_the_caller_s_torch(tmp_path: Path, family: str) -> None:
    name, told = small(tmp_path, family), {"length": 6} if family in FAMILIES else {}
    for dtype in ("bfloat16", "float32") if family != "tiny-news" else ("float32",):
        plain = load(name, dtype=dtype, **told)
        with hostile():
            model = load(name, dtype=dtype, **told)
        wanted, found = network(plain).state_dict(), network(model).state_dict()
        assert wanted.keys() == found.keys()
        for key, weight in found.items():
            if any(part in key for part in VISION):  # which nothing looks at, and no file has
                continue
            assert weight.device.type == "cpu" and weight.dtype == wanted[key].dtype and weight.equal(wanted[key])
            assert not weight.is_inference()
    assert torch.get_default_dtype() == torch.float32
    prompts = ["police arrested two men in london .", "the rain fell ."] if family == "tiny-news" else ["the cat", "a"]
    prompts = PROMPTS if family in FAMILIES else prompts
    run = {"reward": ending, "sampler": METHOD, "seed": 3}
    wanted_texts = iterref.generate(plain, prompts, **run).texts
    with hostile():
        assert iterref.generate(model, prompts, **run).texts == wanted_texts
        assert iterref.estimate(model, prompts, reward=ending, sampler=METHOD).cost.nfe == 4


@pytest.mark.parametrize("family", ["tiny-books", "dream"])
@pytest.mark.parametrize("state", ["medium", "high", "bf16"])
def test_float32_is_multiplied_in_float32_whatever_the_caller_allows(tmp_path: Path, family: str, state: str) -> None:
    """Before, `torch.set_float32_matmul_precision` changed texts for the same seed, on CPUs that have bfloat16."""
    model = load(small(tmp_path, family), length=6)
    run = {"reward": ending, "sampler": "iterref:steps=2,moves=3,tries=2", "seed": 3}
    prompts = PROMPTS if family == "dream" else ["", ""]
    wanted, own = iterref.generate(model, prompts, **run), torch.backends.mkldnn.matmul
    before = own.fp32_precision
    try:
        if state == "bf16":
            own.fp32_precision = state
        else:
            torch.set_float32_matmul_precision(state)
        set_to = own.fp32_precision
        found = iterref.generate(model, prompts, **run)
        assert found.tokens.equal(wanted.tokens) and found.rewards.equal(wanted.rewards)
        assert own.fp32_precision == set_to  # and comes back
    finally:
        own.fp32_precision = before
        torch.set_float32_matmul_precision("highest")


def test_a_load_without_the_fence_would_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the state above does reach a load that is not fenced."""
    from contextlib import nullcontext

    name = small(tmp_path, "llada")
    monkeypatch.setattr("iterref.loading.fenced", lambda device: nullcontext())
    with hostile(), pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        iterref.generate(load(name, length=3), PROMPTS, reward=ending, sampler=METHOD)
