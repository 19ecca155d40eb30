"""In blocks: networks whose positions see their own block and all before it, and the exact cache that this allows.

    attention: position i sees j where  floor(j / b) <= floor(i / b)      blocks of b, counted from the prompt's start,
               or, for a network that reads what is finished as a causal one, from the answer's (`BehindCausal`)

In training all blocks before a noisy one were clean. So the first block that holds a mask is predicted as it was
learned, and a later one is a guess: methods let blocks open in turn (`turns.in_blocks`). The answer's first block is
the rest of the one that the prompt ends in, as in the published samplers. A move on an earlier block does not weigh
what follows: refine the open blocks (`iterref.refine(last_blocks=)`) where the distribution counts.

Keys and values of finished blocks are kept and shared by all rows that begin alike. No later token changes them, so
this is no approximation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from iterref.models import pretrained
from iterref.models.base import Masked
from iterref.models.bidirectional import Bidirectional
from iterref.models.checkpoint import Checkpoint
from iterref.models.kept import Kept, name_of
from iterref.models.text.codec import Codec
from iterref.models.text.prompted import PromptedModel, expect_positions, roles, talks
from iterref.noise import Noise, Schedule, absorbing

PADDING = -1  # in place of a token
SHARED = "iterref_shared"  # by which `transformers` knows the attention below
Layers = tuple[tuple[Tensor, Tensor], ...]  # keys and values (R, heads, T, size) of every layer


class Blockwise(Protocol):
    """A network in blocks of `block` positions, whose logits stand `shift` positions before what they predict."""

    block: int
    shift: int
    vocab: int

    def behind(self, past: Layers, ids: Tensor, real: Tensor, where: Tensor) -> tuple[Tensor, Layers]:
        """What stands behind P positions whose keys and values are `past` (none for an empty tuple): tokens (R, T), and
        where logits are wanted (R, T) bool -> (M, V) float32 logits, and, where none are, the keys and values of all
        P + T positions, of which `real` (R, P + T) bool are no padding. P and T are whole numbers of blocks."""


def sight(real: Tensor, length: int, block: int) -> Tensor:
    """What the last `length` positions may look at, (R, length, T) bool, where `real` (R, T) bool are no padding."""
    places = torch.arange(real.shape[1], device=real.device)
    number, begin = places // block, real.shape[1] - length
    sees = (number <= number[begin:, None]) & real[:, None]
    return sees | (places == places[begin:, None])  # padding sees itself, so that no row of the softmax is empty


class InBlocks(Bidirectional):
    """A decoder of `transformers` under that mask (`Blockwise`)."""

    anew = False  # whether blocks are counted anew from the answer's first position

    def __init__(self, model: Any, block: int, shift: int = 0) -> None:
        from transformers import AttentionInterface

        super().__init__(model, causal=True, shift=shift)
        self.block = block
        AttentionInterface.register(SHARED, shared_attention)
        model.set_attn_implementation(SHARED)

    def behind(self, past: Layers, ids: Tensor, real: Tensor, where: Tensor) -> tuple[Tensor, Layers]:
        place = (real.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        return self._read(past, ids, sight(real, ids.shape[1], self.block), place, where)

    def _read(self, past: Layers, ids: Tensor, sees: Tensor, place: Tensor, where: Tensor) -> tuple[Tensor, Layers]:
        """As `behind`, of tokens (R, T) at places (R, T) that look at what `sees` (R, T, P + T) says."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        row, column = where.nonzero(as_tuple=True)
        self._chosen = row, (column - self.shift).clamp_min(0)
        shown = sees.new_ones(1, 1, 1, 1) if bool(sees.all()) else sees[:, None]
        told = {"attention_mask": shown, "position_ids": place, "past_key_values": cache}
        try:
            logits = self.model(input_ids=ids, **told, use_cache=True).logits
        finally:
            self._chosen = None
        return logits[0].float(), tuple((layer.keys, layer.values) for layer in cache.layers)


class BehindCausal(InBlocks):
    """A decoder that denoises a block behind others which it reads as the causal model that it also is: a block sees
    all of itself, and of each block before it what a causal model keeps, whatever is masked there."""

    anew = True

    def behind(self, past: Layers, ids: Tensor, real: Tensor, where: Tensor) -> tuple[Tensor, Layers]:
        """As `Blockwise.behind`. Open blocks before others are read twice: as context, and as what is denoised."""
        length, begin = ids.shape[1], real.shape[1] - ids.shape[1]
        opened = where.any(0).nonzero()[:, 0].tolist() or [length]
        first, last = (opened[at] // self.block * self.block for at in (0, -1))
        kept = torch.arange(begin + last, device=ids.device)  # what is context
        new = torch.arange(first, length, device=ids.device)  # what is denoised
        block, behind = new // self.block, (kept - begin) // self.block
        sees = torch.cat([
            torch.cat([kept <= kept[begin:, None], torch.zeros(last, len(new), device=ids.device).bool()], 1),
            torch.cat([behind < block[:, None], block == block[:, None]], 1),
        ])  # fmt: skip
        shown = torch.cat([real[:, : begin + last], real[:, begin + first :]], 1)
        own = torch.cat([kept[begin:], begin + last + torch.arange(len(new), device=ids.device)])
        sees = (sees & shown[:, None]) | (torch.arange(shown.shape[1], device=ids.device) == own[:, None])
        place = (real.long().cumsum(1) - 1).clamp_min(0)[:, begin:]
        wanted = torch.cat([torch.zeros_like(where[:, :last]), where[:, first:]], 1)
        twice, places = (torch.cat([part[:, :last], part[:, first:]], 1) for part in (ids, place))
        return self._read(past, twice, sees, places, wanted)


def shared_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **options: Any
) -> tuple[Tensor, Any]:
    """Attention of queries (R, H, T, size) to keys and values (R, K, S, size), each of which H / K heads share. Where
    all is in sight (`attention_mask` has one entry), the queries of these heads stand one below the other: keys of all
    that was read are not copied for each of them at every block."""
    if attention_mask.numel() > 1:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    rows, _, _, size = query.shape
    below = query.reshape(rows, key.shape[1], -1, size)
    found = torch.nn.functional.scaled_dot_product_attention(below, key, value, scale=scaling)
    return found.view(query.shape).transpose(1, 2).contiguous(), None


class Reader:
    """Asks a network in blocks for logits, and keeps what is finished: `kept` has keys and values by the tokens that
    they are of. What every row may go back to, `prompts` (whole blocks of tokens each), is kept for good."""

    def __init__(self, network: Blockwise, mask: int, cached: bool, prompts: Iterable[Tensor] = ()) -> None:
        self.network, self.mask, self.cached = network, mask, cached
        self.kept = Kept[bytes, Layers](set(map(name_of, prompts)))

    def __call__(self, ids: Tensor, opened: Tensor) -> Tensor:
        """Inputs (R, T), whole blocks with `PADDING`, and where logits are wanted (R, T) bool -> (M, V) float32."""
        block = self.network.block
        closed = (ids != self.mask) & ~opened
        done = closed.unflatten(1, (-1, block)).all(2).cumprod(1).sum(1)  # whole blocks, (R,)
        done = (done - self.network.shift).clamp_min(0)  # a state before the open block predicts its first position
        done = done if self.cached else torch.zeros_like(done)
        row, _ = opened.nonzero(as_tuple=True)
        asked = opened.any(1)
        logits = torch.zeros(len(row), self.network.vocab, device=ids.device)
        used = set[bytes]()
        for blocks in done[asked].unique().tolist():
            some = (done == blocks) & asked
            begin = blocks * block
            last = int(opened[some].any(0).nonzero().max()) // block  # nothing open sees a later block
            end = (last + 1) * block
            past = self._past(ids[some, :begin], used)
            logits[some[row]] = self._behind(past, ids[some, :end], opened[some, begin:end])[0]
        self.kept.settle(used, ids.is_cuda)
        return logits

    def _behind(self, past: Layers, ids: Tensor, where: Tensor) -> tuple[Tensor, Layers]:
        """`Blockwise.behind` for the last of tokens (R, T), as many as `where` is of."""
        return self.network.behind(past, ids[:, -where.shape[1] :].clamp_min(0), ids != PADDING, where)

    def _past(self, ids: Tensor, used: set[bytes]) -> Layers:
        """Keys and values of finished tokens (R, P), each different beginning read once; `used` takes note of them."""
        if not ids.shape[1]:
            return ()
        different, which = ids.unique(dim=0, return_inverse=True)
        names = [name_of(one) for one in different]
        missing: dict[int, list[int]] = {}
        for at, name in enumerate(names):
            if name not in self.kept:
                missing.setdefault(self._known(different[at]), []).append(at)
        for begin, places in missing.items():
            some = different[places]
            before = self._joined([self.kept[name_of(one[:begin])] for one in some]) if begin else ()
            _, layers = self._behind(before, some, torch.zeros_like(some[:, begin:], dtype=torch.bool))
            for row, at in enumerate(places):
                # of its own, since it may stay longer than the others
                made = tuple((keys[row : row + 1].clone(), values[row : row + 1].clone()) for keys, values in layers)
                self.kept.add(names[at], made, sum(keys.nbytes + values.nbytes for keys, values in made))
        used.update(names)
        held = self._joined([self.kept[name] for name in names])
        if len(names) == 1:
            whole = (len(ids), -1, -1, -1)
            return tuple((keys.expand(whole), values.expand(whole)) for keys, values in held)
        return tuple((keys[which], values[which]) for keys, values in held)

    def _known(self, ids: Tensor) -> int:
        """How many of the leading tokens (P,) are kept: a whole number of blocks, fewer than all."""
        block = self.network.block
        ends = range(len(ids) - block, 0, -block)
        return next((end for end in ends if name_of(ids[:end]) in self.kept), 0)

    @staticmethod
    def _joined(parts: Sequence[Layers]) -> Layers:
        if len(parts) == 1:
            return parts[0]
        return tuple(
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*parts, strict=True)
        )


class BlockDenoiser(Masked):
    """As `Answering`, of a network that reads in blocks: `given` (B, T) has masks up to the end of the last block, and
    `PADDING` elsewhere."""

    time_independent = True

    def __init__(self, how: Blocks, given: Tensor, begins: Tensor) -> None:
        assert how.noise.mask is not None
        self.network, self.noise, self.impossible = how.network, how.noise, how.never
        self.given, self.begins, block = given, begins, how.network.block
        self.block_length, self.block_offset = block, None if how.network.anew else begins % block
        ends = ((begins // block - how.network.shift).clamp_min(0) * block).tolist()
        prompts = (ids[:end] for ids, end in zip(given, ends, strict=True) if end)
        self.reader = Reader(how.network, how.noise.mask, how.cached, prompts)

    def logits(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        place = self.begins[rows][:, None] + torch.arange(x_t.shape[1], device=x_t.device)
        ids = self.given[rows].scatter(1, place, x_t)
        opened = torch.zeros_like(ids, dtype=torch.bool).scatter(1, place, where)
        return self.reader(ids, opened)


@dataclass(frozen=True)
class Blocks:
    """Prompts to their denoiser: answers of `length` positions, up to the end of a block; at most `most` in all."""

    network: InBlocks
    noise: Noise
    length: int
    never: Tensor
    most: int
    cached: bool

    def __call__(self, prompts: Sequence[Sequence[int]]) -> BlockDenoiser:
        expect_positions(prompts, self.length, self.most)
        block, device = self.network.block, self.never.device
        befores = [[*[PADDING] * (-len(ids) % block if self.network.anew else 0), *ids] for ids in prompts]
        sizes = [-(-(len(ids) + self.length) // block) * block for ids in befores]
        given = torch.full((len(prompts), max(sizes)), PADDING)
        for row, (ids, size) in enumerate(zip(befores, sizes, strict=True)):
            given[row, :size] = torch.tensor([*ids, *[self.noise.mask] * (size - len(ids))])
        begins = torch.tensor([len(ids) for ids in befores], device=device)
        return BlockDenoiser(self, given.to(device), begins)


def block_size(checkpoint: Checkpoint, usual: int | None = None, name: str = "block_size") -> int:
    """The positions of a block by config.json, else the `usual` ones. Raises `ValueError` for less than one."""
    block = usual if usual is not None and name not in checkpoint.config else checkpoint.size(name)
    if block < 1:
        raise ValueError(f"{checkpoint.name} has {name}={block}: a block has at least one position")
    return block


def in_turn(
    kind: Any, config: Any, checkpoint: Checkpoint, codec: Codec | None, mask: str, block: int, *, length: int,
    chat: bool | None, cached: bool, names: Mapping[str, str] | None = None, shift: int = 0,
    reads: type[InBlocks] = InBlocks,
) -> PromptedModel:  # fmt: skip
    """The text model of a network of `transformers`, of the class `kind` with a configuration, that answers in blocks
    under absorbing noise, a_t = 1 - t; its family calls the mask `mask`, and `reads` is how it is asked. Raises
    `ValueError` for weights that are not the class' own, and a tokenizer that does not belong to it."""
    chat = talks(codec, chat)
    role = roles(checkpoint, codec, config.vocab_size, mask, chat)
    network = reads(pretrained.network(kind, config, checkpoint, names), block, shift)
    if network.feels_padding:
        told = f"{checkpoint.name} has rotary angles that change with the length of a text ({config.rope_parameters})"
        raise ValueError(f"{told}, and finished blocks are read once: it is not read")
    noise = absorbing(network.vocab, role.mask, Schedule("linear"))
    never = role.impossible[role.impossible != role.mask].to(network.device)
    bind = Blocks(network, noise, length, never, config.max_position_embeddings, cached)
    head = [] if codec is None else codec.frame[0]
    return PromptedModel(bind, codec, network, network.device, head=head, ends=role.ends, fill=role.fill, chat=chat)
