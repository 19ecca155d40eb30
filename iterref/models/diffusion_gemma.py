"""DiffusionGemma: canvases of random tokens denoised over a prompt that is read once (Google DeepMind, 2026).

    p(x_0^i = v | x_t, prompt)  =  softmax of the soft-capped logits at i          x_t: clean and random tokens, mixed

An answer longer than a canvas is written canvas by canvas (`iterref.turns`): each is denoised behind the prompt and the
canvases before it, which go to the encoder's cache (`iterref.models.canvases`). The last canvas has what is left of the
length, where the published sampler writes all positions.

Output. Google's fine-tuning replaces every token of a canvas with probability t by one of the whole vocabulary, and
takes the cross-entropy of x_0 at *all* positions: its optimum is the posterior, a token's own evidence included. A loss
at the replaced positions alone, as in dllm's trainer, leaves that out: load such a network with `left_out=True`.
`iterref.check` tells the two apart on texts of the model's.

Self-conditioning. A kernel must be a function of x_t alone, so the last step's logits are not fed back, unless
`self_condition=k`: then k passes over the same x_t come first, each fed the logits before it, the first zeros.

Samplers. `ancestral` is diffusers' DiscreteDDIMScheduler at temperature 1; with order="bounded" it is transformers'
entropy-bounded sampler, but for its falling temperature, its early stop and its argmax at the end.

Compared with transformers 5.23.0 and diffusers 0.42.1: tests/models/test_diffusion_gemma.py says how close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iterref.denoiser import Denoiser, from_leave_one_out
from iterref.fence import fenced
from iterref.models import pretrained
from iterref.models.canvases import Contexts, Network
from iterref.models.checkpoint import Checkpoint
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


@dataclass(eq=False)
class CanvasDenoiser(Denoiser):
    """The denoiser of the answers to B prompts. `impossible` (K,) lists the tokens that noise alone may write,
    `self_condition` counts the passes before the last, `left_out` marks a leave-one-out prediction (see above),
    `block_ends` are the tokens behind which an answer needs no further canvas."""

    network: Network
    noise: Noise
    contexts: Contexts
    impossible: Tensor
    self_condition: int = 0
    left_out: bool = False
    block_ends: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.block_length = self.contexts.room
        self.time_independent = not self.left_out  # but at t = 0, where nothing is open and no method asks
        self.passes = 1 + self.self_condition

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        logits = self._logits(x_t, where, rows)
        logits[:, self.impossible] = -torch.inf
        if self.left_out:
            return from_leave_one_out(logits, x_t, t, where, self.noise)
        log_p, clean = torch.log_softmax(logits, -1), (t == 0).to(x_t.device)
        if not bool(clean.any()):
            return log_p
        certain = torch.full_like(log_p, -torch.inf).scatter_(1, x_t[where][:, None], 0.0)
        return torch.where(clean[:, None].expand(where.shape)[where][:, None], certain, log_p)

    def _logits(self, x_t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(M, V) of all open positions, those of one canvas after another."""
        found, room = list[tuple[Tensor, Tensor]](), self.contexts.room
        for begin in range(0, x_t.shape[1], room):
            canvas, part = x_t[:, begin : begin + room], where[:, begin : begin + room]
            some = part.any(1)
            if not bool(some.any()):
                continue
            given = self.contexts.behind(x_t[some, :begin], rows[some], canvas.shape[1])
            cells = torch.zeros_like(where)
            cells[:, begin : begin + room] = part
            found.append((cells[where], self.network(canvas[some], part[some], given, self.self_condition)))
        if len(found) == 1:
            return found[0][1]
        logits = torch.empty(int(where.sum()), self.noise.vocab, device=x_t.device)
        for cells, part in found:
            logits[cells] = part
        return logits


@dataclass(frozen=True, eq=False)
class Canvases:
    """Called with B prompts, token ids, it encodes them once and makes the denoiser of their answers of `length`
    positions in canvases of `room`, where prompt and answer have at most `most`; `options` are `CanvasDenoiser`'s."""

    network: Network
    noise: Noise
    length: int
    room: int
    most: int
    cached: bool
    options: Mapping[str, Any]

    def __call__(self, prompts: Sequence[Sequence[int]]) -> CanvasDenoiser:
        expect_positions(prompts, self.length, self.most)
        with fenced(self.network.device):
            contexts = Contexts(self.network, prompts, self.room, self.cached)
        return CanvasDenoiser(self.network, self.noise, contexts, **self.options)


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int | None = None, chat: bool | None = None,
    self_condition: int = 0, left_out: bool = False, cached: bool = True,
) -> PromptedModel:  # fmt: skip
    """The text model of a DiffusionGemma; `length` positions of an answer, a canvas unless given, several where it is
    longer. `chat` False leaves the chat template unused; `self_condition` and `left_out` are those of `CanvasDenoiser`;
    `cached` False reads prompts and finished canvases anew in every call. Raises `ValueError` for passes out of range,
    another tokenizer, and a `transformers` without the class."""
    import transformers

    kind: Any = getattr(transformers, KIND, None)
    if kind is None:
        told = f"{checkpoint.name} needs the {KIND} of transformers {SINCE} or later"
        raise ValueError(f"{told}, and this is {transformers.__version__}: pip install -U transformers")
    if self_condition < 0:
        raise ValueError(f"self_condition counts passes before the last, got {self_condition}: give 0, 1 or more")
    room = checkpoint.size("canvas_length")
    vocab, most = checkpoint.size("text_config.vocab_size"), checkpoint.size("text_config.max_position_embeddings")
    if codec is not None and codec.reach > vocab:
        raise mismatch(checkpoint.name, vocab, codec)
    config = pretrained.settings(kind, checkpoint, vision_config=dict(BLIND))
    network = Network(pretrained.network(kind, config, checkpoint, spare=VISION))
    table = network.model.model.decoder.embed_tokens.weight
    if self_condition and table.device != network.device:
        told = f"self_condition mixes the rows of the token table on {network.device}"
        raise ValueError(f"{told}, and device_map keeps it elsewhere: put both embed_tokens and lm_head there")
    impossible = unwritten(checkpoint, codec, vocab).to(network.device)
    start, ends, fill = (None, [], 0) if codec is None else (codec.start, codec.ends, codec.fill)
    options = {"impossible": impossible, "self_condition": self_condition, "left_out": left_out, "block_ends": ends}
    bind = Canvases(network, uniform(vocab), room if length is None else length, room, most, cached, options)
    head = [] if start is None else [start]
    return PromptedModel(bind, codec, network, network.device, head=head, ends=ends, fill=fill, chat=chat)


def unwritten(checkpoint: Checkpoint, codec: Codec | None, vocab: int) -> Tensor:
    """The tokens (K,) long that stand in no answer: placeholders of other media, a mask, ids that the tokenizer does
    not reach. The published sampler may write them; noise does."""
    found = {checkpoint.config.get(key) for key in MEDIA}
    if codec is not None:
        found |= {codec.mask, *map(codec.tokenizer.token_to_id, NAMED), *range(codec.reach, vocab)}
    return torch.tensor(sorted(one for one in found if isinstance(one, int) and 0 <= one < vocab), dtype=torch.long)
