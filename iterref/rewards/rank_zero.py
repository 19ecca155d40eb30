"""Rank-0 reward: one question to a reward for all ranks that compute a network together, asked by the first of them.

Ranks in tensor parallelism (`iterref.load(..., device_map="tensor_parallel")`) hold the same texts and have to take the
same decisions. A reward that answers two ranks differently, a service that fails for one, would put them out of step:
so the first rank asks, and all get its answer, or its error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from iterref.rewards.algebra import unfinished
from iterref.rewards.base import RewardError
from iterref.rewards.partial import WrappedReward


class RankZero(WrappedReward):
    """The same reward of tokens on every rank, of which rank 0 alone evaluates it."""

    def partial(self, tokens: Tensor, masked: Tensor, rows: Tensor) -> Tensor:
        """As the reward's own, on rank 0 alone."""
        return RankZero(unfinished(self.reward))(torch.where(masked, ~tokens, tokens), rows)

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64. Raises `RewardError` on all ranks where it fails on rank 0."""
        found: list[Any] = [None]
        cause: RewardError | None = None
        if distributed.get_rank() == 0:
            try:
                found = [self.reward(tokens, rows).tolist()]
            except RewardError as error:
                found, cause = [str(error)], error
        distributed.broadcast_object_list(found)
        if cause is not None:
            raise cause
        if isinstance(found[0], str):
            raise RewardError(found[0])
        return torch.tensor(found[0], dtype=torch.float64, device=tokens.device)
