"""What holds for every family that writes in blocks, and their small checkpoints' common parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import iterref
from iterref.check import check_model
from iterref.denoiser import Denoiser
from iterref.loading import load
from iterref.models.text.prompted import PromptedModel
from tests.support.decoders import law, laws
from tests.support.dream import KNOWN, MASK

LENGTH = 10
PROMPTS = ["the cat saw the dog", "a dog", "the cat saw the dog", "a cat ran to a man with the hat"]


def randomise(network: Any) -> None:
    """Random weights, large enough that every part shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            random = torch.randn_like(weight)
            if weight.dim() == 1:
                weight.copy_(0.4 * random + (0 if name.endswith("bias") else 1))
            else:
                weight.copy_(1.5 * random * weight.shape[-1] ** -0.5)


def blocks_of(length: int, block: int) -> Tensor:
    """What positions may look at, (T, T) bool."""
    number = torch.arange(length) // block
    return number <= number[:, None]


def written(denoiser: Denoiser, cached: Denoiser, x_t: Tensor, tokens: int, free: Tensor | None = None) -> float:
    """The largest difference of the distributions of two denoisers while texts (R, L) are written from the left."""
    free = torch.ones_like(x_t, dtype=torch.bool) if free is None else free
    times, rows = torch.full((len(x_t),), 0.5).double(), torch.arange(len(x_t))
    generator, worst = torch.Generator().manual_seed(1), 0.0
    for place in range(x_t.shape[1]):
        where = torch.zeros_like(free)
        where[:, place:] = free[:, place:]
        if not bool(where.any()):
            continue
        ours, theirs = (one(x_t, times, where, rows).exp() for one in (cached, denoiser))
        worst = max(worst, float(ours.sub(theirs).abs().max()))
        drawn = torch.randint(0, tokens, (len(x_t),), generator=generator)
        x_t[:, place] = torch.where(free[:, place], drawn, x_t[:, place])
    return worst


def expect_exact_cache(plain: Denoiser, cached: Any, x_t: Tensor, tokens: int, free: Tensor | None = None) -> None:
    """That texts (R, L) have the same distributions with the cache and without, and that wrong values in it show."""
    mask = plain.noise.mask
    assert written(plain, cached, x_t, tokens, free) < 1e-5
    assert cached.reader.kept.names()
    spoil(cached)
    x_t[:, -1] = mask
    told = (torch.full((len(x_t),), 0.5).double(), x_t == mask, torch.arange(len(x_t)))
    assert cached(x_t, *told).exp().sub(plain(x_t, *told).exp()).abs().max() > 1e-3


def independent(network: Any, before: list[int], x_t: Tensor, block: int) -> Tensor:
    """p(x_0 | x_t) (L, V) of one answer, as it is said in words: masks fill the last block up, and a position sees
    whatever is in its block or in one before."""
    ids = [*before, *x_t.tolist()]
    ids += [MASK] * (-len(ids) % block)
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([ids]), attention_mask=blocks_of(len(ids), block)[None, None]).logits[0]
    return law(logits[len(before) : len(before) + len(x_t)].double(), x_t, MASK, KNOWN)


def expect_same_texts(folder: Path, length: int) -> None:
    """The same texts with the cache and without it, and nothing that `check` objects to."""
    given = {"reward": "length:4", "budget": 8, "seed": 1}
    with_cache, without = (
        iterref.generate(opened(folder, length, cached=cached), PROMPTS, **given).texts for cached in (True, False)
    )
    assert with_cache == without
    findings = check_model(opened(folder), None, PROMPTS * 2)
    assert [one.sentence for one in findings if one.passed is False] == []


def spoil(denoiser: Any) -> None:
    """Puts other values under the names of what is kept, as a control."""
    for name in denoiser.reader.kept.names():
        for _, values in denoiser.reader.kept[name]:
            values.neg_()


def opened(folder: Path, length: int = LENGTH, **options: Any) -> PromptedModel:
    """The model of a checkpoint in blocks, without a chat template."""
    model = load(folder, length=length, chat=False, **options)
    assert isinstance(model, PromptedModel)
    return model


def apart(prepare: Callable[[list[str]], Denoiser], x_t: Tensor) -> float:
    """The largest difference between the distributions of `PROMPTS` in one batch and each of them alone."""
    together = laws(prepare(PROMPTS), x_t)
    alone = [laws(prepare([prompt]), x_t[[row]])[0] for row, prompt in enumerate(PROMPTS)]
    return float(together.sub(torch.stack(alone)).abs().max())


def seconds(model: Any, sizes: list[int], block: int, calls: int = 5) -> list[float]:
    """The least time of a call of an open block behind so many finished tokens, which are read before."""
    found = []
    for size in sizes:
        denoiser = model.bind([list(range(1, 9)) * (size // 8)])
        x_t = torch.full((1, block), model.noise.mask)
        told = (torch.full((1,), 0.5).double(), torch.ones_like(x_t, dtype=torch.bool), torch.arange(1))
        denoiser(x_t, *told)
        took = []
        for _ in range(calls):
            start = time.process_time()
            denoiser(x_t, *told)
            took.append(time.process_time() - start)
        found.append(min(took))
    return found
