"""Tests of the encoder-decoder and its copy head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iterref.models.transformer import Memory, Transformer, TransformerOptions, rotary, rotate

PAD, EOS, MASK = 0, 1, 2
OPTIONS = TransformerOptions(
    vocab=24, mask=MASK, pad=PAD, width=16, heads=2, hidden=24, encoder_layers=2, decoder_layers=2
)


def network(options: TransformerOptions = OPTIONS, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(options).eval().requires_grad_(False)


def sources() -> Tensor:
    return torch.tensor([[5, 6, 7, 8, 9, EOS], [10, 11, 5, EOS, PAD, PAD], [20, EOS, PAD, PAD, PAD, PAD]])


def canvases(rows: int, length: int = 7, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, OPTIONS.vocab, (rows, length), generator=generator)
    return tokens.masked_fill(torch.rand(rows, length, generator=generator) < 0.6, MASK)


def answer(model: Transformer, x_t: Tensor, memory: Memory) -> Tensor:
    return log_probs(model, model.decode(x_t, memory), memory, torch.ones_like(x_t, dtype=torch.bool))


def log_probs(model: Transformer, states: Tensor, memory: Memory, where: Tensor) -> Tensor:
    row = where.nonzero()[:, 0] // (len(states) // len(memory.source))
    return model.mixture(states[where], model.scores(states, memory)[where], memory.source[row]).log()


def test_the_head_is_a_law_without_mask_and_padding() -> None:
    model, x_t = network(), canvases(3)
    log_p = answer(model, x_t, model.encode(sources()))
    assert log_p.shape == (21, OPTIONS.vocab) and log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(21))
    assert (log_p[:, [MASK, PAD]] == -torch.inf).all()
    assert log_p[:, 3:].isfinite().all()


def test_packed_answers_are_the_full_ones_at_the_open_positions() -> None:
    model, x_t = network(), canvases(3)
    memory, where = model.encode(sources()), x_t == MASK
    states = model.decode(x_t, memory)
    packed = log_probs(model, states, memory, where)
    torch.testing.assert_close(packed, answer(model, x_t, memory)[where.flatten()])


def test_target_log_probs_agree_with_the_law() -> None:
    model, x_t = network(), canvases(6)
    memory, where = model.encode(sources()), canvases(6, seed=3) == MASK
    states = model.decode(x_t, memory)
    target = torch.randint(3, OPTIONS.vocab, x_t.shape, generator=torch.Generator().manual_seed(2))
    expected = log_probs(model, states, memory, where).gather(1, target[where][:, None]).squeeze(1)
    torch.testing.assert_close(model.target_log_probs(states, memory, where, target), expected)


def test_a_target_outside_the_source_has_a_finite_gradient() -> None:
    model = network().requires_grad_(True)
    memory, x_t = model.encode(sources()), canvases(3)
    target = torch.full_like(x_t, 23)
    everywhere = torch.ones_like(x_t, dtype=torch.bool)
    model.target_log_probs(model.decode(x_t, memory), memory, everywhere, target).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


def test_adjacent_canvases_share_a_prompt_as_if_it_were_repeated() -> None:
    model, x_t = network(), canvases(6)
    memory = model.encode(sources())
    repeated = memory.take(torch.arange(3).repeat_interleave(2))
    torch.testing.assert_close(answer(model, x_t, memory), answer(model, x_t, repeated))
    swapped = memory.take(torch.arange(3).repeat(2))  # the other order of copies is another thing
    assert not torch.allclose(answer(model, x_t, memory), answer(model, x_t, swapped))


def test_padding_cannot_be_felt() -> None:
    model, x_t = network(), canvases(3)
    together = answer(model, x_t, model.encode(sources())).view(3, 7, -1)
    alone = answer(model, x_t[1:2], model.encode(sources()[1:2, :4])).view(7, -1)
    torch.testing.assert_close(together[1], alone, atol=1e-5, rtol=0)


def test_padding_would_be_felt_if_it_counted_as_present() -> None:
    model, x_t = network(), canvases(3)
    memory = model.encode(sources())
    shown = replace(memory, present=torch.ones_like(memory.present))
    assert (answer(model, x_t, memory) - answer(model, x_t, shown)).nan_to_num().abs().max() > 1e-3


def test_a_row_does_not_depend_on_other_rows() -> None:
    model, x_t = network(), canvases(3)
    changed = x_t.clone()
    changed[0] = 4
    memory = model.encode(sources())
    first, second = (answer(model, x, memory).view(3, 7, -1) for x in (x_t, changed))
    torch.testing.assert_close(first[1:], second[1:], atol=1e-6, rtol=0)
    assert not torch.allclose(first[0], second[0], atol=1e-3)


@pytest.mark.parametrize(("gate", "copied"), [(30.0, 1.0), (-30.0, 0.0)])
def test_the_gate_decides_between_copying_and_writing(gate: float, copied: float) -> None:
    model, x_t = network(), canvases(1)
    model.gate.weight.zero_()
    model.gate.bias.fill_(gate)
    model.vocab_bias.fill_(-50.0)
    model.vocab_bias[22] = 50.0  # what would be written is not in the source
    probability = answer(model, x_t, model.encode(sources()[:1])).exp()
    on_source = probability[:, [5, 6, 7, 8, 9, EOS]].sum(-1)
    torch.testing.assert_close(on_source, torch.full((7,), copied), atol=1e-6, rtol=0)


def test_rotary_scores_depend_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 8, generator=generator)
    turn = rotary(10, 8, torch.device("cpu"))
    turned_query, turned_key = (rotate(x.expand(10, 8), turn) for x in (query, key))
    score = turned_query @ turned_key.T
    torch.testing.assert_close(score[2, 5], score[6, 9])
    assert abs(float(score[2, 5] - score[5, 2])) > 1e-3  # but they know left from right


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="multiple"):
        replace(OPTIONS, width=18)
    model = network()
    with pytest.raises(ValueError, match="5 canvases"):
        model.decode(canvases(5), model.encode(sources()))
