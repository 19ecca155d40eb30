"""Canvases: an encoder that reads a prompt and finished canvases once, and a decoder that denoises one behind them.

    encoder (causal)            prompt, canvas 1, ... canvas k - 1  ->  keys and values of every layer
    decoder (bidirectional)     canvas k over these keys and values, which it reads and never adds to

What the encoder has read depends on nothing behind it. So a canvas is read behind the prompt once, and its keys and
values serve all candidates that begin alike: the same numbers as reading all anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iterref.models.device_map import entrance
from iterref.models.kept import Kept, name_of


@dataclass(frozen=True, eq=False)
class Prompts:
    """Encoded texts: the `cache` of U different ones; `which` (B,) of them each row has; `size` (U,), their tokens;
    `seen` (U, T) bool is False at padding, which stands before a text, None without any."""

    cache: Any
    which: Tensor
    size: Tensor
    seen: Tensor | None

    def of(self, rows: Tensor, length: int) -> dict[str, Any]:
        """What the decoder is given beside canvases (R, L) that belong to (R,) rows: keys and values, mask, places."""
        which = self.which[rows]
        whole = len(self.size) > 1 and torch.equal(which, torch.arange(len(self.size), device=which.device))
        cache = self.cache if whole else taken(self.cache, which)  # a view where each prompt stands once in its order
        return {"past_key_values": cache, **self.places(rows, 0, length)}

    def places(self, rows: Tensor, before: int, length: int) -> dict[str, Any]:
        """What is no padding up to the end of canvases of `length` positions, and the numbers of these, where `before`
        others stand between them and the text."""
        which = self.which[rows]
        seen = None if self.seen is None else nn.functional.pad(self.seen[which], (0, before + length), value=True)
        place = self.size[which][:, None] + before + torch.arange(length, device=which.device)
        return {"decoder_attention_mask": seen, "decoder_position_ids": place}


class Contexts:
    """What canvases of `room` positions stand behind, B prompts (token ids) and the canvases before: `prompts` are read
    at once, canvases when they are asked for, and `kept`. Unless `cached`, all is read anew every time."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], room: int, cached: bool = True) -> None:
        self.network, self.room, self.given = network, room, [list(ids) for ids in prompts]
        self.prompts = network.encode(prompts) if cached else None
        self.kept = Kept[tuple[int, bytes], Any]()

    def behind(self, before: Tensor, rows: Tensor, length: int) -> dict[str, Any]:
        """What the decoder is given beside canvases of `length` positions behind whole ones (R, P) of (R,) prompts."""
        if self.prompts is None:
            texts = [[*self.given[row], *ids] for row, ids in zip(rows.tolist(), before.tolist(), strict=True)]
            return self.network.encode(texts).of(torch.arange(len(texts), device=rows.device), length)
        if not before.shape[1]:
            return self.prompts.of(rows, length)
        names = [(row, name_of(ids)) for row, ids in zip(self.prompts.which[rows].tolist(), before, strict=True)]
        held = {name: self.kept[name] for name in names if name in self.kept}
        new = {name: at for at, name in enumerate(names) if name not in held}
        if new:
            last, some = before.shape[1] - self.room, torch.tensor(list(new.values()), device=rows.device)
            cache = self.network.read(before[some, last:], self.behind(before[some, :last], rows[some], self.room))
            for at, name in enumerate(new):
                held[name] = one = taken(cache, torch.tensor([at], device=rows.device))
                self.kept.add(name, one, sum(layer.keys.nbytes + layer.values.nbytes for layer in one.layers))
        self.kept.settle(held, rows.is_cuda)
        one = taken(held[names[0]], torch.zeros_like(rows)) if len(held) == 1 else None
        cache = one or joined([held[name] for name in names])
        return {"past_key_values": cache, **self.prompts.places(rows, before.shape[1], length)}


class Network:
    """The network of `transformers`: prompts to their cache, and canvases over a cache to logits of chosen positions,
    whose states are picked on their way to the head."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._chosen: Tensor | None = None
        self.model.lm_head.register_forward_pre_hook(self._pick)

    def __call__(self, x_t: Tensor, where: Tensor, given: dict[str, Any], self_condition: int = 0) -> Tensor:
        """(R, L), (R, L) bool, what `Prompts.of` gives -> (M, V) float32 logits, in 1 + `self_condition` passes."""
        logits = None
        for _ in range(self_condition):
            logits = self._pass(x_t, given, logits).to(self.model.dtype)
        self._chosen = where
        try:
            return self._pass(x_t, given, logits)
        finally:
            self._chosen = None

    @property
    def device(self) -> torch.device:
        """Where canvases are given and logits come back."""
        return entrance(self.model)

    def encode(self, prompts: Sequence[Sequence[int]]) -> Prompts:
        """B prompts, token ids, in one call, padded in front, so that a sliding window ends at the canvas for all."""
        different, device = list(dict.fromkeys(map(tuple, prompts))), self.device
        number = {prompt: at for at, prompt in enumerate(different)}
        size = torch.tensor([len(prompt) for prompt in different])
        width = max(1, int(size.max()))  # a prompt of no tokens is padding, which nobody sees
        ids = torch.zeros(len(different), width, dtype=torch.long)
        for row, prompt in enumerate(different):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        place = torch.arange(width) - (width - size)[:, None]
        seen = None if bool((place >= 0).all()) else (place >= 0).to(device)
        told = {"attention_mask": seen, "position_ids": place.clamp_min(0).to(device)}
        cache = self.model.model.encoder(input_ids=ids.to(device), **told).past_key_values
        which = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=device)
        return Prompts(cache, which, size.to(device), seen)

    def read(self, ids: Tensor, given: dict[str, Any]) -> Any:
        """The cache of what `given` is of and canvases (R, room) behind it."""
        return self.model.model.encoder(
            input_ids=ids, attention_mask=given["decoder_attention_mask"], position_ids=given["decoder_position_ids"],
            past_key_values=own(given["past_key_values"]),
        ).past_key_values  # fmt: skip

    def compile(self, *, dynamic: bool, mode: str | None) -> None:
        self.model.model.decoder.compile(dynamic=dynamic, mode=mode)

    def _pass(self, x_t: Tensor, given: dict[str, Any], logits: Tensor | None) -> Tensor:
        return self.model(decoder_input_ids=x_t, self_conditioning_logits=logits, **given).logits

    def _pick(self, head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The states (M, width) of the chosen positions, from all states (R, L, width)."""
        return given if self._chosen is None else (given[0][self._chosen.to(given[0].device)],)


def taken(cache: Any, which: Tensor) -> Any:
    """The cache of (R,) texts of those that a cache is of; a view where that is one."""

    def rows(part: Tensor) -> Tensor:
        return part.expand(len(which), -1, -1, -1) if len(part) == 1 else part[which.to(part.device)]

    made = own(cache)
    for layer in made.layers:
        layer.keys, layer.values = rows(layer.keys), rows(layer.values)
    return made


def joined(caches: Sequence[Any]) -> Any:
    """One cache of several, of equally many tokens."""
    made = own(caches[0])
    for at, layer in enumerate(made.layers):
        same = [cache.layers[at] for cache in caches]
        layer.keys, layer.values = torch.cat([one.keys for one in same]), torch.cat([one.values for one in same])
    return made


def own(cache: Any) -> Any:
    """A copy of a cache, whose layers may be changed."""
    made = copy(cache)
    made.layers = [copy(layer) for layer in cache.layers]
    return made
