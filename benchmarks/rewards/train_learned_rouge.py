"""Trains `learned-rouge`: which words of a document does its reference keep?

    python -m benchmarks.rewards.train_learned_rouge --data DATA --work SCRATCH --out benchmarks/rewards/weights

Cross-entropy of every token, on all training pairs of the sentence compressions; tokenizer, layout and seed differ from
the summariser's. It is measured on drafts that `tiny-news` writes of 400 validation documents, 16 each: the ROUGE-L of
the draft that it chooses, beside that of the draft that agrees most with the others and of the best.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rapidfuzz.distance import LCSseq
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import BertConfig, BertForTokenClassification

from benchmarks.rewards.learned_rouge import LENGTH, LearnedRouge, encoded, pieces
from benchmarks.rewards.loop import Loop, Plan, by_length
from benchmarks.rewards.texts import END, PAD, SPECIAL, START, byte_pairs, in_words, rows, save_tokenizer
from iterref.drafts import OwnDrafts
from iterref.generation import draw_drafts
from iterref.loading import load
from iterref.rewards.rouge import Targets
from iterref.rewards.rouge import Tokenizer as RougeWords

VOCAB, TOKENS, PASSES, RATE, SEED = 6_500, 2_880, 2.0, 1e-3, 7
SIZES = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512, "num_labels": 1,
    "max_position_embeddings": LENGTH,
}  # fmt: skip
JUDGED, DRAFTS = 400, OwnDrafts(16, 8, temperature=0.5)  # validation documents, and the drafts of each
Pair = tuple[str, str]  # a document and its reference


def kept(document: Sequence[str], summary: Sequence[str]) -> list[bool]:
    """Which words of a document stand in a summary, by a longest common subsequence."""
    marks = [False] * len(document)
    for step in LCSseq.opcodes(summary, document):
        if step.tag == "equal":
            marks[step.dest_start : step.dest_end] = [True] * (step.dest_end - step.dest_start)
    return marks


def network(vocab: int) -> nn.Module:
    """The network before training."""
    torch.manual_seed(SEED)
    return BertForTokenClassification(BertConfig(vocab_size=vocab, pad_token_id=PAD, **SIZES))


def loss(network: nn.Module, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> Tensor:
    """Mean cross-entropy of the documents' tokens, in bfloat16."""
    tokens, owners = encoded(tokenizer, [document for document, _ in pairs])
    label, told = torch.zeros(tokens.shape), torch.zeros(tokens.shape)
    for row, ((document, reference), owner) in enumerate(zip(pairs, owners, strict=True)):
        marks = kept(in_words(document), in_words(reference))
        label[row, 1 : len(owner) + 1], told[row, 1 : len(owner) + 1] = (
            torch.tensor([float(marks[i]) for i in owner]),
            1,
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits[..., 0].float()
    return (binary_cross_entropy_with_logits(logits, label, reduction="none") * told).sum() / told.sum()


def train(model: nn.Module, tokenizer: Tokenizer, pairs: Sequence[Pair], file: Path, passes: float = PASSES) -> None:
    """Trains to the end, from the checkpoint if there is one."""
    sizes = [len(pieces(tokenizer, document)[0]) + 2 for document, _ in pairs]
    steps = int(passes * sum(sizes) / TOKENS)
    plan = Plan(steps, warmup=200, cooldown=steps * 2 // 3, rate=RATE, weight_decay=0.02, seed=SEED, muon=False)
    groups = by_length(sizes, TOKENS, SEED)

    def batches(step: int) -> Iterator[list[Pair]]:
        return ([pairs[row] for row in group] for group in groups(step))

    Loop(model, plan, lambda network, group: loss(network, tokenizer, group)).run(batches, file)


def figures(
    pairs: Sequence[Pair], drafts: Sequence[Sequence[str]], estimate: Callable[[list[str], list[str]], list[float]]
) -> dict[str, float]:
    """Of pools of drafts: mean ROUGE-L of all, of the estimator's choice, of the draft that agrees most with the others
    and of the best; of the choice by both; correlations of estimates within and over pools."""
    texts, prompts = (
        [text for pool in drafts for text in pool],
        [d for (d, _), pool in zip(pairs, drafts, strict=True) for _ in pool],
    )
    told = np.array(estimate(texts, prompts)).reshape(len(pairs), -1)
    true = np.array([rouge([reference], pool)[:, 0] for (_, reference), pool in zip(pairs, drafts, strict=True)])
    agree = np.array([rouge(pool, pool).mean(1) for pool in drafts])
    pick = np.arange(len(pairs))
    inner = [x - x.mean(1, keepdims=True) for x in (told, true)]
    return {
        "documents": len(pairs), "mean": float(true.mean()), "chosen": float(true[pick, told.argmax(1)].mean()),
        "agreeing": float(true[pick, agree.argmax(1)].mean()),
        "both": float(true[pick, (told + agree).argmax(1)].mean()), "best": float(true.max(1).mean()),
        "within": float((inner[0] * inner[1]).sum() / np.sqrt((inner[0] ** 2).sum() * (inner[1] ** 2).sum())),
        "over": float(np.corrcoef(told.ravel(), true.ravel())[0, 1]),
    }  # fmt: skip


def rouge(references: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """ROUGE-L (F) of texts against references, (texts, references)."""
    return Targets(references, "rougeL", RougeWords()).score(texts)[:, :, 2]


def save(model: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the estimator in `transformers`' form, in float16."""
    model.half().save_pretrained(folder)
    names = {"cls_token": SPECIAL[START], "sep_token": SPECIAL[END]}
    save_tokenizer(tokenizer, folder, LENGTH, ["input_ids", "attention_mask"], **names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)

    def pairs(name: str) -> list[Pair]:
        found = [(row["document"], row["summary"]) for row in rows(options.data, name)]
        return [found[at] for at in torch.randperm(len(found), generator=torch.Generator().manual_seed(SEED)).tolist()]

    known, judged = pairs("sentcomp.train"), pairs("sentcomp.validation")[:JUDGED]
    tokenizer = byte_pairs((document for document, _ in known), VOCAB)
    model = network(tokenizer.get_vocab_size())
    train(model, tokenizer, known, options.work / "learned-rouge.pt")
    save(model, tokenizer, options.out / "learned-rouge")
    drafts = draw_drafts(load("tiny-news"), [document for document, _ in judged], DRAFTS, seed=1).texts
    reward = LearnedRouge(options.out / "learned-rouge")
    found = figures(judged, drafts, lambda texts, prompts: reward(texts, prompts=prompts))
    logging.info("%s", found)
    (options.work / "learned-rouge.figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
