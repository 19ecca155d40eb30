"""Power sampling: the decoder's distribution raised to a power, by redrawing the tails of its paths.

    path x_1, ..., x_0 of plain decoding, log p(path) the log-likelihood of the tokens that its steps settle
    move    a grid index that does not look at the path; N new tails from there; choose and accept by
            `mtm.metropolised` with the weights p(tail)^(a - 1) exp(r(x_0) / alpha)

The tails are draws of the decoder, so that a move leaves P_decoder(path) p(path)^(a - 1) exp(r(x_0) / alpha) invariant,
whatever the model. Where one token is settled at a time, in an order that does not look at the tokens, and the model's
conditionals are those of one distribution p, this is p(x_0)^a exp(r(x_0) / alpha). With a reward that is constant it is
power sampling as published: texts of higher likelihood, which is not what a lower temperature of each step gives (that
does not look at what is to come). a = 1 is `trajectory`.

Karan and Du (2025), arXiv:2510.14901, for autoregressive models, with one tail a move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from iterref.decoding import grid
from iterref.moves.likely import expect_likely, likely_step
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import State
from iterref.samplers.trajectory import Recorded, Trajectory


@dataclass(frozen=True)
class Likely(Recorded):
    """Paths with the log-likelihood of what each of their steps settled, `log_p` (R, K) float64."""

    log_p: Tensor


@dataclass(frozen=True)
class Power(Trajectory):
    """As `trajectory`, for the distribution of the decoder raised to the power `exponent`, a > 0, and tilted by the
    reward."""

    name: ClassVar[str] = "power"
    _recorded: ClassVar[type[Recorded]] = Likely

    exponent: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_likely(self.name, self.order)
        if not self.exponent > 0:
            raise ValueError(f"power: exponent must be positive, got {self.exponent}: above 1 prefers likely texts")

    def _marks(self, state: State) -> list[Tensor]:
        return [state.log_p] if isinstance(state, Likely) else []

    def _log_weight(self, reward: Tensor, marks: list[Tensor], alpha: Time) -> Tensor:
        """r / alpha + (a - 1) log p of the tail."""
        return reward / alpha + (self.exponent - 1) * marks[0].cumsum(-1)[..., -1]

    def _tails(
        self, run: Run, x: Tensor, start: int, before: list[Tensor], n: int, alpha: Time, rng: Rng
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """As `trajectory`'s, with their log-likelihoods."""
        wide, streams, x, times = run.repeat(n), rng.repeat(n), x.repeat(n, 1), grid(self.steps)
        states, log_ps = [], []
        for k in range(start, self.steps):
            x, log_p = likely_step(wide, self.decoder, x, times[k], times[k + 1], streams.fork(k))
            states.append(x)
            log_ps.append(log_p)
        path = rearrange(torch.stack(states, 1), "(n b) k l -> n b k l", n=n)
        settled = rearrange(torch.stack(log_ps, 1), "(n b) k -> n b k", n=n)
        return path, run.reward_of(path[:, :, -1], final=True), [settled]
