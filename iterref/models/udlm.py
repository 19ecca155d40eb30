"""UDLM: uniform diffusion language models (Schiff et al. 2025, arXiv:2412.10193), and checkpoints in its format.

    l(v) = softmax of the logits                       p(x_0^i = v | x_t^{-i}), a leave-one-out prediction
    p(x_0^i = v | x_t)  proportional to  l(v) q(x_t^i | x_0^i = v)

Why leave-one-out: training puts l in the place of the one-hot x_0 in q(x_u | x_t, x_0), whose average over the true
posterior is the same expression with the leave-one-out conditional for l: so this is the optimum. `leave_one_out` asks
at the smallest time of training: at t = 0 itself a model may have learned to repeat its input.

Compared with kuleshov-group/discrete-diffusion-guidance at edb0f8c2: tests/models/test_udlm.py says how close.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.denoiser import from_leave_one_out
from iterref.models.checkpoint import Checkpoint
from iterref.models.dit import SCHEDULE, DitDenoiser, network_of, sizes
from iterref.models.family import Family
from iterref.models.text.codec import Codec, mismatch, unwritten
from iterref.models.text.prefix import PrefixModel
from iterref.noise import uniform
from iterref.numbers import whole_number

FAMILY = Family(title="UDLM", reads=("udlm",), tokenizer="bert-base-uncased")
FIRST = 1e-3  # the smallest time that training draws


class UniformDit(DitDenoiser):
    """A DiT that was trained on texts with tokens replaced at random; noise may write what is impossible in a text."""

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return from_leave_one_out(self.logits(x_t, t, where, rows), x_t, t, where, self.noise)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L) clean tokens, (R, L) bool, (R,) -> (M, V) log p(x^i | x^{-i}), as far as training reached it."""
        times = torch.full((len(x),), FIRST, dtype=torch.float64, device=x.device)
        return torch.log_softmax(self.logits(x, times, where, rows), -1)


def load(
    checkpoint: Checkpoint, codec: Codec | None, *, length: int | None = None, label: int | None = None
) -> PrefixModel:
    """The text model of a checkpoint in UDLM's format, or in Duo's, which is the same. A checkpoint with labels (`cfg`)
    is conditioned on `label`, or on its last one, which stands for none. Raises `ValueError` for a label that it does
    not have, and for a tokenizer with more tokens than the model."""
    labels = checkpoint.size("cfg_num_classes") + 1 if checkpoint.flag("cfg") else 0
    label = None if label is None else whole_number("label", label, "pass the number of a class")
    if label is not None and not 0 <= label < labels:
        raise ValueError(f"{checkpoint.name} has {labels} labels, and {label} is none of them: leave it out")
    options, device = sizes(checkpoint, labels), checkpoint.device
    if codec is not None and codec.size > options.vocab:
        raise mismatch(checkpoint.name, options.vocab, codec)
    network = network_of(checkpoint, codec, options, None)
    timed = checkpoint.flag("time_conditioning", True)
    label = labels - 1 if labels and label is None else label
    impossible = unwritten(codec, options.vocab).to(device)
    denoiser = UniformDit(network, uniform(options.vocab, SCHEDULE), impossible, timed, label)
    return PrefixModel(denoiser, length or checkpoint.size("model_length"), codec, device=device)
