"""Slots: regions with a few choices, and how likely the model finds each: classification by infilling.

    log P(c)  =  log Z(slot k is c) - log sum over choices of Z(slot k is c)

Z are the normalisers of one evaluation's factorised distribution at all slots' positions, with every slot noise, all
spellings of a choice added (`iterref.constraint.posterior`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from iterref.arguments import checked_constraint
from iterref.constraint.canvas import Constraint, Reading
from iterref.constraint.patterns import Choices, Pattern
from iterref.constraint.texts import automaton_of, of_regions
from iterref.denoiser import Denoiser, Wrapped
from iterref.editing.marks import Regions
from iterref.evaluation import rearranged
from iterref.problem import Problem
from iterref.run import Run

Slots = list[list[dict[str, float]]]
SMALL = 600.0  # of a log-probability whose exponential is neither 0 nor infinite


class Logarithms(Wrapped):
    """A denoiser that is never asked for probabilities: at a low temperature those of all choices are 0 in float32."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.has_probabilities = False

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self.denoiser(x_t, t, where, rows)


def region_patterns(given: Any, problem: Problem) -> list[Pattern]:
    """The patterns of regions, if any. Raises `ValueError` where whole texts are constrained, too, and for a pattern
    whose texts all have blanks at their ends."""
    if given is None:
        return []
    if problem.constraint is not None:
        raise ValueError("regions= and constraint= both say what stands in a region: give one of them")
    found = checked_constraint("regions", given)
    patterns = [found] if isinstance(found, Pattern) else list(found or ())
    for one in patterns:
        if not one.strings.bare().final.any():
            told = f"all texts of the region {one.regex[:60]!r} have blanks at their ends"
            raise ValueError(f"{told}, which belong to the text around it: leave the blanks out of the pattern")
    return patterns


def sized(
    patterns: Sequence[Pattern], model: Any, sizes: tuple[int, int] | None, strength: float | None
) -> tuple[int, int] | None:
    """The fewest and the most tokens of a region, that of choices where none is given and regions are drafted anew.
    Raises `ValueError` where choices differ: one that is spelled in more tokens than its own is unlikely for that
    alone; and for choices of several sizes."""
    choices = _choices(patterns)
    if choices and sizes is not None and sizes[0] < sizes[1]:
        raise ValueError("a region with choices has one size: give length= (--tokens) as one number")
    if not choices or sizes is not None or strength is not None:
        return sizes
    texts = list(dict.fromkeys(text for one in choices for text in one.texts))
    ids = model.codec.ids([f" {text}" for text in texts])  # inside of a text, most tokenizers cut words with a blank
    counts = {text: len(one) for text, one in zip(texts, ids, strict=True)}
    if len({*counts.values()}) > 1:
        told = ", ".join(f"{text!r} {size}" for text, size in counts.items())
        raise ValueError(f"the choices take different numbers of tokens ({told}): take others, or say length=")
    return counts[texts[0]], counts[texts[0]]


def within(problem: Problem, model: Any, layouts: Sequence[Regions], patterns: Sequence[Pattern]) -> Problem:
    """The problem of texts in several layouts whose regions are of the patterns, if there are any. A layout of a text
    that the constraint leaves nothing to write in is one of its others."""
    if patterns:
        parted = [() if frame is None else frame.parted for one in layouts for frame in one.frames]
        begins = torch.cat([one.begins for one in layouts])
        bound = of_regions(patterns, model, problem.may_change, begins, parted, _alone(patterns))
        problem = replace(problem, constraint=bound)
    if problem.constraint is None or len(layouts) == 1:
        return problem
    fits = problem.constraint.fits(problem.canvas, problem.may_change, problem.allowed).view(len(layouts), -1)
    row = torch.arange(fits.shape[1], device=fits.device)
    every = torch.arange(len(problem), device=fits.device).view(fits.shape)
    return problem.only(torch.where(fits, every, every[fits.int().argmax(0), row]).flatten())


def log_probabilities(problem: Problem, model: Any, patterns: Sequence[Pattern]) -> Slots | None:
    """Of every row of a problem `within` choices: of every slot the log-probabilities of its choices; None where the
    patterns are others. One evaluation a row. Raises `ValueError` where the noise has no mask."""
    bound, mask, choices = problem.constraint, problem.noise.mask, _choices(patterns)
    if not choices:
        return None
    assert bound is not None
    if mask is None:
        raise ValueError("slots need a model whose noise has a mask: one evaluation shows nothing of a slot there")
    every = [one.texts[0] for one in _alone(choices)]
    starts = automaton_of([*choices, *_alone(choices)], model, inside=True)[1]
    run, where = Run(replace(problem, denoiser=Logarithms(problem.denoiser))), problem.may_change
    x = torch.where(where, mask, problem.canvas)
    with torch.inference_mode():
        share = 1 - where.double().mean(1)
        log_p = run.predict(x, problem.noise.schedule.time(share), where)
    asked, seen = list[tuple[int, int, str]](), Counter[int]()  # row, first position and choice of every slot
    for row, first in (bound.begin >= 0).nonzero().tolist():
        asked += [(row, first, text) for text in choices[seen[row] % len(choices)].texts]
        seen[row] += 1
    index = torch.tensor([row for row, *_ in asked], device=x.device)
    begin = bound.begin[index].clone()
    kind = {int(state): column for line in starts.tolist() for column, state in enumerate(line)}
    for line, (_, first, text) in enumerate(asked):
        begin[line, first] = starts[len(choices) + every.index(text), kind[int(begin[line, first])]]
    own = rearranged(log_p, where.sum(1), index)
    log_z = _normalisers(replace(bound.take(index), begin=begin), own, x[index], where[index])
    made: Slots = [[] for _ in range(len(problem))]
    for (row, _), slot in groupby(zip(asked, log_z.cpu(), strict=True), lambda one: one[0][:2]):
        found = {text: z for (*_, text), z in slot}
        total = torch.stack(list(found.values())).logsumexp(0)
        made[row].append({text: float(z - total) for text, z in found.items()})
    return made


def _normalisers(bound: Constraint, log_p: Tensor, x: Tensor, where: Tensor) -> Tensor:
    """The log-normalisers (R,) of log-probabilities (M, V) at open positions, taken relative to the likeliest text of
    each canvas: at a low temperature the probabilities of all choices may be 0 in float64."""
    log_p = log_p.double()
    scale = float(log_p.where(log_p.isfinite(), 0.0).abs().max()) / SMALL
    likeliest = Reading(bound, log_p / max(1.0, scale), x, where, True).modes()  # of the same order, at any scale
    most = log_p.gather(1, likeliest[:, None])
    most = most.where(most.isfinite(), 0.0)
    log_z = Reading(bound, (log_p - most).clamp_max_(SMALL), x, where, True).posterior().log_z
    return log_z + torch.zeros_like(log_z).index_add_(0, where.nonzero()[:, 0], most[:, 0])


def _choices(patterns: Sequence[Pattern]) -> list[Choices]:
    """The patterns, where all of them are choices; none otherwise."""
    found = [one for one in patterns if isinstance(one, Choices)]
    return found if len(found) == len(patterns) else []


def _alone(patterns: Sequence[Pattern]) -> list[Choices]:
    """Every choice by itself, each once."""
    return [Choices(text) for text in dict.fromkeys(text for one in _choices(patterns) for text in one.texts)]
