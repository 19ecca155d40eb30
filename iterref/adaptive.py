"""Adaptive refinement: calls go where they pay, within one total budget.

    select_sampler   pilot runs under streams of their own choose the options;  the run that follows is a chain with
                     fixed options, so its distribution is what the kernel's proof says    (adaptation from past runs)
    refine_hardest   round by round, the rows of the batch that are not good enough yet share what is left
                     (to maximise only)

Within a chain, `iterref:adapt=true` steers every row's span by its acceptance, with steps that vanish (Robbins and
Monro 1951). Vanishing adaptation keeps the limit distribution (Roberts and Rosenthal 2007), none at a finite length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from iterref.budget import BudgetLike, Cost, budget_of
from iterref.problem import Problem
from iterref.random import seed_of
from iterref.result import Best, Result
from iterref.samplers.base import Info, Paired, Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from iterref.turns import fit_turns


@dataclass(frozen=True)
class Selected:
    """What pilot runs found: the `sampler` of the highest mean reward, every candidate's `rewards` over the halvings
    that it took part in, and what the pilots cost a sample."""

    sampler: Sampler
    rewards: dict[str, list[float]]
    cost: Cost


def select_sampler(
    samplers: Sequence[Sampler | str],
    problem: Problem,
    *,
    budget: BudgetLike,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
) -> Selected:
    """The best of several methods, or sets of options, by successive halving on a problem.

    All candidates run at a share of `budget`, the better half at twice that, and so on until one is left or the whole
    budget is reached; better is the higher mean reward. Compare options that are equally exact: a biased kernel may
    well show the higher reward. The pilots' streams have nothing in common with those of `sample` at the same seed, so
    a run with the options chosen keeps its distribution. Karnin, Koren, Somekh (2013).

    Raises `ValueError` without candidates, or where one of them does not fit its first share."""
    if not samplers:
        raise ValueError("there is nothing to choose from: give at least one method")
    limit, left = budget_of(budget), [sampler_from_string(sampler) for sampler in samplers]
    if len({str(sampler) for sampler in left}) < len(left):
        raise ValueError("two of the methods are the same: give each once")
    halvings = max(1, (len(left) - 1).bit_length())
    rewards: dict[str, list[float]] = {str(sampler): [] for sampler in left}
    total = Cost()
    for k in range(halvings):
        share = limit.times(0.5 ** (halvings - 1 - k))
        found: list[tuple[float, Sampler]] = []
        for sampler in left:
            result = sample(sampler, problem, seed=seed_of(seed, "pilot", k), rows=rows, budget=share)
            total = total + result.cost
            found.append((float(result.rewards.mean()), sampler))
            rewards[str(sampler)].append(found[-1][0])
        best_first = sorted(found, key=lambda pair: -pair[0])
        left = [sampler for _, sampler in best_first[: max(1, (len(left) + 1) // 2)]]
    return Selected(left[0], rewards, total)


def refine_hardest(
    sampler: Sampler | str,
    problem: Problem,
    *,
    budget: BudgetLike,
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

    Raises `ValueError` for a method that cannot start from given texts, or a budget too small for the first round."""
    begun, limit, method = perf_counter(), budget_of(budget), sampler_from_string(sampler)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    refine, batch = method.refining(), len(problem)
    identities = torch.arange(batch) if rows is None else torch.as_tensor(rows)
    share = limit.times(0.5)
    first = sample(method, problem, seed=seed, rows=identities, budget=share)
    best = Best(first.best.tokens.clone(), first.best.reward.clone())
    cost, asked, parts, trace = first.cost, first.asked, dict(first.parts), first.trace
    for k in range(rounds):
        index = (best.reward < enough).nonzero()[:, 0]
        if not len(index):
            break
        part = problem.only(index)
        fitted = fit_turns(refine, share.times(batch / len(index) / rounds), Cost(), part)
        streams, tokens = identities[index], best.tokens[index]
        result = sample(fitted, part, seed=seed_of(seed, "round", k), rows=streams, start=tokens)
        best.see(result.best.tokens, result.best.reward, index)
        others = batch / len(index)  # who shares what a part of the batch took
        cost, asked = cost + result.cost.shared(others), asked + result.asked.shared(others)
        parts = {name: seconds + result.parts[name] for name, seconds in parts.items()}
        trace.add(Paired(k, 0.0, best.tokens, best.tokens, best.reward), Info(), best.reward, asked, batch)
    trace.settle()
    texts = decode(best.tokens) if decode else None
    return replace(
        first, tokens=best.tokens.clone(), rewards=best.reward.clone(), best=best, cost=cost, asked=asked, trace=trace,
        sampler=method, seconds=perf_counter() - begun, parts=parts, texts=texts, particles=None,
    )  # fmt: skip
