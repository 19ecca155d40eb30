"""Sizes: regions that may grow and shrink, with what stands behind them moving along.

    length=(2, 5)    layouts k = 2 .. 5, each written from noise by its share of the budget, side by side
    kept             the layout of highest   J = r / alpha + min(d, 0) + 0.03 log p

log p and the typicality d (`iterref.likelihood`) are those of the regions and of all that stands behind them: a size
has to suit the rest of the text, too, and longer regions are at no disadvantage. The choice maximises J, whatever the
method. Of several regions as many layouts are tried as there are sizes, and not all of their combinations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.columns import read_column, shown
from iterref.editing.drift import text_lengths
from iterref.editing.marks import Marks, Regions, place, read
from iterref.likelihood import fluency
from iterref.models.base import MASKS, TextModel
from iterref.moves.tilted import deviation
from iterref.numbers import entries, whole_number
from iterref.problem import Problem
from iterref.run import Run
from iterref.samplers.beam import JUDGED, Beam

Length = int | tuple[int, int]
MOST = 16  # layouts of a text
STRIDE = 0.618  # of the sizes of a text's next region, in the same layout


def checked_length(name: str, value: Length | None) -> tuple[int, int] | None:
    """The fewest and the most tokens of a region. Raises `TypeError` for what is no whole number and no pair of them,
    and `ValueError` for one below 1 or a pair in the wrong order."""
    if value is None:
        return None
    hint = f"pass one such as {name}=4, or the fewest and the most, as in {name}=(2, 6)"
    pair = entries(value) or [value]
    low, *more = [whole_number(name, one, hint) for one in pair]
    if len(more) > 1 or low < 1 or more and more[0] < low:
        raise ValueError(f"a region's {name}= (--tokens) is at least 1 token: {hint}; got {value}")
    return low, more[0] if more else low


def layouts(length: tuple[int, int], regions: int) -> list[tuple[int, ...]]:
    """The sizes of a text's regions in each layout: every size of the range, or 16 of them, for each region."""
    low, high = length
    count = min(high - low + 1, MOST)
    sizes = [low + round(place * (high - low) / max(count - 1, 1)) for place in range(count)]
    step = max(1, round(STRIDE * count))
    return [tuple(sizes[(place + region * step) % count] for region in range(regions)) for place in range(count)]


def opened(
    model: TextModel, problem: Problem, blank: Tensor | None, tokens: Tensor, marked: Sequence[str | None],
    marks: Marks, length: tuple[int, int] | None,
) -> list[Regions]:  # fmt: skip
    """The regions of marked texts, one a row of `tokens` (B, L), in every layout; `blank` (L,) is the empty canvas.
    Raises `ValueError` or `TypeError`, naming the row, for texts that do not fit the rows or the problem's free
    positions."""
    marked = [None if text != text else text for text in read_column(marked, "marked=")]  # NaN is None
    if len(marked) != len(tokens):
        raise ValueError(f"infill got {len(marked)} texts for {len(tokens)} rows: give a text a row, or None")
    wrong = next((row for row, text in enumerate(marked) if not isinstance(text, str | None)), None)
    if wrong is not None:
        raise TypeError(f"the marked text {wrong} is {shown(marked[wrong])}: give a string, or None")
    masks = getattr(model, "masks", MASKS)
    texts = [None if text is None else read(text, row, marks, masks) for row, text in enumerate(marked)]
    if not any(texts):
        raise ValueError("every row is None: mark a region in at least one of them")
    if blank is None:
        raise ValueError("infilling needs the model's encode to take an empty text, which shows its padding")
    lengths, begins = text_lengths(tokens, blank).tolist(), problem.may_change.int().argmax(1).tolist()
    sizes = [None] if length is None else layouts(length, max(len(text.regions) for text in texts if text))
    placed = place(model, blank, tokens, lengths, texts, sizes, begins)
    for regions in placed:
        may_change = problem.may_change
        if getattr(model, "fixed_length", False):  # where regions get other sizes, the text's end moves
            behind = (regions.open | (regions.canvas != blank)).flip(1).cumsum(1).flip(1)
            may_change = may_change | (behind > 0)
        closed = ~may_change & (regions.open | (regions.canvas != problem.canvas))
        if bool(closed.any()):
            row, position = closed.nonzero()[0].tolist()
            told = f"row {row}, position {position}: the text would reach past the session's free positions"
            raise ValueError(f"{told}: begin the session with more room")
    return placed


def judging(problem: Problem) -> Cost:
    """What it takes to judge a layout's text."""
    evaluations = 1 if problem.noise.mask is None else JUDGED
    return Cost(evaluations, 0, evaluations)


def likeliest(problem: Problem, tokens: Tensor, rewards: Tensor, behind: Tensor) -> Tensor:
    """The layout of highest J of every row, (B,) long, among texts `tokens` (N, B, L) with their `rewards` (N, B).
    `behind` (N, B, L) are the positions from a row's first region on. alpha is the problem's, or found as `beam`
    does."""
    found = zip(tokens, behind, strict=True)
    fluent = torch.stack([fluency(Run(replace(problem, canvas=x, free=free)), x, JUDGED) for x, free in found])
    alpha = torch.full_like(rewards[0], problem.alpha)
    if problem.finds_alpha:
        spread = deviation(rewards)
        alpha = torch.where(spread > 0, Beam().spread * spread, alpha)
    return (rewards / alpha + fluent).argmax(0)
