"""Drift: moves without a reward must leave texts as good as the model wrote them.

`tiny-news` writes its summaries token by token, from left to right, which samples the model. Then 64 moves follow, at
reward 0, and `prose`, a language model that no method sees, reads both.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import iterref
from iterref.demo import sentences
from iterref.problem import Problem
from iterref.rewards import Perplexity
from iterref.samplers import Ancestral
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

MOVES, SEEDS, MOST = 64, 2, 0.1  # nats a token


def drift(method: str) -> torch.Tensor:
    """By how much the log-likelihood of every text changes, nats a token, (T,)."""
    model, judge, found = iterref.load("tiny-news"), Perplexity("prose"), []
    denoiser, canvas, free = model.prepare([row["document"] for row in sentences()])
    problem = Problem(denoiser, lambda x, _: torch.zeros(len(x)), canvas, free, alpha=1.0)
    for seed in range(SEEDS):
        drawn = sample(Ancestral(steps=canvas.shape[1], order="left"), problem, seed=seed).tokens
        moved = sample(replace(sampler_from_string(method), moves=MOVES), problem, seed=seed, start=drawn).tokens
        before, after = (torch.tensor(judge(model.decode(x)), dtype=torch.float64) for x in (drawn, moved))
        found.append(after - before)
    return torch.cat(found)


@pytest.mark.slow
def test_moves_leave_texts_as_good_as_they_were():
    change = drift("iterref")
    assert abs(float(change.mean())) < MOST
    assert float(change.std()) / len(change) ** 0.5 < MOST / 2  # or nothing could be seen


@pytest.mark.slow
def test_moves_that_open_everything_at_once_are_seen():
    """Negative control."""
    change = drift("iterref:spacing=1,span=1.0,dependence=1")
    assert float(change.mean()) < -5 * MOST
