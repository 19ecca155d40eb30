"""The training loop of the bundled reward models: resumable, deterministic, one core.

    matrices by Muon (Jordan et al. 2024), all else by AdamW; warm-up, plateau, linear fall; averaged weights are kept

Muon's iteration runs in float32 here: processors without bfloat16 arithmetic take seconds a step for torch's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by five Newton-Schulz steps, scaled to the size of AdamW's updates."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(momentum, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V' of U S V', by Muon's quintic iteration."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@dataclass(frozen=True)
class Plan:
    """How long and how fast: `steps` in all, `warmup` up, `cooldown` down to 0; rates; the average's decay. Without
    `muon` AdamW has the matrices too."""

    steps: int
    warmup: int = 100
    cooldown: int = 1_000
    matrix_rate: float = 4e-3
    rate: float = 2e-3
    weight_decay: float = 0.05
    average: float = 0.998
    clip: float = 1.0
    seed: int = 0
    muon: bool = True

    def share(self, step: int) -> float:
        """The rate at a step, as a share of its peak."""
        return min(1.0, (step + 1) / max(1, self.warmup), (self.steps - step) / max(1, self.cooldown))


@dataclass
class Loop:
    """A network on its way. `loss(network, batch)` gives the loss of a batch; noise comes from torch's generator,
    which is seeded anew at every step, so that a run that was interrupted goes on as if it had not been."""

    network: nn.Module
    plan: Plan
    loss: Callable[[nn.Module, Any], Tensor]
    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        inner = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
        outer = [p for name, p in named.items() if p.ndim != 2 or "embed" in name]
        groups = [{"params": outer, "weight_decay": 0.0}]
        if not self.plan.muon:
            groups.append({"params": inner, "weight_decay": self.plan.weight_decay})
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=self.plan.rate, betas=(0.9, 0.98))]
        if self.plan.muon:
            self.optimizers.append(Muon(inner, self.plan.matrix_rate, weight_decay=self.plan.weight_decay))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        self.average = {name: p.detach().clone() for name, p in named.items()}

    def run(self, batches: Callable[[int], Iterator[Any]], checkpoint: Path, every: int = 100) -> nn.Module:
        """Trains to the end from the checkpoint, if there is one, and gives the network with its averaged weights.

        `batches(step)` are the batches from a step on. Losses are logged and the checkpoint is written `every` steps.
        """
        if checkpoint.is_file():
            self._restore(checkpoint)
        losses: list[float] = []
        begun = time.perf_counter() - self.seconds
        self.network.train()
        for batch in batches(self.step) if self.step < self.plan.steps else ():
            losses.append(self._update(batch))
            if self.step % every == 0 or self.step == self.plan.steps:
                self.seconds = time.perf_counter() - begun
                self.curve.append((self.step, self.seconds, sum(losses) / len(losses)))
                logger.info("step %d  %.0f s  loss %.4f", *self.curve[-1])
                losses = []
                self._save(checkpoint)
            if self.step == self.plan.steps:
                break
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                if name in self.average:
                    p.copy_(self.average[name])
        return self.network.eval()

    def _update(self, batch: Any) -> float:
        torch.manual_seed((self.plan.seed + 1) * 1_000_000_007 + self.step)
        loss = self.loss(self.network, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip)
        share = self.plan.share(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # the average forgets its start quickly at first
        decay = min(self.plan.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                if name in self.average:
                    self.average[name].lerp_(p, 1 - decay)
        self.step += 1
        return float(loss.detach())

    def _save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(), "average": self.average, "step": self.step, "seconds": self.seconds,
            "curve": self.curve, "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def _restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]
        self.curve = state["curve"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def by_length(lengths: Sequence[int], tokens: int, seed: int) -> Callable[[int], Iterator[list[int]]]:
    """Endless batches of about `tokens` tokens of rows of like length, in random order: a function of the first step,
    so that a resumed run sees what it would have seen."""

    def epoch(number: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        order = torch.randperm(len(lengths), generator=generator).tolist()
        cut: list[list[int]] = []
        for start in range(0, len(order), 4096):
            pool = sorted(order[start : start + 4096], key=lambda i: lengths[i])
            while pool:
                size = max(1, tokens // lengths[pool[-1]])
                cut.append(pool[-size:])
                del pool[-size:]
        return [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]

    def batches(step: int) -> Iterator[list[int]]:
        number = done = 0
        while True:
            groups = epoch(number)
            if step < done + len(groups):
                yield from groups[max(0, step - done) :]
            done += len(groups)
            number += 1

    return batches
