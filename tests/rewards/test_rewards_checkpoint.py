"""Checkpoints of reward models: what is refused, and that each refusal says what to do."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from iterref import hub
from iterref.rewards import Classifier, Perplexity, Similarity
from iterref.rewards.checkpoint import load, load_tokenizer
from tests.support import checkpoints


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.sentiment(tmp_path_factory.mktemp("checkpoints") / "sentiment")


@pytest.fixture
def copy(sentiment: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sentiment, tmp_path / "copy"))


def test_what_is_missing_is_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder .*/none: give one that save_pretrained wrote"):
        Classifier(tmp_path / "none", 0)
    with pytest.raises(FileNotFoundError, match="there is no folder none/at/all"):
        Classifier("./none/at/all", 0)
    with pytest.raises(ValueError, match=r"model.safetensors is a file: give the folder"):
        Classifier(copy / "model.safetensors", 0)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer that can be read"):
        Classifier(copy, 0)
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        Classifier(copy, 0)


def test_a_hub_name_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"'nobody/nothing' is no folder here, .*\(HF_HUB_OFFLINE is set\)"):
        Classifier("nobody/nothing", 0)


def test_a_hub_name_is_read_from_the_cache(sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def cached(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(sentiment)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    reward = Classifier("someone/sentiment", "positive")
    assert asked["name"] == "someone/sentiment" and reward.checkpoint.name == "someone/sentiment"
    assert len(reward(["a good day"])) == 1
    kept = list(huggingface_hub.utils.filter_repo_objects(
        ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "vocab.txt", "1_Pooling/config.json",
         "onnx/model.safetensors", "onnx/config.json", "training_args.bin"],
        allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"],
    ))  # fmt: skip
    assert kept == ["config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"]


def test_pickles_are_never_opened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \*.safetensors"):
        Classifier(copy, 0)
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/opened'\ntR.")
    with pytest.raises(FileNotFoundError, match=r"holds pytorch_model.bin and no \*.safetensors, and a pickle may run"):
        Classifier(copy, 0)


def test_code_of_a_checkpoints_own_is_never_run(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    foreign = config | {"model_type": "own-thing", "auto_map": {"AutoConfig": "own.Config"}}
    (copy / "own.py").write_text("raise SystemExit('this ran')")
    (copy / "config.json").write_text(json.dumps(foreign))
    with pytest.raises(ValueError, match="architecture 'own-thing', which transformers .* own code is never run"):
        Classifier(copy, 0)
    (copy / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "own.Config"}}))
    assert len(Classifier(copy, 0)(["a"])) == 1  # the architecture is known, so its own class is used


def test_broken_files_are_named(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json of .* is no JSON"):
        Classifier(copy, 0)


def test_broken_weights_are_named(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match="model.safetensors of .* cannot be read .* get it again"):
        Classifier(copy, 0)


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    """A head of random numbers would be a reward too."""
    masked = checkpoints.encoder(tmp_path / "masked")
    with pytest.raises(ValueError, match="no weights for .* and 3 more, so it is no sequence classifier"):
        Classifier(masked, 0)
    language = checkpoints.language(tmp_path / "language")
    with pytest.raises(ValueError, match="so it is no sequence classifier"):
        Classifier(language, 0)
    assert len(Similarity(masked, to="a")(["a"])) == 1  # a pooler that is missing is not looked at


def rewritten(folder: Path, change: Any) -> None:
    held = load_file(folder / "model.safetensors")
    save_file(change(held), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("before", ["_orig_mod.", "module."])
def test_weights_of_a_wrapped_network_are_named_so(copy: Path, before: str) -> None:
    rewritten(copy, lambda held: {f"{before}{name}": held[name] for name in held})
    with pytest.raises(ValueError, match="no weights for .*: they were saved from a compiled or wrapped network: save"):
        Classifier(copy, 0)


@pytest.mark.parametrize("make", [checkpoints.language, checkpoints.encoder])
def test_layers_that_the_configuration_leaves_out_are_not_left_out_silently(tmp_path: Path, make: Any) -> None:
    """The first layers alone gave numbers, too; other heads are nobody's."""
    folder = make(tmp_path / "whole")
    build = Perplexity if make is checkpoints.language else partial(Similarity, to="a")
    rewritten(folder, lambda held: held | {f"v_head.{place}.weight": torch.ones(1, 2) for place in ("summary", 7)})
    assert len(build(folder)(["a a"])) == 1
    names = " ".join(load_file(folder / "model.safetensors"))
    [[name, number], *_] = re.findall(r"(\S+\.(?:h|layer)\.)(\d+)\.", names)
    rewritten(folder, lambda held: held | {f"{name}{int(number) + 9}.attention.weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="have more layers .* than its config.json says: get both from one place"):
        build(folder)


def test_an_adapter_among_the_weights_is_not_left_out_silently(copy: Path) -> None:
    """As loralib writes them: whole layers and, beside them, what is to be added."""
    rewritten(copy, lambda held: held | {f"{next(iter(held))}.lora_A": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="hold more than a sequence classifier .*lora_A.*: they hold an adapter"):
        Classifier(copy, 0)


def test_sizes_that_do_not_fit_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": 99}))
    told = r"cannot be read as a sequence classifier \(ValueError: .* is of another size, \(.*\) and not \(99, "
    with pytest.raises(ValueError, match=told):
        Classifier(copy, 0)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("joy", "there is no label 'joy': choose one of 'NEGATIVE', 'positive', or a number below 2"),
        (2, "there is no label 2"),
        (None, "the classifier has 2 labels, choose one of 'NEGATIVE', 'positive'"),
    ],
)
def test_labels_that_do_not_exist(sentiment: Path, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(sentiment, label)


def test_a_tokenizer_that_does_not_match(sentiment: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def words(size: int) -> Any:
        inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0")

    with pytest.raises(
        ValueError, match=rf"tokenizer has 99 tokens and .*sentiment knows {checkpoints.SIZE}: give its own"
    ):
        Classifier(sentiment, 0, tokenizer=words(99))
    added = words(checkpoints.SIZE)
    added.add_tokens(["beyond"])
    reward = Classifier(sentiment, 0, tokenizer=added)
    assert len(reward(["w1 w2"])) == 1
    with pytest.raises(ValueError, match=rf"the text 'w1 beyond' has token {checkpoints.SIZE} and .* knows"):
        reward(["w1 beyond"])
    other = tmp_path / "words"
    words(20).save_pretrained(other)
    assert len(Classifier(sentiment, 0, tokenizer=other)(["w1"])) == 1


@pytest.mark.parametrize("told", [None, True, False])
@pytest.mark.parametrize("cased", [True, False])
def test_a_bare_word_list_shows_whether_it_is_cased(copy: Path, cased: bool, told: bool | None) -> None:
    words = ["Police" if cased and word == "police" else word for word in checkpoints.WORDS]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (copy / file).unlink()
    (copy / "vocab.txt").write_text("\n".join([*checkpoints.SPECIAL, *words]))
    if told is not None:
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": told}
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
    found = load_tokenizer(None, load("SequenceClassification", copy)).tokenize("Police arrested a man")
    lower = not cased if told is None else told
    known = lower != cased
    assert found == [("police" if lower else "Police") if known else "[UNK]", "arrested", "a", "man"]


def test_a_model_too_large_for_the_device(sentiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "free_memory", lambda device: 2**10)
    with pytest.raises(
        ValueError, match=r"takes 0.0 GiB as float32 and cpu has 0.0 GiB: take dtype='bfloat16', another"
    ):
        Classifier(sentiment, 0)
    with pytest.raises(ValueError, match=r"as bfloat16 .*: take another device or a smaller model"):
        Classifier(sentiment, 0, dtype="bfloat16")


def test_devices_and_number_types(sentiment: Path) -> None:
    with pytest.raises(ValueError, match="there is no device 'cuda:77' on this machine .*say device='cpu'"):
        Classifier(sentiment, 0, device="cuda:77")
    with pytest.raises(ValueError, match="no number type 'int8'"):
        Classifier(sentiment, 0, dtype="int8")
    half = Classifier(sentiment, 0, dtype="bfloat16")
    assert half.checkpoint.network.dtype is torch.bfloat16
    assert half(["a good day"]) == pytest.approx(Classifier(sentiment, 0)(["a good day"]), abs=0.3)


def test_a_batch_too_large_for_the_device(sentiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = Classifier(sentiment, 0)

    def full(batch: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(reward, "read", full)
    with pytest.raises(ValueError, match="2 texts at once are too many for the memory of cpu: lower batch="):
        reward(["a", "good"])


def test_loaded_networks_are_taken_as_they_are(sentiment: Path) -> None:
    from transformers import AutoTokenizer, BertForSequenceClassification

    network = BertForSequenceClassification.from_pretrained(sentiment)
    with pytest.raises(ValueError, match="given as a loaded network: give its tokenizer"):
        Classifier(network, 0)
    reward = Classifier(network, 0, tokenizer=AutoTokenizer.from_pretrained(sentiment))
    assert reward(["a"]) == Classifier(sentiment, 0)(["a"]) and not network.training
    compiled = Classifier(torch.compile(network, backend="eager"), 0, tokenizer=reward.tokenizer)
    assert compiled(["a", "a a"]) == pytest.approx(reward(["a", "a a"]))
    with pytest.raises(TypeError, match="a dict is no checkpoint"):
        Classifier({}, 0)
    with pytest.raises(ValueError, match="the BertModel has no head, so it is no sequence classifier: give a network"):
        Classifier(network.bert, 0)
    with pytest.raises(TypeError, match="the Sequential is no network of transformers: save it, and give the folder"):
        Similarity(torch.nn.Sequential(), to="a")
    pipeline = SimpleNamespace(model=network, tokenizer=reward.tokenizer)
    with pytest.raises(TypeError, match="a SimpleNamespace is no checkpoint: give its .model, and its .tokenizer as "):
        Classifier(pipeline, 0)


def test_a_network_that_is_trained_meanwhile_judges_as_it_is_now_and_without_dropout(sentiment: Path) -> None:
    """And stays in the mode that whoever trains it has put it in."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    network = BertForSequenceClassification.from_pretrained(sentiment, hidden_dropout_prob=0.5).train()
    reward = Classifier(network, 0, tokenizer=AutoTokenizer.from_pretrained(sentiment), value="logit")
    before = reward(["a good"])
    assert before == Classifier(sentiment, 0, value="logit")(["a good"]) and network.training
    with torch.no_grad():
        network.classifier.bias += 1.0
    assert reward(["a good"]) == pytest.approx([before[0] + 1.0]) and reward.evaluated == 2
    assert reward(["a good"]) and reward.evaluated == 2  # remembered as ever
    assert network.training and network.bert.training


def test_an_adapter_is_neither_left_out_nor_put_in_silently(copy: Path) -> None:
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    (copy / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match="holds an adapter and model.safetensors besides: merge it into its model"):
        Classifier(copy, 0)
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \*.safetensors: it is an adapter of some/base: merge it"):
        Classifier(copy, 0)
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json: it is an adapter of some/base: merge it into"):
        Classifier(copy, 0)


def test_weights_that_are_there_twice_are_refused(copy: Path) -> None:
    network = load("SequenceClassification", copy).network
    network.save_pretrained(copy, max_shard_size=network.num_parameters())
    with pytest.raises(ValueError, match="holds its weights twice, in model.safetensors and in model-00001-of-"):
        Classifier(copy, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: Classifier(folder, 0, value="odds"), "no value 'odds': use one of log_probability"),
        (lambda folder: Perplexity(folder, value="bits"), "no value 'bits': use one of log_likelihood"),
        (lambda folder: Classifier(folder, 0, batch=0), "a batch of 0 texts"),
        (lambda folder: Classifier(folder, 0, length=-1), "cannot read -1 tokens"),
        (lambda folder: Classifier(folder, 0, limit=0), "limit of at least 1"),
    ],
)
def test_options_that_mean_nothing(sentiment: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(sentiment)
