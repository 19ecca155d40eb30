"""SDAR checkpoints: attention by blocks, what is finished read once and exactly, and what is refused.

Compared with darkshapes/divisor at 7db578de (divisor/trado/modeling_sdar.py, a copy of JetAstra/SDAR's modelling code,
with its missing kernels written out) on the same random weights, in float32 on a CPU, 3 layers of width 64, keys
shared, 311 tokens, blocks of 4, prompts of 13, 8, 0 and 3 tokens in one batch and each alone: logits of up to 6.7
differ by at most 3.6e-6, with the cache of finished blocks and without. The mask by blocks, the masks that fill the
last block up, and the places of tokens are those of `block_diffusion_generate`, the published sampler.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import iterref
from iterref.check import check_model
from iterref.loading import load
from iterref.models.in_blocks import BlockDenoiser
from iterref.noise import Schedule
from iterref.problem import Problem
from iterref.run import Run
from tests.support.byte_pairs import ADDED, write_pairs
from tests.support.decoders import half_open, laws
from tests.support.dream import END, KNOWN, MASK, PIECES
from tests.support.in_blocks import independent, opened, spoil

BLOCK, T = 4, 10
SIZES = {"vocab_size": KNOWN + 5, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False}  # fmt: skip
PROMPTS = ["the cat saw the dog", "", "a dog", "a cat ran to a man with the hat"]


def write(folder: Path, **changes: Any) -> Any:
    """A checkpoint with random weights; its network."""
    torch.manual_seed(0)
    network = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            random = torch.randn_like(weight)
            weight.copy_(1 + 0.4 * random if weight.dim() == 1 else 1.5 * random * weight.shape[-1] ** -0.5)
    network.save_pretrained(folder)
    written = {
        **SIZES, "model_type": "sdar", "architectures": ["SDARForCausalLM"], "auto_map": {"AutoModel": "modeling.X"},
        "block_size": BLOCK, "mask_token_id": MASK, "hidden_act": "silu", "attention_bias": False, "rope_scaling": None,
        "eos_token_id": END, "pad_token_id": END, "sliding_window": 8, "use_sliding_window": True,
        "max_window_layers": 1, "fuse_cross_entropy": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(written | changes))
    write_pairs(folder)
    return network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("sdar")
    return folder, write(folder)


def test_distributions_are_those_of_each_text_alone_wherever_its_prompt_ends(made: tuple[Path, Any]) -> None:
    folder, network = made
    model = opened(folder)
    denoiser, canvas, free = model.prepare(PROMPTS)
    assert bool((canvas == MASK).all()) and bool(free.all()) and denoiser.time_independent
    assert model.noise.schedule == Schedule("linear")
    befores = model.ids(PROMPTS)
    assert {len(before) % BLOCK for before in befores} >= {0, 1, 2} and [] in befores
    x_t = half_open(4, T, PIECES, MASK)
    x_t[3, :6], x_t[3, 7] = torch.arange(6), MASK  # whole blocks are finished in one of them
    found = laws(denoiser, x_t)
    for row, before in enumerate(befores):
        wanted = independent(network, before, x_t[row], BLOCK)
        assert found[row].double().sub(wanted).abs().max() < 5e-6
        alone, _, _ = model.prepare([PROMPTS[row]])
        assert laws(alone, x_t[[row]])[0].sub(found[row]).abs().max() < 1e-5
        # a control: in blocks of another size it is another distribution
        assert independent(network, before, x_t[row], 2 * BLOCK).sub(wanted).abs().max() > 0.01
    copies = torch.tensor([2, 0, 2, 3, 2])  # candidates of some of the prompts, in any order
    assert laws(denoiser, x_t[copies], copies).sub(found[copies]).abs().max() < 1e-5


def test_no_position_feels_a_later_block(made: tuple[Path, Any]) -> None:
    denoiser, x_t, _ = opened(made[0], 3 * BLOCK).prepare([""])
    x_t[0, :2] = torch.tensor([5, 6])
    later, same = x_t.clone(), x_t.clone()
    later[0, 2 * BLOCK :] = 7
    same[0, 3] = 7
    found = laws(denoiser, x_t)
    assert laws(denoiser, later)[0, : 2 * BLOCK].sub(found[0, : 2 * BLOCK]).abs().max() < 1e-6
    assert laws(denoiser, same)[0, 2].sub(found[0, 2]).abs().max() > 1e-3  # within a block everything is seen


class Counting:
    """How many positions the network reads."""

    def __init__(self, denoiser: BlockDenoiser) -> None:
        self.read = 0
        denoiser.network.stack.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, stack: Any, given: Any, named: dict[str, Any]) -> None:
        self.read += named["input_ids"].numel()

    def count(self) -> int:
        found, self.read = self.read, 0
        return found


def test_the_cache_is_exact_and_reads_what_is_finished_once(made: tuple[Path, Any]) -> None:
    """A text written block by block, two candidates a prompt: with the cache and without, the same distributions."""
    length = 5 * BLOCK
    model, plain = opened(made[0], length), opened(made[0], length, cached=False)
    prompts = ["a cat ran to a man with the hat", "a cat ran to a man with the hat", "a dog"]
    with_cache, x_t, _ = model.prepare(prompts)
    assert isinstance(with_cache, BlockDenoiser)
    without, _, _ = plain.prepare(prompts)
    counting, rows = Counting(with_cache), torch.arange(3)
    time, generator = torch.full((3,), 0.5).double(), torch.Generator().manual_seed(1)
    costs, alone = [], x_t.shape[1] * 3
    for place in range(length):
        where = torch.zeros_like(x_t, dtype=torch.bool)
        where[:, place] = True
        ours, theirs = (one(x_t, time, where, rows) for one in (with_cache, without))
        finite = theirs.isfinite()
        assert torch.equal(finite, ours.isfinite()) and ours[finite].sub(theirs[finite]).abs().max() < 1e-5
        costs.append(counting.count())
        x_t[:, place] = torch.randint(0, PIECES, (3,), generator=generator)
    kept = with_cache.reader.kept
    assert max(len(name) // 8 for name in kept.names()) >= length
    assert kept.total == sum(keys.nbytes + values.nbytes for name in kept.names() for keys, values in kept[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iterref.models.kept.KEPT", (0, 0))
        with_cache(x_t, time, where, rows)
    # two prompts that begin in whole blocks, which stay, and three answers
    assert len(kept) <= 2 + 3
    assert max(costs[1:]) <= 3 * 2 * BLOCK < alone  # the open block of each row, and the one that it finished last
    again = with_cache(x_t.masked_fill(where, MASK), time, where, rows)  # and back to a state of before
    assert torch.equal(again.isfinite(), ours.isfinite()) and again[finite].sub(ours[finite]).abs().max() < 1e-5


def test_a_cache_that_is_not_what_stands_there_would_show(made: tuple[Path, Any]) -> None:
    """A control: keys and values of other tokens under the right name give other distributions."""
    denoiser, x_t, _ = opened(made[0], 3 * BLOCK).prepare([""])
    assert isinstance(denoiser, BlockDenoiser)
    x_t[0, :BLOCK] = torch.arange(BLOCK)
    found = laws(denoiser, x_t.clone())  # all asked for: nothing is finished
    where = x_t == MASK
    time, rows = torch.full((1,), 0.5).double(), torch.arange(1)
    right = denoiser(x_t, time, where, rows).exp()
    assert right.sub(found[where]).abs().max() < 1e-6 and len(denoiser.reader.kept) == 1
    spoil(denoiser)
    assert denoiser(x_t, time, where, rows).exp().sub(right).abs().max() > 1e-3


def ends_late(completions: list[str], **columns: object) -> list[float]:
    return [text.count("e") - abs(len(text) - 20) / 10 for text in completions]


def test_texts_are_written_in_blocks_the_same_with_the_cache_and_without(made: tuple[Path, Any]) -> None:
    model = opened(made[0], 2 * BLOCK)
    assert model.prepare([""])[0].block_length == BLOCK
    runs = [
        iterref.generate(one, ["a dog", "the cat saw"], reward=ends_late, budget=12, seed=1)
        for one in (model, opened(made[0], 2 * BLOCK, cached=False))
    ]
    assert runs[0].texts == runs[1].texts and len(runs[0].texts or []) == 2
    assert torch.equal(runs[0].rewards, runs[1].rewards)


def test_blocks_open_in_turn_where_a_prompt_ends_with_one(made: tuple[Path, Any]) -> None:
    model = opened(made[0], 3 * BLOCK)
    longer = ["a cat ran" + "n" * more for more in range(2 * BLOCK)]
    prompt = next(text for text, ids in zip(longer, model.ids(longer), strict=True) if len(ids) % BLOCK == 0)
    denoiser, _, _ = model.prepare([prompt])
    seen: list[tuple[int, int]] = []
    original = type(denoiser).logits

    def watched(self: BlockDenoiser, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        masked = (x_t == MASK).nonzero()[:, 1]
        seen.append((int(masked.min()) // BLOCK, int(where.nonzero()[:, 1].max()) // BLOCK))
        return original(self, x_t, t, where, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockDenoiser, "logits", watched)
        iterref.generate(model, [prompt], reward=ends_late, sampler=f"ancestral:steps=12,block_length={BLOCK}")
    assert {first for first, _ in seen} == {0, 1, 2} and all(first == last for first, last in seen)


def test_only_the_last_blocks_are_refined(made: tuple[Path, Any]) -> None:
    model = opened(made[0], 4 * BLOCK)
    told: dict[str, Any] = {"reward": ends_late, "sampler": "ancestral:steps=8", "seed": 3}
    plain = iterref.generate(model, PROMPTS[:2], min_new_tokens=15, **told)
    told = {"prompts": PROMPTS[:2], "reward": ends_late, "budget": 24, "strength": 1.0, "seed": 5}
    kept = iterref.refine(model, plain.tokens, last_blocks=1, sampler="iterref", **told).tokens
    offset = torch.tensor([len(ids) % BLOCK for ids in model.ids(PROMPTS[:2])])
    number = (torch.arange(4 * BLOCK) + offset[:, None]) // BLOCK
    assert plain.lengths is not None
    last = number.gather(1, (plain.lengths - 1).clamp_min(0)[:, None])
    assert bool((kept == plain.tokens)[number < last].all()) and bool((kept != plain.tokens).any())
    free = iterref.refine(model, plain.tokens, sampler="iterref", **told).tokens
    assert not bool((free == plain.tokens)[number < last].all())  # a control
    with pytest.raises(ValueError, match="last_blocks counts the blocks that may change, got 0"):
        iterref.refine(model, plain.tokens, last_blocks=0, **told)
    with pytest.raises(ValueError, match="last_blocks= is for models that write in blocks, and this one has none"):
        iterref.refine("tiny-news", ["police arrested a man"], last_blocks=1, prompts=["a"], reward=ends_late)


def test_the_check_finds_nothing_wrong_with_the_form(made: tuple[Path, Any]) -> None:
    findings = check_model(opened(made[0]), None, PROMPTS * 2)
    assert [one.sentence for one in findings if one.passed is False] == []
    assert {"shape", "packing", "rows", "prompts", "mask", "carry-over"} <= {one.name for one in findings if one.passed}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": None}, "has no whole number 'block_size'"),
        ({"block_size": 0}, "has block_size=0: a block has at least one position"),
        ({"mask_token_id": KNOWN + 400}, "they do not fit"),
        ({"model_type": "sdar_moe", "architectures": ["SDARMoeForCausalLM"]}, "lack 'model.layers.0.mlp.experts"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, "is of the architecture qwen3"),
        ({"model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"]}, "no whole number 'bd_size'"),
        ({"num_hidden_layers": 3}, "lack 'model.layers.2"),
    ],
)
def test_what_is_near_it_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, length=T, chat=False)


def test_a_prompt_longer_than_the_network_reads_is_refused(made: tuple[Path, Any]) -> None:
    with pytest.raises(ValueError, match="prompt 1 takes .* positions and its answer 10, and the model reads 64"):
        opened(made[0]).prepare(["a dog", "the cat saw the dog " * 20])
    assert len(ADDED) == KNOWN - PIECES


def test_blocks_are_the_network_s_own_wherever_a_prompt_ends(made: tuple[Path, Any]) -> None:
    """As in the published sampler: the answer's first block is what the prompt's last one leaves of it."""
    model = opened(made[0], 3 * BLOCK)
    denoiser, canvas, _ = model.prepare(PROMPTS)
    sizes = [len(ids) for ids in model.ids(PROMPTS)]
    assert len({size % BLOCK for size in sizes}) > 2
    run = Run(Problem(denoiser, lambda tokens, rows: tokens.sum(1).double(), canvas).repeated(2))
    for row, found in enumerate(run.blocks(BLOCK).tolist()):
        size = sizes[row // 2]
        assert found == [(size + at) // BLOCK - size // BLOCK for at in range(3 * BLOCK)]
    assert run.blocks(2)[0].tolist() == [at // 2 for at in range(3 * BLOCK)]  # of another length: from the left
    seen: list[bool] = []
    original = type(denoiser).logits

    def watched(self: BlockDenoiser, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        own = (self.begins[rows][:, None] + torch.arange(x_t.shape[1])) // BLOCK
        first = torch.where(x_t == MASK, own, 99).amin(1, keepdim=True)
        seen.append(bool((own == first)[where].all()))
        return original(self, x_t, t, where, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockDenoiser, "logits", watched)
        plain = "ancestral:steps=12,order=confidence,block_length="
        iterref.generate(model, PROMPTS, reward=ends_late, sampler=f"{plain}{BLOCK}")
        assert all(seen)
        seen.clear()
        iterref.generate(model, PROMPTS, reward=ends_late, sampler=f"{plain}6")
        assert not all(seen)  # a control
