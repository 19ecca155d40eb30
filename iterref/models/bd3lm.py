"""BD3-LM: block diffusion language models (Arriola et al. 2025, arXiv:2503.09573).

    log p(x_0^i | x_t) = log-softmax of the logits without the mask at masked positions;  a_t = 1 - t
    the DiT of MDLM (`iterref.models.dit`) under a mask by blocks (`iterref.models.in_blocks`)

In training a noisy block looks at itself and at the clean blocks before it, which are read by the same network: one
stream of tokens in which blocks see no later one is the same thing. Blocks are counted from the start of the canvas,
which holds the prompt. A model without `cross_attn` has one block, the whole canvas.

Files: weights called `backbone.*` and a flat config.json with model_type "bd3lm", `block_size` and, usually, without
adaLN: a modulation that changes nothing stands in its place. The network reads no time.

Compared with kuleshov-group/bd3lms at 1c3e8f43 (models/hf): tests/models/test_bd3lm.py says how close.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from iterref.models.base import Masked
from iterref.models.checkpoint import Checkpoint
from iterref.models.dit import FREQUENCIES, Dit, network_of, sizes
from iterref.models.family import Family
from iterref.models.in_blocks import Layers, Reader, sight
from iterref.models.mdlm import mask_id
from iterref.models.text.codec import Codec, unwritten
from iterref.models.text.prefix import PrefixModel
from iterref.noise import Noise, Schedule, absorbing

FAMILY = Family(title="BD3-LM", reads=("bd3lm",), tokenizer="gpt2")
SPARE = ("sampling_eps_min", "sampling_eps_max")  # of training


class BlockDit:
    """A DiT under a mask by blocks (`iterref.models.in_blocks.Blockwise`)."""

    shift = 0

    def __init__(self, network: Dit, block: int) -> None:
        self.network, self.block, self.vocab = network, block, network.options.vocab

    def behind(self, past: Layers, ids: Tensor, real: Tensor, where: Tensor) -> tuple[Tensor, Layers]:
        network, begin = self.network, past[0][0].shape[2] if past else 0
        c = network.condition(torch.zeros(1, device=ids.device))
        cosine, sine = network.turn(begin + ids.shape[1], ids.device)
        sees = sight(real, ids.shape[1], self.block)[:, None]
        x, held = network.table(ids).float(), [list(layer) for layer in past] or [[] for _ in network.blocks]
        for block, layer in zip(network.blocks, held, strict=True):
            x = block(x, c, (cosine[begin:], sine[begin:]), sees, layer)
        return network.predicted(x, c, where), tuple((keys, values) for keys, values in held)

    def compile(self, *, dynamic: bool, mode: str | None) -> None:
        for block in self.network.blocks:
            block.compile(dynamic=dynamic, mode=mode)


class CanvasInBlocks(Masked):
    """The masked denoiser of whole canvases; all rows share one distribution. `impossible` (K,) as for `Masked`."""

    time_independent, uses_prompts = True, False

    def __init__(self, network: BlockDit, noise: Noise, impossible: Tensor, cached: bool) -> None:
        assert noise.mask is not None
        self.network, self.noise, self.impossible, self.block_length = network, noise, impossible, network.block
        self.reader = Reader(network, noise.mask, cached)

    def logits(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `Masked.logits`; masks fill the last block up."""
        more = -x_t.shape[1] % self.network.block
        ids = torch.nn.functional.pad(x_t, (0, more), value=self.reader.mask)
        return self.reader(ids, torch.nn.functional.pad(where, (0, more)))


def load(checkpoint: Checkpoint, codec: Codec | None, *, length: int | None = None, cached: bool = True) -> PrefixModel:
    """The text model of a BD3-LM; `length` is the config's `model_length` unless given, and at most that. `cached`
    False reads finished blocks anew in every call. Raises `ValueError` for a network of another kind."""
    if checkpoint.flag("time_conditioning"):
        raise ValueError(f"{checkpoint.name} reads the time (time_conditioning), which no published BD3-LM does")
    room = checkpoint.size("model_length")
    block = checkpoint.size("block_size") if checkpoint.flag("cross_attn", True) else room
    if not 1 <= block <= room:
        raise ValueError(f"{checkpoint.name} has block_size={block}: blocks have 1 to {room} positions (model_length)")
    if length is not None and length > room:
        raise ValueError(f"{checkpoint.name} was trained on {room} positions, got length={length}: at most that")
    adaptive = checkpoint.flag("adaln", True)
    written = checkpoint.config if adaptive else {**checkpoint.config, "cond_dim": 1}
    options = sizes(replace(checkpoint, config=written))
    mask = mask_id(checkpoint, codec, options.vocab)
    weights = {name: weight for name, weight in checkpoint.weights().items() if name not in SPARE}
    weights |= {} if adaptive else unmodulated(options.blocks, options.width)
    network = network_of(replace(checkpoint, tensors=weights, adapter=None), codec, options, mask)
    network.filler = None  # a later block hides itself, and within one the end of a text was seen in training
    noise = absorbing(options.vocab, mask, Schedule("linear"))
    never = unwritten(codec, options.vocab).to(checkpoint.device)
    denoiser = CanvasInBlocks(BlockDit(network, block), noise, never, cached)
    return PrefixModel(denoiser, length or room, codec, device=checkpoint.device)


def unmodulated(blocks: int, width: int) -> dict[str, Tensor]:
    """The weights of a modulation that leaves everything as it is, by their published names, for a condition of one
    number: shifts and scales 0, gates 1."""
    one, none = torch.ones(width), torch.zeros(width)
    found = {"output_layer.adaLN_modulation.bias": torch.cat([none, none])}
    found |= {f"blocks.{block}.adaLN_modulation.bias": torch.cat([none, none, one] * 2) for block in range(blocks)}
    found |= {name.replace("bias", "weight"): torch.zeros(len(bias), 1) for name, bias in found.items()}
    for layer, size in ((0, FREQUENCIES), (2, 1)):
        found |= {f"sigma_map.mlp.{layer}.weight": torch.zeros(1, size), f"sigma_map.mlp.{layer}.bias": torch.zeros(1)}
    return found
