"""Pilots: rewards of unguided samples, from which levels and spreads are estimated before a run.

x_1 ... x_n ~ p(x), the model without guidance;      the pilot holds r(x_1) ... r(x_n)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def pilot_rewards(pilot: Any) -> np.ndarray:
    """The rewards (n,) or (B, n) float64 of a pilot: numbers, or the `Result` of a run without guidance.

    Raises ValueError for a run that chose among samples by their reward, for no rewards, and for NaN or +inf.
    """
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
