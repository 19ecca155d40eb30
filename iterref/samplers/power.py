"""Power sampling: the decoder's distribution raised to a power, by redrawing the tails of its paths.

    path x_1, ..., x_0 of plain decoding, p(path) the likelihood of the tokens that its steps settle
    move    a grid index that does not look at the path; N new tails from there; choose and accept by
            `mtm.metropolised` with the weights  p(tail)^a / q(tail) exp(r(x_0) / alpha),  q what tails are drawn by

So a move leaves P_decoder(path) p(path)^(a - 1) exp(r(x_0) / alpha) invariant, whatever the model. Where one token is
settled at a time, in an order that does not look at the tokens, and the model's conditionals are those of one
distribution p, this is p(x_0)^a exp(r(x_0) / alpha). With a reward that is constant it is power sampling as published:
texts of higher likelihood, which is not what a lower temperature of each step gives (that does not look at what is to
come). a = 1 is `trajectory`.

Tails are drawn where they are likely: from the sharpened posteriors  q_i = p_i^a / Z_i,  as published, so that what is
left of the weight is the product of the  Z_i = sum_v p_i(v)^a  of what was settled. Plain tails have weights p^(a - 1),
which a handful of tails cannot bear: on the Markov world (a = 2, 144 NFE) they end at -1.09 nats a token, not at
-0.45. They serve where what is settled depends on draws that nobody weighs: in the order of confidence, under noise
without a mask, and under a constraint, whose draws are joint.

Karan and Du (2025), arXiv:2510.14901, for autoregressive models, with one tail a move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from iterref.decoding import BLIND, NOTHING, confidence, grid
from iterref.guidance import Tempered
from iterref.moves.likely import expect_likely, likely_step
from iterref.random import BLOCK, Rng
from iterref.run import Run, Time
from iterref.samplers.base import State
from iterref.samplers.trajectory import Recorded, Trajectory


@dataclass(frozen=True)
class Likely(Recorded):
    """Paths with the log-weight of what each of their steps settled, log p^a / q, `log_w` (R, K) float64."""

    log_w: Tensor


@dataclass(frozen=True)
class Power(Trajectory):
    """As `trajectory`, for the decoder's distribution to the power `exponent`, a > 0, tilted by the reward."""

    name: ClassVar[str] = "power"
    _recorded: ClassVar[type[Recorded]] = Likely

    exponent: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_likely(self.name, self.order)
        if not self.exponent > 0:
            raise ValueError(f"power: exponent must be positive, got {self.exponent}: above 1 prefers likely texts")

    def _marks(self, state: State) -> list[Tensor]:
        return [state.log_w] if isinstance(state, Likely) else []

    def _log_weight(self, reward: Tensor, marks: list[Tensor], alpha: Time) -> Tensor:
        """r / alpha and the weights of all steps of the tail."""
        return reward / alpha + marks[0].cumsum(-1)[..., -1]

    def _tails(
        self, run: Run, x: Tensor, start: int, before: list[Tensor], n: int, alpha: Time, rng: Rng
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """As `trajectory`'s, with the weights of their steps."""
        sharp = self.order in BLIND and run.noise.mask is not None and run.constraint is None
        wide = (sharpened(run, self.exponent) if sharp else run).repeat(n)
        streams, x, times = rng.repeat(n), x.repeat(n, 1), grid(self.steps)
        score = partial(log_mass, exponent=self.exponent) if sharp else confidence
        states, log_ws = [], []
        for k in range(start, self.steps):
            x, settled = likely_step(wide, self.decoder, x, times[k], times[k + 1], streams.fork(k), score)
            states.append(x)
            log_ws.append(settled if sharp else (self.exponent - 1) * settled)  # q = p
        path = rearrange(torch.stack(states, 1), "(n b) k l -> n b k l", n=n)
        log_w = rearrange(torch.stack(log_ws, 1), "(n b) k -> n b k", n=n)
        return path, run.reward_of(path[:, :, -1], final=True), [log_w]


def sharpened(run: Run, exponent: float) -> Run:
    """The sequences of a run with posteriors to a power, counted by its meter."""
    sharp = Run(replace(run.problem, denoiser=Tempered(run.denoiser, 1 / exponent)))
    sharp.meter = run.meter
    return sharp.take(run.rows)


def log_mass(q: Tensor, drawn: Tensor, log: bool = True, *, exponent: float) -> Tensor:
    """log Z = log sum p^a of the distributions p whose power q = p^a / Z is given, (M, V), as a score -> (n, M)
    float64: p sums to one, so Z is (sum q^(1 / a))^-a."""
    step = max(1, BLOCK[q.is_cuda] // q.shape[1])
    parts = []
    for part in q.split(step):
        root = ((part if log else part.log()).double() / exponent).clamp_(min=NOTHING).exp_()
        parts.append(root.cumsum_(1)[:, -1].clone())  # a running sum, the same bits in every batch
    return (-exponent * torch.cat(parts).log()).expand(drawn.shape)
