"""Adaptive refinement: rows go where they pay, within one total budget.

    tune    pilot runs under streams of their own choose the options;  the run that follows is a chain with fixed
            options, so its law is what the kernel's proof says         (adaptation from past independent runs)
    focus   round by round, the rows of the batch that are not good enough yet share what is left   (to maximise only)

Within a chain, `iterref:adapt=true` steers every row's span by its acceptance, with steps that vanish (Robbins and
Monro 1951). Vanishing adaptation keeps the limit law (Roberts and Rosenthal 2007), and no law at a finite length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from iterref.budget import Budget, Cost, Rows, budget_of, fit
from iterref.kernels import Info, State
from iterref.problem import Best, Problem
from iterref.random import Rng
from iterref.registry import parse
from iterref.run import Result, sample
from iterref.samplers.base import Sampler

# Pilot runs draw from seeds of their own, derived from the run's, so that the run does not depend on them.
PILOT, ROUND = "pilot", "round"


@dataclass(frozen=True)
class Tuned:
    """What pilot runs found: the `sampler` of the highest mean reward, every candidate's `rewards` over the halvings
    that it took part in, and what the pilots cost a sample."""

    sampler: Sampler
    rewards: dict[str, list[float]]
    cost: Cost


def tune(
    samplers: Sequence[Sampler | str],
    problem: Problem,
    *,
    budget: Rows,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
) -> Tuned:
    """The best of several methods, or sets of options, by successive halving on a problem.

    All candidates run at a share of `budget`, the better half at twice that, and so on until one is left or the whole
    budget is reached; better is the higher mean reward. Compare options that are equally exact: a biased kernel may
    well show the higher reward. The pilots' streams have nothing in common with those of `sample` at the same seed, so
    a run with the options chosen keeps its law. Karnin, Koren, Somekh (2013).

    Raises `ValueError` without candidates, or where one of them does not fit its first share.
    """
    if not samplers:
        raise ValueError("there is nothing to choose from: give at least one method")
    limit, left = budget_of(budget), [parse(sampler) for sampler in samplers]
    if len({str(sampler) for sampler in left}) < len(left):
        raise ValueError("two of the methods are the same: give each once")
    halvings = max(1, (len(left) - 1).bit_length())
    rewards: dict[str, list[float]] = {str(sampler): [] for sampler in left}
    total = Cost()
    for k in range(halvings):
        share = _share(limit, 0.5 ** (halvings - 1 - k))
        found: list[tuple[float, Sampler]] = []
        for sampler in left:
            result = sample(sampler, problem, seed=_seed(seed, PILOT, k), rows=rows, budget=share)
            total = total + result.cost
            found.append((float(result.rewards.mean()), sampler))
            rewards[str(sampler)].append(found[-1][0])
        best_first = sorted(found, key=lambda pair: -pair[0])
        left = [sampler for _, sampler in best_first[: max(1, (len(left) + 1) // 2)]]
    return Tuned(left[0], rewards, total)


def focus(
    sampler: Sampler | str,
    problem: Problem,
    *,
    budget: Rows,
    enough: float,
    rounds: int = 4,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
    decode: Callable[[Tensor], list[str]] | None = None,
) -> Result:
    """The best text of every row, the budget of the whole batch spent where it pays: for `maximise` alone.

    A first run takes half of the budget, on every row. Each of `rounds` more takes its part of the other half, and
    spends it on the rows whose best reward is below `enough`: they go on from their best text, with more moves the
    fewer they are. How many these are depends on the others in the batch, so here, and only here, a row's text is not a
    function of (seed, row) alone.

    Raises `ValueError` for a method that cannot start from given texts, or a budget too small for the first round.
    """
    start, limit, method = perf_counter(), budget_of(budget), parse(sampler)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    refine, batch = method.refining(), len(problem.canvas)
    identities = torch.arange(batch) if rows is None else torch.as_tensor(rows)
    share = _share(limit, 0.5)
    first = sample(method, problem, seed=seed, rows=identities, budget=share)
    best = Best(first.best.tokens.clone(), first.best.reward.clone())
    cost, asked, parts, trace = first.cost, first.asked, dict(first.parts), first.trace
    for k in range(rounds):
        index = (best.reward < enough).nonzero()[:, 0]
        if not len(index):
            break
        more = _share(share, batch / len(index) / rounds)
        result = sample(
            fit(refine, more), problem.only(index), seed=_seed(seed, ROUND, k), rows=identities[index],
            start=best.tokens[index],
        )  # fmt: skip
        best.see(result.best.tokens, result.best.reward, index)
        weight = len(index) / batch
        cost = cost + Cost(result.cost.denoiser * weight, result.cost.reward * weight, result.cost.depth)
        asked = asked + Cost(result.asked.denoiser * weight, result.asked.reward * weight, result.asked.depth)
        parts = {name: seconds + result.parts[name] for name, seconds in parts.items()}
        state = State(k, 0.0, best.tokens, best.tokens, best.reward)
        trace.add(state, Info(), best.reward, asked.denoiser, asked.depth, batch)
    texts = decode(best.tokens) if decode else None
    return replace(
        first, tokens=best.tokens.clone(), rewards=best.reward.clone(), best=best, cost=cost, asked=asked, trace=trace,
        sampler=method, seconds=perf_counter() - start, parts=parts, texts=texts, particles=None,
    )  # fmt: skip


def _share(budget: Budget, share: float) -> Budget:
    """A part, or a multiple, of every bound on rows."""
    return replace(
        budget, denoiser=budget.denoiser * share, reward=budget.reward * share, total=budget.total * share
    )


def _seed(seed: int, purpose: str, k: int) -> int:
    """A seed of its own for a purpose, a function of the run's seed."""
    low, high = Rng.seeded(seed, 1).fork(purpose, k).key
    return low | high << 32
