"""Chains: several of a row side by side, in one state of n x B sequences, for every method that wants them.

    chain i of row b  =  sequence i * B + b       one call of the network and of the reward serves all of them

`Run.repeat(n)` and `Rng.repeat(n)` make the run and the streams; here is what is said of the chains of a row together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor

from iterref.decision import Decision
from iterref.particles import Particles
from iterref.random import Rng
from iterref.resample import systematic
from iterref.samplers.base import Info, Output, State

S = TypeVar("S", bound=State)


def together(info: Info, n: int, shown: Tensor | None = None) -> Info:
    """What n chains of a row did: shares and changes in the mean, stuck where all of them were; the decisions are those
    of the chain `shown` (B,), the first unless given."""
    if n == 1:
        return info

    def mean(x: Tensor | None) -> Tensor | None:
        return None if x is None else rearrange(x.double(), "(n b) -> b n", n=n).contiguous().mean(1)

    stuck = None if info.stuck is None else rearrange(info.stuck, "(n b) -> n b", n=n).all(0)
    span = mean(info.span) if isinstance(info.span, Tensor) else info.span

    def place(decision: Decision) -> slice | Tensor:
        batch = decision.reward.shape[1] // n
        return slice(batch) if shown is None else shown * batch + torch.arange(batch, device=shown.device)

    decisions = tuple(decision.of(place(decision)) for decision in info.decisions)
    return replace(
        info, accepted=mean(info.accepted), stuck=stuck, changed=mean(info.changed), span=span, decisions=decisions
    )


def apart(parts: Sequence[tuple[Tensor, Info]], batch: int) -> Info:
    """What methods did that have different rows (R',) of B each, as one; NaN where a row's own says nothing."""
    if len(parts) == 1 and len(parts[0][0]) == batch:
        return parts[0][1]
    told: dict[str, Tensor] = {}
    for name in ("accepted", "stuck", "changed", "ess", "span"):
        for rows, info in parts:
            if (value := getattr(info, name)) is not None:
                nothing = torch.full((batch,), torch.nan, dtype=torch.float64, device=rows.device)
                told.setdefault(name, nothing)[rows] = torch.as_tensor(value, device=rows.device).double()
    decisions = tuple(replace(decision, rows=rows) for rows, info in parts for decision in info.decisions)
    return Info(**told, decisions=decisions)


def met(state: S, info: Info, n: int, log_w: Tensor | None, last: bool, rng: Rng) -> tuple[S, Info]:
    """The chains after a step, and what they did: resampled by the mean weight of their first candidates, log-weights
    (N, n * B), where these are given; after the `last` step one of them at random is in front."""
    if n == 1:
        return state, info
    if log_w is not None:
        log_mean = log_w.T.contiguous().logsumexp(1).view(n, -1).T.contiguous()  # up to the number of candidates
        state = state.take(sequences(systematic(log_mean, rng.fork("meet")).T))
    if not last:
        return state, together(info, n)
    chosen = rng.fork("one").choose(torch.zeros(len(rng), n, dtype=torch.float64))
    return state.take(in_front(n, chosen)), together(info, n, chosen)


def in_front(n: int, chosen: Tensor) -> Tensor:
    """The order (n * B,) of sequences that brings the chosen chain (B,) of every row to the front."""
    places = torch.arange(n, device=chosen.device)[:, None].expand(-1, len(chosen)).clone()
    places.scatter_(0, chosen[None], 0)
    places[0] = chosen
    return sequences(places)


def sequences(places: Tensor) -> Tensor:
    """The sequences (n * B,) of chains (n, B), one number a place and row."""
    return (places * places.shape[1] + torch.arange(places.shape[1], device=places.device)).flatten()


def first(of_all: Output, n: int) -> Output:
    """The first of n finished chains (n * B, L) of every row, and where there are several, all as equal particles."""
    if n == 1:
        return of_all
    x, r = (rearrange(of, "(n b) ... -> n b ...", n=n) for of in (of_all.tokens, of_all.rewards))
    return Output(x[0], r[0], replace(Particles.equal(x).without_constant(), x_0=x, reward=r))
