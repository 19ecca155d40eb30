"""DiffusionGemma: a canvas of random tokens denoised over a prompt that is read once (Google DeepMind, 2026).

    p(x_0^i = v | x_t, prompt)  =  softmax of the soft-capped logits at i          x_t: clean and random tokens, mixed
    encoder (causal)            prompt -> keys and values of every layer, once a prompt, shared by all its candidates
    decoder (bidirectional)     canvas over these keys and values, which it reads and never adds to

Output. Google's fine-tuning replaces every token of a canvas with probability t, uniform, by one of the whole
vocabulary, and takes the cross-entropy of x_0 at *all* positions: its optimum is the posterior, a token's own evidence
included. That a token is certain at t = 0 the network cannot know, and the denoiser says so. A loss at the replaced
positions alone, as in dllm's trainer, leaves a token's own evidence out: load such a network with `left_out=True`.
`iterref.check` tells the two apart on texts of the model's.

Self-conditioning. A kernel must be a function of x_t alone, so the last step's logits are not fed back, unless
`self_condition=k`: then k passes over the same x_t come first, each fed the logits before it, the first zeros.

Samplers. `ancestral` is diffusers' DiscreteDDIMScheduler at temperature 1; with order="bounded" it is transformers'
entropy-bounded sampler, but for its falling temperature, its early stop and its argmax at the end.

Compared with transformers 5.23.0 and diffusers 0.42.1: tests/models/test_diffusion_gemma.py says how close.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iterref.denoiser import Denoiser, from_leave_one_out
from iterref.fence import fenced
from iterref.models import pretrained
from iterref.models.checkpoint import Checkpoint
from iterref.models.device_map import entrance
from iterref.models.family import Family
from iterref.models.text.codec import Codec, mismatch
from iterref.models.text.prompted import PromptedModel, expect_positions
from iterref.noise import Noise, uniform

FAMILY = Family(title="DiffusionGemma", reads=("diffusion_gemma",), spread=True)
KIND, SINCE = "DiffusionGemmaForBlockDiffusion", "5.11"
# The part that reads images is made as small as it can be, and its weights stay on the disk: prompts are texts.
VISION = ("vision_tower", "embed_vision")
BLIND = {"model_type": "gemma4_vision", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
         "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "position_embedding_size": 8}  # fmt: skip
# Placeholders of other media, by their key in config.json and their name in the tokenizer.
MEDIA = ("image_token_id", "boi_token_id", "eoi_token_id", "audio_token_id", "boa_token_id", "eoa_token_id",
         "eoa_token_index", "video_token_id")  # fmt: skip
NAMED = ("<|image|>", "<|image>", "<image|>", "<|audio|>", "<|audio>", "<audio|>", "<|video|>")


@dataclass(frozen=True, eq=False)
class Prompts:
    """Encoded prompts: the `cache` of U different ones; `which` (B,) of them each row has; `size` (U,), their tokens;
    `seen` (U, T) bool is False at padding, which stands before a prompt, None without any."""

    cache: Any
    which: Tensor
    size: Tensor
    seen: Tensor | None

    def of(self, rows: Tensor, length: int) -> dict[str, Any]:
        """What the decoder is given beside canvases (R, L) that belong to (R,) rows: keys and values, mask, places."""
        which = self.which[rows]
        seen = None if self.seen is None else nn.functional.pad(self.seen[which], (0, length), value=True)
        place = self.size[which][:, None] + torch.arange(length, device=which.device)
        return {"past_key_values": self._cache(which), "decoder_attention_mask": seen, "decoder_position_ids": place}

    def _cache(self, which: Tensor) -> Any:
        """The cache of (R,) prompts; a view of what is there where there is one prompt, or each once in its order."""
        if len(self.size) > 1 and torch.equal(which, torch.arange(len(self.size), device=which.device)):
            return self.cache
        chosen = copy(self.cache)
        chosen.layers = [self._layer(layer, which) for layer in self.cache.layers]
        return chosen

    def _layer(self, layer: Any, which: Tensor) -> Any:
        chosen, which = copy(layer), which.to(layer.keys.device)  # layers may be on different devices
        if len(self.size) == 1:
            chosen.keys, chosen.values = (part.expand(len(which), -1, -1, -1) for part in (layer.keys, layer.values))
        else:
            chosen.keys, chosen.values = layer.keys[which], layer.values[which]
        return chosen


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

    def encode(self, prompts: Sequence[Sequence[int]], device: torch.device) -> Prompts:
        """B prompts, token ids, in one call. Padding stands before the shorter ones, so that a sliding window ends at
        the canvas for all of them."""
        different = list(dict.fromkeys(map(tuple, prompts)))
        number = {prompt: at for at, prompt in enumerate(different)}
        size = torch.tensor([len(prompt) for prompt in different])
        width = max(1, int(size.max()))  # a prompt of no tokens is padding, which nobody sees
        ids = torch.zeros(len(different), width, dtype=torch.long)
        for row, prompt in enumerate(different):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        place = torch.arange(width) - (width - size)[:, None]
        seen = None if bool((place >= 0).all()) else (place >= 0).to(device)
        cache = self.model.model.encoder(
            input_ids=ids.to(device), attention_mask=seen, position_ids=place.clamp_min(0).to(device)
        ).past_key_values
        which = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=device)
        return Prompts(cache, which, size.to(device), seen)

    def compile(self, *, dynamic: bool, mode: str | None) -> None:
        """Has torch compile the decoder at first use; `dynamic` lets the number of rows vary."""
        self.model.model.decoder.compile(dynamic=dynamic, mode=mode)

    def _pass(self, x_t: Tensor, given: dict[str, Any], logits: Tensor | None) -> Tensor:
        return self.model(decoder_input_ids=x_t, self_conditioning_logits=logits, **given).logits

    def _pick(self, head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The states (M, width) of the chosen positions, from all states (R, L, width)."""
        return given if self._chosen is None else (given[0][self._chosen.to(given[0].device)],)


@dataclass(eq=False)
class CanvasDenoiser(Denoiser):
    """The denoiser of the answers to B prompts. `impossible` (K,) lists the tokens that noise alone may write,
    `self_condition` counts the passes before the last, `left_out` marks a leave-one-out prediction (see above)."""

    network: Network
    noise: Noise
    prompts: Prompts
    impossible: Tensor
    self_condition: int = 0
    left_out: bool = False

    def __post_init__(self) -> None:
        self.time_independent = not self.left_out  # but at t = 0, where nothing is open and no method asks
        self.passes = 1 + self.self_condition

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L), (R,), (R, L) bool, (R,) -> (M, V) float32 log p(x_0^i | x_t, prompt)."""
        given = self.prompts.of(rows, x_t.shape[1])
        logits = self.network(x_t, where, given, self.self_condition)
        logits[:, self.impossible] = -torch.inf
        if self.left_out:
            return from_leave_one_out(logits, x_t, t, where, self.noise)
        log_p, clean = torch.log_softmax(logits, -1), (t == 0).to(x_t.device)
        if not bool(clean.any()):
            return log_p
        certain = torch.full_like(log_p, -torch.inf).scatter_(1, x_t[where][:, None], 0.0)
        return torch.where(clean[:, None].expand(where.shape)[where][:, None], certain, log_p)


@dataclass(frozen=True, eq=False)
class Canvases:
    """Called with B prompts, token ids, it encodes them once and makes the denoiser of their answers of `length`
    positions, where prompt and answer have at most `most`; the rest is `CanvasDenoiser`'s."""

    network: Network
    noise: Noise
    impossible: Tensor
    length: int
    most: int
    self_condition: int
    left_out: bool

    def __call__(self, prompts: Sequence[Sequence[int]]) -> CanvasDenoiser:
        expect_positions(prompts, self.length, self.most)
        with fenced(self.network.device):
            encoded = self.network.encode(prompts, self.network.device)
        return CanvasDenoiser(self.network, self.noise, encoded, self.impossible, self.self_condition, self.left_out)


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int | None = None, chat: bool | None = None,
    self_condition: int = 0, left_out: bool = False,
) -> PromptedModel:  # fmt: skip
    """The text model of a DiffusionGemma; `length` positions of an answer, the canvas' unless given. `chat` False
    leaves the chat template unused; `self_condition` and `left_out` are those of `CanvasDenoiser`. Raises `ValueError`
    for a length or passes out of range, another tokenizer, and a `transformers` without the class."""
    import transformers

    kind: Any = getattr(transformers, KIND, None)
    if kind is None:
        told = f"{checkpoint.name} needs the {KIND} of transformers {SINCE} or later"
        raise ValueError(f"{told}, and this is {transformers.__version__}: pip install -U transformers")
    if self_condition < 0:
        raise ValueError(f"self_condition counts passes before the last, got {self_condition}: give 0, 1 or more")
    room = checkpoint.size("canvas_length")
    if length is not None and not 1 <= length <= room:
        raise ValueError(f"{checkpoint.name} denoises a canvas of {room} positions, got length={length}: at most that")
    vocab, most = checkpoint.size("text_config.vocab_size"), checkpoint.size("text_config.max_position_embeddings")
    if codec is not None and codec.reach > vocab:
        raise mismatch(checkpoint.name, vocab, codec)
    config = pretrained.settings(kind.config_class, checkpoint, vision_config=dict(BLIND))
    network = Network(pretrained.network(kind, config, checkpoint, spare=VISION))
    table = network.model.model.decoder.embed_tokens.weight
    if self_condition and table.device != network.device:
        told = f"self_condition mixes the rows of the token table on {network.device}"
        raise ValueError(f"{told}, and device_map keeps it elsewhere: put both embed_tokens and lm_head there")
    impossible = unwritten(checkpoint, codec, vocab).to(network.device)
    bind = Canvases(network, uniform(vocab), impossible, length or room, most, self_condition, left_out)
    start, ends, fill = (None, [], 0) if codec is None else (codec.start, codec.ends, codec.fill)
    head = [] if start is None else [start]
    return PromptedModel(bind, codec, network, network.device, head=head, ends=ends, fill=fill, chat=chat, room=room)


def unwritten(checkpoint: Checkpoint, codec: Codec | None, vocab: int) -> Tensor:
    """The tokens (K,) long that stand in no answer: placeholders of other media, a mask, ids that the tokenizer does
    not reach. The published sampler may write them; noise does."""
    found = {checkpoint.config.get(key) for key in MEDIA}
    if codec is not None:
        found |= {codec.mask, *map(codec.tokenizer.token_to_id, NAMED), *range(codec.reach, vocab)}
    return torch.tensor(sorted(one for one in found if isinstance(one, int) and 0 <= one < vocab), dtype=torch.long)
