"""Trains `sentiment` and `sentiment-judge`, the bundled classifiers, on labels of disjoint parts of the film reviews.

    python -m benchmarks.rewards.sentiment --data DATA --work SCRATCH --out iterref/rewards/weights

    vectors of words = truncated SVD of their positive pointwise mutual information (Levy and Goldberg 2014)
    target of a text = mean of the teachers' probabilities, averaged with the label where the part has it

A few thousand labels do not tell what words mean; which words stand near each other in other text does, so all networks
start from such vectors. Three teachers of a part agree better than any of them, and the one network that is kept learns
from them on all sentences, those of the other part without their labels (Hinton et al. 2015, arXiv:1503.02531). What is
chosen is chosen on dev; test is read by `--test` alone.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from tokenizers import Tokenizer, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from benchmarks.rewards.loop import Loop, Plan, by_length
from benchmarks.rewards.texts import END, MASK, PAD, SPECIAL, START, byte_pairs, padded, passages, rows, save_tokenizer

VOCAB, LENGTH, TOKENS = 10_000, 128, 1_920
WINDOW, FILM = 6, 10.0  # words apart, at 1 / distance; one film review counts as ten other texts
LABELS = {0: "negative", 1: "positive"}
SHARE = 0.6  # of the labels, for `sentiment`; the judge has the others
TEACHERS, DROPOUT = 3, 0.3


@dataclass(frozen=True)
class Recipe:
    """A classifier: whose labels it learns from, its layout and width, and how long it is trained."""

    first: bool
    width: int
    epochs: int
    seed: int

    def network(self, vectors: Tensor, seed: int) -> nn.Module:
        """One layer, BERT's for the one and DistilBERT's for the other, each with its own kind of head."""
        torch.manual_seed(seed)
        names: dict[str, Any] = {"id2label": LABELS, "label2id": {name: key for key, name in LABELS.items()}}
        names |= {"vocab_size": len(vectors), "max_position_embeddings": LENGTH, "pad_token_id": PAD}
        model: nn.Module
        if self.first:
            sizes = {"hidden_size": self.width, "num_hidden_layers": 1, "intermediate_size": 2 * self.width}
            drop = {"hidden_dropout_prob": DROPOUT, "classifier_dropout": DROPOUT}
            model = BertForSequenceClassification(BertConfig(num_attention_heads=4, **sizes, **drop, **names))
        else:
            sizes = {"dim": self.width, "n_layers": 1, "hidden_dim": 2 * self.width, "n_heads": 2}
            drop = {"dropout": DROPOUT, "seq_classif_dropout": DROPOUT}
            model = DistilBertForSequenceClassification(DistilBertConfig(**sizes, **drop, **names))
        with torch.no_grad():
            start = vectors[:, : self.width]
            model.get_input_embeddings().weight.copy_(start / start.norm(dim=1).mean())
        return model


RECIPES = {
    "sentiment": Recipe(first=True, width=128, epochs=5, seed=0),
    "sentiment-judge": Recipe(first=False, width=64, epochs=7, seed=1),
}


def vectors(tokenizer: Tokenizer, data: Path, width: int) -> Tensor:
    """One vector a token (V, width), from unlabelled film reviews, news sentences and story books."""
    size = tokenizer.get_vocab_size()
    news = [row["document"] for row in rows(data, "sentcomp.train")[::2]]
    books = [passage for row in rows(data, "plain.books.train") for passage in passages(row["text"])]
    films = [row["text"] for row in rows(data, "sentiment.train")]
    counts = sp.csr_matrix((size, size))
    for texts, weight in ((films, FILM), (news, 1.0), (books, 1.0)):
        gap = [-1] * WINDOW
        flat = np.array([i for one in tokenizer.encode_batch(texts) for i in (*one.ids[1:-1], *gap)])
        for distance in range(1, WINDOW + 1):
            left, right = flat[:-distance], flat[distance:]
            both = (left >= 0) & (right >= 0)
            share = np.full(int(both.sum()), weight / distance)
            counts = counts + sp.csr_matrix((share, (left[both], right[both])), shape=(size, size))
    pairs = (counts + counts.T).tocoo()
    total = np.asarray(pairs.sum(1)).ravel()
    smooth = total**0.75 / (total**0.75).sum()
    value = np.log(pairs.data / (total[pairs.row] * smooth[pairs.col]))
    kept = value > 0
    table = sp.csr_matrix((value[kept], (pairs.row[kept], pairs.col[kept])), shape=(size, size))
    left, scale, _ = svds(table, k=width, random_state=0)
    order = np.argsort(-scale)
    return torch.tensor(left[:, order] * np.sqrt(scale[order]), dtype=torch.float32)


def encoded(tokenizer: Tokenizer, labelled: Sequence[dict[str, Any]]) -> tuple[list[list[int]], Tensor]:
    """Token lists and labels (R,) long."""
    ids = [one.ids[:LENGTH] for one in tokenizer.encode_batch([row["text"] for row in labelled])]
    return ids, torch.tensor([row["label"] for row in labelled])


def part(size: int, first: bool) -> Tensor:
    """The numbers of one of the two disjoint parts of the labelled sentences."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    return order[: int(SHARE * size)] if first else order[int(SHARE * size) :]


def train(network: nn.Module, ids: list[list[int]], target: Tensor, plan: Plan, hidden: float, file: Path) -> nn.Module:
    """The network trained on probabilities of labels (R, 2); of a text's tokens a share is `hidden` at every step."""
    order = by_length([len(one) for one in ids], TOKENS, plan.seed)

    def batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((padded([ids[row] for row in group]), target[group]) for group in order(step))

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        tokens, wanted = batch
        gone = (torch.rand(tokens.shape) < hidden) & (tokens > MASK)
        logits = network(input_ids=tokens.masked_fill(gone, MASK), attention_mask=(tokens != PAD).long()).logits
        return nn.functional.cross_entropy(logits, wanted)

    return Loop(network, plan, loss).run(batches, file)


def taught(recipe: Recipe, name: str, tokenizer: Tokenizer, start: Tensor, data: Path, work: Path) -> nn.Module:
    """The classifier of a recipe: teachers of its part of the labels, then one network for all sentences."""
    ids, labels = encoded(tokenizer, rows(data, "sentiment.train"))
    known, right = part(len(ids), recipe.first), nn.functional.one_hot(labels, 2).float()

    def plan(texts: Sequence[list[int]], seed: int) -> Plan:
        steps = recipe.epochs * sum(map(len, texts)) // TOKENS
        return Plan(steps, warmup=80, cooldown=steps, rate=1e-3, weight_decay=0.01, average=0.99, seed=seed, muon=False)

    own, said = [ids[row] for row in known.tolist()], torch.zeros(len(ids), 2)
    for number in range(TEACHERS):
        seed = recipe.seed + 10 * number
        file = work / f"{name}.teacher{number}.pt"
        said += probabilities(train(recipe.network(start, seed), own, right[known], plan(own, seed), 0.2, file), ids)
    target = said / TEACHERS
    target[known] = (target[known] + right[known]) / 2
    seed = recipe.seed + 5
    return train(recipe.network(start, seed), ids, target, plan(ids, seed), 0.3, work / f"{name}.checkpoint.pt")


@torch.no_grad()
def probabilities(model: nn.Module, ids: list[list[int]]) -> Tensor:
    """Probabilities of the labels (R, 2)."""
    found, order = torch.zeros(len(ids), 2), sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for group in (order[i : i + 64] for i in range(0, len(order), 64)):
        tokens = padded([ids[row] for row in group])
        found[group] = model(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits.softmax(1)
    return found


def accuracy(model: nn.Module, tokenizer: Tokenizer, labelled: list[dict[str, Any]]) -> dict[str, float]:
    """The share of right answers with Wilson's 95 % interval, and the mean log-probability of the right label."""
    ids, labels = encoded(tokenizer, labelled)
    found = probabilities(model, ids)
    n, right, z = len(ids), float((found.argmax(1) == labels).double().mean()), 1.96
    centre, half = right + z * z / (2 * n), z * (right * (1 - right) / n + (z / (2 * n)) ** 2) ** 0.5
    scale = 1 + z * z / n
    return {
        "rows": n, "accuracy": right, "low": (centre - half) / scale, "high": (centre + half) / scale,
        "log_p": float(found[torch.arange(n), labels].log().mean()),
    }  # fmt: skip


def pieces(data: Path) -> Tokenizer:
    """The tokenizer of both: <s> text </s>."""
    tokenizer = byte_pairs((row["text"] for row in rows(data, "sentiment.train")), VOCAB)
    around = [(SPECIAL[START], START), (SPECIAL[END], END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=around
    )
    return tokenizer


def save(model: nn.Module, tokenizer: Tokenizer, recipe: Recipe, folder: Path) -> None:
    """Writes a classifier in `transformers`' form, in float16."""
    model.half().save_pretrained(folder)
    reads = ["input_ids", *(["token_type_ids"] if recipe.first else []), "attention_mask"]
    save_tokenizer(tokenizer, folder, LENGTH, reads, cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--test", action="store_true", help="judge on the test file too")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = pieces(options.data)
    start = vectors(tokenizer, options.data, max(recipe.width for recipe in RECIPES.values()))
    found: dict[str, dict[str, Any]] = {}
    for name, recipe in RECIPES.items():
        model = taught(recipe, name, tokenizer, start, options.data, options.work)
        model = model.half().float()  # what is measured is what is saved
        sets = ["dev", "test"] if options.test else ["dev"]
        found[name] = {one: accuracy(model, tokenizer, rows(options.data, f"sentiment.{one}")) for one in sets}
        logging.info("%s %s", name, found[name])
        save(model, tokenizer, recipe, options.out / name)
    (options.work / "sentiment.figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
