"""SEDD: masked diffusion by score entropy (Lou et al. 2024, arXiv:2310.16834), and checkpoints in its format.

    score(v) = p_t(x_t with v at i) / p_t(x_t)
    p(x_0^i = v | x_t)  proportional to  score(v) at a masked position i, v not the mask;  a revealed token is certain

The network's outputs are log-scores up to a shift that depends on sigma alone, which normalising takes away, and with
it their sum, by which the published sampler decides how soon a mask falls: here the schedule does. Files: weights
without a prefix, and the training configuration as config.json (`tokens`, `graph`, `noise`, `model`). Training cuts
texts anywhere, so a canvas begins with the prompt itself.

Compared with louaaron/Score-Entropy-Discrete-Diffusion at 0605786d: tests/models/test_sedd.py says how close.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from iterref.denoiser import from_score
from iterref.models.checkpoint import Checkpoint
from iterref.models.dit import SCHEDULE, DitDenoiser, network_of, sizes
from iterref.models.family import Family
from iterref.models.text.codec import Codec, mismatch, unwritten
from iterref.models.text.prefix import PrefixModel
from iterref.noise import absorbing

# The configuration of the published models is that of their training, which names no architecture.
FAMILY = Family(title="SEDD", reads=("sedd",), keys=("graph", "noise", "model", "tokens"), tokenizer="gpt2")


class ScoredDit(DitDenoiser):
    """A DiT that was trained to give log-scores."""

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return from_score(self.logits(x_t, t, where, rows), x_t, t, where, self.noise)


def load(checkpoint: Checkpoint, codec: Codec | None, *, length: int | None = None) -> PrefixModel:
    """The text model of a checkpoint in SEDD's format; `length` is the config's `model.length` unless given. Raises
    `ValueError` for another graph or noise than those of the published models."""
    graph, noise = _kind(checkpoint, "graph"), _kind(checkpoint, "noise")
    if (graph, noise) != ("absorb", "loglinear"):
        told = f"{checkpoint.name} was trained on the graph {graph!r} with {noise!r} noise"
        raise ValueError(f"{told}: SEDD models are read with the graph 'absorb' and 'loglinear' noise, as published")
    mask, device = checkpoint.size("tokens"), checkpoint.device
    if codec is not None and mask not in (codec.size, codec.reach):
        raise mismatch(checkpoint.name, mask, codec)
    options = sizes(replace(checkpoint, config={**checkpoint.config, "vocab_size": mask + 1}))
    network = network_of(checkpoint, codec, options, mask)
    denoiser = ScoredDit(network, absorbing(options.vocab, mask, SCHEDULE), unwritten(codec, options.vocab).to(device))
    return PrefixModel(denoiser, length or checkpoint.size("model.length"), codec, framed=False, device=device)


def _kind(checkpoint: Checkpoint, part: str) -> Any:
    written = checkpoint.config.get(part)
    return written.get("type") if isinstance(written, dict) else None
