"""SVDD: several candidates at every grid step, one of them chosen by its soft value; a search without backtracking.

    x_0^n ~ p(. | x_t),  x_u^n ~ q(x_u | x_t, x_0^n),  n = 1 .. N from one evaluation;   choose n ~ exp(v_n / alpha)

    value="mode"        v_n = r(x^_0^n), the likeliest token of p(. | x_u^n) at every position          (SVDD-PM)
    value="posterior"   v_n = alpha log mean_g exp(r(x_0^ng) / alpha),  x_0^ng ~ p(. | x_u^n)
    value="sample"      v_n = r(x_0^n), the reward of the very clean sample that the candidate came from
    value="partial"     v_n = V(x_u^n), what the reward says of the unfinished candidate            (learnt: SVDD-MC)

"mode" and "posterior" evaluate the denoiser at every candidate; the chosen one's evaluation also makes the samples of
the next step, so a run takes 1 + N (steps - 1) NFE. "sample" and "partial" take `steps`. At the last step candidates
are finished texts and v is their reward. To `maximise`, every step takes the candidate of highest value, the paper's
alpha -> 0. That, with "mode", is what the authors' code does.

The distribution. N = 1 is plain sampling. With "posterior", as N and the samples grow, each step tends to the
optimal policy  p(x_u | x_t) E[exp(r(x_0) / alpha) | x_u],  and the run to the tilted distribution wherever the drawn
joint distribution is the true conditional. For finite N it samples *neither* distribution but one between, tilted too
little: nothing corrects for the choice among few. That is what `smc` does with weights and `iterref` with an accept
step.

Li et al. (2024), arXiv:2408.08252, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iterref import mtm
from iterref.budget import Cost
from iterref.decision import Decision
from iterref.decoding import grid
from iterref.particles import Particles, pick
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Aimed, Decoded, Info, Paired, State


@dataclass(frozen=True)
class Drawn(Paired):
    """A state whose evaluation has been used: `draws` (N, B, L) at x_t for the next step's candidates, and how sure
    the model is of them, `sure` (N, B, L) float64."""

    draws: Tensor
    sure: Tensor


@dataclass(frozen=True)
class SVDD(Aimed, Decoded):
    """Soft value-based decoding.

    tries: candidates N of a grid step. value: what a candidate is worth, the reward of the likeliest tokens (`mode`),
    of drawn clean samples (`posterior`), or of the one that it came from (`sample`), or what the reward says of it
    unfinished (`partial`). x0_samples: how many clean samples estimate the value of a candidate (`posterior`).
    objective: `sample` chooses by weight, `maximise` the candidate of highest value at every step."""

    name: ClassVar[str] = "svdd"
    knob: ClassVar[str] = "tries"

    tries: int = 8
    value: Literal["mode", "posterior", "sample", "partial"] = "mode"
    x0_samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, tries=1, x0_samples=1)
        if self.value != "posterior" and self.x0_samples > 1:
            raise ValueError(f"svdd: x0_samples > 1 needs value=posterior: with value={self.value} there is one")

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step: N candidates, their values, one choice."""
        n, wide, streams = self.tries, run.repeat(self.tries), rng.repeat(self.tries)
        t, u = grid(self.steps)[state.step : state.step + 2]
        if isinstance(state, Drawn):
            draws, sure = state.draws, state.sure
        else:
            where = run.undetermined(state.x_t, t)
            draws, sure = run.draw(state.x_t, t, where, n, rng.fork("draw"), self.decoder.confidence)
        x_t, x_0, how = state.x_t.repeat(n, 1), draws.flatten(0, 1), sure.flatten(0, 1)
        x_u = self.decoder.reveal(wide, x_t, x_0, how, t, u, streams.fork("reveal"))
        further = u > 0 and self.value in ("mode", "posterior")
        if not further:  # a finished text is the clean sample that it came from
            valued = draws[None]
        else:
            where, modes = wide.undetermined(x_u, u), self.value == "mode"
            count, score = 0 if modes else self.x0_samples, self.decoder.confidence
            made = wide.draws(x_u, u, where, count, streams.fork("value"), score, later=n, modes=modes)
            valued = (made.modes[None] if modes else made.samples).unflatten(1, (n, -1))
        if u > 0 and self.value == "partial":
            reward = wide.partial_of(x_u, u).view(1, n, -1)
        else:
            reward = run.reward_of(valued.flatten(0, 1), final=u == 0).view(len(valued), n, -1)
        log_w = (reward / run.alpha).permute(2, 1, 0).contiguous().logsumexp(2)  # up to the number of samples
        verdict = self._choose(log_w, rng.fork("choose"))
        choice, x_u = verdict.choice, x_u.unflatten(0, (n, -1))
        ess = replace(Particles.equal(x_u), log_w=log_w.T.contiguous()).ess()
        chosen = Paired(state.step + 1, u, pick(x_u, choice), pick(valued[0], choice), pick(reward[0], choice))
        decided = (Decision(valued.flatten(0, 1), reward.flatten(0, 1)),)
        info = Info(stuck=verdict.stuck, ess=ess, decisions=decided)
        if not further:
            return chosen, info
        # What values a candidate is not what it goes on from: that would be chosen twice.
        draws, sure = made.of(choice * len(choice) + torch.arange(len(choice), device=choice.device), n)
        return Drawn(**vars(chosen), draws=draws, sure=sure), info

    def cost(self) -> Cost:
        """`sample` and `partial`: one evaluation a step. Else every candidate but the finished ones is evaluated."""
        between = self.steps - 1
        if self.value in ("sample", "partial"):
            return Cost(self.steps, self.tries * self.steps, self.steps)
        return Cost(1 + self.tries * between, self.tries * (self.x0_samples * between + 1), self.steps)

    def _choose(self, log_w: Tensor, rng: Rng) -> mtm.Verdict:
        """One of (B, N) candidates: by weight, or the heaviest; the first where none has any weight."""
        if not self.maximises:
            return mtm.select(log_w, rng)
        best = log_w.argmax(1)
        return mtm.Verdict(best, torch.ones_like(best, dtype=torch.bool), torch.isneginf(log_w).all(1))
