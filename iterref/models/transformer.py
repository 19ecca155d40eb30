"""Transformer: a small bidirectional encoder-decoder with a copy head, the backbone of `tiny-news`.

    memory = encoder(source)                                    once per prompt, shared by all its candidates
    h      = decoder(x_t, memory)                               bidirectional over the canvas, one pass per noisy state
    p(x_0^i = v) = (1 - g_i) softmax(E h_i)_v + g_i sum over source positions j with source_j = v of pointer_ij

`g` is the copy gate and `pointer` an attention over the source (pointer-generator, See et al. 2017, arXiv:1704.04368);
`E` is the token table, tied to the input. Rotary positions (Su et al. 2021, arXiv:2104.09864), pre-norm, SwiGLU. No
time: the number of masks tells it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iterref.linear import Linear, linear

TINY = 1e-30  # floor of a float32 probability before its logarithm


@dataclass(frozen=True)
class TransformerOptions:
    """Sizes: `vocab` tokens of which `mask` and `pad` are never predicted, `width` a multiple of 2 * `heads`."""

    vocab: int
    mask: int
    pad: int
    width: int = 256
    heads: int = 4
    hidden: int = 512
    encoder_layers: int = 4
    decoder_layers: int = 3

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the {self.heads} heads")


@dataclass(frozen=True)
class Memory:
    """Encoded sources of B prompts: `source` (B, S) long, `present` (B, S) bool (False on padding), `states` and
    `pointers` (B, S, D), and the keys and values (B, heads, S, D / heads) of every decoder layer."""

    source: Tensor
    present: Tensor
    states: Tensor
    pointers: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def take(self, rows: Tensor) -> Memory:
        """The memory of rows (R,) long, with repeats: several canvases may read one prompt."""
        keys, values = (tuple(part[rows] for part in parts) for parts in (self.keys, self.values))
        return Memory(self.source[rows], self.present[rows], self.states[rows], self.pointers[rows], keys, values)


def rotary(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, size / 2) of the rotary angles of positions 0 .. length - 1."""
    frequency = torch.exp(torch.arange(size // 2, device=device) * (-log(10_000.0) / (size // 2)))
    angle = torch.arange(length, device=device)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (i, i + size / 2) of x (*, length, size) by the angles of its position."""
    cosine, sine = (part.to(x.dtype) for part in turn)
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, present: Tensor | None = None) -> Tensor:
    """Attention (*, Q, size) of queries (*, Q, size) to keys and values (*, K, size) that are present (*, 1, K) bool.
    At these lengths two plain products are faster on a CPU, backwards above all, than the fused kernel."""
    score = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if present is not None:
        score = score.masked_fill(~present, -1e4)  # exp(-1e4) is exactly 0: padding cannot be felt
    return torch.softmax(score, dim=-1).to(value.dtype) @ value


class SelfAttention(nn.Module):
    """Bidirectional self-attention over (R, length, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], present: Tensor | None = None) -> Tensor:
        rows, length, width = x.shape
        mixed = self.qkv(self.norm(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = attend(rotate(query, turn), rotate(key, turn), value, present)
        return x + self.out(attended.transpose(1, 2).reshape(rows, length, width))


class CrossAttention(nn.Module):
    """Attention of the canvases to the source; its keys and values are computed once per prompt."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = Linear(width, width, bias=False)
        self.key_value = Linear(width, 2 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def remember(self, states: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rows, length, width = states.shape
        mixed = self.key_value(states).view(rows, length, 2, self.heads, width // self.heads)
        key, value = mixed.permute(2, 0, 3, 1, 4)
        return rotate(key, turn), value

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], key: Tensor, value: Tensor, present: Tensor) -> Tensor:
        rows, length, width = x.shape
        prompts, size = key.shape[0], width // self.heads
        query = self.query(self.norm(x)).view(rows, length, self.heads, size).transpose(1, 2)
        # queries do not see each other here, so the rows // prompts canvases of one prompt share its keys uncopied
        query = rotate(query, turn).view(prompts, rows // prompts, self.heads, length, size).transpose(1, 2)
        query = query.reshape(prompts, self.heads, -1, size)
        attended = attend(query, key, value, present)
        attended = attended.view(prompts, self.heads, rows // prompts, length, size).permute(0, 2, 3, 1, 4)
        return x + self.out(attended.reshape(rows, length, width))


class FeedForward(nn.Module):
    """SwiGLU block (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * value)


class Layer(nn.Module):
    """Self-attention, in the decoder also attention to the source, and a feed-forward block."""

    def __init__(self, options: TransformerOptions, decodes: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(options.width, options.heads)
        self.cross = CrossAttention(options.width, options.heads) if decodes else None
        self.feed = FeedForward(options.width, options.hidden)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], present: Tensor, *source: Tensor) -> Tensor:
        if self.cross is None:
            return self.feed(self.attention(x, turn, present))
        return self.feed(self.cross(self.attention(x, turn), turn, *source, present))


def embedding(count: int, width: int) -> nn.Embedding:
    """A table of `count` vectors, none drawn on the meta device: torch would import its compiler for a second."""
    weight = torch.empty(count, width)
    return nn.Embedding(count, width, _weight=weight if weight.is_meta else None)


class Transformer(nn.Module):
    """The network: `encode` prompts, `decode` canvases, then read the head on the open positions only."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.options = options
        width = options.width
        self.table = embedding(options.vocab, width)
        self.encoder = nn.ModuleList(Layer(options, False) for _ in range(options.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width, bias=False)
        self.decoder = nn.ModuleList(Layer(options, True) for _ in range(options.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width, bias=False)
        self.pointer_key = Linear(width, width, bias=False)
        self.pointer_query = Linear(width, width, bias=False)
        self.gate = Linear(width, 1)
        self.keep = Linear(width, 1)  # whether a source token is kept in the target, a training aid for the encoder
        self.vocab_bias = nn.Parameter(torch.zeros(options.vocab))
        self.reset()

    def reset(self) -> None:
        """Initial weights: normal of scale 1 / sqrt(fan in), smaller where a block writes to the residual stream."""
        if self.table.weight.is_meta:  # there are none to set, and asking takes a second (`embedding`)
            return
        depth = self.options.encoder_layers + 2 * self.options.decoder_layers
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                scale = (2 * depth) ** -0.5 if name.endswith(("out", "down")) else 1.0
                nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.table.weight, std=self.options.width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token states (*, width) of unit scale; the table itself is small because it is also the output layer."""
        return self.table(tokens) * self.options.width**0.5

    def encode(self, source: Tensor) -> Memory:
        """Sources (B, S) long, right-padded with `pad`, as the memory which the decoder reads."""
        present = source != self.options.pad
        states = self.embed(source)
        turn = rotary(source.shape[1], self.options.width // self.options.heads, source.device)
        seen = present[:, None, None, :]
        for layer in self.encoder:
            states = layer(states, turn, seen)
        states = self.encoder_norm(states)
        crosses = [layer.cross for layer in self.decoder if isinstance(layer, Layer)]
        pairs = [cross.remember(states, turn) for cross in crosses if cross is not None]
        keys, values = zip(*pairs, strict=True)
        return Memory(source, present, states, self.pointer_key(states), keys, values)

    def decode(self, x_t: Tensor, memory: Memory) -> Tensor:
        """States (R, L, width) of canvases (R, L) long, where the R / B canvases of a prompt are adjacent. Raises
        `ValueError` if B does not divide R."""
        rows, length = x_t.shape
        if rows % memory.source.shape[0]:
            raise ValueError(f"{rows} canvases do not divide among {memory.source.shape[0]} prompts: pass memory.take")
        x = self.embed(x_t)
        turn = rotary(length, self.options.width // self.options.heads, x_t.device)
        present = memory.present[:, None, None, :]
        for layer, key, value in zip(self.decoder, memory.keys, memory.values, strict=True):
            x = layer(x, turn, present, key, value)
        return self.decoder_norm(x)

    def scores(self, states: Tensor, memory: Memory) -> Tensor:
        """Pointer scores (R, L, S) of decoder states (R, L, width), float32, -inf on padding."""
        rows, length, width = states.shape
        prompts = memory.source.shape[0]
        query = self.pointer_query(states).view(prompts, rows // prompts * length, width) * width**-0.5
        score = torch.bmm(query, memory.pointers.transpose(1, 2)).float()
        return score.masked_fill(~memory.present[:, None, :], -torch.inf).view(rows, length, -1)

    def logits(self, states: Tensor) -> Tensor:
        """Vocabulary logits (M, V) of packed states (M, width), float32, -inf for `mask` and `pad`."""
        out = linear(states, self.table.weight, self.vocab_bias).float()
        out[:, [self.options.mask, self.options.pad]] = -torch.inf
        return out

    def mixture(self, states: Tensor, scores: Tensor, source: Tensor) -> Tensor:
        """(M, V) float32 p(x_0^i | x_t) of packed states (M, width), pointer scores (M, S) and sources (M, S)."""
        gate = torch.sigmoid(self.gate(states).float())
        probability = torch.softmax(self.logits(states), dim=-1).mul_(1 - gate)
        probability.scatter_add_(1, source, gate * torch.softmax(scores, dim=-1))
        probability.clamp_min_(TINY)
        probability[:, [self.options.mask, self.options.pad]] = 0.0
        return probability

    def target_log_probs(self, states: Tensor, memory: Memory, where: Tensor, target: Tensor) -> Tensor:
        """(M,) float32 log p(x_0^i = target_i | x_t) of target (R, L) long at `where` (R, L), as in `mixture`."""
        row = where.nonzero()[:, 0] // (states.shape[0] // memory.source.shape[0])
        open_states, wanted = states[where], target[where]
        gate = self.gate(open_states).float().squeeze(1)
        written = -F.cross_entropy(self.logits(open_states), wanted, reduction="none")
        score = self.scores(states, memory)[where]
        # -1e4 in place of -inf: a target that is not in the source must give a zero gradient, not a NaN
        hit = score.masked_fill(memory.source[row] != wanted[:, None], -1e4).logsumexp(1)
        copied = hit - score.logsumexp(1)
        return torch.logaddexp(F.logsigmoid(-gate) + written, F.logsigmoid(gate) + copied)
