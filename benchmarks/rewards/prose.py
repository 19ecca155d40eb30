"""Trains `prose`, the bundled causal language model: news sentences, their summaries, story books and film reviews.

    python -m benchmarks.rewards.prose --data DATA --work SCRATCH --out iterref/rewards/weights/prose

DATA is the folder of the data sets (docs/rewards.md), SCRATCH holds the tokenizer, the checkpoint and figures.json. A
run that was interrupted goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.rewards.loop import Loop, Plan, by_length
from benchmarks.rewards.texts import (
    END,
    MASK,
    PAD,
    SPECIAL,
    START,
    byte_pairs,
    in_words,
    padded,
    passages,
    rows,
    save_tokenizer,
)
from iterref.training import keep_freed_memory

VOCAB, LENGTH, TOKENS = 6_144, 128, 3_072
PLAN = Plan(steps=1_100, warmup=60, cooldown=750, average=0.995)
HELD_AUTHORS = ("Kenneth Grahame", "Hugh Lofting")  # of no other book


def training_texts(data: Path) -> list[str]:
    """Documents of one half of the news pairs and summaries of all, passages of books, film reviews three times."""
    news = rows(data, "sentcomp.train")
    texts = [row["document"] for row in news[::2]] + [row["summary"] for row in news]
    books = [row["text"] for row in rows(data, "plain.books.train") if not row["source"].startswith(HELD_AUTHORS)]
    texts += [passage for text in books for passage in passages(text)]
    return texts + 3 * [row["text"] for row in rows(data, "sentiment.train")]


def held_out(data: Path) -> dict[str, list[str]]:
    """Texts by kind that training never sees. Wikipedia is a kind that it sees nothing of."""
    news = rows(data, "sentcomp.validation")
    books = [row["text"] for row in rows(data, "plain.books.train") if row["source"].startswith(HELD_AUTHORS)]
    return {
        "news sentences": [row["document"] for row in news],
        "news summaries": [row["summary"] for row in news],
        "unseen story books": [piece for text in books[::2] for piece in passages(text)],
        "film reviews (dev)": [row["text"] for row in rows(data, "sentiment.dev")],
        "Wikipedia (no such text in training)": [
            piece for row in rows(data, "plain.wikitext2.validation")[::4] for piece in passages(row["text"])
        ],
    }


def network(vocab: int) -> LlamaForCausalLM:
    """2.5 million weights; token table and head are one."""
    torch.manual_seed(PLAN.seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=192, intermediate_size=512, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=3, max_position_embeddings=LENGTH, tie_word_embeddings=True, pad_token_id=PAD,
        bos_token_id=START, eos_token_id=END, initializer_range=0.05, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def likelihood(model: nn.Module, tokens: Tensor) -> Tensor:
    """Nats a token of padded rows (R, T) long, each <s> text </s>. Padding stands behind, where no token sees it."""
    logits = model(input_ids=tokens[:, :-1]).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)


def encoded(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token lists <s> text </s> of what fits."""
    ids = [[START, *one.ids, END] for one in tokenizer.encode_batch(texts)]
    return [one[: LENGTH + 1] for one in ids if len(one) > 2]


def train(data: Path, work: Path) -> tuple[nn.Module, Tokenizer]:
    """The trained network and its tokenizer."""
    texts, file = training_texts(data), work / "prose.tokenizer.json"
    if not file.is_file():
        byte_pairs(iter(texts[::3]), VOCAB, SPECIAL[:MASK]).save(str(file))
    tokenizer = Tokenizer.from_file(str(file))
    ids = encoded(tokenizer, texts)
    total = sum(map(len, ids))
    logging.info("%d texts, %d tokens, %.2f epochs", len(ids), total, PLAN.steps * TOKENS / total)
    order = by_length([len(one) for one in ids], TOKENS, PLAN.seed)

    def batches(step: int) -> Iterator[Tensor]:
        return (padded([ids[row] for row in group]) for group in order(step))

    loop = Loop(network(tokenizer.get_vocab_size()), PLAN, likelihood)
    return loop.run(batches, work / "prose.checkpoint.pt"), tokenizer


@torch.no_grad()
def figures(model: nn.Module, tokenizer: Tokenizer, data: Path) -> dict[str, dict[str, float]]:
    """Perplexity by kind of held-out text, with that of a unigram law of the training texts as the control. The end
    token is not counted, so this is what the reward `Perplexity` sees."""
    counts = Counter(token for one in encoded(tokenizer, training_texts(data)) for token in one[1:-1])
    total = sum(counts.values()) + tokenizer.get_vocab_size()
    found = {}
    for kind, texts in held_out(data).items():
        ids = [one[:-1] for one in encoded(tokenizer, texts)]
        size, number = sum(len(one) - 1 for one in ids), sum(len(in_words(text)) for text in texts)
        nats = sum(float(likelihood(model, padded([one]))) * (len(one) - 1) for one in ids)
        control = -sum(math.log((counts[token] + 1) / total) for one in ids for token in one[1:])
        found[kind] = {
            "texts": len(ids), "tokens": size, "words": number, "per_token": math.exp(nats / size),
            "per_word": math.exp(nats / number), "unigram_per_token": math.exp(control / size),
            "unigram_per_word": math.exp(control / number),
        }  # fmt: skip
        logging.info("%s %s", kind, found[kind])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    keep_freed_memory()
    options.work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = train(options.data, options.work)
    model = model.half().float()  # what is measured is what is saved
    found = figures(model, tokenizer, options.data)
    (options.work / "prose.figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    model.half().save_pretrained(options.out)
    reads = ["input_ids", "attention_mask"]  # the start token is set by who asks for likelihoods
    save_tokenizer(tokenizer, options.out, LENGTH, reads, bos_token=SPECIAL[START], eos_token=SPECIAL[END])


if __name__ == "__main__":
    main()
