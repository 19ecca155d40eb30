"""Marks: the regions of a text that are to be written anew, from characters to tokens.

    "police [arrest two men] in london"   ->   text "police arrest two men in london", region (7, 21)

A token belongs to a region when any of its characters does, so marks that cut a token in two open all of it. Where a
token lies in the text is found with the model's own `encode` and `decode` alone, whatever its tokeniser: the model's
reading of the text before a mark says where the mark stands in the model's reading of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rapidfuzz.distance import Postfix, Prefix
from torch import Tensor

from iterref.drafts import TextModel

Marks = tuple[str, str]
BRACKETS: Marks = ("[", "]")
ESCAPE = "\\"


@dataclass(frozen=True)
class Marked:
    """A text without its marks, and where the marked characters were: (first, one after the last), in order."""

    text: str
    regions: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Regions:
    """Canvases (B, L) with the regions' positions `open` (B, L) bool; each has the number of tokens that it is to have.
    Outside of `open` the tokens are the text's own, in order, and so is the padding."""

    canvas: Tensor
    open: Tensor


def read(marked: str, row: int, marks: Marks = BRACKETS) -> Marked:
    """A marked text read: `marks` open and close a region, a backslash before a mark makes it a literal one.

    Raises `ValueError`, naming the row, for marks that do not pair up, and for text that marks nothing.
    """
    opening, closing = marks
    if not opening or not closing or opening == closing:
        raise ValueError(f"marks are two different strings, one that opens and one that closes, got {marks!r}")
    text, regions, start, at = "", [], -1, 0
    while at < len(marked):
        escaped = next((mark for mark in marks if marked.startswith(ESCAPE + mark, at)), "")
        if escaped:
            text, at = text + escaped, at + len(ESCAPE + escaped)
        elif marked.startswith(opening, at):
            if start >= 0:
                raise ValueError(f"text {row} opens a region inside another one: close it first, or write \\{opening}")
            start, at = len(text), at + len(opening)
        elif marked.startswith(closing, at):
            if start < 0:
                raise ValueError(f"text {row} closes a region that is not open: open it, or write \\{closing}")
            regions.append((start, len(text)))
            start, at = -1, at + len(closing)
        else:
            text, at = text + marked[at], at + 1
    if start >= 0:
        raise ValueError(f"text {row} leaves a region open: close it with {closing!r}, or write \\{opening}")
    if not regions:
        raise ValueError(f"text {row} marks nothing: put {opening}{closing} around what is to be written anew")
    return Marked(text, tuple(regions))


def place(
    model: TextModel,
    blank: Tensor,
    tokens: Tensor,
    lengths: Sequence[int],
    texts: Sequence[Marked | None],
    length: int | None = None,
) -> Regions:
    """The regions of marked texts in their canvases (B, L), whose texts take up `lengths` positions; None marks none.

    `blank` (L,) is the canvas of the empty text. With `length` every region gets that many tokens, what follows moves
    and an empty region is a place to insert; without, a region keeps its number. Raises `ValueError`, naming the row,
    for a marked text that is not the row's own, an empty region without `length`, or no room left.
    """
    pieces = [
        piece
        for marked in filter(None, texts)
        for start, end in marked.regions
        for piece in (marked.text[:start], marked.text[:end], marked.text[end:])
    ]
    reading = _Reading(model, [*pieces, *(marked.text for marked in filter(None, texts))])
    canvases, opened = [], []
    for row, (ids, marked) in enumerate(zip(tokens.tolist(), texts, strict=True)):
        if marked is None:
            canvases.append(ids)
            opened.append([False] * len(ids))
            continue
        ends = _ends(model, blank, tokens[row], lengths[row])
        whole = model.decode(tokens[row : row + 1])[0]
        if marked.text != whole and reading(marked.text) != whole:
            raise ValueError(f"text {row} reads {marked.text!r} without its marks, the row {whole!r}: mark that text")
        spans = [_tokens(reading, marked, region, whole, ends) for region in marked.regions]
        new, free = _laid_out(ids[: lengths[row]], spans, blank.tolist(), length, row)
        canvases.append(new)
        opened.append(free)
    return Regions(torch.tensor(canvases, device=tokens.device), torch.tensor(opened, device=tokens.device))


class _Reading:
    """Texts as the model reads them, decode(encode(text)), all asked for at once."""

    def __init__(self, model: TextModel, texts: Sequence[str]) -> None:
        worth = sorted({text for text in texts if text.strip()})
        read = model.decode(model.encode(worth)) if worth else []
        self._read = dict(zip(worth, read, strict=True))

    def __call__(self, text: str) -> str:
        return self._read.get(text, "")


def _ends(model: TextModel, blank: Tensor, ids: Tensor, length: int) -> list[int]:
    """Where each of the text's tokens ends in the decoded text, 0 first: one decoded text a token."""
    upto = torch.arange(len(ids), device=ids.device) < torch.arange(length + 1, device=ids.device)[:, None]
    return [len(text) for text in model.decode(torch.where(upto, ids, blank))]


def _tokens(
    reading: _Reading, marked: Marked, region: tuple[int, int], whole: str, ends: Sequence[int]
) -> tuple[int, int]:
    """The tokens of a region, as (first, one after the last) of the row's.

    Before a region the text reads as the beginning of the whole, behind it as the end. Where the reading joins both
    sides of a mark (a number that becomes one sign) the two overlap, and what lies between them is the region.
    """
    before, upto, after = marked.text[: region[0]], marked.text[: region[1]], marked.text[region[1] :]
    left, behind = int(Prefix.similarity(reading(before), whole)), _end_shared(reading(after), whole)
    right = len(reading(upto)) if whole.startswith(reading(upto)) else behind
    start, end = _trimmed(whole, left, right)
    if start >= end and marked.text[region[0] : region[1]].strip():
        start, end = _trimmed(whole, max(min(left, behind) - 1, 0), max(left, right))
    if start >= end:  # nothing was marked: a place between two tokens
        first = next((k for k, begin in enumerate(ends) if begin >= left), len(ends) - 1)
        return first, first
    touched = [k for k in range(len(ends) - 1) if ends[k] < end and ends[k + 1] > start]
    return touched[0], touched[-1] + 1


def _laid_out(
    ids: list[int], spans: Sequence[tuple[int, int]], blank: list[int], length: int | None, row: int
) -> tuple[list[int], list[bool]]:
    """One row's canvas and its open positions; spans that share a token are one."""
    new: list[int] = []
    free: list[bool] = []
    at = 0
    for first, last in _joined(spans):
        if length is None and first == last:
            raise ValueError(f"text {row} has an empty region: say how many tokens it is to have, length= or --tokens")
        region = ids[first:last] if length is None else [blank[-1]] * length
        new += ids[at:first] + region
        free += [False] * (first - at) + [True] * len(region)
        at = last
    new += ids[at:]
    free += [False] * (len(new) - len(free))
    if len(new) > len(blank):
        raise ValueError(
            f"text {row} would have {len(new)} tokens and the canvas holds {len(blank)}: "
            "give a region fewer, by length= or --tokens"
        )
    return new + blank[len(new) :], free + [False] * (len(blank) - len(free))


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _end_shared(text: str, whole: str) -> int:
    """Where the longest end that a text shares with the whole begins in the whole."""
    return len(whole) - int(Postfix.similarity(text, whole))


def _trimmed(whole: str, start: int, end: int) -> tuple[int, int]:
    """The region without the blanks at its ends, which belong to the words around it."""
    inner = whole[start:end]
    return start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())
