"""Calibration: the alpha that puts the tilted distribution at a wanted distance from the model, or mean reward.

With x_1 ... x_n ~ p and w_i = exp(r(x_i) / alpha), the target pi(x), proportional to p(x) exp(r(x) / alpha), has

    reward  E_pi[r] = sum w_i r(x_i) / sum w_i
    KL(pi || p)     = E_pi[r] / alpha - log (1/n) sum w_i
    ESS             = (sum w_i)^2 / sum w_i^2               how many samples of pi the pilot is worth

Reward and KL fall as alpha grows, since d KL / d(1/alpha) = Var_pi[r] / alpha and d E_pi[r] / d(1/alpha) = Var_pi[r];
the ESS rises. A pilot therefore supports every alpha down to the one at which its ESS is spent. It takes of the order
of exp(KL) samples to know a distribution so far away (Chatterjee and Diaconis 2018, arXiv:1511.01437, theorem 1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Calibration:
    """What a pilot says about an `alpha`: the `kl` and mean `reward` of its target, a prompt, and how many samples of
    it the pilot is worth (`ess`, a prompt), out of `samples` a prompt."""

    alpha: float
    kl: float
    reward: float
    ess: float
    samples: float

    def __str__(self) -> str:
        told = f"alpha {self.alpha:.4g}: KL {self.kl:.3g} nats, mean reward {self.reward:.4g}"
        return f"{told}, estimated from {self.samples:g} samples that are worth {self.ess:.1f}"


def calibrate_alpha(
    pilot: Any,
    *,
    kl: float | None = None,
    reward: float | None = None,
    rows: Sequence[Any] | None = None,
    least: float = 10.0,
) -> Calibration:
    """The alpha whose target is `kl` nats from the model, or has mean reward `reward`: give one of the two.

    `pilot` holds the rewards of unguided samples: (n,) of one prompt, (B, n) of B prompts, or the `Result` of a run
    without guidance. `rows` (n,) names the prompt of each where they are listed in one row: `list(range(B)) * 32` for
    `generate(prompts * 32, sampler="ancestral")`. KL, reward and ESS are means over prompts, each with a target of its
    own. Forbidden samples (-inf) have weight 0.

    Raises ValueError for a level that no alpha has, for a prompt whose samples are all forbidden, and for a level at
    which the pilot's ESS is below `least` a prompt, saying how far it does reach."""
    wanted = kl if reward is None else reward
    if wanted is None or (kl is not None and reward is not None):
        raise ValueError("give one wanted level: kl=..., in nats, or reward=...")
    name = "mean reward" if kl is None else "KL"
    if not np.isfinite(wanted):
        raise ValueError(f"the wanted {name} must be a finite number, got {wanted}")
    tilt = _Tilt(pilot_rewards(pilot), rows)
    level = attrgetter("reward" if kl is None else "kl")
    low, high = tilt.bracket(least)
    most = tilt.at(high)
    floor, ceiling = level(tilt.at(0.0)), level(most)
    if wanted <= floor:
        forbidden = ", by what is forbidden alone," if kl is not None and floor > 0 else ""
        told = f"the model has {name} {floor:.4g} without guidance{forbidden}"
        raise ValueError(f"{told}: ask for more than that, got {wanted:g}")
    if wanted > ceiling:
        where = f"alpha {most.alpha:.3g}, where its {most.samples:g} samples a prompt are worth {most.ess:.3g}"
        told = f"the pilot supports a {name} up to {ceiling:.4g} ({where}), not {wanted:g}"
        raise ValueError(f"{told}: draw more, or ask for less")
    return tilt.at(_root(lambda beta: level(tilt.at(beta)) - wanted, low, high))


def pilot_rewards(pilot: Any) -> np.ndarray:
    """The rewards (n,) or (B, n) float64 of unguided samples: numbers, or the `Result` of a run without guidance.
    Raises ValueError for a run that chose among samples by their reward, for no rewards, and for NaN or +inf."""
    sampler = getattr(pilot, "sampler", None)
    # a method that sees one reward a sample cannot have chosen by it: it only reports it
    if sampler is not None and sampler.cost().reward_calls > 1:
        raise ValueError(f"the pilot was guided by its reward ({sampler}): draw it with sampler='ancestral'")
    values = getattr(pilot, "rewards", pilot)
    if isinstance(values, torch.Tensor):
        values = values.detach().double().cpu().numpy()
    numbers = np.array(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("the pilot holds no rewards: draw some unguided samples")
    if np.isnan(numbers).any() or (numbers == np.inf).any():
        raise ValueError("the pilot holds NaN or +inf: a reward is a finite number, or -inf for a forbidden text")
    return numbers


class _Tilt:
    """The targets of a pilot of (n,) or (B, n) rewards, at any beta = 1 / alpha."""

    def __init__(self, rewards: np.ndarray, rows: Sequence[Any] | None) -> None:
        if rewards.ndim not in (1, 2):
            raise ValueError(f"the pilot has shape {rewards.shape}: give (samples,) or (prompts, samples)")
        owners = np.repeat(np.arange(rewards.size // rewards.shape[-1]), rewards.shape[-1])
        if rows is not None and rewards.shape != (len(rows),):
            raise ValueError(f"{len(rows)} rows for a pilot of shape {rewards.shape}: name the prompt of each sample")
        names, group = np.unique(owners if rows is None else np.asarray(rows), return_inverse=True)
        values = rewards.ravel()
        best = np.full(len(names), -np.inf)
        np.maximum.at(best, group, values)
        if np.isneginf(best).any():
            prompt = names[int(np.isneginf(best).argmax())]
            raise ValueError(f"all samples of prompt {prompt} in the pilot are forbidden: draw more, or allow more")
        self.excess, self.group, self.best = values - best[group], group, best  # (n,) below the best of their prompts
        self.count = np.bincount(group).astype(np.float64)

    def at(self, beta: float) -> Calibration:
        """What the pilot says about alpha = 1 / beta, the means over prompts."""
        sums = partial(np.bincount, self.group, minlength=len(self.best))
        with np.errstate(invalid="ignore"):  # 0 times -inf: a forbidden sample weighs nothing at any beta
            weights = np.where(np.isneginf(self.excess), 0.0, np.exp(beta * self.excess))
        total = sums(weights)
        mean = sums(np.where(weights > 0, self.excess, 0.0) * weights) / total  # E_pi[r - best]
        kl, ess = beta * mean - np.log(total / self.count), total**2 / sums(weights**2)
        means = (float(values.mean()) for values in (kl, self.best + mean, ess, self.count))
        return Calibration(1 / beta if beta else np.inf, *means)

    def bracket(self, least: float) -> tuple[float, float]:
        """A beta at which nothing is tilted yet, and the last one whose ESS is `least` a prompt. Raises ValueError
        where all rewards are equal, or the pilot is too small for any alpha."""
        below = -self.excess[(self.excess < 0) & np.isfinite(self.excess)]
        if not len(below):
            raise ValueError("all rewards of the pilot are equal within a prompt, so alpha changes nothing: draw more")
        start, end = 1e-9 / below.max(), 745.0 / below.min()  # beyond, only the best of a prompt have any weight
        if self.at(0.0).ess <= least:
            raise ValueError(f"the pilot has {self.at(0.0).ess:.3g} allowed samples a prompt: draw more than {least:g}")
        return start, end if self.at(end).ess >= least else _root(lambda beta: self.at(beta).ess - least, start, end)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a monotone function of beta crosses zero, sought in log beta; an end that is past it already is it."""
    from scipy.optimize import brentq  # slow to import, and rarely asked for

    if function(low) * function(high) >= 0:
        return low if abs(function(low)) < abs(function(high)) else high
    return float(np.exp(brentq(lambda log_b: function(float(np.exp(log_b))), np.log(low), np.log(high), xtol=1e-13)))
