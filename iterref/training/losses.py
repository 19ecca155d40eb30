"""Losses: the masked diffusion loss, in nats a token.

    masked    E_t (1 / t) sum over masked i of -log p(x_0^i | x_t)        (Sahoo et al. 2024, arXiv:2406.07524, eq. 10)

With a_t = 1 - t and t uniform, the number n of masked tokens of L is uniform on 0 .. L, and the loss equals
(L + 1) E_n mean over masked i of -log p: the weight 1 / t becomes one over the realised number of masks, which has the
same expectation and far less noise (Ou et al. 2025, arXiv:2406.03736).
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.models.transformer import Memory, Transformer
from iterref.training.data import EOS


def spread_times(rows: int, generator: torch.Generator) -> Tensor:
    """Times (rows,) in (0, 1], one in each of `rows` equal cells in random order: uniform, with little variance of the
    batch's mean (Kingma et al. 2021, arXiv:2107.00630, appendix I.1)."""
    cell = torch.randperm(rows, generator=generator)
    return 1 - (cell + torch.rand(1, generator=generator)) / rows


def masked_loss(
    network: Transformer, memory: Memory, target: Tensor, weight: Tensor, generator: torch.Generator, copies: int = 1
) -> Tensor:
    """Masked diffusion loss, nats a token, of targets (B, L) long given their encoded sources.

    Every target is masked in `copies` independent ways, which share the encoded source. `weight` (B, L) scales the
    loss of each token, as for the repeated end tokens, which say nothing once the first is known.
    """
    x_0 = target.repeat_interleave(copies, dim=0)
    t = spread_times(len(x_0), generator)[:, None]
    where = torch.rand(x_0.shape, generator=generator) < t
    states = network.decode(x_0.masked_fill(where, network.options.mask), memory, t[:, 0] if network.time else None)
    log_p = network.target_log_probs(states, memory, where, x_0)
    share = weight.repeat_interleave(copies, dim=0) * where / where.sum(1, keepdim=True).clamp_min(1)
    return -(log_p * share[where]).sum() / len(x_0)


def token_weight(target: Tensor, end_weight: float) -> Tensor:
    """Weights (B, L): 1 up to and with the first EOS, `end_weight` on the repeated ones."""
    ended = (target == EOS).cumsum(1)
    return torch.where(ended > 1, end_weight, 1.0)
