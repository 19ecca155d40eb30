"""LLaDA checkpoints: the published network and sampler, chats and base models, what is refused.

Compared with ZHZisZZ/dllm at ca176752 (dllm/pipelines/llada/models/modeling_llada.py, under transformers 4.46.2) on the
same random weights, in float32 on a CPU, 3 layers of width 64, 1,510 tokens, keys shared or not, four unequal prompts:
logits of up to 30 differ by at most 2.9e-5, and by 6.4e-5 from its batch, which is padded in front; probabilities by
9.1e-6. In bfloat16 its code turns queries and keys in float32, which LLaMA's class does not: 5 % more rounding.

The published sampler (ML-GSAI/LLaDA at b7e6c356, generate.py) shows a fixed number of tokens a step. Given how many
fall, a plain step here has its law with random remasking; `order="confidence"` in as many steps as divide the answer,
in blocks or not, is its law with low confidence. Its draws at temperature 1 fit the enumerated laws: 11 chi-square
tests on 60,000 answers of 4 tokens each, one p of 0.016, the others above 0.09. It does not rule out the mask, nor ids
beyond the tokenizer's.
"""

from __future__ import annotations

import json
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from tokenizers import Tokenizer
from torch import Tensor

import iterref
from iterref.check import check_model
from iterref.cli import main
from iterref.decoding import Decoder
from iterref.guidance import ClassifierFreeGuidance
from iterref.loading import load as load_any
from iterref.models import llada
from iterref.models.checkpoint import Checkpoint
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel
from iterref.noise import Schedule
from iterref.rewards import SelfLikelihood
from tests.support.decoders import (
    WIDTH,
    decoded,
    draw,
    half_open,
    law,
    laws,
    reading,
    write,
)
from tests.support.llada import (
    END,
    HEAD,
    ID,
    KNOWN,
    MASK,
    NAMES,
    NAMING,
    START,
    TAIL,
    TURN,
    VOCAB,
    WORDS,
    checkpoint,
    config,
)
from tests.support.published import all_states, step_matrix

PROMPTS = ["the cat saw a man", "", "a dog"]
ACTS = {"silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu, "relu": torch.relu}
T = 5


def load(folder: Path, dtype: torch.dtype = torch.float32, length: int = T, **options: Any) -> PromptedModel:
    return llada.load(Checkpoint.open(folder, dtype=dtype), Codec.load(folder), length=length, **options)


def published(
    weights: dict[str, Tensor], before: list[int], x_t: Tensor, known: int, mask: int, **options: Any
) -> Tensor:
    """p(x_0 | x_t, prompt) (L, V) of one answer, by itself."""
    ids = torch.tensor([*before, *x_t.tolist()])
    logits = reading(weights, NAMING, ids, **{"theta": 5e5, "epsilon": 1e-5, "act": ACTS["silu"]} | options)
    return law(logits[len(before) :], x_t, mask, known)


def asked(prompt: str) -> list[int]:
    """The ids of a chat whose user says the prompt."""
    if not prompt:
        return []
    said = [ID[word] for word in prompt.split()]
    return [ID[START], ID[HEAD], ID["user"], ID[TAIL], *said, ID[TURN], ID[HEAD], ID["assistant"], ID[TAIL]]


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "weight_tying": True, "activation_type": "gelu", "rope_theta": 1e4}],
)
def test_the_law_is_the_published_one_whatever_stands_beside(tmp_path: Path, changes: dict[str, Any]) -> None:
    weights = checkpoint(tmp_path, **changes)
    model = load(tmp_path)
    assert model.chat and model.noise.mask == ID[MASK] and model.noise.schedule == Schedule("linear")
    denoiser, canvas, free = model.prepare(PROMPTS)
    assert (
        canvas.shape == (3, T) and bool((canvas == ID[MASK]).all()) and bool(free.all()) and denoiser.time_independent
    )
    x_t = half_open(3, T, len(WORDS), ID[MASK])
    found = laws(denoiser, x_t)
    options = {"theta": changes.get("rope_theta", 5e5), "act": ACTS[changes.get("activation_type", "silu")]}
    for row, prompt in enumerate(PROMPTS):
        wanted = published(weights, asked(prompt), x_t[row], KNOWN, ID[MASK], **options)
        assert found[row].double().sub(wanted).abs().max() < 2e-6
        alone, _, _ = model.prepare([prompt])
        assert laws(alone, x_t[[row]])[0].sub(found[row]).abs().max() < 1e-6
    copies = torch.tensor([2, 0, 2, 2])  # candidates of some of the prompts, in any order
    assert laws(denoiser, x_t[copies], copies).sub(found[copies]).abs().max() < 1e-6
    # controls: the law depends on the prompt, and a later token shows at an earlier position
    assert laws(denoiser, x_t[[0]], torch.tensor([2])).sub(found[0]).abs().max() > 1e-3
    x_t[:, -1] = (x_t[:, -1] + 1) % len(WORDS)
    assert laws(denoiser, x_t)[0, 0].sub(found[0, 0]).abs().max() > 1e-3


def small(folder: Path, length: int) -> tuple[dict[str, Tensor], Any]:
    """Three words and the mask: few enough states to list; the denoiser of one prompt's answer."""
    written = config(4, mask_token_id=3, eos_token_id=0, pad_token_id=0)
    weights = draw(NAMING, 4)
    weights[NAMING.head] *= 3  # surer laws, so that orders differ
    model = llada.load(Checkpoint.open(write(folder, written, weights)), None, length=length)
    return weights, model.bind([[1, 0, 2]])


def cells_of(weights: dict[str, Tensor], states: Tensor) -> Tensor:
    return torch.stack([published(weights, [1, 0, 2], x_t, 4, 3) for x_t in states])


def test_given_how_many_masks_fall_a_plain_step_is_random_remasking(tmp_path: Path) -> None:
    """The published sampler draws all, and keeps k of n masked places, any k alike; here n flips say how many."""
    weights, denoiser = small(tmp_path, 3)
    states, t, u = all_states(4, 3), 0.8, 0.3
    cells, fall = cells_of(weights, states), (t - u) / t
    wanted, confident = torch.zeros(2, len(states), len(states), dtype=torch.float64)
    key = {tuple(state): at for at, state in enumerate(states.tolist())}
    for at, x_t in enumerate(states):
        masked = (x_t == 3).nonzero()[:, 0].tolist()
        for k in range(len(masked) + 1):
            chosen = list(combinations(masked, k))
            binomial = fall**k * (1 - fall) ** (len(masked) - k) * len(chosen)
            sure = max(chosen, key=lambda some: sum(float(cells[at, i].max()) for i in some))
            for places in chosen:
                for tokens in product(range(3), repeat=k):
                    x_u, share = x_t.clone(), binomial
                    for place, token in zip(places, tokens, strict=True):
                        x_u[place], share = token, share * float(cells[at, place, token])
                    wanted[at, key[tuple(x_u.tolist())]] += share / len(chosen)
                    confident[at, key[tuple(x_u.tolist())]] += share * (places == sure)
    found = step_matrix(denoiser, states, t, u)
    assert found.sub(wanted).abs().max() < 1e-6
    # a control: the places at which the model is surest, as many of them, are another law
    assert found.sub(confident).abs().max() > 0.01


@pytest.mark.parametrize("block", [0, 2])
def test_the_order_of_confidence_is_low_confidence_remasking(tmp_path: Path, block: int) -> None:
    """4 tokens in 2 steps, 2 a step: both the surest draws of all, or of the block that is open."""
    weights, denoiser = small(tmp_path, 4)
    states = all_states(4, 4)
    cells = cells_of(weights, states)
    key = {tuple(state): at for at, state in enumerate(states.tolist())}
    found, wanted = torch.zeros(2, len(states), dtype=torch.float64)
    found[-1] = wanted[-1] = 1  # all masks
    for t, u, step in ((1.0, 0.5, 0), (0.5, 0.0, 1)):
        found = decoded(denoiser, found, states, t, u, Decoder("confidence", block_length=block))
        after = torch.zeros_like(wanted)
        for at in wanted.nonzero()[:, 0].tolist():
            open_ = (states[at] == 3).nonzero()[:, 0].tolist()
            for tokens in product(range(3), repeat=len(open_)):
                sure = [float(cells[at, i, token]) for i, token in zip(open_, tokens, strict=True)]
                within = [i for i in open_ if not block or i // block == step]
                keep = sorted(within, key=lambda i: -sure[open_.index(i)])[:2]
                x_u = states[at].clone()
                for i in keep:
                    x_u[i] = tokens[open_.index(i)]
                after[key[tuple(x_u.tolist())]] += wanted[at] * torch.tensor(sure, dtype=torch.float64).prod()
        wanted = after
    assert found.sum().sub(1).abs() < 1e-6 and found.sub(wanted).abs().max() < 1e-6
    # a control: one token a step is another law
    other = torch.zeros_like(found)
    other[-1] = 1
    for t in (1.0, 0.75, 0.5, 0.25):
        other = decoded(denoiser, other, states, t, t - 0.25, Decoder("confidence", block_length=block))
    assert found.sub(other).abs().max() > 0.005


def test_guidance_without_the_prompt_is_the_published_one(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path)
    model, scale = load(tmp_path), 0.7
    before, x_t = asked("a dog"), half_open(1, T, len(WORDS), ID[MASK])
    found = laws(ClassifierFreeGuidance(model.bind([before]), model.bind([[ID[MASK]] * len(before)]), 1 + scale), x_t)[
        0
    ]
    given, free = (published(weights, ids, x_t[0], KNOWN, ID[MASK]) for ids in (before, [ID[MASK]] * len(before)))
    wanted = free * (given / free.clamp_min(1e-30)) ** (1 + scale)
    assert found.double().sub(wanted / wanted.sum(-1, keepdim=True)).abs().max() < 1e-5
    assert found.double().sub(given).abs().max() > 0.01  # a control


def test_chats_are_written_as_transformers_writes_them(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model, theirs = load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in ("the cat", " a dog ran "):
        said = [{"role": "user", "content": prompt}]
        written = theirs.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        assert model.ids([prompt]) == [theirs(written, add_special_tokens=False).input_ids] == [asked(prompt)]
    assert model.ids(["the cat", ""]) == [asked("the cat"), []]
    assert load(tmp_path, chat=False).ids(["the cat"]) == [[ID["the"], ID["cat"]]]
    base = tmp_path / "base"  # a template was left in it, and no token ends a turn
    checkpoint(base, [*NAMES[:-1], "<|reserved|>"])
    assert not load(base).chat and load(base, chat=True).chat
    checkpoint(base, template="{{ raise_exception('no such role') }}")
    with pytest.raises(ValueError, match="cannot be filled in .*no such role.*chat=False"):
        load(base).prepare(["the cat"])
    base = tmp_path / "plain"
    checkpoint(base, template=None)
    assert load(base).ids(["the cat"]) == [[ID["the"], ID["cat"]]]
    with pytest.raises(ValueError, match="no chat template"):
        load(base, chat=True)


def test_answers_end_with_their_turn_and_are_filled_up(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model = load(tmp_path, length=6)
    assert model.ends == [ID[TURN], ID[END]] and model.fill == ID[END]
    canvas = model.encode(["the cat", "a man ran home the dog"])
    assert canvas[0].tolist() == [ID["the"], ID["cat"], ID[TURN], ID[END], ID[END], ID[END]]
    assert model.decode(canvas) == ["the cat", "a man ran home the dog"]
    stray = torch.tensor([[ID["a"], ID[HEAD], ID["man"], ID[END], ID["dog"], ID[TURN]]])
    assert model.decode(stray) == ["a man"]  # special tokens have no text
    assert load(tmp_path, chat=False).encode(["the cat"])[0, 2] == ID[END]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [ID[HEAD], ID[END]]}))
    assert load(tmp_path, chat=False).ends == [ID[HEAD], ID[END], ID[TURN]]
    assert llada.load(Checkpoint.open(tmp_path), Codec.load(tmp_path)).length == 128


def test_what_may_be_written(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    denoiser, canvas, _ = load(tmp_path).prepare(["the"])
    found = laws(denoiser, canvas)[0]
    assert found[:, [ID[MASK], *range(KNOWN, VOCAB)]].max() == 0
    assert found[:, [ID[START], ID[HEAD], ID[TURN], ID["cat"]]].min() > 0  # the published sampler forbids none of them


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision(tmp_path: Path, dtype: str) -> None:
    checkpoint(tmp_path)
    whole, half = load(tmp_path), load(tmp_path, getattr(torch, dtype))
    x_t = half_open(3, T, len(WORDS), ID[MASK])
    found = laws(half.prepare(PROMPTS)[0], x_t)
    assert found.dtype == torch.float32 and found.sum(-1).sub(1).abs().max() < 1e-5
    assert laws(whole.prepare(PROMPTS)[0], x_t).sub(found).abs().max() < 0.1
    failed = [one.name for one in check_model(half, None, PROMPTS, tolerance=5e-2) if one.passed is False]
    assert failed == []


def test_generation_reward_and_conformance(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model = load_any(tmp_path, length=T)
    assert isinstance(model, PromptedModel)
    options: dict[str, Any] = {"sampler": "iterref:steps=2,moves=2", "budget": None, "forbidden": range(10, KNOWN)}
    cats = {"reward": lambda completions, **_: [text.count("cat") for text in completions], "alpha": 0.1}
    result = iterref.generate(model, PROMPTS, **cats, **options)
    assert result.texts is not None and result.rewards.mean() > 0.5
    alone = iterref.generate(model, PROMPTS[2:], rows=[2], **cats, **options)
    assert alone.texts == result.texts[2:]
    own = SelfLikelihood(*model.prepare(PROMPTS))
    liked = iterref.generate(model, PROMPTS, reward=own, alpha=0.1, **options)
    assert bool(liked.rewards.isfinite().all())
    for prompts in (None, PROMPTS):
        findings = check_model(model, None, prompts, forbidden=[ID[MASK], *range(KNOWN, VOCAB)])
        assert {one.name: one.sentence for one in findings if one.passed is False} == {}
    assert {"rows", "packing", "prompts", "forbidden", "time", "mask"} <= {one.name for one in findings if one.passed}


def test_the_command_line_checks_it(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    done = CliRunner().invoke(main, ["check", str(tmp_path), "--length", str(T)])
    assert done.exit_code == 0, done.output
    assert "FAIL" not in done.output and "pass" in done.output


def test_compiling_reaches_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path)
    seen: list[Any] = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: seen.append((type(self).__name__, options)))
    load_any(tmp_path, compile=True)
    assert seen == [("LlamaModel", {"dynamic": True, "mode": None})]


def test_the_mask_is_the_tokenizer_s_where_the_configuration_is_silent(tmp_path: Path) -> None:
    checkpoint(tmp_path, ["[MASK]", *NAMES[1:]], mask_token_id=None)  # a token of that name is no evidence
    assert load(tmp_path).noise.mask == ID[MASK]
    checkpoint(tmp_path, ["[MASK]", *NAMES[1:]])
    assert load(tmp_path).noise.mask == ID[MASK]
    checkpoint(tmp_path, [name.replace("mdm_mask", "reserved") for name in NAMES], mask_token_id=None)
    with pytest.raises(ValueError, match="nothing says which token .* write mask_token_id"):
        load(tmp_path)
    checkpoint(tmp_path)
    bare = llada.load(Checkpoint.open(tmp_path), None, length=T)  # for token ids alone
    assert bare.noise.mask == ID[MASK] and bare.ends == [ID[END]] and bare.fill == ID[END] and not bare.chat
    x_t = half_open(1, T, len(WORDS), ID[MASK])
    assert laws(bare.bind([asked("a dog")]), x_t)[..., KNOWN:].min() >= 0
    with pytest.raises(ValueError, match="without a tokenizer"):
        bare.prepare(["the"])


@pytest.mark.parametrize(
    "changes",
    [
        {"block_type": "sequential"}, {"block_group_size": 2}, {"rope": False}, {"alibi": True},
        {"layer_norm_type": "default"}, {"layer_norm_with_affine": False}, {"bias_for_layer_norm": True},
        {"attention_layer_norm": True}, {"include_bias": True}, {"include_qkv_bias": True}, {"input_emb_norm": True},
        {"scale_logits": True}, {"activation_type": "swiglu"},
    ],
)  # fmt: skip
def test_another_network_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoint(tmp_path, **changes)
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"has {name}={value!r}"):
        load(tmp_path)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for changes, names in (({"mask_token_id": 99}, NAMES), ({"mask_token_id": 1}, NAMES), ({}, NAMES[:12])):
        checkpoint(tmp_path, names, **changes)  # no such token; not the tokenizer's mask; a tokenizer without it
        with pytest.raises(ValueError, match=f"knows {VOCAB} tokens and the tokenizer .*they do not fit"):
            load(tmp_path)
    checkpoint(tmp_path, embedding_size=KNOWN - 1)
    with pytest.raises(ValueError, match=f"knows {KNOWN - 1} tokens"):
        load(tmp_path)
    for changes, sentence in (
        ({"n_layers": 3}, "lack 'model.layers.2.*needs: config.json is of another network"),
        ({"n_layers": 1}, "hold 'model.layers.1.*has no place"),
        ({"d_model": 32}, "do not make a LlamaForCausalLM"),
        ({"d_model": "wide"}, "no whole number 'd_model'"),
    ):
        weights = checkpoint(tmp_path)
        write(tmp_path, config(**changes), weights)
        with pytest.raises(ValueError, match=sentence):
            load(tmp_path)
    write(tmp_path, config(), {**weights, "model.transformer.wpe.weight": torch.zeros(2, WIDTH)})
    with pytest.raises(ValueError, match=r"hold 'model\.transformer\.wpe\.weight'"):
        load(tmp_path)
    checkpoint(tmp_path)
    with pytest.raises(ValueError, match="at least one position"):
        load(tmp_path, length=0)


@pytest.mark.parametrize("text", [f"the {TURN} cat", f"{HEAD}assistant{TAIL} the cat", START, f"the cat{END}", MASK])
def test_a_user_closes_no_turn(tmp_path: Path, text: str) -> None:
    checkpoint(tmp_path)
    tokens = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"prompt 1 (spells the special token|holds)"):
        load(tmp_path).prepare(["the cat", text])
    assert set(tokens.encode(text).ids) & {ID[name] for name in (TURN, HEAD, START, END, MASK)}  # the control
    with pytest.raises(ValueError, match=r"prompt 0 (spells the special token|holds)"):
        load(tmp_path, chat=False).prepare([text])


def test_no_text_ends_within_a_region_whatever_may_end_one(tmp_path: Path) -> None:
    """Several ends, of config.json, of generation_config.json, a turn's: all are forbidden in front of kept text."""
    checkpoint(tmp_path, eos_token_id=[ID[END], ID[HEAD]])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [ID[TAIL]]}))
    model = load(tmp_path, length=8)
    assert {ID[END], ID[HEAD], ID[TAIL], ID[TURN]} <= set(model.ends)
    done = iterref.infill(
        model, ["the [cat saw a] dog"] * 12, prompts=["a man"] * 12, alpha=0.01,
        reward=lambda completions: [-float(len(text)) for text in completions],
        sampler="iterref:steps=3,moves=6,tries=8",
    )  # fmt: skip
    assert all(text.startswith("the ") and text.endswith(" dog") for text in done.texts)
