"""Choose-and-accept rules of multiple-try Metropolis, in log space. No diffusion in here.

    metropolised   propose n with probability w_n / (S - w_current), accept with min(1, (S - w_current) / (S - w_n)),
                   S = w_current + sum_n w_n                                                (metropolised i-SIR)
    multiple_try   propose n with probability w(y_n|x) / sum w(y|x), accept with min(1, sum w(y|x) / sum w(x*|y))
    metropolis     accept with min(1, ratio)

A weight of zero (log -inf) is a hard constraint: it is never proposed, and a row without any positive weight stays.

Liu, Liang and Wong (2000), JASA 95; Liu (1996), Biometrika 83; Andrieu, Lee and Vihola (2018), arXiv:1312.6432;
Gagnon, Maire and Zanella (2022), arXiv:2211.11613.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iterref.arrays import arrays, like
from iterref.random import Rng

# The logarithm of a weight that is as good as infinite against those that are at most one.
LARGEST = 700.0
# Above all log-weights that are no mistake: from an infinite one it leaves an infinite weight, which is refused.
FINITE = 1e300


@dataclass(frozen=True)
class Verdict:
    """What a rule decided a row: `choice` (R,) the proposed candidate, `accepted` (R,) bool, `stuck` (R,) bool; arrays
    of a host where the weights were.

    A row is stuck when every candidate has weight zero: it keeps its state. `chance` (R,), or (R, N) where candidates
    are tested in turn, are the probabilities with which a test accepts; None where nothing is left to chance."""

    choice: Tensor
    accepted: Tensor
    stuck: Tensor
    chance: Tensor | None = None


def select(log_w: Tensor, rng: Rng) -> Verdict:
    """Importance resampling: one of (R, N) log-weights, always accepted (a stuck row takes the first)."""
    w, _, stuck = _weights(log_w)
    return Verdict(*(like(log_w, x) for x in (rng.choose(w, log=False), stuck | True, stuck)))


def metropolised(log_w_current: Tensor, log_w: Tensor, rng: Rng) -> Verdict:
    """Metropolised i-SIR over the current state (R,) and N exchangeable candidates (R, N).

    Leaves the distribution proportional to prior times weight invariant, and is reversible, whenever current state and
    candidates are exchangeable under the prior given what they share. It needs no reference set."""
    w, peak, stuck = _weights(log_w)
    xp, now = arrays(log_w_current)
    kept = xp.exp(xp.most(now - peak, LARGEST))
    w[:, 0] += 0.0 * kept  # a NaN among the current weights is found with those among the candidates'
    choice: Any = rng.fork("choose").choose(w, log=False)
    total = xp.cumsum(w)[:, -1]  # never below one of its terms, so that what is left of it never falls below zero
    others = total - w[xp.arange(w.shape[0], w), choice] + kept
    chance = total / xp.maximum(others, total)
    accepted = rng.fork("accept").bernoulli(xp.where(stuck, 0.0, chance), checked=True)
    return Verdict(*(like(log_w, x) for x in (choice, accepted, stuck, chance)))


def propose(log_w: Tensor, rng: Rng) -> Verdict:
    """The first half of the textbook rule: a weighted choice among (R, N); acceptance is still open."""
    verdict = select(log_w, rng)
    return Verdict(verdict.choice, ~verdict.stuck, verdict.stuck)


def multiple_try(log_forward: Tensor, log_backward: Tensor, log_gain: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """The second half: accept with min(1, gain * sum forward / sum backward), (R, N), (R, N), (R,) -> (R,) bool and
    that probability (R,).

    `log_backward` holds the weights of the N - 1 reference draws and of the current state, seen from the proposal;
    `log_gain` is a factor common to a side: where it is +inf (the current state has density zero) the proposal is
    accepted, where it is -inf or undefined it is refused."""
    log_ratio = log_gain + log_forward.contiguous().logsumexp(1) - log_backward.contiguous().logsumexp(1)
    log_ratio = torch.where(torch.isposinf(log_gain), 0.0, log_ratio).nan_to_num(nan=-torch.inf)
    chance = log_ratio.clamp_max(0).exp()
    return rng.bernoulli(chance), chance


def metropolis_first(log_ratio: Tensor, rng: Rng) -> Verdict:
    """Tests (R, N) candidates one after the other by Metropolis' rule and takes the first that passes.

    The published procedure's treatment of its pool (Lee et al. 2025, arXiv:2511.05562). For N > 1 it leaves another
    distribution than the target invariant (`docs/correctness.md` derives which): a rejected pool is tested again. Kept
    to reproduce, and as the negative control. """
    log_ratio = torch.where(log_ratio.isnan(), -torch.inf, log_ratio)  # zero against zero: both are forbidden
    chance = log_ratio.clamp_max(0).exp()
    passed = rng.bernoulli(chance)
    stuck = torch.isneginf(log_ratio).all(-1)
    return Verdict(passed.long().argmax(1), passed.any(1), stuck, chance)


def _weights(log_w: Tensor) -> tuple[Any, Any, Any]:
    """Weights (R, N) of log-weights over their largest (R,), as arrays, and which rows are stuck: these have everything
    on the first candidate. Contiguous ones, since a sum's last bits depend on strides, and strides on the batch."""
    xp, given = arrays(log_w)
    given = xp.doubles(given)
    peak = xp.amax(given)
    stuck = peak == -torch.inf
    peak = xp.where(stuck, 0.0, xp.most(peak, FINITE))
    w = xp.exp(given - peak[:, None])
    w[:, 0] += stuck
    return w, peak, stuck
