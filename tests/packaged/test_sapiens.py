"""Sapiens: fairseq's files as a RoBERTa of `transformers`, whose published figures are met."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import RobertaForMaskedLM

from iterref import packaged
from iterref.check import check_model
from iterref.loading import load
from tests.packaged.test_antiberty import answered, distributions, half_masked
from tests.support.packages import RITUXIMAB, TRASTUZUMAB, needs, readme

pytestmark = needs("sapiens-vh")
LIGHT = [
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
    "QIVLSQSPAILSASPGEKVTMTCRASSSVSYIHWFQQKPGSSPKPWIYATSNLASGVPVRFSGSGSGTSYSLTISRVEAEDAATYYCQQWTSNPPTFGGGTKLEIK",
]
HEAVY = [TRASTUZUMAB, RITUXIMAB]


def located(name: str) -> Path:
    folder = packaged.located(name)
    assert folder is not None
    return folder


def test_the_published_scores_and_the_published_infilling_are_met() -> None:
    """Those that the package's README shows, read from the installed package: residues and probabilities."""
    told = readme("sapiens")
    [masked] = set(re.findall(r"'(\*\*[A-Z*]+)'", told))
    [filled] = re.findall(r"^# ([A-Z]{100,})$", told, re.MULTILINE)
    scores = [re.findall(r"0\.\d+", line) for line in re.findall(r"^# \d +(0\..*?)\.\.\.", told, re.MULTILINE)]
    assert len(masked) == len(filled) and len(scores) == 5
    model = load("sapiens-vh")
    network = RobertaForMaskedLM.from_pretrained(located("sapiens-vh")).eval()
    mask, letters = model.noise.mask, model.codec.tokenizer
    pieces = [mask if letter == "*" else letters.token_to_id(letter) for letter in masked]
    first, last = model.codec.frame
    with torch.inference_mode():
        found = network(torch.tensor([[*first, *pieces, *last]])).logits[0, 1:-1].softmax(-1)
    columns = [letters.token_to_id(letter) for letter in "ACDE"]
    assert torch.allclose(found[:5, columns], torch.tensor([[float(one) for one in row] for row in scores]), atol=6e-7)
    best = "".join(letters.id_to_token(token) for token in (4 + found[:, 4:24].argmax(1)).tolist())
    assert "".join(b if a == "*" else a for a, b in zip(masked, best, strict=True)) == filled


@pytest.mark.parametrize("name, texts", [("sapiens-vh", HEAVY[:1]), ("sapiens-vh", HEAVY), ("sapiens-vl", LIGHT)])
def test_distributions_are_the_class_s_own_bit_for_bit(name: str, texts: list[str]) -> None:
    model = load(name, length=len(texts[0]) if len(texts) == 1 else None)
    network = RobertaForMaskedLM.from_pretrained(located(name)).eval()
    x_t, where = half_masked(model, texts)
    assert torch.equal(answered(model, x_t, where), distributions(network, model, texts, x_t, where))


@pytest.mark.parametrize("name, texts", [("sapiens-vh", HEAVY), ("sapiens-vl", LIGHT)])
def test_the_check_passes(name: str, texts: list[str]) -> None:
    findings = check_model(load(name), texts * 2)
    assert [one.sentence for one in findings if one.passed is False] == []
    assert {"tokenizer", "prompts", "frame", "prediction", "shift"} <= {one.name for one in findings if one.passed}


def test_a_canvas_is_as_long_as_the_network_reads() -> None:
    assert (load("sapiens-vh").length, load("sapiens-vl").length) == (142, 126)
    with pytest.raises(ValueError, match="prompt 0 takes 1 positions and its answer 150, and the model reads 144"):
        load("sapiens-vh", length=150).prepare([""])


def test_the_table_of_tokens_is_the_head_s_too() -> None:
    """`RobertaForMaskedLM` ties the two: the published weights are tied already."""
    from safetensors.torch import load_file

    for name in ("sapiens-vh", "sapiens-vl"):
        held = load_file(located(name) / "model.safetensors")
        assert torch.equal(held["roberta.embeddings.word_embeddings.weight"], held["lm_head.decoder.weight"])
