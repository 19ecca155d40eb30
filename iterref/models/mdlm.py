"""MDLM: masked diffusion language models (Sahoo et al. 2024, arXiv:2406.07524), and checkpoints in its format.

    log p(x_0^i | x_t) = log-softmax of the logits without the mask at masked positions; a revealed token is certain
    sigma = -log a_t,  a_t = 1 - (1 - 0.001) t;   a model without `time_conditioning` reads sigma = 0 always

Files: weights called `backbone.*` and a flat config.json with model_type "mdlm". The mask is the tokenizer's mask token
where it has one, else the token behind its last. Training cuts texts into blocks [start] ... [end], so a canvas begins
with start.

Compared with kuleshov-group/mdlm at c112c526: tests/models/test_mdlm.py says how close.
"""

from __future__ import annotations

from dataclasses import dataclass

from iterref.models.base import Masked
from iterref.models.checkpoint import Checkpoint
from iterref.models.dit import SCHEDULE, DitDenoiser, network_of, sizes
from iterref.models.family import Family
from iterref.models.text.codec import Codec, ids_under, mismatch, unwritten
from iterref.models.text.prefix import PrefixModel
from iterref.noise import absorbing

FAMILY = Family(title="MDLM", reads=("mdlm",), tokenizer="gpt2")


@dataclass(eq=False)
class MaskedDit(DitDenoiser, Masked):
    """A DiT that was trained on masked texts."""

    def __post_init__(self) -> None:
        self.time_independent = not self.timed


def mask_id(checkpoint: Checkpoint, codec: Codec | None, vocab: int) -> int:
    """The mask: config.json's `mask_token_id`, the tokenizer's own, or the token behind the tokenizer's last; a token
    that was added to the tokenizer later may have the mask's id, which is the network's last then. Raises `ValueError`
    where the tokenizer leaves no room for it, or has tokens that the model does not know."""
    written = ids_under(checkpoint.config, "mask_token_id", codec, checkpoint.name)
    if written:
        mask = written[0]
    elif codec is None:
        mask = vocab - 1
    else:
        own = codec.mask if codec.mask is not None and codec.mask < vocab else None
        mask = min(codec.reach, max(vocab - 1, codec.size)) if own is None else own
    if not 0 <= mask < vocab or (codec is not None and codec.size > vocab):
        raise mismatch(checkpoint.name, vocab, codec, f", with the mask {mask}")
    return mask


def load(checkpoint: Checkpoint, codec: Codec | None, *, length: int | None = None) -> PrefixModel:
    """The text model of a checkpoint in MDLM's format; `length` is the config's `model_length` unless given."""
    options, device = sizes(checkpoint), checkpoint.device
    mask = mask_id(checkpoint, codec, options.vocab)
    timed = checkpoint.flag("time_conditioning")
    network, noise = network_of(checkpoint, codec, options, mask), absorbing(options.vocab, mask, SCHEDULE)
    denoiser = MaskedDit(network, noise, unwritten(codec, options.vocab).to(device), timed)
    return PrefixModel(denoiser, length or checkpoint.size("model_length"), codec, device=device)
