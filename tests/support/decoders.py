"""Small checkpoints of large diffusion models (LLaDA, Dream), and an independent reading of their network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from iterref.decode import Decoder, advance
from iterref.denoiser import Denoiser
from iterref.drafts import no_reward
from iterref.problem import Problem
from tests.support.oracle import enumerate_outcomes, law_matrix

WIDTH, LAYERS, HEADS, INNER = 16, 2, 4, 24
MATRICES = ("query", "key", "value", "out", "gate", "up", "down")


@dataclass(frozen=True)
class Naming:
    """How a family calls its weights: the outer ones by role, and the inner ones by role, `{}` for the layer."""

    table: str
    norm: str
    head: str
    inner: Mapping[str, str]


def draw(naming: Naming, vocab: int, keys: int = HEADS, tied: bool = False, biased: bool = False) -> dict[str, Tensor]:
    """Random weights under a family's names, large enough that every part shows."""
    generator = torch.Generator().manual_seed(0)
    some = WIDTH // HEADS * keys
    shapes = {
        "query": (WIDTH, WIDTH), "key": (some, WIDTH), "value": (some, WIDTH), "out": (WIDTH, WIDTH),
        "gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER), "before": (WIDTH,), "between": (WIDTH,),
    }  # fmt: skip

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * (1.5 * shape[-1] ** -0.5 if len(shape) > 1 else 0.4)

    found = {naming.table: 2 * random(vocab, WIDTH), naming.norm: 1 + random(WIDTH)}
    if not tied:
        found[naming.head] = random(vocab, WIDTH)
    for layer in range(LAYERS):
        for role, shape in shapes.items():
            name = naming.inner[role].format(layer)
            found[f"{name}.weight"] = random(*shape) + (len(shape) == 1)
            if biased and role in ("query", "key", "value"):
                found[f"{name}.bias"] = random(shape[0])
    return found


def reading(w: Mapping[str, Tensor], naming: Naming, ids: Tensor, theta: float, epsilon: float, act: Any) -> Tensor:
    """Raw logits (T, V) of one text (T,) as it is said in words, in float64: every position sees every other, positions
    turn complex numbers, heads are taken one by one."""
    w = {name: weight.double() for name, weight in w.items()}
    size = WIDTH // HEADS

    def norm(name: str, h: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + epsilon).sqrt() * w[name]

    def linear(layer: int, role: str, h: Tensor) -> Tensor:
        name = naming.inner[role].format(layer)
        return h @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()).double())

    angle = torch.arange(len(ids))[:, None] * theta ** -(torch.arange(0, size, 2).double() / size)

    def turned(h: Tensor) -> Tensor:
        return torch.complex(h[:, : size // 2], h[:, size // 2 :]) * torch.exp(1j * angle)

    h = w[naming.table][ids]
    for layer in range(LAYERS):
        x = norm(naming.inner["before"].format(layer) + ".weight", h)
        query, key, value = (linear(layer, role, x).split(size, -1) for role in ("query", "key", "value"))
        heads = []
        for head in range(HEADS):
            shared = head // (HEADS // len(key))
            score = (turned(query[head]) @ turned(key[shared]).conj().T).real / size**0.5
            heads.append(torch.softmax(score, -1) @ value[shared])
        h = h + linear(layer, "out", torch.cat(heads, -1))
        x = norm(naming.inner["between"].format(layer) + ".weight", h)
        h = h + linear(layer, "down", act(linear(layer, "gate", x)) * linear(layer, "up", x))
    return norm(naming.norm, h) @ w.get(naming.head, w[naming.table]).T


def law(logits: Tensor, x_t: Tensor, mask: int, known: int) -> Tensor:
    """p(x_0 | x_t) (L, V) from the logits (L, V) of an answer (L,): no mask, nothing beyond the tokenizer's `known`."""
    logits = logits.clone()
    logits[:, [mask, *range(known, logits.shape[1])]] = -torch.inf
    carried = torch.nn.functional.one_hot(x_t, logits.shape[1]).double()
    return torch.where((x_t == mask)[:, None], logits.softmax(-1), carried)


def laws(denoiser: Denoiser, x_t: Tensor, rows: Tensor | None = None) -> Tensor:
    """The library's p(x_0 | x_t) (R, L, V) at all positions."""
    rows = torch.arange(len(x_t)) if rows is None else rows
    times, where = torch.full((len(x_t),), 0.5, dtype=torch.float64), torch.ones_like(x_t, dtype=torch.bool)
    return denoiser(x_t, times, where, rows).view(*x_t.shape, -1).exp()


def half_open(rows: int, length: int, words: int, mask: int) -> Tensor:
    """Answers (rows, length) of random words, about a half of them under the mask, the first always."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, words, (rows, length), generator=generator)
    x = x.masked_fill(torch.rand(x.shape, generator=generator) < 0.5, mask)
    x[:, 0] = mask
    return x


def decoded(denoiser: Denoiser, law: Tensor, states: Tensor, t: float, u: float, decoder: Decoder) -> Tensor:
    """The law (S,) of states (S, L) after one step of a decoder from t to u, from their law before it."""
    there = law.nonzero()[:, 0]
    noisy, problem = states[there], Problem(denoiser, no_reward, torch.zeros_like(states[:1]))

    def run(start: Tensor, rng: Any) -> Tensor:
        return advance(problem, noisy[start], t, u, decoder, torch.zeros_like(start), rng)

    return law[there] @ law_matrix(*enumerate_outcomes(run, len(there)), states)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """A checkpoint's folder, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: weight.contiguous() for name, weight in tensors.items()}, folder / "model.safetensors")
    return folder
