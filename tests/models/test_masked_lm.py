"""Masked language models of `transformers`: the class' own logits, whatever prompts stand beside, as masked laws.

Compared with ZHZisZZ/dllm at 6e756132 (the attention mask of dllm/pipelines/andi/models/qwen3/modeling_qwen3.py) and
13ba3727 (dllm/core/samplers/mdlm.py: logits unshifted; padding behind the answer and hidden): an independent reading of
both stands in the tests, over the classes of `transformers`, and agrees to 1e-6.
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
from iterref.guidance import Tempered
from iterref.loading import load
from iterref.models.base import Chat
from iterref.models.masked_lm import LENGTH
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel
from iterref.noise import Schedule
from tests.support.masked import (
    CLS,
    DECODERS,
    ENCODERS,
    MASK,
    PAD,
    SEP,
    SIZES,
    SPECIAL,
    TEMPLATE,
    WORDS,
    checkpoint,
    write_model,
    write_tokenizer,
)
from tests.support.published import all_states, product_matrix, step_matrix

PROMPTS = ["the cat saw a man", "", "a dog"]
T = 5


def relabelled(folder: Path, model_type: str) -> None:
    file = folder / "config.json"
    written = file.read_text()
    assert '"model_type": "qwen3"' in written
    file.write_text(written.replace('"model_type": "qwen3"', f'"model_type": "{model_type}"'))


def canvas_of(model: PromptedModel, prompts: list[str]) -> tuple[Any, Tensor, Tensor]:
    """A denoiser with half-open canvases: one token is there, the others are masks."""
    denoiser, x_t, free = model.prepare(prompts)
    x_t[:, 1] = SPECIAL.index("[PAD]") + 7
    return denoiser, x_t, free


def independent(
    network: Any, before: list[int], x_t: Tensor, after: list[int], causal: bool, endless: bool = False
) -> Tensor:
    """p(x_0 | x_t) (L, V) of one canvas as it is said in words, from the class called on that one text alone."""
    ids = torch.tensor([before + x_t.tolist() + after])
    everything = {"attention_mask": torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)} if causal else {}
    with torch.no_grad():
        logits = network(input_ids=ids, **everything).logits[0, len(before) : len(before) + len(x_t)].double()
    never = range(len(SPECIAL)) if endless else [MASK]  # who was trained to fill in alone was never asked for an end
    logits[:, [*never, *range(len(SPECIAL + WORDS), logits.shape[1])]] = -torch.inf
    law = logits.softmax(-1)
    revealed = x_t != MASK
    law[revealed] = torch.nn.functional.one_hot(x_t[revealed], law.shape[1]).double()
    return law


def laws(denoiser: Any, x_t: Tensor, rows: Tensor | None = None) -> Tensor:
    rows = torch.arange(len(x_t)) if rows is None else rows
    times = torch.full((len(x_t),), 0.5, dtype=torch.float64)
    where = torch.ones_like(x_t, dtype=torch.bool)
    return denoiser(x_t, times, where, rows).view(*x_t.shape, -1).exp()


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("talks", [False, True])
def test_laws_are_the_class_s_own_whatever_stands_beside(tmp_path: Path, name: str, talks: bool) -> None:
    causal = name in DECODERS
    network = checkpoint(tmp_path, name, template=TEMPLATE if talks else None, framed=not causal)
    model = load(tmp_path, length=T)
    assert isinstance(model, PromptedModel) and model.chat == talks
    denoiser, x_t, free = canvas_of(model, PROMPTS)
    assert bool(free.all()) and denoiser.time_independent and model.noise.schedule == Schedule("linear")
    found = laws(denoiser, x_t)
    plain = ([], []) if talks or causal else ([CLS], [SEP])
    for row, prompt in enumerate(PROMPTS):
        said = f"Q : {prompt} A :" if talks and prompt else prompt
        before = plain[0] + [(SPECIAL + WORDS).index(word) for word in said.split()]
        wanted = independent(network, before, x_t[row], plain[1], causal, not (talks or causal))
        assert found[row].double().sub(wanted).abs().max() < 1e-5
        alone, _, _ = model.prepare([prompt])
        assert laws(alone, x_t[row : row + 1])[0].sub(found[row]).abs().max() < 1e-5
    copies = torch.tensor([2, 0, 2, 2])  # candidates of some of the prompts, in any order
    assert laws(denoiser, x_t[copies], copies).sub(found[copies]).abs().max() < 1e-5
    # a control: the law does depend on the prompt
    assert laws(denoiser, x_t[[0]], torch.tensor([2])).sub(found[0]).abs().max() > 1e-3


def test_a_decoder_sees_all_positions(tmp_path: Path) -> None:
    """Read with its own causal mask, the first position would not feel the last; here it does."""
    network = checkpoint(tmp_path, "Qwen3ForCausalLM", framed=False)
    relabelled(tmp_path, "a2d-qwen3")  # as the published conversions call it
    denoiser, x_t, _ = canvas_of(load(tmp_path, length=T), ["the cat"])
    changed = x_t.clone()
    changed[:, -1] = 9
    assert laws(denoiser, changed)[0, 0].sub(laws(denoiser, x_t)[0, 0]).abs().max() > 1e-3
    with torch.no_grad():
        hidden = network(input_ids=x_t).logits[0, 0] - network(input_ids=changed).logits[0, 0]
    assert hidden.abs().max() == 0


def test_the_head_runs_on_the_open_positions_alone(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model = load(tmp_path, length=T)
    denoiser, x_t, free = canvas_of(model, PROMPTS)
    heads: list[int] = []
    denoiser.network.model.cls.register_forward_hook(lambda module, given, answer: heads.append(given[0].shape[:-1]))
    where = torch.zeros_like(free)
    where[0, 3] = where[2, 0] = where[2, 4] = True
    times = torch.full((3,), 0.5, dtype=torch.float64)
    some = denoiser(x_t, times, where, torch.arange(3))
    assert heads == [(1, 3)] and some.shape == (3, 18)
    assert some.exp().sub(laws(denoiser, x_t)[where]).abs().max() < 1e-6


def test_a_plain_step_is_the_published_sampler_s(tmp_path: Path) -> None:
    """A mask falls with probability (a_u - a_t) / (1 - a_t), to a token of the softmax at temperature 1: what the
    published sampler does with random remasking, where the number that fall is binomial."""
    write_tokenizer(tmp_path)
    network = write_model(tmp_path, "BertForMaskedLM", 16, **SIZES)
    model = load(tmp_path, length=2)
    denoiser, _, _ = model.prepare(["a dog"])
    states = all_states(16, 2)
    t, u = 0.7, 0.4
    fall = (t - u) / t
    before = [CLS] + [(SPECIAL + WORDS).index(word) for word in ("a", "dog")]
    cells = torch.stack([independent(network, before, x_t, [SEP], False, True) for x_t in states])
    masked = (states == MASK)[..., None]
    stay = torch.nn.functional.one_hot(torch.tensor(MASK), 16).double()
    cells = torch.where(masked, fall * cells + (1 - fall) * stay, cells)
    found = step_matrix(denoiser, states, t, u)
    whole = ((states != PAD) & (states != SEP)).all(1)  # elsewhere a text ends, and what is behind it is hidden
    assert found.sub(product_matrix(cells, states))[whole].abs().max() < 1e-6
    # a control: at another temperature it is another law
    assert found.sub(step_matrix(Tempered(denoiser, 0.8), states, t, u))[whole].abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision(tmp_path: Path, dtype: str) -> None:
    checkpoint(tmp_path, "ModernBertForMaskedLM")
    whole, half = (canvas_of(load(tmp_path, length=T, dtype=kind), PROMPTS) for kind in ("float32", dtype))
    assert next(half[0].network.model.parameters()).dtype == getattr(torch, dtype)
    found = half[0](half[1], torch.full((3,), 0.5, dtype=torch.float64), half[2], torch.arange(3))
    assert found.dtype == torch.float32 and found.exp().sum(-1).sub(1).abs().max() < 1e-5
    assert laws(half[0], half[1]).sub(laws(whole[0], whole[1])).abs().max() < 0.2


def test_generation_and_conformance(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model = load(tmp_path, length=T)
    options: dict[str, Any] = {"reward": lambda completions: [text.count("cat") for text in completions], "alpha": 0.1}
    result = iterref.generate(model, PROMPTS, sampler="iterref:steps=2,moves=6,tries=4", forbidden=range(5), **options)
    assert result.texts is not None and result.rewards.mean() > 1.5
    alone = iterref.generate(
        model, PROMPTS[2:], sampler="iterref:steps=2,moves=6,tries=4", forbidden=range(5), rows=[2], **options
    )
    assert alone.texts == result.texts[2:]
    findings = check_model(model, None, PROMPTS, forbidden=[MASK, 16, 17])
    assert {finding.name: finding.passed for finding in findings if finding.passed is False} == {}
    assert {"rows", "packing", "prompts", "forbidden", "time"} <= {one.name for one in findings if one.passed}
    edited = iterref.infill(model, ["the [cat] saw"], prompts=["a man"], sampler="iterref:steps=2,moves=2", **options)
    assert edited.texts[0].startswith("the ") and edited.texts[0].endswith(" saw")


def test_answers_as_texts(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    model = load(tmp_path)
    assert isinstance(model, PromptedModel) and model.length == LENGTH
    canvas = model.encode(["the cat", ""])
    assert canvas[:, :4].tolist() == [[5, 6, SEP, PAD], [SEP, PAD, PAD, PAD]]
    assert model.decode(canvas) == ["the cat", ""]
    assert model.decode(torch.tensor([[5, MASK, 6, PAD, 7], [5, 17, 6, SEP, 7]])) == ["the cat", "the cat"]
    with pytest.raises(ValueError, match="text 1 takes 65 positions"):
        model.encode(["a", "a " * 65])


def test_compiling_reaches_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: asked.append((type(self).__name__, options)))
    load(tmp_path, compile=True)
    assert asked == [("BertModel", {"dynamic": True, "mode": None})]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "causal"
    checkpoint(folder, "LlamaForCausalLM", mask=False, framed=False)
    with pytest.raises(ValueError, match="no mask token: it is an autoregressive model"):
        load(folder)
    bert = tmp_path / "bert"
    checkpoint(bert)
    with pytest.raises(ValueError, match="prompt 1 takes 21 positions and its answer 5, and the model reads 24"):
        load(bert, length=T).prepare(["a", "a " * 20])
    for wrong, sentence in (({"chat": True}, "no chat template"), ({"tokenizer": "none"}, "no mask token")):
        with pytest.raises(ValueError, match=sentence):
            load(bert, **wrong)
    with pytest.raises(ValueError, match="at least one position"):
        load(bert, length=-1)
    (bert / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load(bert)
    small = tmp_path / "small"
    write_tokenizer(small)
    write_model(small, "BertForMaskedLM", 12, **SIZES)
    with pytest.raises(ValueError, match="knows 12 tokens and the tokenizer 16"):
        load(small)
    other = tmp_path / "other"
    checkpoint(other)
    config = other / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ValueError, match="lack 'bert.encoder.layer.2.* needs: config.json is of another network"):
        load(other)
    config.write_text(config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 1'))
    with pytest.raises(ValueError, match="hold 'bert.encoder.layer.1.* has no place"):
        load(other)
    config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": 32'))
    with pytest.raises(ValueError, match="do not make a BertForMaskedLM"):
        load(other)


def test_a_chat_is_written_as_the_tokenizer_writes_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, template=TEMPLATE)
    codec = Codec.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    said = [{"role": "user", "content": "the cat"}]
    assert codec.asked("the cat") == theirs.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    for name in ("bos_token", "eos_token", "sep_token", "cls_token", "unk_token"):  # named or not, as there
        write_tokenizer(tmp_path / name, template=f"{{{{ {name} }}}} {TEMPLATE}")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        want = theirs.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert Codec.load(tmp_path / name).asked("the cat") == want
    write_tokenizer(tmp_path / "broken", template="{{ raise_exception('no such role') }}")
    with pytest.raises(ValueError, match="cannot be filled in .*no such role.*chat=False"):
        Codec.load(tmp_path / "broken").asked("x")
    write_tokenizer(tmp_path / "none")
    with pytest.raises(ValueError, match="no chat template"):
        Codec.load(tmp_path / "none").asked("x")


def test_a_conversation_whose_text_is_empty_is_read_and_one_that_is_refused_is_named(tmp_path: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    checkpoint(tmp_path, "Qwen3ForCausalLM", template=refusing, framed=False)
    model = load(tmp_path, length=T)
    assert isinstance(model, PromptedModel)
    assert model.ids([Chat([("user", "the cat")], text=""), ""]) == [model.ids(["the cat"])[0], []]
    with pytest.raises(ValueError, match="filled in with prompt 1 .*no system.*: leave out what it refuses, or load"):
        model.ids(["the cat", Chat([("system", "a dog"), ("user", "the cat")])])


@pytest.mark.parametrize("beside", ["tokenizer_config.json", "added_tokens.json"])
def test_tokens_that_stand_beside_a_tokenizer_are_its_own(tmp_path: Path, beside: str) -> None:
    """A mask and a word that tokenizer.json lacks, as scripts add them, have the ids that transformers gives them."""
    checkpoint(tmp_path, "Qwen3ForCausalLM", mask=False, framed=False)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"mask_token": "<|mask|>"}
    added = {len(SPECIAL + WORDS): "<|mask|>", len(SPECIAL + WORDS) + 1: "zebra"}
    if beside == file.name:
        entries = {token: {"content": name, "special": "|" in name} for token, name in added.items()}
        config["added_tokens_decoder"] = entries
    else:
        (tmp_path / beside).write_text(json.dumps({name: token for token, name in added.items()}))
    file.write_text(json.dumps(config))
    theirs, model = transformers.AutoTokenizer.from_pretrained(tmp_path), load(tmp_path, length=T)
    assert isinstance(model, PromptedModel) and model.noise.mask == theirs.mask_token_id
    assert model.codec.ids(["the zebra"])[0] == theirs("the zebra")["input_ids"] == [5, len(SPECIAL + WORDS) + 1]
    config["added_tokens_decoder"] = {99: {"content": "yak"}}
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the added token 'yak' is said to be 99 and is 1[68]"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}A :", "leaves out what the user"),
        ("{% for m in messages if m['role'] == 'human' %}{{ m['content'] }}{% endfor %}A :", "leaves out what the us"),
        ([{"name": "chat", "template": TEMPLATE}, {"name": "rag", "template": "x"}], "of chat, rag none is called"),
    ],
)
def test_a_template_for_other_messages_is_refused(tmp_path: Path, template: Any, told: str) -> None:
    """The model would have been asked without its prompt, or without its template."""
    checkpoint(tmp_path, "Qwen3ForCausalLM", framed=False)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    model = load(tmp_path, length=T)
    assert isinstance(model, PromptedModel)
    with pytest.raises(ValueError, match=f"{told}.*load with chat=False"):
        model.ids(["the cat"])
