"""Small checkpoints in the file formats of the DiT families, and an independent reading of their network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

from iterref.decode import REVERSE, advance
from iterref.denoiser import Denoiser
from iterref.drafts import no_reward
from iterref.problem import Problem
from tests.support.oracle import enumerate_outcomes, law_matrix

WIDTH, BLOCKS, HEADS, CONDITION, LENGTH = 16, 2, 2, 8, 10
WORDS = "the cat dog saw a man and ran home".split()
END, CLS, SEP, PAD, MASK = "<|endoftext|>", "[CLS]", "[SEP]", "[PAD]", "[MASK]"


def weights(vocab: int, labels: int = 0, seed: int = 0, condition: int = CONDITION) -> dict[str, Tensor]:
    """Random weights under the published names, every layer with a say."""
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (vocab, WIDTH),
        "sigma_map.mlp.0.weight": (condition, 256),
        "sigma_map.mlp.0.bias": (condition,),
        "sigma_map.mlp.2.weight": (condition, condition),
        "sigma_map.mlp.2.bias": (condition,),
        "output_layer.norm_final.weight": (WIDTH,),
        "output_layer.linear.weight": (vocab, WIDTH),
        "output_layer.linear.bias": (vocab,),
        "output_layer.adaLN_modulation.weight": (2 * WIDTH, condition),
        "output_layer.adaLN_modulation.bias": (2 * WIDTH,),
    }
    if labels:
        shapes["cond_map.embedding_table.weight"] = (labels, condition)
    for block in range(BLOCKS):
        for name, shape in {
            "norm1.weight": (WIDTH,),
            "attn_qkv.weight": (3 * WIDTH, WIDTH),
            "attn_out.weight": (WIDTH, WIDTH),
            "norm2.weight": (WIDTH,),
            "mlp.0.weight": (4 * WIDTH, WIDTH),
            "mlp.0.bias": (4 * WIDTH,),
            "mlp.2.weight": (WIDTH, 4 * WIDTH),
            "mlp.2.bias": (WIDTH,),
            "adaLN_modulation.weight": (6 * WIDTH, condition),
            "adaLN_modulation.bias": (6 * WIDTH,),
        }.items():
            shapes[f"blocks.{block}.{name}"] = shape
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        scale = shape[-1] ** -0.5 if len(shape) > 1 and "embed" not in name else 0.5
        found[name] = scale * torch.randn(shape, generator=generator) + ("norm" in name)
    return found


def reference_logits(w: dict[str, Tensor], x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """Raw logits (R, L, V) of the published network, in float64: rotation by complex numbers, attention written out."""
    w = {name: weight.double() for name, weight in w.items()}

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()).double())

    def norm(name: str, y: Tensor) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    def silu(y: Tensor) -> Tensor:
        return y * torch.sigmoid(y)

    frequency = 10_000.0 ** -(torch.arange(128).double() / 128)
    angle = sigma.double()[:, None] * frequency
    time = linear("sigma_map.mlp.0", torch.cat([angle.cos(), angle.sin()], -1))
    c = silu(linear("sigma_map.mlp.2", silu(time)))
    if label is not None:
        c = c + silu(w["cond_map.embedding_table.weight"][label])
    h = w["vocab_embed.embedding"][x]
    size = WIDTH // HEADS
    turns = torch.arange(x.shape[1])[:, None] * 10_000.0 ** -(torch.arange(0, size, 2).double() / size)
    for block in range(BLOCKS):
        at = f"blocks.{block}."
        shift, scale, gate, shift_2, scale_2, gate_2 = linear(at + "adaLN_modulation", c)[:, None].chunk(6, -1)
        qkv = linear(at + "attn_qkv", norm(at + "norm1", h) * (1 + scale) + shift)
        heads = []
        for head in range(HEADS):
            q, k, v = (qkv[..., part * WIDTH + head * size :][..., :size] for part in range(3))
            q, k = (torch.complex(y[..., : size // 2], y[..., size // 2 :]) * torch.exp(1j * turns) for y in (q, k))
            score = torch.einsum("bis,bjs->bij", q, k.conj()).real / size**0.5
            heads.append(torch.softmax(score, -1) @ v)
        h = h + gate * linear(at + "attn_out", torch.cat(heads, -1))
        inner = linear(at + "mlp.0", norm(at + "norm2", h) * (1 + scale_2) + shift_2)
        inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
        h = h + gate_2 * linear(at + "mlp.2", inner)
    shift, scale = linear("output_layer.adaLN_modulation", c)[:, None].chunk(2, -1)
    return linear("output_layer.linear", norm("output_layer.norm_final", h) * (1 + scale) + shift)


def flat_config(kind: str, vocab: int, condition: int = CONDITION, **more: Any) -> dict[str, Any]:
    """config.json as MDLM, UDLM and Duo write it."""
    sizes = {"hidden_dim": WIDTH, "cond_dim": condition, "n_blocks": BLOCKS, "n_heads": HEADS, "model_length": LENGTH}
    return {"model_type": kind, "vocab_size": vocab, "dropout": 0.1, **sizes, **more}


def sedd_config(tokens: int, graph: str = "absorb", noise: str = "loglinear") -> dict[str, Any]:
    """config.json as SEDD writes it."""
    sizes = {"hidden_size": WIDTH, "cond_dim": CONDITION, "n_blocks": BLOCKS, "n_heads": HEADS, "length": LENGTH}
    return {
        "tokens": tokens,
        "graph": {"type": graph, "file": "data"},
        "noise": {"type": noise, "sigma_min": 1e-4, "sigma_max": 20},
        "model": {"name": "small", "type": "ddit", "scale_by_sigma": True, "dropout": 0.1, **sizes},
    }


def tokenizer(folder: Path, specials: list[str]) -> int:
    """Writes a tokenizer of whole words with these special tokens behind them; returns its size."""
    names = [*WORDS, *specials]
    made = Tokenizer(WordLevel({name: at for at, name in enumerate(names)}, unk_token=specials[0]))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(specials)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return len(names)


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], prefix: str = "backbone.") -> Path:
    """A checkpoint's folder, with the rotary frequencies that some published files carry."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    frequencies = 1.0 / 10_000 ** (torch.arange(0, WIDTH // HEADS, 2).float() / (WIDTH // HEADS))
    every = {**tensors, "rotary_emb.inv_freq": frequencies}
    save_file({prefix + name: weight.contiguous() for name, weight in every.items()}, folder / "model.safetensors")
    return folder


def noisy_tokens(rows: int, vocab: int, mask: int | None, length: int = LENGTH, seed: int = 3) -> Tensor:
    """Random tokens (rows, length), the mask not among them but for about a half that is masked where there is one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, vocab - 1, (rows, length), generator=generator)
    if mask is None:
        return x
    x = x + (x >= mask)
    return x.masked_fill(torch.rand(x.shape, generator=generator) < 0.5, mask)


def step_matrix(denoiser: Denoiser, noisy: Tensor, t: float, u: float) -> Tensor:
    """The law (S, S) of one plain step of this library from t to u, enumerated over all noisy states (S, L)."""
    problem = Problem(denoiser, no_reward, torch.zeros_like(noisy[:1]))

    def run(start: Tensor, rng: Any) -> Tensor:
        return advance(problem, noisy[start], t, u, REVERSE, torch.zeros_like(start), rng)

    return law_matrix(*enumerate_outcomes(run, len(noisy)), noisy)


def product_matrix(cells: Tensor, noisy: Tensor) -> Tensor:
    """The law (S, S) of positions that step apart, from (S, L, V) probabilities of every position's next token."""
    positions = torch.arange(noisy.shape[1])
    return torch.stack([cells[:, positions, state].prod(-1) for state in noisy], 1)


def all_states(vocab: int, length: int) -> Tensor:
    """All token sequences, (S, length) long."""
    return torch.cartesian_prod(*[torch.arange(vocab)] * length).view(-1, length)
