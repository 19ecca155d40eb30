"""Trains `acceptability` and `acceptability-judge`, the bundled classifiers of sound and broken English.

    python -m benchmarks.rewards.acceptability --data DATA --work SCRATCH --out benchmarks/rewards/weights

                          layout, start                    labels of CoLA    faults (`faults.py`)        books, reviews
    acceptability         ModernBERT, vectors of words     60 %              gaps                        every other one
    acceptability-judge   Llama, the weights of `prose`    the other 40 %    rules, and later gaps       the others

Some thousand labels teach no grammar (Warstadt et al. 2019, arXiv:1805.12471), so both learn first to tell sound text
from the same text with faults: where they are, word by word (Clark et al. 2020, arXiv:2003.10555), and that the whole
is acceptable or not. Then come the labels, with more of such texts beside them. The two share no label, no sentence, no
layout and no starting weights; they share gaps, since a judge that knows rules alone does not see what is wrong with
texts of tiny-books. What is chosen is chosen on dev; `--test` measures both on held-out books against faults, other
orders of the words and samples of tiny-books, which neither is trained on.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import matthews_corrcoef, roc_auc_score
from tokenizers import Tokenizer, processors
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification, ModernBertConfig, ModernBertForSequenceClassification

from benchmarks.models import tiny_books
from benchmarks.rewards.faults import Words, broken, filled, marks
from benchmarks.rewards.loop import Loop, Plan, by_length
from benchmarks.rewards.prose import HELD_AUTHORS
from benchmarks.rewards.sentiment import vectors
from benchmarks.rewards.texts import END, PAD, SPECIAL, START, byte_pairs, in_words, padded, rows, save_tokenizer
from benchmarks.tasks.steering import OPENINGS
from iterref import sample
from iterref.drafts import tempered
from iterref.hub import quiet
from iterref.loading import load
from iterref.problem import Problem
from iterref.registry import bundled
from iterref.samplers.strings import sampler_from_string
from iterref.training import keep_freed_memory

VOCAB, WIDTH, LENGTH, TOKENS = 8_000, 128, 128, 1_920
LABELS = {0: "unacceptable", 1: "acceptable"}
SHARE = 0.6  # of the labels, for `acceptability`; the judge has the others
WORD = 0.5  # the weight of what single words are told beside what the text is told
LEAST = 4  # words of a text that faults are made in
GAPS, TEMPERATURE = (0.15, 0.6), 0.9  # of what tiny-books fills in
MORE = 8_000  # sound texts of the second part of training, at most


@dataclass(frozen=True)
class Recipe:
    """A classifier: whose labels and books it learns from, its layout, how many sound texts the first part of training
    has and how often it sees them, how often the second sees the labels and how many tokens of sound and broken text go
    with one of theirs, and the rates of both."""

    first: bool
    texts: int
    epochs: int
    early: Plan
    late: Plan
    passes: int = 1
    again: float = 1.0

    def network(self, start: Tensor) -> nn.Module:
        """ModernBERT of three layers, which reads both ways, or Llama of three, which reads from left to right."""
        torch.manual_seed(self.early.seed)
        names: dict[str, Any] = {"id2label": LABELS, "label2id": {name: key for key, name in LABELS.items()}}
        if not self.first:
            with quiet():  # the head is new
                prose = bundled("rewards")["prose"]
                return LlamaForSequenceClassification.from_pretrained(prose, dtype=torch.float32, **names)
        config = ModernBertConfig(
            vocab_size=len(start), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=LENGTH, pad_token_id=PAD, bos_token_id=START,
            eos_token_id=END, cls_token_id=START, sep_token_id=END, classifier_pooling="mean", classifier_dropout=0.2,
            **names,
        )  # fmt: skip
        model = ModernBertForSequenceClassification(config)
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(start / start.norm(dim=1).mean())
        return model


def plan(seed: int, rate: float, matrix_rate: float | None) -> Plan:
    """The rates of a part; its steps are counted from its texts."""
    return Plan(0, rate=rate, matrix_rate=matrix_rate or 0, average=0.995, seed=seed, muon=matrix_rate is not None)


RECIPES = {
    "acceptability": Recipe(True, 24_000, 8, plan(0, 2e-3, 4e-3), plan(2, 4e-4, None), passes=2),
    "acceptability-judge": Recipe(False, 9_000, 3, plan(1, 5e-4, 1e-3), plan(3, 4e-4, None), again=3.0),
}


@dataclass(frozen=True)
class Example:
    """A text in tokens, its label, and which tokens are at fault; None where nobody knows."""

    ids: list[int]
    label: int
    fault: list[bool] | None = None


class Learner(nn.Module):
    """A classifier in training, and what is told about single words: one that reads both ways has a head for it that is
    not kept; one that reads from left to right says what it thinks of the text so far, by its only head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.words = None if isinstance(network, LlamaForSequenceClassification) else nn.Linear(WIDTH, 1)

    def loss(self, batch: Sequence[Example]) -> Tensor:
        """Mean cross-entropy of the texts, and that of their words."""
        tokens, label = padded([one.ids for one in batch]), torch.tensor([one.label for one in batch])
        read, known = tokens != PAD, torch.tensor([one.fault is not None for one in batch])
        fault = torch.zeros(tokens.shape)
        for i, one in enumerate(batch):
            if one.fault is not None:
                fault[i, : len(one.ids)] = torch.tensor(one.fault, dtype=torch.float32)
        told, network = read & known[:, None], self.network
        said = network(input_ids=tokens, attention_mask=read.long(), output_hidden_states=True)
        states = said.hidden_states[-1][told]
        if self.words is not None:
            each, target = self.words(states)[:, 0], fault[told]
        else:
            scores: Tensor = network.score(states)
            each, target = scores[:, 0] - scores[:, 1], (fault.cumsum(1) > 0).float()[told]
        loss = nn.functional.cross_entropy(said.logits, label)
        if len(each):
            loss = loss + WORD * nn.functional.binary_cross_entropy_with_logits(each, target)
        return loss


def example(tokenizer: Tokenizer, words: Words, label: int, fault: Sequence[bool] | None) -> Example:
    """A text of canonical words in tokens; a token is at fault where its word is."""
    one = tokenizer.encode(words, is_pretokenized=True)
    ids = one.ids[: LENGTH - 1] + one.ids[-1:] if len(one.ids) > LENGTH else one.ids
    if fault is None:
        return Example(ids, label)
    return Example(ids, label, [i is not None and fault[i] for i in one.word_ids][: len(ids)])


def both(tokenizer: Tokenizer, pairs: Sequence[tuple[Words, Words]]) -> list[Example]:
    """Sound and broken texts, one after the other."""
    found = []
    for clean, bad in pairs:
        fault = marks(clean, bad)
        found += [example(tokenizer, clean, 1, [False] * len(clean)), example(tokenizer, bad, 0, fault)]
    return found


def canvases(data: Path, first: bool, held: bool = False) -> Tensor:
    """Canvases of tiny-books (R, L) long, each of whole sentences: of every other book and review, or held-out books.

    One in three has one sentence only, as CoLA's texts do.
    """
    kept: dict[str, list[list[str]]] = {}
    for row in rows(data, "plain.books.train"):
        if row["text"].rstrip(tiny_books.CLOSING)[-1:] in tiny_books.SENTENCE and row["text"].upper() != row["text"]:
            kept.setdefault(row["source"], []).append(tiny_books.sentences(row["text"]))
    known = [name for name in sorted(kept) if not name.startswith(HELD_AUTHORS)]
    if held:
        runs = [run for name in kept if name.startswith(HELD_AUTHORS) for run in kept[name]]
    else:
        runs = [run for name in known[0 if first else 1 :: 2] for run in kept[name]]
        reviews = rows(data, "sentiment.train")[0 if first else 1 :: 2]
        runs += [[row["text"]] for row in reviews]
    runs = [[one] for run in runs[::3] for one in run] + [run for i, run in enumerate(runs) if i % 3]
    tokenizer = Tokenizer.from_file(str(bundled("models")["tiny-books"] / "tokenizer.json"))
    found = tiny_books.canvases(tokenizer, runs)
    return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(7))]


def pairs(texts: Tensor, gaps: Path | None, seed: int) -> list[tuple[Words, Words]]:
    """Sound texts in canonical words, each with a broken one: by gaps, kept in a file, or by rules. Both have gone
    through tiny-books' codec, so that nothing but the words tells them apart."""
    model: Any = load("tiny-books")
    clean = [in_words(text) for text in model.decode(texts)]
    if gaps is not None:
        if not gaps.is_file():
            torch.save(filled(model, texts, GAPS, TEMPERATURE, seed), gaps)
        bad = [in_words(text) for text in model.decode(torch.load(gaps, weights_only=True))]
    else:
        rng, pool = random.Random(seed), [word for words in clean for word in words]
        bad = [broken(words, pool, rng) if len(words) > LEAST else words for words in clean]
    least = 1 if gaps is None else 2  # a single word that another model puts in is often as good
    kept = ((a, b) for a, b in zip(clean, bad, strict=True) if min(len(a), len(b)) >= LEAST)
    return [(a, b) for a, b in kept if sum(marks(a, b)) >= least]


def part(size: int, first: bool) -> list[int]:
    """The numbers of one of the two disjoint parts of the labels."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()
    return order[: int(SHARE * size)] if first else order[int(SHARE * size) :]


def train(learner: Learner, examples: list[Example], plan: Plan, epochs: int, file: Path) -> None:
    """Some passes over the examples; resumable."""
    size = epochs * sum(len(one.ids) for one in examples) // TOKENS
    order = by_length([len(one.ids) for one in examples], TOKENS, plan.seed)

    def batches(step: int) -> Iterator[list[Example]]:
        return ([examples[row] for row in group] for group in order(step))

    run = Plan(
        size, min(50, size // 10), 3 * size // 4, plan.matrix_rate, plan.rate, average=plan.average, seed=plan.seed,
        muon=plan.muon,
    )  # fmt: skip
    logging.info("%d examples, %d steps", len(examples), size)
    Loop(learner, run, lambda network, batch: network.loss(batch)).run(batches, file)


def taught(recipe: Recipe, name: str, tokenizer: Tokenizer, start: Tensor, data: Path, work: Path) -> nn.Module:
    """The classifier of a recipe."""
    learner, texts = Learner(recipe.network(start)), canvases(data, recipe.first)
    labelled = rows(data, "cola.train")
    own = [labelled[i] for i in part(len(labelled), recipe.first)]
    cola = [example(tokenizer, in_words(row["text"]), row["label"], None) for row in own]
    known, more = texts[: recipe.texts], texts[recipe.texts :][:MORE]
    gaps = work / f"{name}.early.gaps.pt" if recipe.first else None
    early = both(tokenizer, pairs(known, gaps, recipe.early.seed))
    train(learner, early, recipe.early, recipe.passes, work / f"{name}.early.pt")
    rest, room = [], recipe.again * recipe.epochs * sum(len(one.ids) for one in cola)
    for one in both(tokenizer, pairs(more, work / f"{name}.late.gaps.pt", recipe.late.seed)):
        if room > 0:
            rest.append(one)
            room -= len(one.ids)
    train(learner, recipe.epochs * cola + rest, recipe.late, 1, work / f"{name}.late.pt")
    return learner.network.eval()


@torch.no_grad()
def probabilities(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """p(acceptable) of texts, (R,) float64."""
    ids = [example(tokenizer, in_words(text), 0, None).ids for text in texts]
    found, order = np.zeros(len(ids)), sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for group in (order[i : i + 64] for i in range(0, len(order), 64)):
        tokens = padded([ids[row] for row in group])
        logits = model(input_ids=tokens, attention_mask=(tokens != PAD).long()).logits
        found[group] = logits.double().softmax(1)[:, 1].numpy()
    return found


def auc(better: np.ndarray, worse: np.ndarray) -> float:
    """How often the better has the higher number, ties half."""
    return float(roc_auc_score([1] * len(better) + [0] * len(worse), np.concatenate([better, worse])))


def interval(figure: Callable[..., float], *groups: tuple[np.ndarray, ...], times: int = 1_000) -> list[float]:
    """A figure and its 95 % bootstrap interval; rows of one group are drawn together."""
    rng, found = np.random.default_rng(0), []
    for _ in range(times):
        drawn = [rng.integers(0, len(group[0]), len(group[0])) for group in groups]
        found.append(figure(*(one[rows] for group, rows in zip(groups, drawn, strict=True) for one in group)))
    point = figure(*(one for group in groups for one in group))
    return [round(float(one), 4) for one in (point, *np.quantile(found, (0.025, 0.975)))]


def on_dev(model: nn.Module, tokenizer: Tokenizer, data: Path) -> dict[str, Any]:
    """Accuracy, Matthews' correlation and area under the curve on CoLA's dev file, each with its interval, and the
    accuracy of the more frequent label as the control."""
    labelled = rows(data, "cola.dev")
    label = np.array([row["label"] for row in labelled], dtype=np.float64)
    p = probabilities(model, tokenizer, [row["text"] for row in labelled])
    said = (p > 0.5).astype(np.float64)
    return {
        "rows": len(label), "majority": float(max(label.mean(), 1 - label.mean())), "acceptable": float(said.mean()),
        "accuracy": interval(lambda a, b: float((a == b).mean()), (said, label)),
        "matthews": interval(matthews_corrcoef, (label, said)),
        "auc": interval(auc, (p[label == 1],), (p[label == 0],)),
    }  # fmt: skip


def held_texts(data: Path, count: int) -> dict[str, list[str]]:
    """Held-out book texts, the same with both kinds of fault, their words in any order, and tiny-books' own samples."""
    model: Any = load("tiny-books")
    texts = canvases(data, True, held=True)
    texts = texts[(texts != model.codec.end).sum(1) > 24][:count]
    clean = model.decode(texts)
    rng, pool = random.Random(5), [word for text in clean for word in in_words(text)]
    denoiser, canvas, free = model.prepare([opening for opening in OPENINGS for _ in range(count // len(OPENINGS))])
    found = {"sound": clean, "gaps": model.decode(filled(model, texts, GAPS, TEMPERATURE, 5))}
    found["rules"] = [" ".join(broken(in_words(text), pool, rng)) for text in clean]
    found["shuffled"] = [" ".join(rng.sample(in_words(text), len(in_words(text)))) for text in clean]
    problem = Problem(tempered(denoiser, 0.8), lambda tokens, rows: torch.zeros(len(rows)), canvas, free)
    drawn = sample(sampler_from_string("ancestral:steps=16"), problem, seed=5, decode=model.decode)
    found["samples"] = drawn.texts or []
    return found


def on_text(model: nn.Module, tokenizer: Tokenizer, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Sound text told from broken: by the whole text, or by the mean or the least of the log p of its sentences."""
    whole = {kind: np.log(probabilities(model, tokenizer, each)) for kind, each in texts.items()}
    mean, least = {}, {}
    for kind, each in texts.items():
        cut = [tiny_books.sentences(text) for text in each]
        p = iter(np.log(probabilities(model, tokenizer, [one for text in cut for one in text])))
        apart = [[next(p) for _ in text] for text in cut]
        mean[kind], least[kind] = (np.array([f(one) for one in apart]) for f in (np.mean, np.min))
    found: dict[str, Any] = {}
    for kind in [kind for kind in texts if kind != "sound"]:
        for way, log_p in (("whole", whole), ("mean of sentences", mean), ("least of sentences", least)):
            found[f"{kind}, {way}"] = interval(auc, (log_p["sound"],), (log_p[kind],), times=200)
    found["p(acceptable)"] = {kind: round(float(np.exp(each).mean()), 4) for kind, each in whole.items()}
    return found


def around(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with <s> before a text and </s> behind it."""
    special = [(SPECIAL[START], START), (SPECIAL[END], END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=special
    )
    return tokenizer


def tokenizers(data: Path) -> dict[str, Tokenizer]:
    """That of each classifier: its own byte pairs, and those of `prose`."""
    texts = [row["text"] for row in rows(data, "plain.books.train")[::2] + rows(data, "sentiment.train")]
    own = byte_pairs(iter(texts + 3 * [row["text"] for row in rows(data, "cola.train")]), VOCAB)
    prose = Tokenizer.from_file(str(bundled("rewards")["prose"] / "tokenizer.json"))
    return {"acceptability": around(own), "acceptability-judge": around(prose)}


def save(model: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a classifier in `transformers`' form, in float16."""
    model.half().save_pretrained(folder)
    reads = ["input_ids", "attention_mask"]
    save_tokenizer(tokenizer, folder, LENGTH, reads, cls_token="<s>", sep_token="</s>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", choices=tuple(RECIPES), help="one of the two")
    parser.add_argument("--test", action="store_true", help="judge held-out books, faults and samples too")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    keep_freed_memory()
    options.work.mkdir(parents=True, exist_ok=True)
    known = tokenizers(options.data)
    for name, recipe in RECIPES.items():
        if options.only not in (None, name):
            continue
        start, file = torch.empty(0), options.work / "vectors.pt"
        if recipe.first:
            if not file.is_file():
                torch.save(vectors(known[name], options.data, WIDTH), file)
            start = torch.load(file, weights_only=True)
        model = taught(recipe, name, known[name], start, options.data, options.work)
        model = model.half().float()  # what is measured is what is saved
        found = {"dev": on_dev(model, known[name], options.data)}
        if options.test:
            found["texts"] = on_text(model, known[name], held_texts(options.data, 300))
        logging.info("%s %s", name, json.dumps(found, indent=1))
        save(model, known[name], options.out / name)
        (options.work / f"{name}.figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
