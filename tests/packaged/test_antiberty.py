"""AntiBERTy: the weights of its package, the distributions of `transformers`' class bit for bit, and sequences kept."""

from __future__ import annotations

import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

import iterref
from iterref import packaged
from iterref.check import check_model
from iterref.loading import load
from iterref.models.text.prompted import PromptedModel
from iterref.rewards import Classifier
from tests.support.packages import RITUXIMAB, TRASTUZUMAB, frame, needs, readme

pytestmark = needs("antiberty")
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
CHAINS = [TRASTUZUMAB, LIGHT, RITUXIMAB[4:-9]]


def located(name: str) -> Path:
    folder = packaged.located(name)
    assert folder is not None
    return folder


def shown(model: PromptedModel, texts: list[str], x_t: Tensor) -> tuple[Tensor, Tensor]:
    """What the class is to be given: ids (R, T) with the frame right around each text, and the attention mask."""
    first, last, pad = frame(model)
    ids = torch.full((len(texts), model.length + 2), pad)
    for row, text in enumerate(texts):
        line = [first, *x_t[row, : len(text)].tolist(), last]
        ids[row, : len(line)] = torch.tensor(line)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([[len(text) + 2] for text in texts])).long()


def half_masked(model: PromptedModel, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Canvases with a third of the residues masked, and where."""
    x = model.encode(texts)
    inside = torch.arange(model.length) < torch.tensor([[len(text)] for text in texts])
    where = (torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.3) & inside
    assert model.noise.mask is not None
    return x.masked_fill(where, model.noise.mask), where


def distributions(network: Any, model: PromptedModel, texts: list[str], x_t: Tensor, where: Tensor) -> Tensor:
    """log p(x_0 | x_t) (M, V) from the class itself, called on the whole batch."""
    ids, seen = shown(model, texts, x_t)
    with torch.inference_mode():
        logits = network(input_ids=ids, attention_mask=None if bool(seen.all()) else seen).logits[:, 1:-1][where]
        logits[:, list(model.codec.special)] = -torch.inf
        return logits.log_softmax(-1)


def answered(model: PromptedModel, x_t: Tensor, where: Tensor) -> Tensor:
    denoiser, _, _ = model.prepare([""] * len(x_t))
    with torch.inference_mode():
        return denoiser(x_t, torch.full((len(x_t),), 0.3).double(), where, torch.arange(len(x_t)))


@pytest.mark.parametrize("texts, length", [([TRASTUZUMAB], 120), (CHAINS, 160)])
def test_distributions_are_the_class_s_own_bit_for_bit(texts: list[str], length: int) -> None:
    model = load("antiberty", length=length)
    network = BertForMaskedLM.from_pretrained(located("antiberty")).eval()
    x_t, where = half_masked(model, texts)
    assert torch.equal(answered(model, x_t, where), distributions(network, model, texts, x_t, where))


def test_the_weights_are_those_of_the_package_s_own_heads() -> None:
    """Its model does not load under transformers 5; its heads, filled by hand, give the same numbers as ours."""
    own = pytest.importorskip("antiberty.model.AntiBERTy")
    home = Path(str(find_spec("antiberty").origin)).parent / "trained_models" / "AntiBERTy_md_smooth"  # type: ignore
    config = BertConfig.from_json_file(home / "config.json")
    held = torch.load(home / "pytorch_model.bin", map_location="cpu", weights_only=True)
    trunk, heads = BertModel(config).eval(), own.AntiBERTyHeads(config).eval()
    for part, name in ((trunk, "bert."), (heads, "cls.")):
        some = {key.removeprefix(name): weight for key, weight in held.items() if key.startswith(name)}
        assert set(part.load_state_dict(some, strict=False).unexpected_keys) <= {"embeddings.position_ids"}
    ours = BertForMaskedLM.from_pretrained(located("antiberty")).eval()
    judges = [BertForSequenceClassification.from_pretrained(located(f"antiberty-{name}")).eval()
              for name in ("species", "chain")]  # fmt: skip
    ids, seen = shown(load("antiberty"), CHAINS, load("antiberty").encode(CHAINS))
    with torch.inference_mode():
        residues, species, chain, _ = heads(*trunk(ids, attention_mask=seen)[:2])
        assert torch.equal(ours(ids, attention_mask=seen).logits, residues)
        for judge, wanted in zip(judges, (species, chain), strict=True):
            assert torch.equal(judge(ids, attention_mask=seen).logits, wanted)


def test_the_classifiers_know_species_and_chains() -> None:
    human, heavy = Classifier("antiberty-species", "human"), Classifier("antiberty-chain", "Heavy", value="probability")
    assert human([TRASTUZUMAB])[0] > -0.1 and human([RITUXIMAB])[0] < -3
    assert [round(value) for value in heavy([TRASTUZUMAB, RITUXIMAB, LIGHT])] == [1, 1, 0]
    with pytest.raises(ValueError, match="there is no label 'Cow': choose one of 'Camel', 'Human'"):
        Classifier("antiberty-species", "Cow")


def test_the_check_passes_on_sequences_of_the_package_s_own_examples() -> None:
    examples = sorted({text for text in re.findall(r'"([A-Z]{100,})"', readme("antiberty"))})
    assert len(examples) >= 2
    findings = check_model(load("antiberty"), [*examples, *CHAINS])
    assert [one.sentence for one in findings if one.passed is False] == []
    judged = {one.name for one in findings if one.passed}
    assert {"tokenizer", "prompts", "frame", "prediction", "shift", "direction", "carry-over"} <= judged


def test_the_check_finds_a_wrong_mask_and_a_wrong_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: residues that are numbered otherwise are no antibodies to the network."""
    model = load("antiberty")
    monkeypatch.setattr(model, "encode", lambda texts: type(model).encode(model, [turned(text) for text in texts]))
    failed = {one.name for one in check_model(model, CHAINS * 2) if one.passed is False}
    assert "prediction" in failed


def turned(text: str) -> str:
    letters = "ACDEFGHIKLMNPQRSTVWY"
    return "".join(letters[(letters.index(letter) + 7) % 20] for letter in text)


def test_texts_of_different_lengths_come_back_as_biologists_write_them() -> None:
    model = load("antiberty")
    assert model.decode(model.encode(CHAINS)) == CHAINS and model.fixed_length
    for wrong, named in (("E V Q", "' '"), ("evq", "'e', 'v', 'q'"), ("EVXQ", "'X'")):
        with pytest.raises(ValueError, match=f"text 1 holds {named}, which its tokenizer does not know"):
            model.encode(["EVQ", wrong])
    with pytest.raises(ValueError, match="text 0 takes 120 positions and the canvas has 64"):
        load("antiberty", length=64).encode([TRASTUZUMAB])


def test_marked_residues_alone_are_written_anew() -> None:
    marked = ["EVQLVESGGGLVQ[PGGS]LRLSCAAS", "EVQLVESGG[MASK]LVQPGGSLR", "QVQLQQ[PGAELVKPGASVKMSCKAS]GYTFTSYN"]

    def lysines(completions: list[str], **columns: object) -> list[int]:
        return [text.count("K") for text in completions]

    done = iterref.infill(load("antiberty", length=40), marked, prompts=[""] * 3, reward=lysines, alpha=0.3, budget=17)
    for text, asked in zip(done.texts, marked, strict=True):
        before, after = re.split(r"\[.*\]", asked)
        assert text.startswith(before) and text.endswith(after) and set(text) <= set("ACDEFGHIKLMNPQRSTVWY")
        assert len(text) == len(before) + len(after) + (1 if "MASK" in asked else len(asked) - len(before + after) - 2)


def test_the_cached_configuration_names_no_path_of_the_trainers() -> None:
    written = json.loads((located("antiberty") / "config.json").read_text())
    assert written["architectures"] == ["BertForMaskedLM"] and "_name_or_path" not in written


def test_the_page_s_five_statements_redesign_a_loop_and_keep_the_framework(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an empty folder, as docs/antibodies.md shows them."""
    page = (Path(__file__).parents[2] / "docs" / "antibodies.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(import iterref\n.*?)```", page, re.DOTALL)[:1]
    assert len(ast.parse(code).body) == 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "page", "exec"), names)
    text = capsys.readouterr().out.strip()
    before, old, after = re.split(r"[\[\]]", names["chain"])
    assert text == names["done"].texts[0] and text.startswith(before) and text.endswith(after)
    loop = text[len(before) : len(text) - len(after)]
    assert len(loop) == len(old) and loop != old
    assert names["done"].rewards[0] > names["basic"]([before + old + after])[0]
    assert list(tmp_path.iterdir()) == []
