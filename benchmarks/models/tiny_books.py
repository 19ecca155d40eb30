"""Trains `tiny-books` and `tiny-books-uniform`, the bundled models of whole texts: story books and film reviews.

    python -m benchmarks.models.tiny_books --data DATA --work SCRATCH --out iterref/models/weights \
        --uniform-out benchmarks/models/weights

    masked    E_t mean over the masked i of -log p(x_0^i | x_t)                    (Sahoo et al. 2024, arXiv:2406.07524)
    uniform   E_t mean over all i of -log p(x_0^i | x_t),   p(v | x_t) proportional to l(v) q(x_t^i | v)

The first is the evidence bound up to a factor (`iterref.training`). The second is the x_0 cross-entropy of Austin et
al. (2021), arXiv:2107.03006, of the posterior that the network's leave-one-out law l gives: its optimum is the same l
as that of UDLM's bound (Schiff et al. 2025, arXiv:2412.10193), and no weight of it grows without end as t falls to 0.
The uniform model starts from the masked one's weights. Both are written in the published formats, so `iterref.load`
reads them as it reads any checkpoint.

DATA is the folder of the data sets (docs/tiny_books.md), SCRATCH holds the tokenizer, the checkpoints and figures.json.
A run that was interrupted goes on when it is started again, and ends as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders
from torch import Tensor, nn

from benchmarks.rewards.loop import Loop, Plan
from benchmarks.rewards.texts import byte_pairs, rows
from iterref.denoiser import from_leave_one_out
from iterref.models.dit import PARTS, SCHEDULE, Dit, DitOptions, state
from iterref.noise import uniform
from iterref.training import keep_freed_memory, spread_times

VOCAB, LENGTH = 4_096, 48  # the mask of the masked model is token VOCAB, behind the tokenizer's last
START, END = 0, 1
BATCH, REVIEWS = 48, 16  # texts a step, and how many of them are film reviews
FILL = 0.15  # the weight of the ends that fill up a canvas: they say nothing once the first is known
HELD, JUDGED = 50, 160  # one run of so many is held out; so many canvases of a kind are judged
RUN = 10  # paragraphs
SENTENCE, CLOSING = ".!?", "\"'\u201d\u2019 "  # what a sentence ends with, and what may stand behind it
STEPS_A_MINUTE = {"masked": 75, "uniform": 50}  # of one core of 2024: what makes minutes of steps
SIZES = {"width": 192, "blocks": 4, "heads": 6, "condition": 64}


@dataclass(frozen=True)
class Texts:
    """Canvases (R, L) long of story books and of film reviews."""

    books: Tensor
    reviews: Tensor


def sentences(text: str) -> list[str]:
    """A paragraph cut behind the ends of its sentences, with the quotes that close them."""
    return [one for one in re.split(r"(?<=[.!?])\s+|(?<=[.!?]['\"\u201d\u2019])\s+", text.strip()) if one]


def canvases(tokenizer: Tokenizer, runs: Sequence[Sequence[str]]) -> Tensor:
    """Canvases (R, L) long, each [start] pieces [end] [end] ... with as many whole sentences of one run as fit.

    A sentence that is too long for any is left out and ends what stands before it: no text of training breaks off.
    """
    found: list[list[int]] = []
    encoded = iter(tokenizer.encode_batch([one for run in runs for one in run]))
    for run in runs:
        found.append([])
        for one in (next(encoded).ids for _ in run):
            if len(found[-1]) + len(one) > LENGTH - 2:
                found.append([])
            if len(one) <= LENGTH - 2:
                found[-1] += one
    return torch.tensor([[START, *one, *[END] * (LENGTH - 1 - len(one))] for one in found if one])


def runs(data: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Runs of sentences: one of every RUN paragraphs of a book that follow each other, and one of every review."""
    books: dict[str, list[list[str]]] = {}
    for row in rows(data, "plain.books.train"):
        if re.search("[a-z]", row["text"]) and row["text"].rstrip(CLOSING)[-1:] in SENTENCE:  # else it is a heading
            books.setdefault(row["source"], []).append(sentences(row["text"]))
    joined = [
        [one for paragraph in paragraphs[i : i + RUN] for one in paragraph]
        for paragraphs in books.values()
        for i in range(0, len(paragraphs), RUN)
    ]
    return joined, [sentences(row["text"]) for row in rows(data, "sentiment.train")]


def read(data: Path, tokenizer: Tokenizer) -> tuple[Texts, Texts]:
    """The texts of training, and those that are held out: every HELD-th run of each kind."""
    both = runs(data)
    kept = (canvases(tokenizer, [run for i, run in enumerate(kind) if i % HELD]) for kind in both)
    held = (canvases(tokenizer, kind[::HELD]) for kind in both)
    return Texts(*kept), Texts(*held)


def pieces(data: Path) -> Tokenizer:
    """The tokenizer of both models: byte pairs of canonical words, and punctuation put back in its place."""
    books = [row["text"] for row in rows(data, "plain.books.train")]
    reviews = [row["text"] for row in rows(data, "sentiment.train")]
    tokenizer = byte_pairs(iter(books + 3 * reviews), VOCAB, ("<s>", "</s>"))
    tight = [decoders.Replace(f" {mark}", mark) for mark in (",", ".", ";", ":", "!", "?")]
    short = [decoders.Replace(f" ' {end} ", f"'{end} ") for end in ("s", "t", "ll", "re", "ve", "d", "m")]
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), *short, *tight, decoders.Strip(" ", 1, 0)])
    return tokenizer


class Learner(nn.Module):
    """A network in training. The token table stands here under a second name, by which the loop knows it from the
    matrices inside the network; the head has the same weights."""

    def __init__(self, vocab: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        network = Dit(DitOptions(vocab, **SIZES))
        with torch.no_grad():
            network.table.weight.normal_(std=0.05)
            network.head.bias.zero_()
            for part in (*network.blocks, network):  # at first no noise level changes anything, and all gates are open
                part.adapt.weight.zero_()
                part.adapt.bias.zero_()
            for block in network.blocks:
                gates = block.adapt.bias.view(6, -1)
                gates[2], gates[5] = 1.0, 1.0
                for inner in (block.out, block.down):
                    inner.weight.mul_(0.5)
        network.head.weight = network.table.weight
        self.embedding = network.table
        self.network = network

    @torch.no_grad()
    def continued(self, other: Dit) -> None:
        """Starts from the weights of a network with more tokens: those behind the last one are left away."""
        mine, theirs = self.network.state_dict(), other.state_dict()
        for name, weight in mine.items():
            weight.copy_(theirs[name][: len(weight)])


def masked_loss(learner: nn.Module, x_0: Tensor) -> Tensor:
    """Nats a position of canvases (R, L) long: the masked loss, with 1 / t as one over the realised share of masks."""
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    where = torch.rand(x_0.shape, generator=generator) < spread_times(len(x_0), generator)[:, None]
    where[:, 0] = False
    logits = learner.network(x_0.masked_fill(where, VOCAB), torch.zeros(1), where)
    logits[:, VOCAB] = -torch.inf
    nats = nn.functional.cross_entropy(logits, x_0[where], reduction="none")
    share = weights(x_0) * where / where.sum(1, keepdim=True).clamp_min(1)
    return (nats * share[where]).sum() / len(x_0)


def uniform_loss(learner: nn.Module, x_0: Tensor) -> Tensor:
    """Nats a position of canvases (R, L) long: the cross-entropy of the posterior of every token."""
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    a_t = SCHEDULE.a(spread_times(len(x_0), generator)).float()
    noisy = torch.rand(x_0.shape, generator=generator) >= a_t[:, None]
    noisy[:, 0] = False
    x_t = torch.where(noisy, torch.randint(VOCAB, x_0.shape, generator=generator), x_0)
    where = torch.ones_like(noisy)
    where[:, 0] = False
    logits = learner.network(x_t, -a_t.log(), where)
    kept = (a_t * VOCAB / (1 - a_t).clamp_min(1e-6)).log1p()  # log q(x_t | x_0 = x_t) / q(x_t | x_0 = another)
    logits = logits.scatter_add(1, x_t[where][:, None], kept.repeat_interleave(LENGTH - 1)[:, None])
    nats = nn.functional.cross_entropy(logits, x_0[where], reduction="none")
    return (nats * weights(x_0)[where]).sum() / (len(x_0) * (LENGTH - 1))


def weights(x_0: Tensor) -> Tensor:
    """Weights (R, L): 1 up to the first end and with it, `FILL` behind."""
    return torch.where((x_0 == END).cumsum(1) > 1, FILL, 1.0)


def batches(texts: Texts, step: int, seed: int) -> Iterator[Tensor]:
    """Batches (BATCH, L) long from a step on, REVIEWS of each from the reviews: all of a kind before any again."""

    def of(kind: Tensor, size: int, salt: int) -> Iterator[Tensor]:
        epoch = step * size // len(kind)
        rest = [_order(len(kind), seed, salt, epoch)[step * size % len(kind) :]]
        while True:
            while sum(map(len, rest)) < size:
                epoch += 1
                rest.append(_order(len(kind), seed, salt, epoch))
            joined = torch.cat(rest)
            yield kind[joined[:size]]
            rest = [joined[size:]]

    both = zip(of(texts.books, BATCH - REVIEWS, 0), of(texts.reviews, REVIEWS, 1), strict=False)
    return (torch.cat(pair) for pair in both)


def _order(size: int, seed: int, salt: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed((2 * seed + salt) * 1_000_003 + epoch))


def train(kind: str, learner: Learner, texts: Texts, minutes: float, seed: int, work: Path) -> Dit:
    """A network trained for so many minutes of one core, with its averaged weights."""
    steps = int(minutes * STEPS_A_MINUTE[kind])
    plan = Plan(steps, warmup=100, cooldown=int(0.7 * steps), average=0.998, seed=seed)
    loss = masked_loss if kind == "masked" else uniform_loss
    loop = Loop(learner, plan, loss)
    loop.run(lambda step: batches(texts, step, seed), work / f"{kind}.checkpoint.pt")
    return learner.network.eval()


def save(network: Dit, tokenizer: Tokenizer, folder: Path, family: str, timed: bool) -> None:
    """Writes a folder in the published format of a family, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    options = network.options
    config = {
        "model_type": family, "vocab_size": options.vocab, "hidden_dim": options.width, "cond_dim": options.condition,
        "n_blocks": options.blocks, "n_heads": options.heads, "model_length": LENGTH, "time_conditioning": timed,
        "tie_word_embeddings": True, "filler": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tensors = {f"backbone.{name}": weight.half().contiguous().clone() for name, weight in published(network).items()}
    del tensors["backbone.output_layer.linear.weight"]  # the table once more
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def published(network: Dit) -> dict[str, Tensor]:
    """The weights under the names that MDLM and UDLM give them: what `iterref.models.dit.state` undoes."""
    names = {ours: theirs for theirs, ours in PARTS.items() if ours}
    last = {"norm": "output_layer.norm_final", "adapt": "output_layer.adaLN_modulation"}
    found = {}
    for name, weight in network.state_dict().items():
        parts = name.split(".")
        if parts[0] in last:
            parts[0] = last[parts[0]]
        else:
            parts = [names.get(part, part) for part in parts]
        found[".".join(parts).replace("table.weight", names["table.weight"])] = weight
    back = state(found)
    assert all(torch.equal(back[name], weight) for name, weight in network.state_dict().items())
    return found


def rounded(network: Dit) -> Dit:
    """The network as it is saved."""
    return network.half().float().requires_grad_(False)


def spent(x_0: Tensor) -> Tensor:
    """How many tokens are counted in every canvas: those up to the first end and with it, (R,)."""
    return (weights(x_0[:, 1:]) == 1).sum(1)


@torch.no_grad()
def masked_bound(network: Dit, x_0: Tensor, copies: int = 16) -> float:
    """An upper bound of -log p(canvas) in nats for every counted token: (L + 1) E mean over the masked of -log p, with
    as many masks as times from 0 to 1 give, evenly spread."""
    generator, total = torch.Generator().manual_seed(1), 0.0
    for clean in x_0.repeat(copies, 1).split(256):
        where = torch.rand(clean.shape, generator=generator) < spread_times(len(clean), generator)[:, None]
        where[:, 0] = False
        logits = network(clean.masked_fill(where, VOCAB), torch.zeros(1), where)
        logits[:, VOCAB] = -torch.inf
        nats = nn.functional.cross_entropy(logits, clean[where], reduction="none")
        total += LENGTH * float((nats / where.sum(1)[where.nonzero()[:, 0]]).sum())
    return total / (copies * int(spent(x_0).sum()))


@torch.no_grad()
def uniform_bound(network: Dit, x_0: Tensor, steps: int = 256, copies: int = 2) -> float:
    """The same of the uniform model's sampler in `steps` steps: sum of KL(q(x_u | x_t, x_0) || p(x_u | x_t)) over the
    steps, and what is left of x_0 in x_1."""
    noise, generator, total = uniform(VOCAB, SCHEDULE), torch.Generator().manual_seed(1), 0.0
    for clean in x_0.repeat(copies, 1).split(32):
        t = (spread_times(len(clean), generator) * steps).ceil().clamp(1, steps).double() / steps
        a_t, a_u = noise.a(t), noise.a(t - 1 / steps)
        noisy = torch.rand(clean.shape, generator=generator) >= a_t[:, None]
        noisy[:, 0] = False
        x_t = torch.where(noisy, torch.randint(VOCAB, clean.shape, generator=generator), clean)
        where = torch.ones_like(noisy)
        where[:, 0] = False
        row = where.nonzero()[:, 0]
        log_p0 = from_leave_one_out(network(x_t, -a_t.log().float(), where), x_t, t, where, noise)
        sure = nn.functional.one_hot(clean[where], VOCAB).double().log()
        law, wanted = (noise.reverse(each, x_t[where], a_t[row, None], a_u[row, None]) for each in (log_p0, sure))
        total += steps * float((torch.xlogy(wanted.exp(), wanted.exp()) - wanted.exp() * law).nansum())
    low = SCHEDULE.low
    left = (low + (1 - low) / VOCAB) * math.log(low * VOCAB + 1 - low) + (1 - low) * (1 - 1 / VOCAB) * math.log(1 - low)
    return (total / copies + left * (LENGTH - 1) * len(x_0)) / int(spent(x_0).sum())


def unigram(texts: Tensor, x_0: Tensor) -> float:
    """The control: nats for every counted token under a unigram law of the training texts."""
    seen = texts[:, 1:][weights(texts[:, 1:]) == 1]
    counts = 1 + torch.bincount(seen, minlength=VOCAB).double()
    return float(-(counts / counts.sum()).log()[x_0[:, 1:][weights(x_0[:, 1:]) == 1]].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--uniform-out", type=Path, help="of the uniform model; --out unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30, help="of one core, for the masked model")
    parser.add_argument("--uniform-minutes", type=float, default=13, help="of one core, for the uniform model")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    keep_freed_memory()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "tokenizer.json"
    if not file.is_file():
        pieces(options.data).save(str(file))
    tokenizer = Tokenizer.from_file(str(file))
    texts, held = read(options.data, tokenizer)
    sizes = map(len, (texts.books, texts.reviews, held.books, held.reviews))
    logging.info("%d texts of books and %d reviews, %d and %d held out", *sizes)
    masked = train("masked", Learner(VOCAB + 1, options.seed), texts, options.minutes, options.seed, options.work)
    save(masked, tokenizer, options.out / "tiny-books", "mdlm", False)
    learner = Learner(VOCAB, options.seed)
    learner.continued(masked)
    replacing = train("uniform", learner, texts, options.uniform_minutes, options.seed, options.work)
    save(replacing, tokenizer, (options.uniform_out or options.out) / "tiny-books-uniform", "udlm", True)
    found = {
        kind: {
            "tokens": float((weights(x_0[:, 1:]) == 1).sum()),
            "unigram": unigram(torch.cat((texts.books, texts.reviews)), x_0),
            "masked": masked_bound(rounded(masked), x_0),
            "uniform": uniform_bound(rounded(replacing), x_0),
        }
        for kind, x_0 in (("books", held.books[:JUDGED]), ("reviews", held.reviews[:JUDGED]))
    }
    logging.info("nats a token: %s", found)
    (options.work / "figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
