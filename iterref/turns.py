"""Turns: texts in blocks under noise that does not show which block is written.

    p(x)  =  prod_k p(block k | blocks before k)     turn k: block k alone is free, those before it are as they came out

A mask shows what is still to be written, and decoders open blocks by it. Under other noise a denoiser that was trained
on one block behind finished ones is asked for one block at a time, and a text that has ended for no further one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from iterref.budget import BudgetLike, Cost, Fits, fitted
from iterref.decoding import extent
from iterref.problem import Problem
from iterref.run import Run


class Writes(Protocol):
    """What can be told to write in blocks."""

    def in_blocks(self, block: int, blocks: int) -> Self: ...


class Method(Fits, Writes, Protocol):
    """A method, as a budget and a problem fit it."""


W = TypeVar("W", bound=Writes)
M = TypeVar("M", bound=Method)


def turns(problem: Problem) -> list[Tensor]:
    """The free positions (B, L) bool of each turn, the k-th those of every row's k-th block with any; all of them where
    the noise has a mask, or the text is one block.

    Raises `ValueError` for a constraint on texts of several turns: it would have to be met within the first."""
    free, block = problem.may_change, problem.denoiser.block_length
    if problem.noise.mask is not None or not 0 < block < free.shape[1]:
        return [free]
    number = Run(problem).blocks(block)
    some = torch.zeros(len(free), int(number.max()) + 1, dtype=torch.long, device=free.device)
    turn = some.scatter_reduce(1, number, free.long(), "amax").cumsum(1).gather(1, number) - 1
    parts = [free & (turn == k) for k in range(int(turn.max()) + 1)] or [free]
    if problem.constraint is not None and len(parts) > 1:
        told = f"a constraint is met within one block of {block} positions, and these texts are written in {len(parts)}"
        raise ValueError(f"{told}: ask for fewer positions (max_new_tokens=, or length= of load)")
    return parts


def going_on(problem: Problem, part: Tensor, tokens: Tensor) -> Tensor:
    """Those of a turn's positions (R, L) whose texts (R, L) have no end in a block before; the R sequences are copies
    of the problem's B rows, copy-major."""
    ends = torch.tensor(list(problem.denoiser.block_ends), dtype=torch.long, device=tokens.device)
    part = part.repeat(len(tokens) // len(part), 1)
    begin = part.long().argmax(1, keepdim=True)
    before = torch.arange(tokens.shape[1], device=tokens.device) < begin
    return part & ~(torch.isin(tokens, ends) & before).any(1, keepdim=True)


def fit_turns(method: M, budget: BudgetLike | None, pool: Cost, problem: Problem) -> M:
    """`fitted` for a problem: every turn has an equal share of what the pool leaves."""
    fit = fitted(in_blocks(method, problem), budget, pool, problem.denoiser.passes, len(turns(problem)))
    return in_blocks(fit, problem)  # which says where the budget has too few steps


def in_blocks(method: W, problem: Problem) -> W:
    """The method as it writes a problem's texts: in the model's own blocks, where there are several of them and a mask
    shows which is written. Raises `ValueError` for a method that cannot."""
    block = problem.denoiser.block_length
    if not block or problem.noise.mask is None:
        return method
    blocks = most_blocks(problem)
    return method if blocks < 2 else method.in_blocks(block, blocks)


def most_blocks(problem: Problem) -> int:
    """How many of the model's own blocks a text may lie in. Where prompts say how far into a block texts begin, those
    of a text that begins at the worst place: else a text would depend on the prompts beside it."""
    block, free = problem.denoiser.block_length, problem.may_change
    if problem.denoiser.block_offset is None:
        first, last = extent(Run(problem).blocks(block), free)
        return int((last - first).max()) + 1
    first, last = extent(torch.arange(free.shape[1], device=free.device).expand(free.shape), free)
    return (int((last - first).max()) + block - 1) // block + 1


def opened(problem: Problem, part: Tensor, tokens: Tensor) -> Problem:
    """The problem of one turn, of texts (B, L) as the turns before left them."""
    return replace(problem, canvas=tokens, free=going_on(problem, part, tokens))
