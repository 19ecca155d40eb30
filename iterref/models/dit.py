"""DiT: the diffusion transformer that MDLM, UDLM, Duo and SEDD share, in plain PyTorch.

    c    = silu(time(sinusoids(sigma)))  [+ silu(label)]                  sigma = -log a_t, how noisy the row is
    x    = x + gate_1 out(attention(norm(x) (1 + scale_1) + shift_1))     bidirectional, rotary positions
    x    = x + gate_2 down(gelu(up(norm(x) (1 + scale_2) + shift_2)))     shift, scale, gate linear in c (adaLN)
    head = linear(norm(x) (1 + scale) + shift)                            at the open positions alone

Peebles and Xie (2023), arXiv:2212.09748; for tokens: Lou et al. (2024), arXiv:2310.16834, whose network the other
three families took over. `state` reads the names that all of them write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iterref.denoiser import Denoiser
from iterref.linear import linear
from iterref.models.checkpoint import Checkpoint
from iterref.models.pretrained import filled
from iterref.models.quantized import quantized
from iterref.models.text.codec import Codec
from iterref.models.transformer import embedding, rotate
from iterref.noise import Noise, Schedule

# The noise of all four families: Lou et al. chose the floor of a_t, the others kept it.
SCHEDULE = Schedule("log-linear", low=1e-3)
FREQUENCIES = 256  # sinusoids of sigma, in all published checkpoints
# The published names of the parts, and the names here.
PARTS = {
    "vocab_embed.embedding": "table.weight",
    "sigma_map.mlp": "time",
    "cond_map.embedding_table": "labels",
    "attn_qkv": "qkv",
    "attn_out": "out",
    "mlp.0": "up",
    "mlp.2": "down",
    "adaLN_modulation": "adapt",
    "output_layer.norm_final": "norm",
    "output_layer.linear": "head",
    "output_layer.": "",
}


@dataclass(frozen=True)
class DitOptions:
    """Sizes: `vocab` tokens, `blocks` of a `width` that is a multiple of 2 * `heads`, the size of the `condition` c,
    how many `labels` there are, if any, and whether a head without weights of its own is `tied` to the table."""

    vocab: int
    width: int
    blocks: int
    heads: int
    condition: int
    labels: int = 0
    tied: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the {self.heads} heads")


class Linear(nn.Linear):
    """A linear layer that takes float32 states at whatever precision its weights have."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.to(self.weight.dtype), self.weight, self.bias)


class Block(nn.Module):
    """Attention and a two-layer perceptron, both modulated by c. The residual stream stays float32."""

    def __init__(self, options: DitOptions) -> None:
        super().__init__()
        width = options.width
        self.heads = options.heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.up = Linear(width, 4 * width)
        self.down = Linear(4 * width, width)
        self.adapt = Linear(options.condition, 6 * width)

    def forward(
        self, x: Tensor, c: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None, held: list[Tensor] | None = None
    ) -> Tensor:
        """States (R, L, width) -> the same. `held`, if given, has the keys and values of what stands before, or
        nothing, and gets those of these positions behind them."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adapt(c).float()[:, None].chunk(6, dim=-1)
        x = x + gate_1 * self.attend(self.norm1(x) * (1 + scale_1) + shift_1, turn, seen, held).float()
        inside = F.gelu(self.up(self.norm2(x) * (1 + scale_2) + shift_2), approximate="tanh")
        return x + gate_2 * self.down(inside).float()

    def attend(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None, held: list[Tensor] | None) -> Tensor:
        rows, length, width = x.shape
        mixed = self.qkv(x).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, turn), rotate(key, turn)
        if held:
            key, value = torch.cat([held[0], key], 2), torch.cat([held[1], value], 2)
        if held is not None:
            held[:] = key, value
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.out(found.transpose(1, 2).reshape(rows, length, width))


class Dit(nn.Module):
    """The network: tokens and their noise level in, logits of the open positions out. `filler` ends a text where
    training filled no canvas up with it: behind the first at a row's end, it is hidden."""

    filler: int | None = None

    def __init__(self, options: DitOptions) -> None:
        super().__init__()
        self.options = options
        width, condition = options.width, options.condition
        self.table = embedding(options.vocab, width)
        self.time = nn.Sequential(Linear(FREQUENCIES, condition), nn.SiLU(), Linear(condition, condition))
        self.labels = embedding(options.labels, condition) if options.labels else None
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.blocks))
        self.norm = nn.LayerNorm(width, bias=False)
        self.adapt = Linear(condition, 2 * width)
        self.head = Linear(width, options.vocab)

    def forward(self, x_t: Tensor, sigma: Tensor, where: Tensor, label: Tensor | None = None) -> Tensor:
        """Tokens (R, L) long at noise levels (R,), or (1,) for all rows, as raw logits (M, V) float32 of the True
        cells of where (R, L), row-major. `label` (R,) long conditions a network that has labels."""
        c = self.condition(sigma, label)
        x = self.table(x_t).float()
        turn = self.turn(x_t.shape[1], x_t.device)
        seen = None if self.filler is None else sight(x_t, self.filler)
        for block in self.blocks:
            x = block(x, c, turn, seen)
        return self.predicted(x, c, where)

    def condition(self, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """c (R, condition) of noise levels (R,) and labels (R,), if any."""
        count = FREQUENCIES // 2
        frequency = torch.exp(torch.arange(count, device=sigma.device, dtype=torch.float32) * (-log(10_000.0) / count))
        angle = sigma.float()[:, None] * frequency
        c = F.silu(self.time(torch.cat((angle.cos(), angle.sin()), dim=-1)).float())
        if label is not None:
            if self.labels is None:
                raise ValueError("this network was made without labels: leave the label out")
            c = c + F.silu(self.labels(label).float())
        return c

    def predicted(self, x: Tensor, c: Tensor, where: Tensor) -> Tensor:
        """Logits (M, V) float32 of the True cells of where (R, L), from states (R, L, width)."""
        shift, scale = self.adapt(c).float().chunk(2, dim=-1)
        row = where.nonzero()[:, 0] if len(c) > 1 else slice(None)
        return self.head(self.norm(x[where]) * (1 + scale[row]) + shift[row]).float()

    def turn(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines (length, size / 2) of the rotary angles."""
        size = self.options.width // self.options.heads
        # to the last bit as in training: exp(-log(1e4) i) instead moves the angle of a distant position by 1e-4
        frequency = 1.0 / (10_000 ** (torch.arange(0, size, 2, device=device).float() / size))
        angle = torch.arange(length, device=device)[:, None] * frequency
        return angle.cos(), angle.sin()


@dataclass(eq=False)
class DitDenoiser(Denoiser):
    """A DiT and its noise, as the families' denoisers have it; all rows share one distribution. `impossible` (K,) lists
    the tokens, besides a mask, that never stand in a text; a network that is not `timed` reads sigma = 0; `label`
    conditions one that has labels."""

    network: Dit
    noise: Noise
    impossible: Tensor
    timed: bool = True
    label: int | None = None

    uses_prompts = False

    def logits(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L), (R,), (R, L) bool, (R,) -> the network's output (M, V) float32, -inf for what is impossible."""
        label = None if self.label is None else torch.full((len(x_t),), self.label, device=x_t.device)
        logits: Tensor = self.network(x_t, level(self.noise, t, x_t.device, self.timed), where, label)
        logits[:, self.impossible] = -torch.inf
        return logits


def sight(x_t: Tensor, filler: int) -> Tensor | None:
    """What attention may see, (R, 1, 1, L) bool: a row up to the first `filler` at its end; None for all of it."""
    places = torch.arange(x_t.shape[1], device=x_t.device)
    last = torch.where(x_t != filler, places, -1).amax(1, keepdim=True)
    seen = places <= last + 1
    return None if bool(seen.all()) else seen[:, None, None]


def state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `Dit` from those of a published state dict, with `backbone.` or whatever a wrapper puts before
    every name; rotary frequencies, which some files hold, are computed."""
    found, table = {}, "vocab_embed.embedding"
    before = next((name.removesuffix(table) for name in published if name.endswith(table)), "")
    for name, weight in published.items():
        name = name.removeprefix(before)
        if name == "rotary_emb.inv_freq":
            continue
        for theirs, ours in PARTS.items():
            name = name.replace(theirs, ours)
        found[name] = weight
    return found


def network_of(checkpoint: Checkpoint, codec: Codec | None, options: DitOptions, mask: int | None) -> Dit:
    """The network of a checkpoint. Where its training cut texts into blocks and filled none up, as a tokenizer without
    padding says unless config.json has `filler`, the end of a text, which fills up a canvas, is hidden."""
    network = build(options, state(checkpoint.weights()), checkpoint.dtype, checkpoint.device, checkpoint.name)
    quantized(network, checkpoint.quantize, network.head, checkpoint.name)
    known = None if codec is None else codec.within(options.vocab, mask)
    if known is not None and known.pad is None and not checkpoint.flag("filler"):
        network.filler = known.end
    return network


def level(noise: Noise, t: Tensor, device: torch.device, timed: bool = True) -> Tensor:
    """sigma = -log a_t of times (R,) as the networks read it, (R,) float32; (1,), zero, for one that reads no time."""
    if not timed:
        return torch.zeros(1, device=device)
    return -torch.log(noise.a(t)).to(device=device, dtype=torch.float32)


def sizes(checkpoint: Checkpoint, labels: int = 0) -> DitOptions:
    """The sizes in a flat config.json (`hidden_dim`, ...) or in a nested one (`model.hidden_size`, ...)."""
    if checkpoint.flag("causal"):
        raise ValueError(f"{checkpoint.name} is autoregressive (causal), no diffusion model: load another")
    return DitOptions(
        vocab=checkpoint.size("vocab_size"),
        width=checkpoint.size("hidden_dim", "model.hidden_size"),
        blocks=checkpoint.size("n_blocks", "model.n_blocks"),
        heads=checkpoint.size("n_heads", "model.n_heads"),
        condition=checkpoint.size("cond_dim", "model.cond_dim"),
        labels=labels,
        tied=checkpoint.flag("tie_word_embeddings"),
    )


def build(
    options: DitOptions, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device, name: str = "it"
) -> Dit:
    """The network with weights named as here, for inference: layers in `dtype`, norms and sums in float32. Raises
    `ValueError` naming a weight that is missing, left over or of another shape."""
    with torch.device("meta"):
        network = Dit(options)
    if options.tied and "table.weight" in weights:
        weights = {"head.weight": weights["table.weight"], **weights}
    return filled(network, weights, name, lambda name: torch.float32 if "norm" in name else dtype, device)
