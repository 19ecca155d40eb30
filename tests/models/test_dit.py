"""The shared network against an independent reading of the published one, and what its builder refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.models.checkpoint import Checkpoint
from iterref.models.dit import Dit, DitOptions, build, level, sizes, state
from iterref.noise import absorbing
from tests.support.published import (
    BLOCKS,
    CONDITION,
    HEADS,
    LENGTH,
    WIDTH,
    flat_config,
    noisy_tokens,
    reference_logits,
    weights,
)

VOCAB = 12
OPTIONS = DitOptions(VOCAB, WIDTH, BLOCKS, HEADS, CONDITION)


def network(labels: int = 0, dtype: torch.dtype = torch.float32, seed: int = 0) -> Dit:
    options = DitOptions(VOCAB, WIDTH, BLOCKS, HEADS, CONDITION, labels)
    return build(options, state(weights(VOCAB, labels, seed)), dtype, torch.device("cpu"))


def everywhere(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def test_logits_are_those_of_an_independent_reading():
    x, sigma = noisy_tokens(4, VOCAB, None), torch.tensor([0.0, 0.3, 2.0, 6.9])
    got = network()(x, sigma, everywhere(x)).view(4, LENGTH, VOCAB)
    want = reference_logits(weights(VOCAB), x, sigma)
    assert got.dtype == torch.float32 and float(want.std()) > 0.5
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spoiled", ["sigma", "position", "label"])
def test_the_independent_reading_notices(spoiled):
    """Negative control: the noise level, the order of tokens and the label all have a say."""
    x, sigma, label = noisy_tokens(4, VOCAB, None), torch.tensor([0.0, 0.3, 2.0, 6.9]), torch.tensor([0, 1, 2, 0])
    want = reference_logits(weights(VOCAB, 3), x, sigma, label)
    got = network(3)(x, sigma, everywhere(x), label).view(4, LENGTH, VOCAB)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)
    if spoiled == "sigma":
        sigma = sigma.flip(0)
    elif spoiled == "position":
        x = x.roll(1, 1)
    else:
        label = label.flip(0)
    got = network(3)(x, sigma, everywhere(x), label).view(4, LENGTH, VOCAB)
    if spoiled == "position":
        got = got.roll(-1, 1)
    assert float((got - want).abs().max()) > 0.05


def test_the_head_is_asked_at_the_open_positions_alone():
    x, sigma = noisy_tokens(4, VOCAB, None), torch.tensor([0.1, 0.3, 2.0, 6.9])
    where = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    model, seen = network(), []
    model.head.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    packed = model(x, sigma, where)
    torch.testing.assert_close(packed, model(x, sigma, everywhere(x)).view(4, LENGTH, -1)[where], atol=1e-6, rtol=0)
    assert seen == [int(where.sum()), x.numel()]
    assert model(x, sigma, torch.zeros_like(where)).shape == (0, VOCAB)


def test_one_level_serves_all_rows():
    x = noisy_tokens(4, VOCAB, None)
    one, each = (network()(x, torch.full((rows,), 0.7), everywhere(x)) for rows in (1, 4))
    torch.testing.assert_close(one, each, atol=1e-5, rtol=0)


def test_a_row_is_the_same_alone_and_in_a_batch():
    x, sigma = noisy_tokens(6, VOCAB, None), torch.linspace(0, 6.9, 6)
    together = network()(x, sigma, everywhere(x)).view(6, LENGTH, -1)
    for row in range(6):
        alone = network()(x[row : row + 1], sigma[row : row + 1], everywhere(x[:1]))
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_and_gives_float32(dtype):
    x, sigma = noisy_tokens(4, VOCAB, None), torch.linspace(0, 6.9, 4)
    model = network(dtype=dtype)
    got = model(x, sigma, everywhere(x))
    assert model.head.weight.dtype == dtype and model.norm.weight.dtype == got.dtype == torch.float32
    apart = (got - network()(x, sigma, everywhere(x))).abs().max()
    assert 0 < float(apart) < (0.1 if dtype == torch.bfloat16 else 0.02)


def test_weights_are_frozen_and_a_label_needs_labels():
    model, x = network(), noisy_tokens(1, VOCAB, None)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    with pytest.raises(ValueError, match="without labels"):
        model(x, torch.zeros(1), everywhere(x), torch.zeros(1, dtype=torch.long))


def test_published_names_are_read_with_and_without_a_prefix():
    plain = weights(VOCAB)
    prefixed = {f"backbone.{name}": weight for name, weight in plain.items()}
    assert state(plain).keys() == state(prefixed).keys() == Dit(OPTIONS).state_dict().keys()
    assert "rotary_emb.inv_freq" not in state({"backbone.rotary_emb.inv_freq": torch.zeros(2)})


def test_wrong_weights_are_named():
    good, cpu = state(weights(VOCAB)), torch.device("cpu")
    with pytest.raises(ValueError, match="'table.weight' is missing"):
        build(OPTIONS, {k: v for k, v in good.items() if k != "table.weight"}, torch.float32, cpu)
    with pytest.raises(ValueError, match=r"'blocks.9.qkv.weight' has no place"):
        build(OPTIONS, {**good, "blocks.9.qkv.weight": torch.zeros(1)}, torch.float32, cpu)
    with pytest.raises(ValueError, match=r"'table.weight' has shape \(3, 4\) and not \(12, 16\)"):
        build(OPTIONS, {**good, "table.weight": torch.zeros(3, 4)}, torch.float32, cpu)
    with pytest.raises(ValueError, match="multiple"):
        DitOptions(VOCAB, 18, BLOCKS, HEADS, CONDITION)


def test_levels_and_sizes(tmp_path):
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    noise = absorbing(4)
    assert torch.equal(level(noise, t[:2], t.device), -torch.log(1 - t[:2]).float())
    assert torch.equal(level(noise, t, t.device, timed=False), torch.zeros(1))
    flat = Checkpoint("x", tmp_path, flat_config("mdlm", VOCAB))
    assert sizes(flat) == OPTIONS
    with pytest.raises(ValueError, match="autoregressive"):
        sizes(Checkpoint("x", tmp_path, flat_config("duo", VOCAB, causal=True)))
