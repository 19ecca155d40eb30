"""Problems of a small Markov chain without a reward: what the tests of `Problem` and `Run` begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from iterref.exact.markov import Markov, world
from iterref.problem import Problem

LENGTH, VOCAB = 6, 3


def model_of(kind: str = "absorbing") -> Markov:
    return world(LENGTH, VOCAB, 1, kind)[0]


def no_reward(tokens: Tensor, rows: Tensor) -> Tensor:
    return torch.zeros(len(tokens), dtype=torch.float64)


def problem_of(kind: str = "absorbing", rows: int = 3, **options: object) -> Problem:
    canvas = torch.arange(rows * LENGTH).view(rows, LENGTH) % VOCAB
    return Problem(model_of(kind), no_reward, canvas, **options)
