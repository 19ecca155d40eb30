"""What people's configurations and tokenizers say besides what a network is: taken, left, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import processors
from torch import Tensor

from iterref.check import check_model
from iterref.loading import load
from iterref.models.text.codec import Codec
from tests.models import test_nemotron, test_sdar, test_stable_diffcoder
from tests.support import llada, tokenizers
from tests.support.masked import CLS, MASK, SEP, WORDS, checkpoint, write_model, write_tokenizer
from tests.support.published import END, flat_config, tokenizer, weights, write

X_T = torch.tensor([MASK, 6, MASK, 8, MASK])
RAN = (
    {"_attn_implementation": "eager"}, {"attn_implementation": "flash_attention_2"}, {"return_dict": False},
    {"use_return_dict": False, "torchscript": True}, {"output_attentions": True, "output_hidden_states": True},
    {"chunk_size_feed_forward": 2, "gradient_checkpointing": True},
)  # fmt: skip


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def says(model: Any, prompts: list[str], x_t: Tensor) -> Tensor:
    """p(x_0 | x_t) (L, V) of the first of some prompts."""
    denoiser, free = model.prepare(prompts)[0], torch.ones(len(prompts), len(x_t), dtype=torch.bool)
    many = x_t.expand(len(prompts), -1).clone()
    found = denoiser(many, torch.full((len(prompts),), 0.5), free, torch.arange(len(prompts)))
    law: Tensor = found.exp().view(len(prompts), len(x_t), -1)[0]
    return law


def truth(network: Any, before: list[int], x_t: Tensor, behind: list[int], never: list[int], mask: int) -> Tensor:
    """The same by hand, of the class itself with every position in sight."""
    ids = torch.tensor([[*before, *x_t.tolist(), *behind]])
    sight = torch.zeros(1, 1, ids.shape[1], ids.shape[1]) if "Causal" in type(network).__name__ else None
    with torch.no_grad():
        logits = network(input_ids=ids, attention_mask=sight).logits[0, len(before) :][: len(x_t)]
    logits[:, [mask, *never]] = -torch.inf
    carried = torch.nn.functional.one_hot(x_t, logits.shape[1])
    return torch.where((x_t == mask)[:, None], logits.softmax(-1), carried)


@pytest.mark.parametrize("changes", RAN)
@pytest.mark.parametrize("name", ["BertForMaskedLM", "Qwen3ForCausalLM"])
def test_how_a_network_was_last_run_is_no_part_of_it(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    """Eager attention adds a mask of True and False to its scores, which says nothing at all."""
    network = checkpoint(tmp_path, name)
    rewrite(tmp_path / "config.json", **changes)
    encoder = name.startswith("Bert")
    never = [*(range(4) if encoder else ()), *range(5 + len(WORDS), 18)]
    want = truth(network, [CLS, 5, 6], X_T, [SEP], never, MASK)
    model = load(tmp_path, length=5)
    for prompts in (["the cat"], ["the cat", "a man ran home the dog", ""]):
        assert says(model, prompts, X_T).sub(want).abs().max() < 1e-5


def test_a_network_in_memory_may_have_any_attention(tmp_path: Path) -> None:
    checkpoint(tmp_path, "Qwen3ForCausalLM")
    own = transformers.AutoTokenizer.from_pretrained(tmp_path)
    laws = []
    for attention in ("sdpa", "eager"):
        network = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path, attn_implementation=attention)
        laws.append(says(load(model=network, tokenizer=own, length=5), ["the cat"], X_T))
    assert laws[0].sub(laws[1]).abs().max() < 1e-6


def test_an_encoder_that_reads_from_the_left_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    rewrite(tmp_path / "config.json", is_decoder=True)
    with pytest.raises(ValueError, match=r"has is_decoder=True, which needs another network than BertForMaskedLM's"):
        load(tmp_path)


def words(folder: Path, names: list[str], **special: str) -> None:
    """A word tokenizer with these special tokens alone."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(tokenizers.numbered(names)))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
         "max_position_embeddings": 24, "initializer_range": 0.5}  # fmt: skip
NAMES = [*WORDS[:8], "<m>"]


@pytest.mark.parametrize("special", [{}, {"pad_token": "<m>"}])
def test_a_word_is_no_filler(tmp_path: Path, special: dict[str, str]) -> None:
    """A tokenizer that has neither padding nor an end of its own: token 0 is "the", and seen where a text ends so."""
    words(tmp_path, NAMES, mask_token="<m>", **special)
    network = write_model(tmp_path, "BertForMaskedLM", len(NAMES), **SIZES)
    model, x_t = load(tmp_path, length=5), torch.tensor([8, 1, 8, 0, 0])
    want = truth(network, [1, 2], x_t, [], [], 8)
    assert says(model, ["cat dog", "the man"], x_t).sub(want).abs().max() < 1e-5
    assert model.decode(torch.tensor([[3, 1, 2, 0, 0]])) == ["saw cat dog the the"]


@pytest.mark.parametrize("ends", [2, [2, 3]])
def test_a_word_is_no_end(tmp_path: Path, ends: Any) -> None:
    """LLaMA's class says that token 2 is the end where its user says nothing."""
    words(tmp_path, [*NAMES, "</s>"], mask_token="<m>", eos_token="</s>")
    sizes = {**SIZES, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": ends}
    network = write_model(tmp_path, "LlamaForCausalLM", 10, **sizes)
    with pytest.raises(ValueError, match="eos_token_id of .* is 2, which its tokenizer reads as 'dog': write"):
        load(tmp_path)
    with pytest.raises(ValueError, match="eos_token_id of the LlamaForCausalLM is 2, which its tokenizer"):
        load(model=network, tokenizer=transformers.AutoTokenizer.from_pretrained(tmp_path))
    (tmp_path / "generation_config.json").unlink()
    rewrite(tmp_path / "config.json", eos_token_id=9)
    model = load(tmp_path, length=4)
    assert list(model.ends) == [9] and model.decode(torch.tensor([[1, 2, 9, 9]])) == ["cat dog"]


@pytest.mark.parametrize(
    ("key", "value", "asked"), [("do_lower_case", False, "A"), ("strip_accents", False, "\u00e1")]
)
def test_a_tokenizer_is_as_its_class_takes_it(tmp_path: Path, key: str, value: bool, asked: str) -> None:
    """tokenizer_config.json has the last word, with `transformers`, where a class has such an option."""
    write_tokenizer(tmp_path)
    tokenizers.written(tmp_path, tokenizers.tokenizer("pieces"))
    for kind, own in (("BertTokenizer", True), ("PreTrainedTokenizerFast", False)):
        rewrite(tmp_path / "tokenizer_config.json", tokenizer_class=kind, **{key: value})
        codec = Codec.load(tmp_path, lossy=True)
        want = transformers.AutoTokenizer.from_pretrained(tmp_path)(asked, add_special_tokens=False).input_ids
        assert codec.ids([asked]) == [want] and (want == [codec.unknown]) == own


def test_a_prefix_space_is_as_the_class_takes_it(tmp_path: Path) -> None:
    tokenizers.written(tmp_path, tokenizers.tokenizer("bytes"))
    for prefix in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": prefix, "unk_token": "[UNK]"})
        )
        (found,) = Codec.load(tmp_path).ids(["the"])
        assert len(found) == 1 + prefix


@pytest.mark.parametrize("family", [test_sdar, test_stable_diffcoder, test_nemotron])
def test_a_plain_prompt_in_blocks_begins_as_its_tokenizer_says(tmp_path: Path, family: Any) -> None:
    family.write(tmp_path)
    made = Codec.load(tmp_path).tokenizer
    begin = "<|beginoftext|>"
    special = [(begin, made.token_to_id(begin))]
    made.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=special)
    made.save(str(tmp_path / "tokenizer.json"))
    model = load(tmp_path, length=4, chat=False)
    assert model.ids(["the cat", ""]) == [made.encode(text).ids for text in ("the cat", "")]
    assert model.ids([""]) == [[special[0][1]]] == load(tmp_path, length=4).ids([""])


def test_rotary_angles_are_read_in_their_new_form(tmp_path: Path) -> None:
    llada.checkpoint(tmp_path)
    old = says(load(tmp_path, length=5, chat=False), ["the cat"], torch.tensor([llada.ID[llada.MASK]] * 5))
    written = llada.config()
    theta = written.pop("rope_theta")
    (tmp_path / "config.json").write_text(json.dumps(written | {"rope_parameters": {"rope_theta": theta}}))
    new = says(load(tmp_path, length=5, chat=False), ["the cat"], torch.tensor([llada.ID[llada.MASK]] * 5))
    assert torch.equal(old, new)


LONG = {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 16}  # fmt: skip


def scaled(folder: Path, rope: dict[str, Any]) -> Any:
    checkpoint(folder, "LlamaForCausalLM")
    file = folder / "config.json"
    written = {key: value for key, value in json.loads(file.read_text()).items() if key != "rope_parameters"}
    file.write_text(json.dumps(written | {"rope_theta": 10_000.0, "rope_scaling": rope}))
    return load(folder, length=5)


def test_a_longer_text_in_the_batch_changes_no_angles(tmp_path: Path) -> None:
    """Rotary angles that are others for a call with a long text: one length a call then, and none in blocks."""
    model = scaled(tmp_path / "one", LONG)
    assert says(model, ["the cat", "a man ran home " * 8], X_T).sub(says(model, ["the cat"], X_T)).abs().max() < 1e-5
    model.bind.network.feels_padding = False  # the control: all in one call
    assert says(model, ["the cat", "a man ran home " * 8], X_T).sub(says(model, ["the cat"], X_T)).abs().max() > 1e-3
    test_sdar.write(tmp_path / "two")
    rewrite(tmp_path / "two" / "config.json", rope_scaling=LONG)
    with pytest.raises(ValueError, match="has rotary angles that change with the length of a text .*: it is not read"):
        load(tmp_path / "two")


def test_angles_that_remember_the_longest_text_are_not_asked_for(tmp_path: Path) -> None:
    model = scaled(tmp_path, {"type": "dynamic", "factor": 2.0})
    law = says(model, ["the cat"], X_T)
    with pytest.raises(ValueError, match="prompt 1 takes 25 positions and its answer 5, and the model reads 24"):
        model.prepare(["the", "the " * 24])
    assert torch.equal(law, says(model, ["the cat"], X_T))


def test_true_and_false_are_no_strings(tmp_path: Path) -> None:
    size = tokenizer(tmp_path, [END])
    for family, key in (("mdlm", "time_conditioning"), ("udlm", "cfg"), ("mdlm", "causal"), ("mdlm", "filler")):
        write(tmp_path, flat_config(family, size + 1, **{key: "false"}), weights(size + 1))
        with pytest.raises(ValueError, match=f"has {key}='false': write true or false there"):
            load(tmp_path)


@pytest.mark.parametrize("before", ["model.backbone.", "module.", "_orig_mod.backbone."])
def test_weights_may_stand_under_a_wrapper_s_name(tmp_path: Path, before: str) -> None:
    size = tokenizer(tmp_path, [END])
    plain, wrapped = (
        load(write(tmp_path, flat_config("mdlm", size + 1), weights(size + 1), prefix), length=4)._network
        for prefix in ("backbone.", before)
    )
    # And not their outputs: a product's last bits depend on where the file's header leaves the weights in memory.
    found = wrapped.state_dict()
    assert all(torch.equal(weight, found.pop(name)) for name, weight in plain.state_dict().items()) and not found


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer_config.json"])
def test_a_link_to_a_file_that_is_gone_is_named(tmp_path: Path, file: str) -> None:
    checkpoint(tmp_path)
    (tmp_path / file).unlink()
    (tmp_path / file).symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=f"{file} of .* is a link to a file that is gone: get it again"):
        load(tmp_path)


def test_options_are_named(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    for wrong, told in (
        ({"torch_dtype": torch.float16}, r"takes no torch_dtype= for masked .*: did you mean 'dtype'\? It takes chat"),
        ({"chat": "no"}, "chat= is a str .'no'.: pass True or False"),
    ):
        with pytest.raises(TypeError, match=told):
            load(tmp_path, **wrong)
    with pytest.raises(ValueError, match="unknown device_map device.*: choose one of auto"):
        load(tmp_path, device_map=torch.device("cpu"))  # type: ignore[arg-type]
    assert next(load(tmp_path, dtype=torch.bfloat16)._network.model.parameters()).dtype == torch.bfloat16


def test_what_a_class_cannot_do_is_said_before_it_runs(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_model(tmp_path, "DebertaForMaskedLM", **SIZES)
    with pytest.raises(ValueError, match="a DebertaForMaskedLM does not run in bfloat16 here .*: load it with another"):
        load(tmp_path, dtype="bfloat16")
    write_model(tmp_path, "PerceiverForMaskedLM", num_latents=4, d_latents=16, d_model=16, num_blocks=1,
                num_self_attends_per_block=1, max_position_embeddings=24)  # fmt: skip
    with pytest.raises(ValueError, match="a PerceiverForMaskedLM has no table of tokens: it is not read"):
        load(tmp_path)


def test_check_tells_of_weights_that_are_no_numbers(tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "one")
    with torch.no_grad():
        network = type(network)(network.config)
        network.cls.predictions.bias[5] = torch.nan
    network.save_pretrained(tmp_path / "one")
    found = {one.name: one for one in check_model(load(tmp_path / "one", length=5))}
    assert found["shape"].passed is False and "with NaN" in found["shape"].sentence
