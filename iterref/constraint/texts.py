"""Constraints of a text model's canvases, from patterns of its texts.

    canvas  =  [begin] pieces [end] [filler] ...          the pieces up to the first end, as the model decodes them

Behind the end of a text stands filler alone, as in every canvas that a text is encoded to. Special tokens stand in no
text. One pattern is for all rows, a list has one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from iterref.constraint.automaton import Automaton
from iterref.constraint.canvas import Constraint
from iterref.constraint.expressions import compiled
from iterref.constraint.patterns import Pattern
from iterref.constraint.spelling import Spelling, spelling
from iterref.constraint.tokens import lift


def of_texts(given: Pattern | Sequence[Pattern], model: Any, canvas: Tensor) -> Constraint:
    """The constraint that the whole texts of canvases (B, L) are of the patterns: one for all, or B of them.

    Raises `ValueError` for another number of them, and for a model whose tokens are not known to write text."""
    patterns = [given] if isinstance(given, Pattern) else list(given)
    if not isinstance(given, Pattern) and len(patterns) != len(canvas):
        raise ValueError(f"there are {len(patterns)} constraints for {len(canvas)} prompts: give one, or one a prompt")
    automaton, starts = automaton_of(patterns, model)
    begins = list(getattr(model, "begin", ()))
    framed = bool(begins) and canvas.shape[1] > len(begins)
    head = torch.tensor(begins, device=canvas.device)
    skipped = (canvas[:, : len(begins)] == head).all(1) if framed else torch.zeros_like(canvas[:, 0], dtype=torch.bool)
    first = torch.where(skipped, len(begins), 0)[:, None]
    place = torch.arange(canvas.shape[1], device=canvas.device)
    begin = torch.where(place == first, starts.to(canvas.device).expand(len(canvas))[:, None], -1)
    return Constraint(automaton.to_device(canvas.device), begin, place >= first)


def of_regions(
    given: Sequence[Pattern], model: Any, opened: Tensor, begins: Tensor, parted: Sequence[Sequence[int]],
    known: Sequence[Pattern] = (),
) -> Constraint:  # fmt: skip
    """The constraint that the regions of canvases, positions `opened` (B, L) of which some are where a region `begins`
    (B, L) bool, are of the patterns: one for all regions, or one for each region of a row. `parted` says how the
    regions of every row begin: without a blank (0), with one (1), or as they like (2). The automaton reads the `known`
    patterns, too.

    Raises `ValueError`, naming the row, for another number of regions."""
    automaton, starts = automaton_of([*given, *known], model, inside=True)
    begin = torch.full_like(opened, -1, dtype=torch.long)
    for row, here in enumerate(begins):
        at = here.nonzero()[:, 0].tolist()
        if at and len(given) not in (1, len(at)):
            told = f"row {row} has {len(at)} regions, and there are patterns for {len(given)}"
            raise ValueError(f"{told}: give one, or one for each")
        for number, first in enumerate(at):
            begin[row, first] = starts[number % len(given), parted[row][number]]
    return Constraint(automaton.to_device(opened.device), begin, opened)


def automaton_of(patterns: Sequence[Pattern], model: Any, inside: bool = False) -> tuple[Automaton, Tensor]:
    """The automaton of a model's tokens for some patterns, and the states (P,) long that they begin in; `inside` of a
    text those of each pattern, without a blank before it, with one, and either way, (P, 3)."""
    known = tuple(dict.fromkeys(pattern.regex for pattern in patterns))
    codec = getattr(model, "codec", None)
    if codec is None or not hasattr(codec, "tokenizer"):
        raise ValueError("a constraint is about the text that tokens write, and this model has no tokenizer")
    fill = int(getattr(model, "fill", -1))
    fill = fill if fill in codec.special else next(iter(model.ends), -1)  # text may hold what is no special token
    made = _lifted(codec, known, tuple(model.ends), fill, model.noise.vocab, inside)
    starts = torch.tensor(made.starts).view(len(known), -1)
    found = starts[[known.index(pattern.regex) for pattern in patterns]]
    return made, found if inside else found[:, 0]


@lru_cache(maxsize=16)
def _lifted(
    codec: Any, regexes: tuple[str, ...], ends: tuple[int, ...], fill: int, vocab: int, inside: bool
) -> Automaton:
    languages, spelled = [compiled(regex) for regex in regexes], _spelling(codec, vocab)
    if inside:
        # blanks at a region's ends are those of the text around it
        bare = [one.bare() for one in languages]
        languages = [made for one in bare for made in (one, one.behind_blank(True), one.behind_blank(False))]
        rules = [rule for rule in spelled.tidying if isinstance(rule[1], bytes)]  # none of a text's beginning
        spelled = Spelling(spelled.inside, spelled.inside, rules)
    return lift(languages, spelled, ends, fill)


@lru_cache(maxsize=4)
def _spelling(codec: Any, vocab: int) -> Spelling:
    return spelling(codec.tokenizer, vocab, list(codec.special), codec.text)
