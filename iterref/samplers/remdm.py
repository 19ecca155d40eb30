"""ReMDM: plain sampling that puts shown tokens back, so that early mistakes can be fixed. No reward.

    a shown token is masked again with chance sigma;   a mask is shown with chance  (a_u - (1 - sigma) a_t) / (1 - a_t)

Both together keep q(x_u | x_0): after the step a known token is shown with probability
a_t (1 - sigma) + (a_u - (1 - sigma) a_t) = a_u, so that a denoiser trained without remasking meets the states that it
knows. Both are probabilities for sigma <= sigma_max = min(1, (1 - a_u) / a_t).

    cap       sigma = min(eta, sigma_max)
    rescale   sigma = eta sigma_max
    loop      a_t rises to `held` by time `on`, stays there until `off` with sigma = min(eta, sigma_max), then rises to
              1; no remasking outside the loop
    conf      sigma^i = m w_i,  m = eta sigma_max,  w = softmax over the shown tokens of -(probability they were drawn
              with): m tokens a row are put back in the mean, the doubtful ones first

`conf` as published shows masks at the plain rate (a_u - a_t) / (1 - a_t), which leaves m masks a step too many and does
not keep the marginals. Here the m tokens put back are paid for by m more shown among the h masks of the row, each with
chance m / h more, and m is held to h (1 - a_u) / (1 - a_t), all that they can pay. The mean share of masks is then
1 - a_u whatever the confidences, and every marginal is kept where they are equal.

Under any other noise nothing shows which tokens are clean, but for sigma <= 1 - a_u the step above is the same as:
draw x_0 at x_t, renoise x_t to a' <= a_t, and bridge from a' to a_u with that x_0. A clean token is lost on the way
with probability (1 - a'/a_t) (1 - a_u) / (1 - a') = sigma, so

    a' = a_t (1 - a_u - sigma) / (1 - a_u - sigma a_t)

which asks for no mask, and keeps q(x_u | x_0) because both halves do. So it goes, with sigma_max = 1 - a_u; `conf` then
weighs every position by the probability of its clean sample.

Where the posterior is a product (one token, a factorised distribution) cap, rescale and loop sample the model exactly.
Elsewhere they err by drawing several tokens at once, as plain sampling does. A token that is put back is drawn again in
a fuller context, but late in a run beside others that are drawn again too: with an exact denoiser only the loop, with
more steps than tokens and a small eta, comes nearer to the model than the same grid without remasking. What the authors
report on text is that mistakes of a network are fixed.

Wang, Schiff, Sahoo, Kuleshov (2025), arXiv:2503.00307, sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.decoding import grid
from iterref.noise import Schedule
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Sampler, State


@dataclass(frozen=True)
class Remembering(State):
    """A state that remembers how sure its tokens were: `sure` (B, L) float64, the probability that every shown token
    was drawn with (`conf`, absorbing noise)."""

    sure: Tensor


@dataclass(frozen=True)
class ReMDM(Sampler):
    """Plain sampling in `steps` grid steps with remasking.

    schedule: `cap`, `rescale`, `loop` or `conf`. eta: in [0, 1], the strength; 0 never remasks. on, off, held: the
    loop's first and last time, and the share of clean tokens that it holds."""

    name: ClassVar[str] = "remdm"
    knob: ClassVar[str] = "steps"  # a finer grid, and more chances to fix

    steps: int = 16
    schedule: Literal["cap", "rescale", "loop", "conf"] = "cap"
    eta: float = 0.05
    on: float = 0.55
    off: float = 0.05
    held: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1)
        self._require_share("eta")
        defaults = {name: type(self).__dataclass_fields__[name].default for name in ("on", "off", "held")}
        unused = [name for name, value in defaults.items() if getattr(self, name) != value]
        if unused and self.schedule != "loop":
            raise ValueError(f"remdm: {unused[0]} belongs to schedule=loop: leave it out, or say the schedule")
        if not (0 < self.off < self.on < 1 and 0 < self.held < 1):
            got = f"{self.off}, {self.on} and {self.held}"
            raise ValueError(f"remdm: the loop needs 0 < off < on < 1 and 0 < held < 1, got {got}")

    def init(self, run: Run, rng: Rng) -> State:
        x = run.prior(rng)
        return Remembering(0, 1.0, x, torch.zeros(x.shape, dtype=torch.float64, device=x.device))

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One grid step; the last one shows all that is left."""
        assert isinstance(state, Remembering)
        times, levels = self.levels(run.noise.schedule)
        k = state.step
        u, a_t, a_u = times[k + 1], levels[k], levels[k + 1]
        sigma = self.sigma(k, a_t, a_u, run.noise.mask is not None)
        move = self._bridged if run.noise.mask is None else self._masked
        return replace(move(run, state, a_t, a_u, sigma, rng), step=k + 1, t=u), Info()

    def cost(self) -> Cost:
        """`steps` NFE, and one reward call to report."""
        return Cost(self.steps, 1, self.steps)

    def levels(self, schedule: Schedule) -> tuple[list[float], list[float]]:
        """The times of the grid, as the denoiser is told them, and their shares a_t of clean tokens."""
        t = torch.tensor(grid(self.steps), dtype=torch.float64)
        if self.schedule != "loop":
            return t.tolist(), schedule.a(t).tolist()
        rising = self.held * schedule.a(((t - self.on) / (1 - self.on)).clamp_min(0))
        ending = self.held + (1 - self.held) * schedule.a((t / self.off).clamp_max(1))
        a = torch.where(t > self.on, rising, torch.where(t < self.off, ending, self.held))
        told = schedule.time(a)
        told[0], told[-1] = 1.0, 0.0
        return told.tolist(), a.tolist()

    def sigma(self, k: int, a_t: float, a_u: float, masked: bool) -> float:
        """The chance that step k puts a shown token back (with `conf`, how many a row in the mean)."""
        most = min(1.0, (1 - a_u) / max(a_t, 1e-300)) if masked else 1 - a_u
        looping = self.schedule != "loop" or self.off < grid(self.steps)[k] <= self.on
        if self.schedule in ("cap", "loop"):
            return min(self.eta, most) if looping else 0.0
        return self.eta * most

    def _masked(self, run: Run, state: Remembering, a_t: float, a_u: float, sigma: float, rng: Rng) -> Remembering:
        """The step under absorbing noise. Which masks fall is settled first, and the denoiser asked for those alone."""
        assert run.noise.mask is not None
        x_t, free = state.x_t, run.free
        where = run.undetermined(x_t, state.t)
        again, more = self._remasking(where, free & ~where, state.sure, a_t, a_u, sigma)
        last = state.step + 1 == self.steps
        falls = where if last else where & rng.fork("reveal").bernoulli(((a_u - a_t) / (1 - a_t) + more) * where)
        back = free & ~where & rng.fork("remask").bernoulli(again * ~where)
        x_0, log_p = run.draw(x_t, state.t, run.asked(where, falls), 1, rng.fork("draw"))
        x_u = torch.where(back & (not last), run.noise.mask, torch.where(falls, x_0[0], x_t))
        return replace(state, x_t=x_u, sure=torch.where(falls, log_p[0].exp(), state.sure))

    def _remasking(
        self, where: Tensor, shown: Tensor, sure: Tensor, a_t: float, a_u: float, sigma: float
    ) -> tuple[Tensor, Tensor]:
        """Chances (B, L) or (): that a shown token is put back, and how much likelier a mask is shown in return."""
        if self.schedule != "conf":
            again = torch.tensor(sigma, dtype=torch.float64, device=where.device)
            return again, again * a_t / (1 - a_t)
        masks = where.sum(1, keepdim=True).double()
        mass = (masks * (1 - a_u) / (1 - a_t)).clamp_max(sigma) * shown.any(1, keepdim=True)
        return mass * _doubt(sure, shown), (mass / masks.clamp_min(1)).expand(where.shape)

    def _bridged(self, run: Run, state: Remembering, a_t: float, a_u: float, sigma: float, rng: Rng) -> Remembering:
        """The step under any other noise: back to a', and forth by the clean sample made at x_t."""
        where = run.undetermined(state.x_t, state.t)
        x_0, log_p = run.draw(state.x_t, state.t, where, 1, rng.fork("draw"))
        if state.step + 1 == self.steps:
            return replace(state, x_t=x_0[0])
        chance = torch.tensor(sigma, dtype=torch.float64, device=where.device)
        if self.schedule == "conf":
            chance = chance * _doubt(log_p[0].exp(), where)
        now, there = chance.new_tensor(a_t), chance.new_tensor(a_u)
        a_s = a_t * (1 - a_u - chance) / (1 - a_u - chance * a_t)
        x_s = run.noise.corrupt(state.x_t, now, a_s, rng.fork("back"))
        x_u = run.noise.bridge(x_s, x_0[0], a_s, there, rng.fork("forth"))
        return replace(state, x_t=torch.where(run.free, x_u, state.x_t))


def _doubt(sure: Tensor, among: Tensor) -> Tensor:
    """Weights (B, L) that sum to one over the True cells of `among`, largest for the least sure; 0 in an empty row."""
    weight = torch.where(among, (-sure).exp(), 0.0)  # probabilities: no exponent can overflow
    total = weight.cumsum(1)[:, -1:]
    return weight / total.clamp_min(1e-300)

