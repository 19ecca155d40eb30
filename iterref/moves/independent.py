"""Independent tries: each with its own noisy state, for the textbook's multiple-try rule and for the published one.

    y_n ~ T(x, .), n = 1 .. N:  x_s^n ~ q(x_s | x_t), x_0^n ~ p(. | x_s^n), x_t^n ~ q(x_t | x_s^n, x_0^n)

T is reversible for p(x_0) q(x_t | x_0) under the same conditions as the shared kernel's draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor

from iterref import mtm
from iterref.budget import Cost
from iterref.decision import Decision
from iterref.moves.renoise import Excursion, renoise, returned
from iterref.particles import adopt, pick
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import Info, Paired


@dataclass(frozen=True)
class Tries:
    """Candidates `x_t`, `x_0` (N, R, L) with their `reward` (N, R), and the `trip` that each of them made."""

    x_t: Tensor
    x_0: Tensor
    reward: Tensor
    trip: Excursion


def tries(run: Run, x_t: Tensor, trip: Excursion, n: int, spacing: int, rng: Rng) -> Tries:
    """N independent excursions from (R, L) states."""
    wide, streams, back = run.repeat(n), rng.repeat(n), trip.repeat(n)
    noisy = renoise(wide, repeat(x_t, "b l -> (n b) l", n=n), back, spacing, streams.fork("reopen"))
    x_s, x_0 = returned(wide, noisy, back, streams)
    y_t, y_0 = (rearrange(y, "(n b) l -> n b l", n=n) for y in (x_0 if trip.t == 0 else x_s, x_0))
    return Tries(y_t, y_0, run.reward_of(y_0, final=trip.t == 0), trip)


@dataclass(frozen=True)
class Textbook:
    """Multiple-try Metropolis as in the textbook (`samplers.mtm`), with weights of a `balance` g. For 1 the reference
    set cancels; the factor of w that is left over is exactly exp((r(y) - r(x)) / alpha), for every g."""

    tries: int
    balance: float = 0.0
    spacing: int = 0

    def propose(self, run: Run, state: Paired, trip: Excursion, rng: Rng) -> Tries:
        return tries(run, state.x_t, trip, self.tries, self.spacing, rng.fork("forward"))

    def decide(self, run: Run, state: Paired, new: Tries, alpha: Time, rng: Rng) -> tuple[Paired, Info]:
        g, n = self.balance, self.tries
        log_forward = self._tilt(new.reward, alpha).T
        verdict = mtm.propose(log_forward, rng.fork("propose"))
        y_t, r_y = pick(new.x_t, verdict.choice), pick(new.reward, verdict.choice)
        log_backward = self._tilt(state.reward, alpha)[:, None]
        if n > 1:
            reference = tries(run, y_t, new.trip, n - 1, self.spacing, rng.fork("reference"))
            log_backward = torch.cat([self._tilt(reference.reward, alpha).T, log_backward], 1)
        gain = (r_y - state.reward) * g / alpha if g else torch.zeros_like(r_y)
        gain = torch.where(torch.isneginf(state.reward) & ~torch.isneginf(r_y), torch.inf, gain)
        accepted, chance = mtm.multiple_try(log_forward, log_backward, gain, rng.fork("accept"))
        stuck = torch.isneginf(new.reward).all(0)  # for g = 1 the weights do not say so
        verdict = mtm.Verdict(verdict.choice, accepted & verdict.accepted, stuck, chance)
        return _moved(state, new, verdict, in_turn=False)

    def cost(self, steps: int) -> Cost:
        rows = 2 * self.tries - 1
        return Cost(rows * steps, rows, steps * (2 if self.tries > 1 else 1))

    def _tilt(self, reward: Tensor, alpha: Time) -> Tensor:
        """The part of log w that differs between candidates: (1 - g) r / alpha, zero for g = 1 whatever r is."""
        return reward * (1 - self.balance) / alpha if self.balance < 1 else torch.zeros_like(reward)


@dataclass(frozen=True)
class InTurn:
    """The published rule: in random order, take the first candidate that passes Metropolis' test against the current
    state. **Biased for N > 1**: a rejected pool is tested again (`samplers.published`)."""

    tries: int
    spacing: int = 0

    def propose(self, run: Run, state: Paired, trip: Excursion, rng: Rng) -> Tries:
        """The pool. Its members are independent and identically distributed, so their order is a uniform random one."""
        return tries(run, state.x_t, trip, self.tries, self.spacing, rng.fork("forward"))

    def decide(self, run: Run, state: Paired, new: Tries, alpha: Time, rng: Rng) -> tuple[Paired, Info]:
        verdict = mtm.metropolis_first(((new.reward - state.reward) / alpha).T, rng.fork("test"))
        return _moved(state, new, verdict, in_turn=True)

    def cost(self, steps: int) -> Cost:
        return Cost(self.tries * steps, self.tries, steps)


def _moved(state: Paired, new: Tries, verdict: mtm.Verdict, in_turn: bool) -> tuple[Paired, Info]:
    x_t, x_0, reward = (
        adopt(verdict.accepted, pick(of, verdict.choice), old)
        for of, old in ((new.x_t, state.x_t), (new.x_0, state.x_0), (new.reward, state.reward))
    )
    tested = verdict.choice, verdict.accepted, verdict.chance, state.reward
    decision = Decision(new.x_0, new.reward, *tested, in_turn=in_turn)
    info = Info(verdict.accepted.double(), verdict.stuck, (x_0 != state.x_0).sum(1), decisions=(decision,))
    return replace(state, x_t=x_t, x_0=x_0, reward=reward), info
