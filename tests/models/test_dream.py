"""Dream checkpoints: the published network with its shift, the published sampler's step, chats, what is refused.

Compared with ZHZisZZ/dllm at ca176752 (dllm/pipelines/dream/models/modeling_dream.py, under transformers 4.46.2) on the
same random weights, in float32 on a CPU, 3 layers of width 64, 1,510 tokens, keys shared or not, four unequal prompts:
logits of up to 31 differ by at most 2.7e-5, also from its batch, which is padded in front; probabilities by 3.0e-6. In
bfloat16 both round alike.

A plain step has the law of the published sampler's `origin` (generation_utils.py): a mask falls with probability
1 - s / t. Its draws at temperature 1 fit the enumerated law: 4 chi-square tests on 60,000 answers of 4 tokens each, p
above 0.36. Its times end at eps = 0.001 before the last step shows the rest; here they end at 0. It does not rule out
the mask, nor ids beyond the tokenizer's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import iterref
from iterref.check import check_model
from iterref.loading import load as load_any
from iterref.models import dream
from iterref.models.checkpoint import Checkpoint
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel
from iterref.noise import Schedule
from iterref.rewards import SelfLikelihood
from tests.support.byte_pairs import ADDED, TEMPLATE, write_pairs
from tests.support.decoders import draw, half_open, law, laws, reading, write
from tests.support.dream import END, KNOWN, MASK, NAMING, PIECES, START, TURN, VOCAB, checkpoint, config
from tests.support.published import all_states, product_matrix, step_matrix

PROMPTS = ["the cat saw the dog", "", "a dog"]
T = 6


def load(folder: Path, dtype: torch.dtype = torch.float32, length: int = T, **options: Any) -> PromptedModel:
    return dream.load(Checkpoint.open(folder, dtype=dtype), Codec.load(folder), length=length, **options)


def published(
    weights: dict[str, Tensor],
    before: list[int],
    x_t: Tensor,
    known: int,
    mask: int,
    shift: int = 1,
    theta: float = 1e6,
) -> Tensor:
    """p(x_0 | x_t, prompt) (L, V) of one answer, by itself; logits are moved on by one, the first stays."""
    ids = torch.tensor([*before, *x_t.tolist()])
    logits = reading(weights, NAMING, ids, theta, 1e-6, torch.nn.functional.silu)
    if shift:
        logits = torch.cat([logits[:1], logits[:-1]])
    return law(logits[len(before) :], x_t, mask, known)


def asked(codec: Codec, prompt: str) -> list[int]:
    said = (
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    return codec.tokenizer.encode(said, add_special_tokens=False).ids if prompt else [START]


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1, "tie_word_embeddings": True, "rope_theta": 1e4}],
)
def test_the_law_is_the_published_one_whatever_stands_beside(tmp_path: Path, changes: dict[str, Any]) -> None:
    weights = checkpoint(tmp_path, **changes)
    model, theta = load(tmp_path), changes.get("rope_theta", 1e6)
    assert model.chat and model.noise.mask == MASK and model.noise.schedule == Schedule("linear")
    denoiser, canvas, free = model.prepare(PROMPTS)
    assert canvas.shape == (3, T) and bool((canvas == MASK).all()) and bool(free.all()) and denoiser.time_independent
    x_t = half_open(3, T, PIECES, MASK)
    found = laws(denoiser, x_t)
    for row, prompt in enumerate(PROMPTS):
        before = asked(model.codec, prompt)
        assert model.ids([prompt]) == [before]
        wanted = published(weights, before, x_t[row], KNOWN, MASK, theta=theta)
        assert found[row].double().sub(wanted).abs().max() < 5e-6
        alone, _, _ = model.prepare([prompt])
        assert laws(alone, x_t[[row]])[0].sub(found[row]).abs().max() < 1e-5
        # a control: read without the shift it is another law
        assert published(weights, before, x_t[row], KNOWN, MASK, shift=0).sub(wanted).abs().max() > 0.01
    copies = torch.tensor([2, 0, 2, 2])  # candidates of some of the prompts, in any order
    assert laws(denoiser, x_t[copies], copies).sub(found[copies]).abs().max() < 1e-5


def test_without_any_prompt_the_first_position_reads_its_own_logits(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path)
    x_t = half_open(1, T, PIECES, MASK)
    found = laws(load(tmp_path).bind([[]]), x_t)[0]
    assert found.double().sub(published(weights, [], x_t[0], KNOWN, MASK)).abs().max() < 1e-6


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.667), pytest.param(0.667, 0.334, marks=pytest.mark.slow), (0.334, 0.0)])
def test_a_plain_step_is_the_published_sampler_s(tmp_path: Path, t: float, s: float) -> None:
    """`origin`: a mask falls with probability 1 - s / t, and all of them in the last step, to a draw of its law."""
    written = config(4, mask_token_id=3, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    weights = draw(NAMING, 4, 2, biased=True)
    model = dream.load(Checkpoint.open(write(tmp_path, written, weights)), None, length=3)
    states, transfer = all_states(4, 3), 1 - s / t
    matrices = []
    for shift in (1, 0):
        cells = torch.stack([published(weights, [1, 0, 2], x_t, 4, 3, shift) for x_t in states])
        stay = torch.nn.functional.one_hot(torch.tensor(3), 4).double()
        cells = torch.where((states == 3)[..., None], transfer * cells + (1 - transfer) * stay, cells)
        matrices.append(product_matrix(cells, states))
    found = step_matrix(model.bind([[1, 0, 2]]), states, t, s)
    assert found.sub(matrices[0]).abs().max() < 1e-6
    assert found.sub(matrices[1]).abs().max() > 0.01  # a control: without the shift


def test_chats_and_texts(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model, plain = load(tmp_path, length=40), load(tmp_path, length=40, chat=False)
    codec = model.codec
    assert plain.ids(["the cat", ""]) == [[START, *codec.ids(["the cat"])[0]], [START]]
    assert model.ends == [TURN, END] and plain.ends == [END, TURN] and model.fill == END
    canvas, said = model.encode(["the cat"]), codec.ids(["the cat"])[0]
    assert canvas[0].tolist() == said + [TURN] + [END] * (39 - len(said)) and model.decode(canvas) == ["the cat"]
    assert plain.encode(["the cat"])[0, len(said)] == END
    write_pairs(tmp_path, chat_template="{{ raise_exception('no such role') }}")
    with pytest.raises(ValueError, match="cannot be filled in .*no such role.*chat=False"):
        load(tmp_path).prepare(["the cat"])
    write_pairs(tmp_path, chat_template=None)
    assert not load(tmp_path).chat
    with pytest.raises(ValueError, match="no chat template"):
        load(tmp_path, chat=True)
    assert dream.load(Checkpoint.open(tmp_path), Codec.load(tmp_path)).length == 128


def test_what_may_be_written(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    denoiser, canvas, _ = load(tmp_path).prepare(["the"])
    found = laws(denoiser, canvas)[0]
    assert found[:, [MASK, *range(KNOWN, VOCAB)]].max() == 0
    assert found[:, [START, END, TURN, 3]].min() > 0  # the published sampler forbids none of them


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision(tmp_path: Path, dtype: str) -> None:
    checkpoint(tmp_path)
    whole, half = load(tmp_path), load(tmp_path, getattr(torch, dtype))
    x_t = half_open(3, T, PIECES, MASK)
    found = laws(half.prepare(PROMPTS)[0], x_t)
    assert found.dtype == torch.float32 and found.sum(-1).sub(1).abs().max() < 1e-5
    assert laws(whole.prepare(PROMPTS)[0], x_t).sub(found).abs().max() < 0.1
    assert [one.name for one in check_model(half, None, PROMPTS, tolerance=5e-2) if one.passed is False] == []


def test_generation_reward_and_conformance(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model = load_any(tmp_path, length=T)  # finds the tokenizer in its two files
    assert isinstance(model, PromptedModel) and model.codec.template == TEMPLATE
    options: dict[str, Any] = {"sampler": "iterref:steps=2,moves=2", "budget": None}
    long = {"reward": lambda completions, **_: [float(len(text)) for text in completions], "alpha": 0.1}
    result = iterref.generate(model, PROMPTS, **long, **options)
    assert result.texts is not None and [float(len(text)) for text in result.texts] == result.rewards.tolist()
    assert iterref.generate(model, PROMPTS[2:], rows=[2], **long, **options).texts == result.texts[2:]
    own = SelfLikelihood(*model.prepare(PROMPTS))
    assert bool(iterref.generate(model, PROMPTS, reward=own, **options).rewards.isfinite().all())
    for prompts in (None, PROMPTS):
        findings = check_model(model, None, prompts, forbidden=[MASK, *range(KNOWN, VOCAB)])
        assert {one.name: one.sentence for one in findings if one.passed is False} == {}
    assert {"rows", "packing", "prompts", "forbidden", "time", "mask"} <= {one.name for one in findings if one.passed}


def test_compiling_reaches_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path)
    seen: list[Any] = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: seen.append((type(self).__name__, options)))
    load_any(tmp_path, compile=True)
    assert seen == [("Qwen2Model", {"dynamic": True, "mode": None})]


def test_a_window_is_not_read_as_the_published_network_has_none(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path, use_sliding_window=True, sliding_window=2, max_window_layers=0)
    x_t = half_open(1, T, PIECES, MASK)
    found = laws(load(tmp_path).bind([[5, 6, 7]]), x_t)[0]
    assert found.double().sub(published(weights, [5, 6, 7], x_t[0], KNOWN, MASK)).abs().max() < 1e-6


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, block_size=32)
    with pytest.raises(ValueError, match="in blocks that see no later block .block_size=32"):
        load(tmp_path)
    for changes in ({"mask_token_id": 3}, {"vocab_size": KNOWN - 1}):  # not the tokenizer's mask; too small
        checkpoint(tmp_path, **changes)
        with pytest.raises(ValueError, match="tokens and the tokenizer .*they do not fit"):
            load(tmp_path)
    checkpoint(tmp_path, mask_token_id=None)
    assert load(tmp_path).noise.mask == MASK  # the tokenizer's own
    write_pairs(tmp_path, [name.replace("mask", "other") for name in ADDED], mask_token=None)
    with pytest.raises(ValueError, match="nothing says which token .* is the mask"):
        load(tmp_path)
    for changes, sentence in (
        ({"num_hidden_layers": 3}, "lack 'model.layers.2.*needs: config.json is of another network"),
        ({"num_hidden_layers": 1}, "hold 'model.layers.1.*has no place"),
        ({"hidden_size": 32}, "do not make a Qwen2ForCausalLM"),
        ({"num_attention_heads": "four"}, "none of Qwen2Config"),
    ):
        weights = checkpoint(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config(**changes)))
        with pytest.raises(ValueError, match=sentence):
            load(tmp_path)
    write(tmp_path, config(), {name: one for name, one in weights.items() if not name.endswith("bias")})
    with pytest.raises(ValueError, match=r"lack 'model\.layers\.0\.self_attn\.k_proj\.bias'"):
        load(tmp_path)  # the weights of another network, LLaMA's, say
    checkpoint(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load_any(tmp_path)
