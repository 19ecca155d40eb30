"""Encoders of many classes: how many positions they read, what padding does to them, and what fills a canvas up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import iterref
from iterref.check import check_model
from iterref.loading import family_of, load
from iterref.models.masked_lm import recognised
from iterref.rewards import SelfLikelihood
from tests.support.masked import CLS, MASK, PAD, SEP, SIZES, WORDS, write_model, write_tokenizer

WIDE: dict[str, Any] = {**SIZES, "max_position_embeddings": 24}
CLASSES: dict[str, dict[str, Any]] = {
    "MPNetForMaskedLM": WIDE, "RobertaForMaskedLM": WIDE, "IBertForMaskedLM": WIDE, "CamembertForMaskedLM": WIDE,
    "Data2VecTextForMaskedLM": WIDE,
    "EsmForMaskedLM": {**WIDE, "position_embedding_type": "absolute", "mask_token_id": MASK, "token_dropout": False},
    "LukeForMaskedLM": {**WIDE, "entity_vocab_size": 5, "entity_emb_size": 4},
    "LongformerForMaskedLM": {**WIDE, "max_position_embeddings": 33, "attention_window": [8, 8]},
}  # fmt: skip
MIXING: dict[str, dict[str, Any]] = {
    "FNetForMaskedLM": {**SIZES, "tpu_short_seq_length": 24},
    "ConvBertForMaskedLM": {**SIZES, "embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 3},
    "NystromformerForMaskedLM": {**SIZES, "num_landmarks": 24, "segment_means_seq_len": 24,
                                  "conv_kernel_size": 3},
}


def encoder(folder: Path, name: str = "BertForMaskedLM", length: int = 5, sizes: Any = SIZES, **options: Any) -> Any:
    write_tokenizer(folder, **options)
    network = write_model(folder, name, **sizes)
    return network, load(folder, length=length)


def says(model: Any, prompts: list[str], x_t: torch.Tensor, row: int = 0) -> torch.Tensor:
    """p(x_0 | x_t) (L, V) of one prompt among others."""
    denoiser, canvas, free = model.prepare(prompts)
    many = x_t.expand(len(prompts), -1).clone()
    found = denoiser(many, torch.full((len(prompts),), 0.5), free, torch.arange(len(prompts))).exp()
    return found.view(len(prompts), x_t.shape[-1], -1)[row]


@pytest.mark.parametrize("name", CLASSES)
def test_as_many_positions_are_read_as_a_class_has(tmp_path: Path, name: str) -> None:
    """The longest prompt that is taken runs, and one token more is refused by number, before anything runs."""
    network, model = encoder(tmp_path, name, sizes=CLASSES[name])
    most = model.bind.most
    room = most - 5 - 2
    denoiser, canvas, free = model.prepare(["cat " * room])
    law = denoiser(canvas, torch.ones(1), free, torch.zeros(1, dtype=torch.long))
    assert law.isfinite().any(1).all()
    with pytest.raises(ValueError, match=f"prompt 0 takes {room + 2} positions .* reads {most}"):
        model.prepare(["cat " * (room + 1)])


@pytest.mark.parametrize("name", MIXING)
def test_a_class_that_feels_padding_runs_one_length_a_call(tmp_path: Path, name: str) -> None:
    network, model = encoder(tmp_path, name, sizes=MIXING[name])
    x_t = torch.tensor([[MASK, 6, MASK, MASK, 8]])
    alone = says(model, ["the cat"], x_t)
    assert says(model, ["the cat", "a man ran home the dog", "", "the dog"], x_t).sub(alone).abs().max() < 1e-5
    assert {one.name: one.passed for one in check_model(model)}["prompts"] is True
    denoiser = model.prepare(["the cat", "a man ran home the dog"])[0]
    assert denoiser.network.feels_padding
    denoiser.network.feels_padding = False  # the control: as the others are asked
    felt = denoiser(x_t.expand(2, -1), torch.ones(2), torch.ones(2, 5, dtype=torch.bool), torch.arange(2)).exp()
    assert felt[:5].sub(alone).abs().max() > 1e-4


def test_check_finds_a_class_that_feels_padding_without_being_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("iterref.models.bidirectional.Bidirectional.probe", lambda self, pad, most: None)
    _, model = encoder(tmp_path, "FNetForMaskedLM", sizes=MIXING["FNetForMaskedLM"])
    findings = {one.name: one.passed for one in check_model(model)}
    assert findings["prompts"] is False


@pytest.mark.parametrize("name", ["BertForMaskedLM", "RobertaForMaskedLM", "DistilBertForMaskedLM"])
def test_a_text_reads_the_same_in_canvases_of_any_length(tmp_path: Path, name: str) -> None:
    """Its end stands right behind it and the filler is hidden: the class itself is called on the text alone."""
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24} if "Distil" in name else SIZES
    network, _ = encoder(tmp_path, name, sizes={**sizes, "max_position_embeddings": 40, "initializer_range": 0.5})
    text = [5, MASK, 8, MASK, 10]
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([[CLS, *text, SEP]])).logits[0, 1:6].double()
    logits[:, [*range(5), *range(5 + len(WORDS), logits.shape[1])]] = -torch.inf
    want = logits.softmax(-1)[[1, 3]]
    for length in (6, 7, 12, 30):
        model = load(tmp_path, length=length)
        x_t = model.encode(["the cat saw a man"])
        x_t[0, [1, 3]] = MASK
        assert x_t[0, 5:].tolist() == [SEP, *[PAD] * (length - 6)]
        denoiser = model.prepare([""])[0]
        law = denoiser(x_t, torch.ones(1), x_t == MASK, torch.zeros(1, dtype=torch.long)).exp()
        assert law.double().sub(want).abs().max() < 1e-5
    seen = model.readings()["with the filler in sight"].prepare([""])[0]
    assert seen(x_t, torch.ones(1), x_t == MASK, torch.zeros(1, dtype=torch.long)).exp().sub(want).abs().max() > 1e-3


def test_the_log_likelihood_of_a_text_does_not_count_what_fills_its_canvas_up(tmp_path: Path) -> None:
    """It was minus infinity for a text shorter than the canvas; of one evaluation it is what the class itself says."""
    network, _ = encoder(tmp_path, sizes={**SIZES, "max_position_embeddings": 40, "initializer_range": 0.5})
    text = [5, 6, 8]
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([[CLS, *[MASK] * 3, SEP]])).logits[0, 1:4].double()
    logits[:, [*range(5), *range(5 + len(WORDS), logits.shape[1])]] = -torch.inf
    want = logits.log_softmax(-1).gather(1, torch.tensor(text)[:, None]).sum()
    for length in (3, 4, 5, 12, 30):
        model = load(tmp_path, length=length)
        written = model.decode(torch.tensor([[*text, SEP, *[PAD] * 26]])[:, :length])
        found = iterref.log_likelihood(model, written, evaluations=1)
        assert found.sub(want).abs() < 1e-5
        many = iterref.log_likelihood(model, [*written, "the"])
        alone = SelfLikelihood(*model.prepare(["", ""]), value="sum", groups=1)
        judged = alone(model.encode([*written, "the"]), torch.arange(2))
        assert judged[0].sub(want).abs() < 1e-5 and judged.isfinite().all()
        assert many.isfinite().all() and many[0].sub(iterref.log_likelihood(model, written)).abs() < 1e-5


def test_texts_of_different_lengths_share_a_call(tmp_path: Path) -> None:
    network, model = encoder(tmp_path, length=9)
    x_t = model.encode(["the cat saw a man", "the dog"])
    x_t[:, 1] = MASK
    denoiser = model.prepare(["", "a man"])[0]
    calls: list[Any] = []
    denoiser.network.model.register_forward_pre_hook(lambda *given: calls.append(1))
    both = denoiser(x_t, torch.ones(2), x_t == MASK, torch.arange(2)).exp()
    assert len(calls) == 1
    for row in range(2):
        one = slice(row, row + 1)
        alone = denoiser(x_t[one], torch.ones(1), x_t[one] == MASK, torch.tensor([row])).exp()
        assert alone.sub(both[one]).abs().max() < 1e-5


def test_a_text_keeps_its_length_where_a_model_knows_no_end(tmp_path: Path) -> None:
    _, model = encoder(tmp_path, length=12)
    assert model.fixed_length
    count = {"reward": lambda completions: [float(text.count("cat")) for text in completions], "alpha": 0.1}
    done = iterref.refine(model, ["the dog saw a man"], prompts=["a man"], sampler="iterref:moves=6,tries=4", **count)
    assert len(done.texts[0].split()) == 5 and done.tokens[0, 5:].tolist() == [SEP, *[PAD] * 6]
    made = iterref.generate(model, ["the dog"], sampler="ancestral:steps=4", **count)
    assert len(made.texts[0].split()) == 12  # every token is a word


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "bert", "architectures": ["BertForPreTraining"]}, "masked_lm"),
        ({"model_type": "bert"}, "masked_lm"),
        ({"model_type": "albert", "architectures": ["AlbertForPreTraining"]}, "masked_lm"),
        ({"model_type": "esm", "architectures": []}, "masked_lm"),
        ({"model_type": "mpnet", "architectures": ["MPNetForMaskedLM"]}, "masked_lm"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, "masked_lm"),
        ({"model_type": "a2d-qwen3", "architectures": ["A2DQwen3LMHeadModel"], "auto_map": {"x": "y"}}, "masked_lm"),
        ({"model_type": "llama", "architectures": ["BlockLlama"], "auto_map": {"AutoModel": "b.B"}}, None),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "block_size": 32}, None),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModel": "b.B"}}, None),
        ({"model_type": "qwen2", "architectures": ["SDARForCausalLM"]}, None),
        ({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, None),
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, None),
        ({"model_type": "gpt2"}, None),
    ],
)
def test_what_is_recognised(config: dict[str, Any], family: str | None) -> None:
    assert recognised(config) == (family == "masked_lm")
    if family is None:
        with pytest.raises(ValueError, match="is of the architecture .* say family="):
            family_of(config, "x")
    else:
        assert family_of(config, "x") == family


def test_heads_besides_are_left_on_the_disk(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    network = write_model(tmp_path, "BertForPreTraining", **SIZES)
    x = torch.tensor([[CLS, 5, MASK, 7, SEP]])
    model = load(tmp_path, length=3)
    law = says(model, [""], torch.tensor([[5, MASK, 7]]))[1]
    with torch.no_grad():
        logits = network(input_ids=x).prediction_logits[0, 2].double()
    logits[[*range(5), *range(5 + len(WORDS), len(logits))]] = -torch.inf
    assert law.double().sub(logits.softmax(-1)).abs().max() < 1e-5


def test_a_family_may_be_said(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_model(tmp_path, "BertForMaskedLM", **SIZES)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["OursForDenoising"]}))
    with pytest.raises(ValueError, match="oursfordenoising.* say family="):
        load(tmp_path)
    assert load(tmp_path, family="masked_lm", length=3).length == 3
    with pytest.raises(ValueError, match="unknown model family 'bert'. It is one of"):
        load(tmp_path, family="bert")
    file = tmp_path / "model.safetensors"
    save_file({name: weight for name, weight in load_file(file).items() if "layer.1" not in name}, file)
    with pytest.raises(ValueError, match="needs: config.json is of another network"):
        load(tmp_path, family="masked_lm")


# Tokenizers as they are shipped


BERT = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat dog ##s sat T ##he The . ,".split()
ESM = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C <null_1> <mask>".split()


def shipped(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("_txt", ".txt").replace("_json", ".json")).write_text(text)
    return folder


@pytest.mark.parametrize("config", [{}, {"model_type": "bert"}])
def test_a_vocabulary_of_bert_s(tmp_path: Path, config: dict[str, Any]) -> None:
    from iterref.models.text.codec import Codec

    files = {"config_json": config} if config else {}
    cased = Codec.load(shipped(tmp_path / "cased", vocab_txt="\n".join(BERT) + "\n", **files))
    assert cased.ids(["The cats sat.", "the cats"]) == [[12, 6, 8, 9, 13], [5, 6, 8]]
    assert (cased.frame, cased.pad, cased.mask) == (([2], [3]), 0, 4)
    words = [word for word in BERT if word == word.lower() or word[0] == "["]
    bare = Codec.load(shipped(tmp_path / "bare", vocab_txt="\n".join(words) + "\n", **files))
    assert bare.ids(["The cats sat."]) == [[words.index(w) for w in ("the", "cat", "##s", "sat", ".")]]
    told = {"tokenizer_config_json": {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}}
    kept = Codec.load(shipped(tmp_path / "kept", vocab_txt="\n".join(words) + "\n", **told))
    with pytest.raises(ValueError, match="text 0 holds 'The'"):
        kept.ids(["The cat"])


def test_a_vocabulary_of_esm_s(tmp_path: Path) -> None:
    from iterref.models.text.codec import Codec

    codec = Codec.load(shipped(tmp_path, vocab_txt="\n".join(ESM), config_json={"model_type": "esm"}))
    protein = "MKTVRQERLKSIVRILERSKEPVSGAQLAEELSVSRQVIVQDIAYLRSLGYNIVATPRGYVLAGG" * 2
    ids = codec.ids([protein])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ids[0] == theirs(protein, add_special_tokens=False).input_ids and codec.text(ids[:1]) == [protein]
    assert codec.frame == ([0], [2]) and (codec.pad, codec.mask) == (1, 25)
    with pytest.raises(ValueError, match="text 0 comes back from its tokenizer as 'MKT'"):
        codec.ids(["M K T"])
    with pytest.raises(ValueError, match="prompt 1 holds 'B', 'J'"):
        codec.ids(["MKT", "MBJT"], "prompt")


def test_pairs_of_roberta_s(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    from iterref.models.text.codec import Codec

    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "<mask>"]
    files = {"vocab_json": {piece: at for at, piece in enumerate(pieces)}, "merges_txt": "#version: 0.2\nt h\nth e\n"}
    for config in ({}, {"config_json": {"model_type": "roberta"}}):
        codec = Codec.load(shipped(tmp_path / str(len(config)), **files, **config))
        assert codec.frame == ([0], [2]) and codec.ids(["the"]) == [[pieces.index("the")]]
        texts = ["the cat, \u4e2d \U0001f600", "The  dog </s> sat"]
        assert codec.text(codec.ids(texts)) == texts


def test_what_is_no_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    from iterref.models.text.codec import Codec

    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json, vocab.txt, .*tokenizer='none'"):
        Codec.load(shipped(tmp_path / "none", config_json={"model_type": "bert"}))
    broken = shipped(tmp_path / "spm", config_json={"model_type": "t5"})
    (broken / "spiece.model").write_bytes(b"no model of sentencepiece")
    with pytest.raises(ValueError, match="spiece.model of .* cannot be read"):
        Codec.load(broken)
