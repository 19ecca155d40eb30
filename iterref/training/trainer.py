"""Trainer: the state of a training run, its loss, its step and its validation.

gradient of   masked loss + keep_weight x (cross-entropy of which source tokens the target keeps)
average    <- ema average + (1 - ema) weights              the averaged weights are validated and exported
masked     =  E_t (1 / t) sum over masked i of -log p(x_0^i | x_t)    (Sahoo et al. 2024, arXiv:2406.07524, eq. 10)

With t uniform the number of masked tokens is uniform on 0 .. L: the weight 1 / t becomes one over the realised number
of masks, which has the same expectation and far less noise (Ou et al. 2025, arXiv:2406.03736).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iterref.models.transformer import Memory, Transformer
from iterref.training.config import TrainConfig
from iterref.training.data import EOS, Batch, Pairs


class Diverged(RuntimeError):
    """A loss, a gradient or a weight that is not finite."""


@dataclass
class Trainer:
    """The network, whether it has prompts, its running average, the optimizers, the steps done, the seconds spent, the
    running `mean` of the loss and its `curve`: (step, seconds, mean, validation)."""

    config: TrainConfig
    network: Transformer
    prompted: bool = True
    average: dict[str, Tensor] = field(init=False)
    optimizers: list[torch.optim.Optimizer] = field(init=False)
    step: int = 0
    seconds: float = 0.0
    mean: float = nan
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        # weight decay is for matrices only: gains, biases and the token table are left alone
        plain, rows, matrices = list[torch.nn.Parameter](), list[torch.nn.Parameter](), list[torch.nn.Parameter]()
        for p in self.network.parameters():
            alone = p.ndim < 2 or p is self.network.table.weight
            (plain if alone else matrices if min(p.shape) > 1 else rows).append(p)
        if self.config.optimizer == "adamw":
            rows, matrices = rows + matrices, []
        decay = self.config.weight_decay
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": rows, "weight_decay": decay}]
        self.optimizers = [torch.optim.AdamW(groups, lr=self.config.rate, betas=(0.9, 0.98))]
        if matrices:
            rate = self.config.matrix_rate
            muon = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self.optimizers.append(muon)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The masked loss, and the mean binary cross-entropy of the encoder's kept flags."""
        source, target, keep = batch
        # without its cache, which within another autocast would keep the weights of earlier steps
        half = self.config.precision == "bfloat16"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half, cache_enabled=False):
            memory = self.network.encode(source)
            weight = token_weight(target, self.config.end_weight)
            loss = masked_loss(self.network, memory, target, weight, generator, self.config.copies)
            logits = self.network.keep(memory.states).float().squeeze(-1)[memory.present]
        return loss, F.binary_cross_entropy_with_logits(logits, keep[memory.present])

    def update(self, batch: Batch) -> float:
        """One optimizer step; returns the loss. Its noise depends on the seed and the step only, so a run that was
        interrupted goes on as if it had not been. Raises `Diverged` before the weights are touched."""
        generator = torch.Generator().manual_seed((self.config.seed + 1) * 1_000_000_007 + self.step)
        loss, side = self.loss(batch, generator)
        (loss + self.config.keep_weight * side).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip))
        value = float(loss.detach())
        if not isfinite(value) or not isfinite(norm):
            raise Diverged(f"the loss is {value:g} and the norm of its gradient {norm:g}")
        scale = self.config.rate_share(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # the average forgets its start quickly at first, so that an early export is usable too
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            live = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(list(self.average.values()), live, 1 - decay)
        self.step += 1
        self.mean = value if self.step == 1 else 0.98 * self.mean + 0.02 * value
        return value

    @torch.no_grad()
    def validate(self, pairs: Pairs) -> float:
        """Masked loss of the averaged weights, the same masks every time. Raises `Diverged` where it is not finite."""
        live = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        generator = torch.Generator().manual_seed(1)
        order = sorted(range(len(pairs.sources)), key=lambda i: len(pairs.sources[i]))
        groups = [order[i : i + self.config.batch] for i in range(0, len(order), self.config.batch)]
        try:
            self.network.load_state_dict(self.average)
            total = sum(float(self.loss(pairs.batch(group), generator)[0]) * len(group) for group in groups)
        finally:
            self.network.load_state_dict(live)
        if not isfinite(total):
            raise Diverged(f"the validation loss is {total / len(order):g}")
        return total / len(order)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs. Raises `Diverged` for weights that are not finite as float16."""
        for name, weight in [*self.network.named_parameters(), *self.average.items()]:
            if not bool(weight.half().isfinite().all()):
                raise Diverged(f"the weights {name} hold numbers beyond those of float16")
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a `state`. Raises `RuntimeError`, `KeyError`, `TypeError` or `ValueError` for one of another run."""
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if {name: p.shape for name, p in state["average"].items()} != {n: p.shape for n, p in self.average.items()}:
            raise ValueError("the averaged weights are others")
        self.average = state["average"]
        for name in PROGRESS:
            setattr(self, name, state[name])


PROGRESS = ("step", "seconds", "mean", "curve")


def spread_times(rows: int, generator: torch.Generator) -> Tensor:
    """Times (rows,) in (0, 1], one in each of `rows` equal cells in random order: uniform, with little variance of the
    batch's mean (Kingma et al. 2021, arXiv:2107.00630, appendix I.1)."""
    cell = torch.randperm(rows, generator=generator)
    return 1 - (cell + torch.rand(1, generator=generator)) / rows


def masked_loss(
    network: Transformer, memory: Memory, target: Tensor, weight: Tensor, generator: torch.Generator, copies: int = 1
) -> Tensor:
    """Masked diffusion loss, nats a token, of targets (B, L) long given their encoded sources. Every target is masked
    in `copies` independent ways, which share the encoded source. `weight` (B, L) scales the loss of each token, as for
    the repeated end tokens, which say nothing once the first is known."""
    x_0 = target.repeat_interleave(copies, dim=0)
    t = spread_times(len(x_0), generator)[:, None]
    where = torch.rand(x_0.shape, generator=generator) < t
    states = network.decode(x_0.masked_fill(where, network.options.mask), memory)
    log_p = network.target_log_probs(states, memory, where, x_0)
    share = weight.repeat_interleave(copies, dim=0) * where / where.sum(1, keepdim=True).clamp_min(1)
    return -(log_p * share[where]).sum() / len(x_0)


def token_weight(target: Tensor, end_weight: float) -> Tensor:
    """Weights (B, L): 1 up to and with the first EOS, `end_weight` on the repeated ones."""
    return torch.where((target == EOS).cumsum(1) > 1, end_weight, 1.0)
