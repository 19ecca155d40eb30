"""Trains `learned-rouge`, the estimator of ROUGE-L, on the drafts that `tiny-news` writes of training documents.

    python -m benchmarks.rewards.train_learned_rouge --data DATA --work SCRATCH --out benchmarks/rewards/weights

    first   which words does the reference keep?        all training pairs, one cross-entropy a token
    then    ROUGE-L of (document, candidate)            six drafts a document, or the words above a level of what the
                                                        first part says; and such candidates with words put in or out
            loss = cross-entropy of the value + of pairs, weighed by their difference + of the words, as before

What is chosen is chosen on validation documents; the layout, tokenizer and seed differ from the summariser's.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import softplus
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.rewards.learned_rouge import AROUND, LearnedRouge, kept, marked, pieces
from benchmarks.rewards.loop import Loop, Plan, by_length
from benchmarks.rewards.texts import END, PAD, SPECIAL, START, byte_pairs, in_words, padded, rows, save_tokenizer
from iterref.drafts import OwnDrafts
from iterref.generation import draw_drafts
from iterref.loading import load
from iterref.rewards.rouge import Targets
from iterref.rewards.rouge import Tokenizer as RougeWords

VOCAB, LENGTH, TOKENS = 6_500, 128, 2_880
SIZES: dict[str, int] = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512, "num_labels": 1,
    "type_vocab_size": 4, "max_position_embeddings": LENGTH,
}  # fmt: skip
POOLS = (OwnDrafts(4, 8, temperature=0.5), OwnDrafts(2, 8, temperature=1.0, order="confidence"))
JUDGED = OwnDrafts(16, 8, temperature=0.5)  # a validation document's
SHARD, CHANGED = 100, 2  # documents drafted at once; changed candidates a document and step
LEVELS = (0.2, 0.8)  # between which the words of a candidate without a draft are above
WORDS = 0.5  # the weight of the words' loss beside the candidates'
SEED = 7


@dataclass(frozen=True)
class Document:
    """A document, its reference, candidates with their ROUGE-L (C,), and how likely each word is kept, if known."""

    text: str
    reference: str
    candidates: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    keep: tuple[float, ...] = ()

    def valued(self, candidates: Sequence[str]) -> Document:
        """The document with candidates, their values found."""
        return replace(self, candidates=tuple(candidates), values=tuple(rouge(self.reference, candidates)))


def rouge(reference: str, candidates: Sequence[str]) -> list[float]:
    """ROUGE-L (F) of candidates against one reference."""
    return Targets([reference], "rougeL", RougeWords()).score(candidates)[:, 0, 2].tolist()  # type: ignore[no-any-return]


class Learner(nn.Module):
    """The estimator in training; its head for single words is not kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.tokenizer = tokenizer
        config = BertConfig(vocab_size=tokenizer.get_vocab_size(), pad_token_id=PAD, problem_type="regression", **SIZES)
        self.network = BertForSequenceClassification(config)
        self.words = nn.Linear(SIZES["hidden_size"], 1)

    def read(self, ids: Sequence[list[int]], types: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Logits of values (R,) and of words (R, T)."""
        tokens = padded(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.network.bert(tokens, attention_mask=(tokens != PAD).long(), token_type_ids=padded(types, AROUND))
            value = self.network.classifier(self.network.dropout(out.pooler_output))
            return value[:, 0].float(), self.words(out.last_hidden_state)[..., 0].float()

    def tagged(self, documents: Sequence[Document]) -> Tensor:
        """The first loss: which words does the reference keep?"""
        found = [pieces(self.tokenizer, one.text) for one in documents]
        ids = [[START, *tokens, END, END][:LENGTH] for _, tokens, _ in found]
        logits = self.read(ids, [[AROUND] * len(one) for one in ids])[1]
        return self._words(documents, logits)

    def judged(self, documents: Sequence[Document], chance: random.Random) -> Tensor:
        """The second loss, of candidates and of drafts changed by chance."""
        wide = [widened(one, self.tokenizer, chance) for one in documents]
        pairs = [marked(self.tokenizer, one.text, in_words(text)) for one in wide for text in one.candidates]
        each, repeated = [len(one.candidates) for one in wide], [one for one in wide for _ in one.candidates]
        logits, words = self.read([ids[:LENGTH] for ids, _ in pairs], [types[:LENGTH] for _, types in pairs])
        value = torch.tensor([value for one in wide for value in one.values])
        ranks = [order(*both) for both in zip(logits.split(each), value.split(each), strict=True)]
        return cross_entropy(logits, value) + torch.stack(ranks).mean() + WORDS * self._words(repeated, words)

    def _words(self, documents: Sequence[Document], logits: Tensor) -> Tensor:
        label, counted = torch.zeros(logits.shape), torch.zeros(logits.shape)
        for row, one in enumerate(documents):
            words, _, places = pieces(self.tokenizer, one.text)
            marks = kept(words, in_words(one.reference))[0]
            told = torch.tensor([float(marks[place]) for place in places][: LENGTH - 2])
            label[row, 1 : 1 + len(told)], counted[row, 1 : 1 + len(told)] = told, 1
        return (cross_entropy(logits, label, reduction="none") * counted).sum() / counted.sum()


def order(logits: Tensor, values: Tensor) -> Tensor:
    """The loss of a document's pairs: a better candidate is to be above, the more so the more it is better."""
    gap, ahead = values[:, None] - values, logits[:, None] - logits
    weight = gap.clamp_min(0)
    return (weight * softplus(-4 * ahead)).sum() / weight.sum().clamp_min(1e-6) * weight.max()


def widened(one: Document, tokenizer: Tokenizer, chance: random.Random) -> Document:
    """A document with changed candidates beside its own: single words, or a span of them, put in or left out. Without
    drafts its own are the words that are likely kept, by two levels."""
    words = pieces(tokenizer, one.text)[0]

    def said(marks: Sequence[bool]) -> str:
        return " ".join(word for word, mark in zip(words, marks, strict=True) if mark)

    own = list(one.candidates)
    if not own:
        own = [said([p > level for p in one.keep]) for level in (chance.uniform(*LEVELS), chance.uniform(*LEVELS))]
    changed = []
    for _ in range(CHANGED):
        marks = kept(words, in_words(chance.choice(own)))[0]
        if chance.random() < 0.5:
            rate = chance.choice((0.05, 0.1, 0.2))
            marks = [mark != (chance.random() < rate) for mark in marks]
        else:
            begin, size = chance.randrange(len(words)), chance.randint(1, 8)
            marks[begin : begin + size] = [chance.random() < 0.5] * len(marks[begin : begin + size])
        changed.append(said(marks))
    return one.valued(own + changed)


@torch.no_grad()
def told(learner: Learner, documents: Sequence[Document], batch: int = 96) -> list[Document]:
    """Documents with how likely each of their words is kept, by the first part of the training."""
    learner.eval()
    order = sorted(range(len(documents)), key=lambda row: len(pieces(learner.tokenizer, documents[row].text)[1]))
    found = list(documents)
    for group in (order[begin : begin + batch] for begin in range(0, len(order), batch)):
        read = [pieces(learner.tokenizer, documents[row].text) for row in group]
        ids = [[START, *tokens, END, END][:LENGTH] for _, tokens, _ in read]
        chances = learner.read(ids, [[AROUND] * len(one) for one in ids])[1].sigmoid()[:, 1:].tolist()
        for row, (words, _, places), line in zip(group, read, chances, strict=True):
            first = dict(zip(reversed(places), reversed(line[: len(places)]), strict=False))  # by a word's first token
            found[row] = replace(documents[row], keep=tuple(first.get(place, 0.0) for place in range(len(words))))
    return found


def drafted(documents: list[Document], file: Path, pools: Sequence[OwnDrafts], seed: int) -> list[Document]:
    """Documents with the summariser's drafts; what `file` holds already is read, the rest is written to it."""
    done = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    model = load("tiny-news")
    with file.open("a", encoding="utf-8") as out:
        for begin in range(len(done), len(documents), SHARD):
            group = documents[begin : begin + SHARD]
            names = list(range(begin, begin + len(group)))
            drawn = [draw_drafts(model, [d.text for d in group], pool, seed=seed, rows=names).texts for pool in pools]
            for texts in zip(*drawn, strict=True):
                done.append([text for one in texts for text in one])
                out.write(json.dumps(done[-1]) + "\n")
            out.flush()
            logging.info("drafts of %d documents", len(done))
    return [one.valued(texts) for one, texts in zip(documents, done, strict=False)]


def train(
    learner: Learner, documents: Sequence[Document], copies: Sequence[int], passes: float, rate: float,
    loss: Callable[[Sequence[Document], int], Tensor], file: Path,
) -> None:  # fmt: skip
    """One part of the training: `passes` over documents of which each is read `copies` times a step."""
    read = zip(documents, copies, strict=True)
    sizes = [(len(pieces(learner.tokenizer, one.text)[1]) + 3) * times for one, times in read]
    steps = int(passes * sum(sizes) / TOKENS)
    plan = Plan(steps, warmup=200, cooldown=steps * 2 // 3, rate=rate, weight_decay=0.02, seed=SEED, muon=False)
    groups = by_length(sizes, TOKENS, SEED)

    def batches(step: int) -> Iterator[tuple[int, list[Document]]]:
        return ((number, [documents[row] for row in group]) for number, group in enumerate(groups(step), step))

    Loop(learner, plan, lambda _, batch: loss(batch[1], batch[0])).run(batches, file)


def figures(documents: Sequence[Document], estimate: Callable[[list[str], list[str]], list[float]]) -> dict[str, float]:
    """Of pools of drafts: mean ROUGE-L of all, of the estimator's choice, of the one that agrees most with the others
    and of the best; the correlation of values within and over documents."""
    texts = [text for one in documents for text in one.candidates]
    told = np.array(estimate(texts, [one.text for one in documents for _ in one.candidates]))
    told, true = (np.reshape(x, (len(documents), -1)) for x in (told, [v for one in documents for v in one.values]))
    pools = [np.array([rouge(text, one.candidates) for text in one.candidates]) for one in documents]
    agreed = np.array([pool.mean(0).argmax() for pool in pools])
    pick = np.arange(len(documents))
    centred = [x - x.mean(1, keepdims=True) for x in (told, true)]
    return {
        "documents": len(documents), "mean": float(true.mean()), "chosen": float(true[pick, told.argmax(1)].mean()),
        "mbr": float(true[pick, agreed].mean()), "best": float(true.max(1).mean()),
        "within": float((centred[0] * centred[1]).sum() / np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())),
        "over": float(np.corrcoef(told.ravel(), true.ravel())[0, 1]),
    }  # fmt: skip


def save(learner: Learner, folder: Path) -> None:
    """Writes the estimator in `transformers`' form, in float16."""
    learner.network.half().save_pretrained(folder)
    reads = ["input_ids", "token_type_ids", "attention_mask"]
    save_tokenizer(learner.tokenizer, folder, LENGTH, reads, cls_token=SPECIAL[START], sep_token=SPECIAL[END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--drafted", type=int, default=6_200, help="training documents with drafts")
    parser.add_argument("--undrafted", type=int, default=25_000, help="and without")
    parser.add_argument("--only-drafts", action="store_true", help="draw the drafts and stop")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)

    def documents(name: str) -> list[Document]:
        found = [Document(row["document"], row["summary"]) for row in rows(options.data, name)]
        return [found[at] for at in torch.randperm(len(found), generator=torch.Generator().manual_seed(SEED)).tolist()]

    known = documents("sentcomp.train")
    judged = documents("sentcomp.validation")[:400]
    if options.only_drafts:
        drafted(judged, options.work / "rouge.validation.jsonl", [JUDGED], seed=1)
        drafted(known[: options.drafted], options.work / "rouge.drafts.jsonl", POOLS, seed=2)
        return
    learner = Learner(byte_pairs((one.text for one in known), VOCAB))
    once = [1] * len(known)
    train(learner, known, once, 2.0, 1e-3, lambda group, _: learner.tagged(group), options.work / "rouge.words.pt")
    seen = drafted(known[: options.drafted], options.work / "rouge.drafts.jsonl", POOLS, seed=2)
    seen += told(learner, known[len(seen) : len(seen) + options.undrafted])

    def loss(group: Sequence[Document], step: int) -> Tensor:
        return learner.judged(group, random.Random(SEED * 1_000_003 + step))

    copies = [CHANGED + (len(one.candidates) or 2) for one in seen]
    train(learner, seen, copies, 1.0, 5e-4, loss, options.work / "rouge.values.pt")
    save(learner, options.out / "learned-rouge")
    judged = drafted(judged, options.work / "rouge.validation.jsonl", [JUDGED], seed=1)
    reward = LearnedRouge(options.out / "learned-rouge")
    found: dict[str, Any] = figures(judged, lambda texts, prompts: reward(texts, prompts=prompts))
    logging.info("%s", found)
    (options.work / "rouge.figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
